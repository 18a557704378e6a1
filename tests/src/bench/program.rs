//! What the programs cost: the kernel's own statistics under load, and test runs on one established packet.

use std::time::Duration;

use anyhow::{Context, Result};
use aya::programs::ProgramInfo;
use aya::sys::{Stats, enable_stats};
use serde::Serialize;

use super::options::Options;
use super::stage::Stage;
use super::test_run::{self, TestRuns};
use super::{rate, stream};
use crate::enforcer::Enforcer;

/// Ports of these measurements, behind those of the rounds.
const PORT: u16 = 29_900;
/// The programs of the data path, as they are pinned.
const PROGRAMS: [&str; 2] = ["from_workload", "to_workload"];

/// The figures of all programs.
#[derive(Debug, Clone, Serialize)]
pub struct Programs {
    /// By the kernel's statistics during one stream; the packets are as large as segmentation offload makes
    /// them, and the statistics' own clock reads are in the time.
    pub bulk: Vec<Live>,
    /// By the same statistics while one client made connections.
    pub connections: Vec<Live>,
    /// Connections made for that, warm-up included.
    pub connections_made: u64,
    /// Test runs on a packet of an established flow.
    pub established: TestRuns,
}

/// A program's runs over a time.
#[derive(Debug, Clone, Serialize)]
pub struct Live {
    /// The host.
    pub host: &'static str,
    /// The program.
    pub program: &'static str,
    /// How often it ran.
    pub runs: u64,
    /// How long, nanoseconds, all runs together.
    pub nanoseconds: u64,
}

impl Live {
    /// Nanoseconds a run.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
    pub fn per_run(&self) -> f64 {
        self.nanoseconds as f64 / self.runs as f64
    }
}

impl Programs {
    /// What all programs of both hosts take for one connection, microseconds.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
    pub fn micros_per_connection(&self) -> f64 {
        let all: u64 = self.connections.iter().map(|live| live.nanoseconds).sum();
        all as f64 / 1e3 / self.connections_made as f64
    }
}

/// Measures on the enforced stage.
pub fn measure(stage: &Stage, options: &Options) -> Result<Programs> {
    let daemons = stage.daemons()?;
    let bulk = live(daemons, || stream::measure(stage, PORT, 1, options.stream()).map(drop))?;
    let mut made = 0;
    let connections = live(daemons, || {
        let rate = rate::measure(stage, PORT + 1, 1, options.connections(), |work| work())?;
        made = rate.connections + rate::WARM_UP;
        Ok(())
    })?;
    let established = test_run::established(stage, PORT + 2, options.batches())?;
    Ok(Programs { bulk, connections, connections_made: made, established })
}

/// What every program did while `work` ran, with the kernel's statistics on.
fn live(daemons: &[Enforcer; 2], work: impl FnOnce() -> Result<()>) -> Result<Vec<Live>> {
    let _enabled = enable_stats(Stats::RunTime)
        .context("cannot turn the kernel's statistics on (BPF_ENABLE_STATS, Linux 5.8)")?;
    let before = readings(daemons)?;
    work()?;
    let after = readings(daemons)?;
    let rise = |(after, before): (Reading, Reading)| Live {
        host: after.host,
        program: after.program,
        runs: after.runs - before.runs,
        nanoseconds: u64::try_from((after.time.saturating_sub(before.time)).as_nanos())
            .unwrap_or(u64::MAX),
    };
    Ok(after.into_iter().zip(before).map(rise).collect())
}

struct Reading {
    host: &'static str,
    program: &'static str,
    runs: u64,
    time: Duration,
}

fn readings(daemons: &[Enforcer; 2]) -> Result<Vec<Reading>> {
    let mut readings = Vec::with_capacity(4);
    for (host, daemon) in ["client", "server"].into_iter().zip(daemons) {
        for program in PROGRAMS {
            let info = info(daemon, program)?;
            readings.push(Reading { host, program, runs: info.run_count(), time: info.run_time() });
        }
    }
    Ok(readings)
}

/// A program of a daemon.
pub(super) fn info(daemon: &Enforcer, program: &str) -> Result<ProgramInfo> {
    let pin = daemon.pins().join(format!("program_{program}"));
    ProgramInfo::from_pin(&pin).with_context(|| format!("no program pinned at {}", pin.display()))
}
