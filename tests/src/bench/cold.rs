//! First contact: both daemons are new, as are their credentials, pins and memory files, and neither has
//! heard of the other. What it adds is told against the native stack's connect after the same pause.

use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

use super::options::Options;
use super::stage::{FIRST_PORT, Stage, enforce};
use crate::tcp::{PATIENCE, Server, Service, dial};
use crate::topology::TwoHosts;

/// Time for the daemons to settle after their start.
const PAUSE: Duration = Duration::from_millis(100);

/// Connect latencies, microseconds, in the order in which they were taken.
#[expect(clippy::struct_field_names, reason = "the unit stands last in each name")]
#[derive(Debug, Clone, Default, Serialize)]
pub struct Cold {
    /// Without enforcement.
    pub native_us: Vec<f64>,
    /// The first between two identities.
    pub first_us: Vec<f64>,
    /// The second, after another pause.
    pub second_us: Vec<f64>,
}

/// Measures on hosts of its own.
pub fn measure(native: &Stage, options: &Options) -> Result<Cold> {
    let net = TwoHosts::new()?;
    let _server = Server::start(&net.server, FIRST_PORT, &Service::Echo)?;
    let _native = Server::start(&native.net.server, FIRST_PORT, &Service::Echo)?;
    let mut cold = Cold::default();
    for _ in 0..options.first_contacts() {
        let _daemons = enforce(&net.client, &net.server)?;
        cold.native_us.push(connect(&native.net)?);
        cold.first_us.push(connect(&net).context("a first contact")?);
        cold.second_us.push(connect(&net)?);
    }
    Ok(cold)
}

fn connect(net: &TwoHosts) -> Result<f64> {
    std::thread::sleep(PAUSE);
    let to = net.server.at(crate::host::Family::V4, FIRST_PORT);
    let dialled = dial(&net.client, to, PATIENCE)?;
    let latency = dialled.latency;
    dialled.stream()?;
    Ok(latency.as_secs_f64() * 1e6)
}
