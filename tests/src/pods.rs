//! Pods on nodes, each a network namespace behind a veth; the nodes' bridges hang on each other by wires.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use crate::config::{Config, Workload};
use crate::enforcer::Enforcer;
use crate::host::{Family, Host};
use crate::keys::Keys;
use crate::policy::DENY_ALL;
use crate::topology::{INTERFACE, bridge, configure, enslave, link, near, reachable};

/// The ports of a node's bridge that lead to the node before it and behind it.
const BEFORE: &str = "before";
const BEHIND: &str = "behind";
/// Few enough for pods of one name, in different namespaces, to meet on one.
const NODES: usize = 2;

/// A pod of a namespace.
#[derive(Debug)]
pub struct Pod {
    /// `namespace/name`.
    pub name: String,
    /// Where its programs run.
    pub host: Host,
}

/// Nodes with an enforcer each, and pods by turns on one after the other.
#[derive(Debug)]
pub struct Pods {
    /// In the order in which they were asked for.
    pub pods: Vec<Pod>,
    /// Of all nodes.
    pub enforcers: Vec<Enforcer>,
    _nodes: Vec<Host>,
}

/// What a pod is to be.
#[derive(Debug)]
pub struct Wanted<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The last byte of its addresses.
    pub address: u8,
}

impl Pods {
    /// Makes all, with these manifests in force.
    pub fn start(wanted: &[Wanted<'_>], manifests: &str) -> Result<Self> {
        let mut pods = Self::prepare(wanted, &Keys::psk()?, DENY_ALL, Some(manifests))?;
        pods.enforce()?;
        Ok(pods)
    }

    /// Makes all, and enforces nothing yet.
    pub fn prepare(
        wanted: &[Wanted<'_>],
        keys: &Keys,
        policy: &str,
        manifests: Option<&str>,
    ) -> Result<Self> {
        let nodes = nodes(NODES)?;
        let mut workloads = vec![Vec::new(); nodes.len()];
        let mut pods = Vec::new();
        for (number, one) in wanted.iter().enumerate() {
            let at = number % nodes.len();
            let host = attach(&nodes[at], number, one)?;
            workloads[at].push(workload(&host, number, one));
            pods.push(Pod { name: format!("{}/{}", one.namespace, one.name), host });
        }
        let mut enforcers = Vec::new();
        for (node, workloads) in nodes.iter().zip(workloads) {
            let any = workloads.first().context("a node without pods")?.clone();
            let mut config = Config::new(keys.node(node.label(), "/")?, any, policy);
            config.workloads = workloads;
            config.manifests = manifests.map(str::to_owned);
            enforcers.push(Enforcer::prepare(node, &config)?);
        }
        let (first, last) = pods.first().zip(pods.last()).context("no pods")?;
        reachable(&first.host, &last.host)?;
        Ok(Self { pods, enforcers, _nodes: nodes })
    }

    /// Starts the enforcer of each node.
    pub fn enforce(&mut self) -> Result<()> {
        self.enforcers.iter_mut().try_for_each(Enforcer::launch)
    }

    /// Puts other manifests in force.
    pub fn change(&self, manifests: &str) -> Result<()> {
        self.enforcers.iter().try_for_each(|enforcer| enforcer.change_manifests(manifests))
    }
}

fn nodes(count: usize) -> Result<Vec<Host>> {
    let nodes: Vec<Host> =
        (1..=count).map(|number| Host::new(&format!("node-{number}"))).collect::<Result<_>>()?;
    nodes.iter().try_for_each(bridge)?;
    for pair in nodes.windows(2) {
        let [one, next] = pair else { continue };
        link(one, BEHIND, next, BEFORE)?;
        enslave(one, BEHIND)?;
        enslave(next, BEFORE)?;
    }
    Ok(nodes)
}

fn attach(node: &Host, number: usize, wanted: &Wanted<'_>) -> Result<Host> {
    let host = Host::new(wanted.name)?;
    let port = port(number);
    link(&host, INTERFACE, node, &port)?;
    enslave(node, &port)?;
    configure(&host, INTERFACE, near(wanted.address))?;
    Ok(host)
}

fn workload(host: &Host, number: usize, wanted: &Wanted<'_>) -> Workload {
    let addresses = Family::BOTH.map(|family| host.address(family).to_string());
    let namespace = format!("/{}", wanted.namespace);
    let workload = Workload::behind(&namespace, wanted.name, &port(number), &addresses);
    wanted.labels.iter().fold(workload, |workload, (key, value)| workload.label(key, value))
}

fn port(number: usize) -> String {
    format!("pod-{number}")
}
