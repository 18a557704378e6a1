//! Whom a question is about and what both ends say, by Kubernetes manifests or by configurations of enforcers.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};

use super::super::arguments::{on_its_node, unix_now};
use crate::config::{Config, Mode};
use crate::identity::Identity;
use crate::kubernetes::{Cluster, Host, Judge, MAX_PEERS, Port, Protocol};
use crate::materials;
use crate::policy::{self, Action, Policy, Request};

/// Connections between workloads of configurations that are explained; an explanation looks at every rule.
const EXPLAINED: usize = 200;

/// What files say.
pub(super) enum World {
    Cluster(Cluster),
    Nodes(Nodes),
}

/// Workloads of some nodes, each under the policy of its own.
pub(super) struct Nodes {
    names: Vec<String>,
    workloads: Vec<Inhabitant>,
    policies: Vec<Policy>,
    unix_seconds: i64,
}

/// A workload of a node.
struct Inhabitant {
    identity: Identity,
    /// Which policy is its node's.
    policy: usize,
    /// Whether what is refused at its end passes all the same.
    is_observed: bool,
}

/// What both ends say of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Verdict {
    /// The destination's policies.
    pub(super) ingress: bool,
    /// The source's.
    pub(super) egress: bool,
}

impl Verdict {
    pub(super) fn is_allowed(self) -> bool {
        self.ingress && self.egress
    }
}

/// A world that can be asked.
pub(super) struct Asked<'a> {
    world: Either<'a>,
    /// Of all that are there, in their order.
    pub(super) names: Vec<String>,
    /// Explanations that are left.
    left: Cell<usize>,
}

enum Either<'a> {
    Cluster(Judge<'a>),
    Nodes(&'a Nodes),
}

impl World {
    /// Reads manifests, or configurations if the names end in `.toml`. What bounds the answer is said on standard error.
    pub(super) fn read(files: &[PathBuf], hosts: &[Host]) -> anyhow::Result<Self> {
        let world = match files.iter().filter(|file| is_configuration(file)).count() {
            0 => Self::Cluster(cluster(files, hosts)?),
            count if count < files.len() => {
                bail!(
                    "configurations (.toml) and manifests do not go together: expected one or the other"
                )
            }
            _ => {
                ensure!(
                    hosts.is_empty(),
                    "--host: configurations have none outside, but network rules"
                );
                Self::Nodes(Nodes::read(files)?)
            }
        };
        let count = world.ask().names.len();
        ensure!(count > 0, "nobody is in these files: expected pods, or workloads");
        ensure!(count <= MAX_PEERS, "{count} pods and hosts: expected at most {MAX_PEERS}");
        Ok(world)
    }

    pub(super) fn is_cluster(&self) -> bool {
        matches!(self, Self::Cluster(_))
    }

    pub(super) fn ask(&self) -> Asked<'_> {
        match self {
            Self::Cluster(cluster) => {
                let judge = Judge::new(cluster);
                let names = judge.peers().map(|peer| peer.to_string()).collect();
                Asked { world: Either::Cluster(judge), names, left: Cell::new(usize::MAX) }
            }
            Self::Nodes(nodes) => Asked {
                world: Either::Nodes(nodes),
                names: nodes.names.clone(),
                left: Cell::new(EXPLAINED),
            },
        }
    }
}

fn cluster(files: &[PathBuf], hosts: &[Host]) -> anyhow::Result<Cluster> {
    for folder in files.iter().filter_map(|file| file.read_dir().ok()) {
        for entry in
            folder.flatten().map(|entry| entry.path()).filter(|path| is_configuration(path))
        {
            eprintln!("note: {} is not read: configurations are named one by one", entry.display());
        }
    }
    let mut cluster = Cluster::read(files)?;
    for host in hosts {
        cluster.add_host(host.clone()).map_err(anyhow::Error::msg).context("--host")?;
    }
    for note in cluster.notes() {
        eprintln!("note: {note}");
    }
    Ok(cluster)
}

fn is_configuration(file: &Path) -> bool {
    file.extension().is_some_and(|end| end == "toml")
}

impl Nodes {
    fn read(files: &[PathBuf]) -> anyhow::Result<Self> {
        let mut nodes = Self {
            names: Vec::new(),
            workloads: Vec::new(),
            policies: Vec::new(),
            unix_seconds: i64::try_from(unix_now()).unwrap_or(i64::MAX),
        };
        let mut read = BTreeSet::new();
        for file in files {
            nodes.add(file, &mut read)?;
        }
        Ok(nodes)
    }

