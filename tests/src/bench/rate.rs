//! Connection rate and connect latency: connect, one byte each way, close.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::stage::Stage;
use crate::load::Load;
use crate::tcp::{Server, Service};

/// Threads that accept, at most.
const ACCEPTORS: usize = 16;
/// Connections made before what is measured, on the same port.
pub const WARM_UP: u64 = 50;

/// One measurement.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    /// Connections a second.
    pub per_second: f64,
    /// Median connect latency, microseconds.
    pub p50_us: f64,
    /// The connect latency that one in a hundred exceeds, microseconds.
    pub p99_us: f64,
    /// Connections made, without the warm-up.
    pub connections: u64,
}

/// Measures on one port of a stage. `clients` threads make `connections` together; `around` is called with
/// the work that is measured, so that the caller can read clocks before and behind it.
pub fn measure(
    stage: &Stage,
    port: u16,
    clients: usize,
    connections: u64,
    around: impl FnOnce(&mut dyn FnMut() -> Result<()>) -> Result<()>,
) -> Result<Rate> {
    let threads = clients.min(ACCEPTORS);
    let _server = Server::start_threads(&stage.net.server, port, &Service::OneByte, threads)?;
    let load = Load::connections(stage.at(port), WARM_UP);
    run(stage, load)?;
    let mut rate = None;
    around(&mut || {
        let load = Load::connections(stage.at(port), connections).clients(clients);
        rate = Some(run(stage, load)?);
        Ok(())
    })?;
    rate.ok_or_else(|| anyhow::anyhow!("nothing was measured"))
}

fn run(stage: &Stage, load: Load) -> Result<Rate> {
    let report = load.run(&stage.net.client)?;
    ensure!(
        report.failed == 0,
        "{} of {} connections failed when {}, so that no rate can be told; the first: {}",
        report.failed,
        report.failed + report.completed,
        stage.setting.name(),
        report.first_failure.as_deref().unwrap_or_default()
    );
    let micros =
        |permille| report.latency_permille(permille).unwrap_or(Duration::ZERO).as_secs_f64() * 1e6;
    Ok(Rate {
        per_second: report.rate(),
        p50_us: micros(500),
        p99_us: micros(990),
        connections: report.completed,
    })
}
