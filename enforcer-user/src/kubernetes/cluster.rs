//! Who is there: namespaces, pods, and hosts outside.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

use super::cluster_policy::ClusterPolicy;
use super::label::{Labels, check_object_name};
use super::network_policy::NetworkPolicy;
use super::port::NamedPort;

/// The most pods and hosts together: a matrix has a cell for each two.
pub const MAX_PEERS: usize = 2000;

/// What manifests say.
#[derive(Debug, Default)]
pub struct Cluster {
    pub(super) namespaces: BTreeMap<String, Labels>,
    pub(super) pods: Vec<Pod>,
    pub(super) nodes: Vec<Node>,
    pub(super) hosts: Vec<Host>,
    pub(super) network_policies: Vec<NetworkPolicy>,
    /// Those of the whole cluster, in the order in which they are asked: tier, priority, name.
    pub(super) wide_policies: Vec<ClusterPolicy>,
    pub(super) notes: Vec<String>,
    /// Namespaces that are spoken of and have no manifest.
    pub(super) undescribed: Vec<String>,
}

/// A pod.
#[derive(Debug, Clone)]
pub struct Pod {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) labels: Labels,
    /// It has its node's network: no policy is for it, and selectors do not find it.
    pub(super) is_host_network: bool,
    pub(super) has_ended: bool,
    pub(super) named_ports: Vec<NamedPort>,
    /// The primary one first.
    pub(super) addresses: Vec<IpAddr>,
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) labels: Labels,
    pub(super) addresses: Vec<IpAddr>,
}

impl Pod {
    /// Whether policies can be for it.
    pub(super) fn is_governed(&self) -> bool {
        !self.is_host_network && !self.has_ended
    }
}

impl Node {
    /// Whether this is one of its addresses.
    pub(super) fn has(&self, network: IpNet) -> bool {
        self.addresses.iter().any(|address| IpNet::from(*address) == network)
    }
}

/// A peer outside the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    pub(super) name: String,
    pub(super) address: IpAddr,
}

impl FromStr for Host {
    type Err = String;

    /// `NAME=ADDRESS`; the name may be a DNS name, by which policies may mean it.
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, address) = text
            .split_once('=')
            .ok_or_else(|| format!("{text:?}: expected NAME=ADDRESS, as in dns=192.0.2.53"))?;
        check_object_name(name)?;
        let address = address
            .parse()
            .map_err(|_| format!("{address:?}: expected an IPv4 or IPv6 address"))?;
        Ok(Self { name: name.to_owned(), address })
    }
}

/// One end of a connection.
#[derive(Debug, Clone, Copy)]
pub enum Peer<'a> {
    /// A pod.
    Pod(&'a Pod),
    /// A host outside.
    Host(&'a Host),
    /// Whoever has an address of this network and of no smaller one that policies name.
    Network {
        /// Where they are.
        network: IpNet,
        /// Whether pods may be among them that no manifest tells the addresses of.
        may_be_pod: bool,
    },
}

/// `namespace/name` of a pod, the name of a host, the network itself.
impl fmt::Display for Peer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(pod) => write!(f, "{}/{}", pod.namespace, pod.name),
            Self::Host(host) => f.write_str(&host.name),
            Self::Network { network, .. } => write!(f, "{network}"),
        }
    }
}

impl<'a> Peer<'a> {
    /// The pod that policies can be for.
    pub(super) fn governed(self) -> Option<&'a Pod> {
        match self {
            Self::Pod(pod) if !pod.is_host_network => Some(pod),
            Self::Pod(_) | Self::Host(_) | Self::Network { .. } => None,
        }
    }

    /// Whether it may be a pod that no manifest describes.
    pub(super) fn may_be_pod(self) -> bool {
        matches!(self, Self::Network { may_be_pod: true, .. })
    }

    pub(super) fn named_ports(self) -> &'a [NamedPort] {
        match self {
            Self::Pod(pod) => &pod.named_ports,
            Self::Host(_) | Self::Network { .. } => &[],
        }
    }

    /// The address that this end has in a connection with the other: of the family that both have, the
    /// destination's primary one before its others.
    pub(super) fn addresses(from: Self, to: Self) -> Option<(IpNet, IpNet)> {
        let (from, to) = (from.all_addresses(), to.all_addresses());
        let is_v4 = |net: &IpNet| net.addr().is_ipv4();
        let pair = |to: &IpNet| Some((*from.iter().find(|f| is_v4(f) == is_v4(to))?, *to));
        to.iter().find_map(pair)
    }

    fn all_addresses(self) -> Vec<IpNet> {
        match self {
            Self::Pod(pod) => pod.addresses.iter().copied().map(IpNet::from).collect(),
            Self::Host(host) => vec![IpNet::from(host.address)],
            Self::Network { network, .. } => vec![network],
        }
    }

    pub(super) fn is(self, other: Self) -> bool {
        match (self, other) {
            (Self::Pod(a), Self::Pod(b)) => std::ptr::eq(a, b),
            (Self::Host(a), Self::Host(b)) => std::ptr::eq(a, b),
            _ => false,
        }
    }
}

impl Cluster {
    /// Adds a host outside.
    ///
    /// # Errors
    /// One of that name is there.
    pub fn add_host(&mut self, host: Host) -> Result<(), String> {
        if self.hosts.iter().any(|other| other.name == host.name) {
            return Err(format!("host {:?} is named twice", host.name));
        }
        self.hosts.push(host);
        Ok(())
    }

    /// Pods by namespace and name, then hosts.
    pub fn peers(&self) -> Vec<Peer<'_>> {
        let mut pods: Vec<_> = self.pods.iter().filter(|pod| !pod.has_ended).collect();
        pods.sort_by_key(|pod| (&pod.namespace, &pod.name));
        pods.into_iter().map(Peer::Pod).chain(self.hosts.iter().map(Peer::Host)).collect()
    }

    /// What a reader should know who takes the answer for the whole truth.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    pub(super) fn labels_of(&self, namespace: &str) -> Option<&Labels> {
        self.namespaces.get(namespace)
    }
}