    fn add(&mut self, file: &Path, read: &mut BTreeSet<String>) -> anyhow::Result<()> {
        let config = on_its_node(Config::load(file)?);
        let policy = materials::load_policy(&config).context("policy")?;
        for workload in config.workloads {
            let identity = workload.identity;
            let name = format!(
                "{}/{}",
                identity.namespace().as_str().trim_end_matches('/'),
                identity.name()
            );
            ensure!(
                read.insert(name.clone()),
                "{}: another configuration has a workload {name}: leave one of the two out",
                file.display()
            );
            let is_observed = workload.mode != Mode::Enforce;
            if is_observed {
                eprintln!("note: {name} is only observed: what is refused at its end passes");
            }
            self.names.push(name);
            self.workloads.push(Inhabitant { identity, policy: self.policies.len(), is_observed });
        }
        if !config.network_rules.is_empty() {
            let count = config.network_rules.len();
            eprintln!(
                "note: {}: its network rules ({count}) are for what has no identity, and not asked",
                file.display()
            );
        }
        self.policies.push(policy);
        Ok(())
    }

    fn verdict(&self, from: usize, to: usize, port: Port) -> Option<Verdict> {
        let said = |policy: &Policy, request: &Request<'_>, is_observed: bool| {
            is_observed || policy.decide(request).allow
        };
        self.each_end(from, to, port, said).map(|(egress, ingress)| Verdict { ingress, egress })
    }

    fn explained(policy: &Policy, request: &Request<'_>, is_observed: bool) -> String {
        let explanation = policy.explain(request);
        if is_observed {
            return format!("only observed, so it passes; if it were enforced: {explanation}");
        }
        explanation.to_string()
    }

    /// What the source's policy gives and what the destination's does.
    fn each_end<T>(
        &self,
        from: usize,
        to: usize,
        port: Port,
        ask: impl Fn(&Policy, &Request<'_>, bool) -> T,
    ) -> Option<(T, T)> {
        let (caller, callee) = (self.workloads.get(from)?, self.workloads.get(to)?);
        let request = |action| Request {
            action,
            caller: &caller.identity,
            callee: &callee.identity,
            port: port.number,
            protocol: protocol(port.protocol),
            unix_seconds: self.unix_seconds,
        };
        let said = |end: &Inhabitant, action| {
            let policy = self.policies.get(end.policy)?;
            Some(ask(policy, &request(action), end.is_observed))
        };
        Some((said(caller, Action::Connect)?, said(callee, Action::Accept)?))
    }
}

fn protocol(protocol: Protocol) -> policy::Protocol {
    match protocol {
        Protocol::Tcp => policy::Protocol::TCP,
        Protocol::Udp => policy::Protocol::UDP,
        Protocol::Sctp => policy::Protocol::SCTP,
    }
}

impl Asked<'_> {
    /// Whether the connection is allowed, between two by their numbers in `names`; `None` if there is no such.
    pub(super) fn verdict(&self, from: usize, to: usize, port: Port) -> Option<Verdict> {
        match &self.world {
            Either::Nodes(nodes) => nodes.verdict(from, to, port),
            Either::Cluster(judge) => judge.decide(from, to, port).map(|decision| Verdict {
                ingress: decision.ingress.is_allowed(),
                egress: decision.egress.is_allowed(),
            }),
        }
    }

    /// Why: what the source's policies say and what the destination's do.
    pub(super) fn reasons(&self, from: usize, to: usize, port: Port) -> Option<(String, String)> {
        match &self.world {
            Either::Nodes(nodes) => nodes.each_end(from, to, port, Nodes::explained),
            Either::Cluster(judge) => judge
                .decide(from, to, port)
                .map(|decision| (decision.egress.to_string(), decision.ingress.to_string())),
        }
    }

    /// What a line says of it, below what the line begins with.
    pub(super) fn explained(&self, from: usize, to: usize, port: Port) -> String {
        let left = self.left.get();
        if left == 0 {
            return format!("    reasons are told for {EXPLAINED} connections only");
        }
        self.left.set(left - 1);
        let Some((source, destination)) = self.reasons(from, to, port) else {
            return String::new();
        };
        let indented = |text: String| text.replace('\n', "\n    ");
        format!("    source: {}\n    destination: {}", indented(source), indented(destination))
    }
}
