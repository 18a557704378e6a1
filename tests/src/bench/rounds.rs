//! The rounds: each measure over each setting in turn, beginning with another setting each time.

use std::cell::Cell;

use anyhow::{Result, ensure};

use super::figures::Figures;
use super::options::Options;
use super::process::{self, Usage};
use super::stage::{FIRST_PORT, Setting, Stage, Stages};
use super::{progress, rate, stream};
use crate::enforcer::Counters;

/// Client threads of the measurements of the connection rate.
pub const CLIENTS: [usize; 3] = [1, 16, 64];
/// Streams of the measurements of the throughput.
pub const STREAMS: [usize; 2] = [1, 4];
/// Median connect latency of one client, microseconds.
pub const P50: &str = "connect_p50_us";
/// The connect latency of one client that one in a hundred exceeds, microseconds.
pub const P99: &str = "connect_p99_us";

/// Name of a connection rate.
#[must_use]
pub fn rate_name(clients: usize) -> String {
    format!("connections_per_second_{clients}")
}

/// Name of a throughput.
#[must_use]
pub fn stream_name(streams: usize) -> String {
    format!("gbit_per_second_{streams}")
}

/// A first short run over a setting, which is not kept.
pub fn warm_up(stage: &Stage) -> Result<()> {
    rate::measure(stage, FIRST_PORT, 1, 200, |work| work()).map(drop)
}

/// All rounds, without streams if only `connections` are wanted, and what the daemons used during the enforced
/// connections.
pub fn run(stages: &Stages, options: &Options, connections: bool) -> Result<(Vec<Figures>, Usage)> {
    let streams: &[usize] = if connections { &[] } else { &STREAMS };
    let mut runner = Runner {
        options,
        port: Cell::new(FIRST_PORT),
        figures: Figures::default(),
        warm: Usage::default(),
    };
    let before = Handshakes::read(stages.enforced())?;
    let mut rounds = Vec::new();
    for round in 0..options.rounds() {
        progress(&format!("round {} of {}", round + 1, options.rounds()));
        runner.round(stages, round as usize, streams)?;
        rounds.push(std::mem::take(&mut runner.figures));
    }
    Handshakes::read(stages.enforced())?.check_since(&before, runner.warm.connections)?;
    Ok((rounds, runner.warm))
}

struct Runner<'a> {
    options: &'a Options,
    port: Cell<u16>,
    figures: Figures,
    warm: Usage,
}

impl Runner<'_> {
    fn round(&mut self, stages: &Stages, turn: usize, streams: &[usize]) -> Result<()> {
        for (step, clients) in CLIENTS.into_iter().enumerate() {
            let port = self.next_port();
            for stage in stages.from(turn + step) {
                self.rate(stage, port, clients)?;
            }
        }
        for (step, &streams) in streams.iter().enumerate() {
            let port = self.next_port();
            for stage in stages.from(turn + step) {
                let gbits = stream::measure(stage, port, streams, self.options.stream())?;
                self.figures.note(&stream_name(streams), stage.setting, gbits);
            }
        }
        Ok(())
    }

    fn rate(&mut self, stage: &Stage, port: u16, clients: usize) -> Result<()> {
        let warm = &mut self.warm;
        let count = self.options.connections();
        let rate = rate::measure(stage, port, clients, count, |work| {
            if stage.setting == Setting::Enforced {
                warm.add(process::during(stage.daemons()?, work)?);
                return Ok(());
            }
            work()
        })?;
        if stage.setting == Setting::Enforced {
            self.warm.connections += rate.connections;
        }
        self.figures.note(&rate_name(clients), stage.setting, rate.per_second);
        if clients == 1 {
            self.figures.note(P50, stage.setting, rate.p50_us);
            self.figures.note(P99, stage.setting, rate.p99_us);
        }
        Ok(())
    }

    fn next_port(&self) -> u16 {
        self.port.set(self.port.get() + 1);
        self.port.get()
    }
}

/// Handshakes by the counters of both daemons: what makes the figures of the enforced setting worth the name.
pub(super) struct Handshakes {
    client: Counters,
    server: Counters,
}

impl Handshakes {
    /// Of a stage with enforcers.
    pub(super) fn read(stage: &Stage) -> Result<Self> {
        let [client, server] = stage.daemons()?;
        Ok(Self { client: client.counters()?, server: server.counters()? })
    }

    /// Every connection must have been proven, and warm ones must not have gone to userspace.
    pub(super) fn check_since(&self, before: &Self, connections: u64) -> Result<()> {
        let (client, server) =
            (self.client.since(&before.client), self.server.since(&before.server));
        let proven = server.event("proof_accepted");
        ensure!(
            proven >= connections,
            "{proven} of {connections} enforced connections were proven: the enforcer was passed by"
        );
        let cold = client.event("cold_segments") + server.event("cold_segments");
        ensure!(
            cold * 100 < connections,
            "{cold} segments of {connections} warm connections went to userspace"
        );
        Ok(())
    }
}
