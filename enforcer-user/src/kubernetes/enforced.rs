//! Policies of a cluster in the form in which they are enforced.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use ipnet::IpNet;
use thiserror::Error;

use super::cedar;
use super::cluster::{Cluster, Pod};
use super::cluster_policy::RulePeer;
use super::decide::Because;
use super::error::ManifestError;
use super::networks;
use crate::identity::{Identity, Namespace};
use crate::policy::SourceFile;
use crate::policy::network::NetworkPrefix;

/// What the rules are said to stand in.
const FILE: &str = "kubernetes";

/// Why policies of a cluster cannot be enforced.
#[derive(Debug, Error)]
pub enum EnforcedError {
    /// A manifest is not understood.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// What policies say of a namespace's labels cannot be asked.
    #[error(
        "namespaces {0} have no manifest: what policies say of their labels cannot be asked; add them, as `kubectl get \
         namespaces -o yaml` prints them"
    )]
    Undescribed(String),
    /// Nothing would be permitted.
    #[error(
        "no namespace is in the manifests: nothing would be permitted; add them, or leave `kubernetes` out"
    )]
    Empty,
    /// Nobody knows who is meant.
    #[error(
        "two pods have the address {0}: nobody can tell who is meant; leave out the one that has ended"
    )]
    Address(IpAddr),
    /// Nodes are selected, and none is known.
    #[error(
        "ClusterNetworkPolicy {0}: selects nodes, and no Node is in the manifests; add them, as `kubectl get nodes -o yaml` \
         prints them"
    )]
    Nodes(String),
    /// More rules than are read.
    #[error(
        "the policies become more than {} MiB of rules: rules of ClusterNetworkPolicies name all before them that decide \
         otherwise; let fewer of them accept and pass",
        cedar::BYTES_MAX >> 20
    )]
    TooLong,
    /// A name's addresses are not known.
    #[error("ClusterNetworkPolicy {0}: domainNames are not enforced: name networks instead")]
    Names(String),
}

/// Policies of a cluster, for workloads in namespaces below one: a pod of namespace `shop` is the workload of its name
/// in `/shop` below it.
#[derive(Debug)]
pub struct Enforced {
    cluster: Cluster,
    above: Namespace,
    /// Where peers are known by identity when they speak TCP.
    mesh: Vec<IpNet>,
    /// Pods by address.
    known: BTreeMap<IpNet, Pod>,
    cedar: String,
    rules: BTreeMap<String, u16>,
    names: Vec<String>,
}

impl Enforced {
    /// Reads manifests: files, and all of folders.
    ///
    /// # Errors
    /// The first thing found that cannot be honoured.
    pub fn read(
        paths: &[PathBuf],
        above: &Namespace,
        mesh: Vec<IpNet>,
    ) -> Result<Self, EnforcedError> {
        Self::new(Cluster::read(paths)?, above, mesh)
    }

    /// Of manifests that were read.
    ///
    /// # Errors
    /// The first thing found that cannot be honoured.
    pub fn new(
        cluster: Cluster,
        above: &Namespace,
        mesh: Vec<IpNet>,
    ) -> Result<Self, EnforcedError> {
        if !cluster.undescribed.is_empty() {
            return Err(EnforcedError::Undescribed(cluster.undescribed.join(", ")));
        }
        let named = cluster.wide_policies.iter().find(|policy| {
            let peers = policy.egress.iter().flat_map(|rule| &rule.peers);
            peers.into_iter().any(|peer| matches!(peer, RulePeer::Names(_)))
        });
        if let Some(policy) = named {
            return Err(EnforcedError::Names(policy.name.clone()));
        }
        if cluster.namespaces.is_empty() {
            return Err(EnforcedError::Empty);
        }
        let of_nodes = cluster.wide_policies.iter().find(|policy| {
            let peers = policy.egress.iter().flat_map(|rule| &rule.peers);
            peers.into_iter().any(|peer| matches!(peer, RulePeer::Nodes(_)))
        });
        if let (Some(policy), []) = (of_nodes, cluster.nodes.as_slice()) {
            return Err(EnforcedError::Nodes(policy.name.clone()));
        }
        let known =
            networks::by_address(&cluster).map_err(|net| EnforcedError::Address(net.addr()))?;
        let cedar = cedar::write(&cluster, above);
        if cedar.len() > cedar::BYTES_MAX {
            return Err(EnforcedError::TooLong);
        }
        let names = names(&cluster);
        let rules = (0_u16..).zip(&names).map(|(number, name)| (name.clone(), number)).collect();
        Ok(Self { cluster, above: above.clone(), mesh, known, cedar, rules, names })
    }

