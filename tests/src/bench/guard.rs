//! What the guard spares: plain SYNs that nobody lets in, dropped with it and without.
//!
//! Three ways, since none tells all: the programs alone; a driver's poll loop as the kernel plays it in a test run,
//! which takes memory for each frame and, where the guard does not drop it, makes an skb of it; and a flood over a
//! veth, whose frames are skbs from the start, so that the guard cannot spare them.

use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sched::sched_getaffinity;
use nix::unistd::Pid;
use serde::Serialize;

use super::figures::Spread;
use super::options::Options;
use super::program::info;
use super::progress;
use super::test_run::{Returning, context, run, run_live, xdp_context};
use crate::capture::Flags;
use crate::config::{Config, NetworkRule};
use crate::enforcer::Enforcer;
use crate::flood::{Flood, link_address, spoofed};
use crate::host::Family;
use crate::raw::Forged;
use crate::scenario::{PORT, Setup};
use crate::tcp::{PATIENCE, Server, Service, dial};
use crate::topology::{INTERFACE, TwoHosts};

/// Frames of a flood, which repeats them.
const FRAMES: u32 = 20_000;
/// A port that a network rule opens.
const OPEN: u16 = 8081;
/// XDP_DROP, XDP_PASS and TC_ACT_SHOT.
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const SHOT: u32 = 2;

/// The figures: without the guard, and with it.
#[derive(Debug, Clone, Serialize)]
pub struct Guards {
    /// Test runs of the programs.
    pub programs: Runs,
    /// Frames a second that are dropped on one CPU, when they come from a driver's poll loop.
    pub polled: [Spread; 2],
    /// The same when they are sent over a veth, the work of sending included.
    pub over_veth: [Spread; 2],
}

/// Nanoseconds a frame, net of an empty program of the same kind.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Runs {
    /// `to_workload` drops a SYN.
    pub to_workload_drops: Spread,
    /// The guard drops it.
    pub guard_drops: Spread,
    /// The guard lets a data segment of an open flow pass: what it costs everybody else.
    pub guard_passes: Spread,
    /// The empty program of TC.
    pub empty_tc: Spread,
    /// The empty program of XDP.
    pub empty_xdp: Spread,
}

/// Two hosts, of which one floods the other. Its enforcer ends before they go.
struct Place {
    enforcer: Enforcer,
    net: TwoHosts,
}

impl Place {
    fn new(guarded: bool) -> Result<Self> {
        let net = TwoHosts::new()?;
        let config = Config { log_level: "info", ..Setup::psk()?.server };
        let config = config.rule(NetworkRule::ingress("open", "tcp", "192.0.2.0/24", OPEN));
        let config = if guarded { config.guarded() } else { config };
        Ok(Self { enforcer: Enforcer::start(&net.server, &config)?, net })
    }

    fn syns(&self, count: u32) -> Result<Vec<Vec<u8>>> {
        let (to, link) =
            (self.net.server.at(Family::V4, PORT), link_address(&self.net.server, INTERFACE)?);
        let syn = |n| Forged { sequence: n, ..Forged::syn(spoofed(n), to) }.frame(link);
        (0..count).map(syn).collect()
    }

    fn dropped(&self) -> Result<u64> {
        Ok(self.enforcer.counters()?.drop("peer_without_identity"))
    }

    /// Frames that are dropped in a second of a flood, sender and receiver on one CPU.
    fn flooded(&self, lasting: Duration, processor: usize) -> Result<f64> {
        let flood = Flood::start_on(&self.net.client, INTERFACE, self.syns(FRAMES)?, processor);
        let (before, begun) = (self.dropped()?, Instant::now());
        std::thread::sleep(lasting);
        let (dropped, took) = (self.dropped()? - before, begun.elapsed());
        flood.finish()?;
        ensure!(dropped > 0, "nothing of the flood was dropped");
        Ok(f64::from(u32::try_from(dropped)?) / took.as_secs_f64())
    }
}

