//! First contact: two identities that have not met. Twice: of daemons that have just started, with new credentials,
//! pins and memory files, which do everything for the first time; and of daemons that serve many workloads and have met
//! others before. What it adds is told against the connect of the native stack after the same pause.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

use super::options::Options;
use super::stage::{FIRST_PORT, Stage, enforce};
use crate::host::{Family, Host};
use crate::keys::Keys;
use crate::pods::{Pods, Wanted};
use crate::policy::ALLOW_ALL;
use crate::tcp::{PATIENCE, Server, Service, dial};
use crate::topology::TwoHosts;

/// Time for the daemons to settle after their start.
const PAUSE: Duration = Duration::from_millis(100);

/// The last byte of the first pod's addresses.
const FIRST_ADDRESS: u8 = 10;

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
    /// Between the pods of two nodes, without enforcement.
    pub native_pods_us: Vec<f64>,
    /// The first between two of them, whose daemons have met others.
    pub met_us: Vec<f64>,
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
    drop(net);
    meet(&mut cold, options.first_contacts())?;
    Ok(cold)
}

/// Pods of one node call one each of another, first without enforcement and then with it. The first pair is not counted.
fn meet(cold: &mut Cold, pairs: u32) -> Result<()> {
    let names: Vec<String> =
        (0..=pairs).flat_map(|n| [format!("from-{n}"), format!("to-{n}")]).collect();
    let wanted: Vec<Wanted<'_>> = names
        .iter()
        .zip(FIRST_ADDRESS..)
        .map(|(name, address)| Wanted { namespace: "shop", name, labels: BTreeMap::new(), address })
        .collect();
    let mut pods = Pods::prepare(&wanted, &Keys::pki()?, ALLOW_ALL, None)?;
    let called = pods.pods.iter().skip(1).step_by(2);
    let _servers = called
        .map(|pod| Server::start(&pod.host, FIRST_PORT, &Service::Echo))
        .collect::<Result<Vec<_>>>()?;
    // Once to learn each other's link addresses.
    meetings(&pods)?;
    cold.native_pods_us = meetings(&pods)?;
    pods.enforce()?;
    cold.met_us = meetings(&pods)?;
    Ok(())
}

fn meetings(pods: &Pods) -> Result<Vec<f64>> {
    let (pairs, _) = pods.pods.as_chunks::<2>();
    let each = pairs.iter().map(|[from, to]| connect_pair(&from.host, &to.host));
    Ok(each.collect::<Result<Vec<_>>>()?.split_off(1))
}

fn connect(net: &TwoHosts) -> Result<f64> {
    connect_pair(&net.client, &net.server)
}

fn connect_pair(from: &Host, to: &Host) -> Result<f64> {
    std::thread::sleep(PAUSE);
    let to = to.at(Family::V4, FIRST_PORT);
    let dialled = dial(from, to, PATIENCE)?;
    let latency = dialled.latency;
    dialled.stream()?;
    Ok(latency.as_secs_f64() * 1e6)
}