    /// The rules between pods, as a policy of the enforcer.
    #[must_use]
    pub fn cedar(&self) -> SourceFile {
        SourceFile::new(FILE, self.cedar.clone())
    }

    /// What a reader should know who takes the policies for the whole truth.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        self.cluster.notes()
    }

    /// What applies to peers of a workload that have no identity, for each network that policies name, the wider one
    /// first; the entries' rules are numbers of [`Self::rule_name`]. `None` if it is no pod of a namespace that has a
    /// manifest: nothing is open for it then.
    pub(crate) fn networks(&self, workload: &Identity) -> Option<Vec<NetworkPrefix>> {
        let namespace = self.namespace_of(workload)?;
        let pod = self.pod(namespace, workload)?;
        let number =
            |because: &Because| self.rules.get(&name_of(because)).copied().unwrap_or(u16::MAX);
        Some(networks::prefixes(&self.cluster, &pod, &self.mesh, &self.known, &number))
    }

    /// What a rule of the networks is called: a policy, or that there is none.
    #[must_use]
    pub fn rule_name(&self, number: u16) -> Option<&str> {
        self.names.get(usize::from(number)).map(String::as_str)
    }

    /// Whatever decides differently, in one order.
    pub(crate) fn fingerprint(&self) -> String {
        format!("{:?} {:?} {:?}", self.cluster, self.above, self.mesh)
    }

    fn namespace_of(&self, workload: &Identity) -> Option<&str> {
        let above = self.above.as_str().trim_end_matches('/');
        let name = workload.namespace().as_str().strip_prefix(above)?.strip_prefix('/')?;
        self.cluster.namespaces.get_key_value(name).map(|(name, _)| name.as_str())
    }

    /// The pod that a workload is. Its labels are those of its identity; only the names of its ports are the
    /// manifest's. It has an address of each family, whichever: what is asked is who its peers are.
    /// `None` if it has its node's network.
    fn pod(&self, namespace: &str, workload: &Identity) -> Option<Pod> {
        let same = |pod: &&Pod| pod.namespace == namespace && pod.name == workload.name();
        let manifest = self.cluster.pods.iter().find(same);
        if manifest.is_some_and(|pod| pod.is_host_network) {
            return None;
        }
        Some(Pod {
            namespace: namespace.to_owned(),
            name: workload.name().to_owned(),
            labels: workload.labels().clone(),
            is_host_network: false,
            has_ended: false,
            named_ports: manifest.map(|pod| pod.named_ports.clone()).unwrap_or_default(),
            addresses: vec![IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)],
        })
    }
}

/// Of everything that can allow something.
fn names(cluster: &Cluster) -> Vec<String> {
    let own = cluster.network_policies.iter();
    let own = own.map(|policy| format!("NetworkPolicy {}/{}", policy.namespace, policy.name));
    let wide = cluster.wide_policies.iter();
    let wide = wide.map(|policy| format!("ClusterNetworkPolicy {}", policy.name));
    std::iter::once(name_of(&Because::NoPolicy)).chain(own).chain(wide).collect()
}

fn name_of(because: &Because) -> String {
    match because {
        Because::Allowed(name) => format!("NetworkPolicy {name}"),
        Because::Cluster { policy, .. } => format!("ClusterNetworkPolicy {policy}"),
        Because::Itself | Because::Outside | Because::NoPolicy | Because::NoneAllows(_) => {
            "no NetworkPolicy".to_owned()
        }
    }
}