/// Measures on hosts of its own.
pub fn measure(options: &Options) -> Result<Guards> {
    let places = [Place::new(false)?, Place::new(true)?];
    progress("the guard's program");
    let [_, guarded] = &places;
    let (programs, polled) = guarded.runs(options.batches())?;
    let all = sched_getaffinity(Pid::from_raw(0))?;
    let mut allowed =
        (0..nix::sched::CpuSet::count()).rev().filter(|n| all.is_set(*n).unwrap_or(false));
    let processor = allowed.next().context("no processor is allowed")?;
    let mut rates = [Vec::new(), Vec::new()];
    for round in 0..options.rounds() {
        progress(&format!("SYNs over a veth, round {} of {}", round + 1, options.rounds()));
        for (place, rates) in places.iter().zip(&mut rates) {
            rates.push(place.flooded(options.stream(), processor)?);
        }
    }
    Ok(Guards { programs, polled, over_veth: rates.map(Spread::of) })
}

/// What is run on which frame, what must come of it, and what is taken off.
struct Case<'a> {
    program: BorrowedFd<'a>,
    empty: BorrowedFd<'a>,
    frame: &'a [u8],
    context: &'a [u8],
    action: u32,
}

impl Case<'_> {
    /// Nanoseconds of the program and of the empty one.
    fn nanoseconds(&self) -> Result<(f64, f64)> {
        let ran = run(self.program, self.frame, self.context)?;
        ensure!(ran.action == self.action, "action {} instead of {}", ran.action, self.action);
        let empty = f64::from(run(self.empty, self.frame, self.context)?.nanoseconds);
        Ok((f64::from(ran.nanoseconds) - empty, empty))
    }
}

impl Place {
    fn runs(&self, batches: u32) -> Result<(Runs, [Spread; 2])> {
        let program = |name| info(&self.enforcer, name)?.fd().context(name);
        let (to, guard) = (program("to_workload")?, program("guard")?);
        let (tc, xdp) = (Returning::in_tc().load()?, Returning::in_xdp().load()?);
        let (to, guard, tc, xdp) = (to.as_fd(), guard.as_fd(), tc.as_fd(), xdp.as_fd());
        let (syn, data) = (self.syns(1)?.remove(0), self.data()?);
        let mut columns: [Vec<f64>; 7] = Default::default();
        self.net.server.run(|| {
            let (of_tc, of_syn) = (context()?, xdp_context(syn.len())?);
            let of_data = xdp_context(data.len())?;
            let of = |program, empty, frame, context, action| Case {
                program,
                empty,
                frame,
                context,
                action,
            };
            let cases = [
                of(to, tc, &syn[..], &of_tc[..], SHOT),
                of(guard, xdp, &syn[..], &of_syn[..], XDP_DROP),
                of(guard, xdp, &data[..], &of_data[..], XDP_PASS),
            ];
            for _ in 0..batches {
                for (n, case) in cases.iter().enumerate() {
                    let (net, empty) = case.nanoseconds()?;
                    columns[n].push(net);
                    columns[if n == 0 { 3 } else { 4 }].push(empty);
                }
                // The frames that the empty program lets pass meet `to_workload` in the stack.
                for (program, column) in [(xdp, 5), (guard, 6)] {
                    let frame = f64::from(run_live(program, &syn, &of_syn)?.nanoseconds);
                    columns[column].push(1e9 / frame);
                }
            }
            Ok(())
        })?;
        let [to_workload_drops, guard_drops, guard_passes, empty_tc, empty_xdp, without, with] =
            columns.map(Spread::of);
        let runs = Runs { to_workload_drops, guard_drops, guard_passes, empty_tc, empty_xdp };
        Ok((runs, [without, with]))
    }

    /// A data segment of a connection that is open, by a network rule.
    fn data(&self) -> Result<Vec<u8>> {
        let to = self.net.server.at(Family::V4, OPEN);
        let _server = Server::start(&self.net.server, OPEN, &Service::Echo)?;
        let mut stream = dial(&self.net.client, to, PATIENCE)?.stream()?;
        let mut byte = [1];
        stream.write_all(&byte)?;
        stream.read_exact(&mut byte).context("no echo")?;
        let segment = Forged::new(stream.local_addr()?, to, Flags::ACK);
        segment.payload(&[b'x'; 64]).frame(link_address(&self.net.server, INTERFACE)?)
    }
}
