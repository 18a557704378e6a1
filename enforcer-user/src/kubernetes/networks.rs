//! What policies of a cluster say of peers that have no identity: of addresses outside of the mesh, and of protocols
//! that carry none.
//!
//! Every address belongs to the smallest network that some policy names and that holds it. For each such network and
//! each span of ports between those that policies name the answer is one, so it is asked for once.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::block::Block;
use super::cluster::{Cluster, Peer, Pod};
use super::cluster_policy;
use super::decide::{self, Because, Connection, Direction, Subject};
use super::label::Labels;
use super::network_policy;
use super::port::{Port, PortMatch, Ports, Protocol};
use crate::policy::network::{self, NetworkEntry, NetworkPrefix};

const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
const ICMP: u8 = 1;
const ICMP_V6: u8 = 58;
/// Of a rule of the kernel's table: any protocol.
const ANY: u8 = 0;

/// What the policies for `pod` allow at every network that they name. `mesh` is where TCP has identities: nothing is
/// said of it there. `known` has the pods by address, `number` gives the rule's number for a reason.
pub(super) fn prefixes(
    cluster: &Cluster,
    pod: &Pod,
    mesh: &[IpNet],
    known: &BTreeMap<IpNet, Pod>,
    number: &impl Fn(&Because) -> u16,
) -> Vec<NetworkPrefix> {
    let subject = decide::subject(cluster, Peer::Pod(pod));
    let asked = Asked { cluster, subject: &subject, pod, mesh, known, number };
    let starts = port_starts(cluster, &subject);
    let blocks: Vec<&Block> = blocks(&subject).collect();
    // Replicas are many and alike: what is answered of one is answered of all.
    let mut answered: BTreeMap<Likeness<'_>, Vec<NetworkEntry>> = BTreeMap::new();
    let networks = networks(cluster, &subject, mesh).into_iter();
    let mut entries = |prefix| match asked.likeness(prefix, &blocks) {
        Some(likeness) => {
            let answer = answered.entry(likeness);
            answer.or_insert_with(|| asked.entries(prefix, &starts)).clone()
        }
        None => asked.entries(prefix, &starts),
    };
    networks.map(|prefix| NetworkPrefix { prefix, entries: entries(prefix) }).collect()
}

/// All of a pod at one of its addresses that policies ask.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Likeness<'a> {
    namespace: &'a str,
    labels: &'a Labels,
    ports: Vec<(&'a str, u16, u8)>,
    is_ipv4: bool,
    is_mesh: bool,
    /// Of each block that they name, whether the address is in it.
    blocks: Vec<bool>,
}

struct Asked<'a, F> {
    cluster: &'a Cluster,
    subject: &'a Subject<'a>,
    pod: &'a Pod,
    mesh: &'a [IpNet],
    known: &'a BTreeMap<IpNet, Pod>,
    number: &'a F,
}

impl<F: Fn(&Because) -> u16> Asked<'_, F> {
    fn entries(&self, network: IpNet, starts: &[u16]) -> Vec<NetworkEntry> {
        [Direction::Egress, Direction::Ingress]
            .into_iter()
            .flat_map(|way| self.entries_of(network, starts, way))
            .collect()
    }

    fn entries_of(&self, network: IpNet, starts: &[u16], way: Direction) -> Vec<NetworkEntry> {
        let is_mesh = self.is_mesh(network);
        let protocols = PROTOCOLS.into_iter().filter(|p| !(is_mesh && *p == Protocol::Tcp));
        let mut entries: Vec<NetworkEntry> =
            protocols.flat_map(|protocol| self.spans(network, starts, way, protocol)).collect();
        if let Some(rule) = self.allows(network, way, None) {
            // More protocols than these are only in what is open for all.
            let is_open = !is_mesh
                && entries.len() == PROTOCOLS.len()
                && entries.iter().all(|entry| (entry.port_low, entry.port_high) == (0, u16::MAX));
            if is_open {
                entries.clear();
            }
            let icmp = if network.addr().is_ipv4() { ICMP } else { ICMP_V6 };
            let protocol = if is_open { ANY } else { icmp };
            entries.push(entry(way, protocol, (0, u16::MAX), rule));
        }
        entries
    }

    /// The spans of ports that are open, neighbours as one.
    fn spans(
        &self,
        network: IpNet,
        starts: &[u16],
        way: Direction,
        protocol: Protocol,
    ) -> Vec<NetworkEntry> {
        let mut open: Vec<NetworkEntry> = Vec::new();
        for (place, start) in starts.iter().enumerate() {
            let port = Port { number: (*start).max(1), protocol };
            let Some(rule) = self.allows(network, way, Some(port)) else { continue };
            let last = starts.get(place + 1).map_or(u16::MAX, |next| next - 1);
            match open.last_mut() {
                Some(before) if before.port_high.checked_add(1) == Some(*start) => {
                    before.port_high = last;
                }
                _ => open.push(entry(way, number_of(protocol), (*start, last), rule)),
            }
        }
        open
    }

    /// The number of the rule that allows it.
    fn allows(&self, network: IpNet, way: Direction, port: Option<Port>) -> Option<u16> {
        let far = self.peer_at(network);
        let own = Peer::Pod(self.pod);
        let (from, to) = match way {
            Direction::Ingress => (far, own),
            Direction::Egress => (own, far),
        };
        let because = self.cluster.ask(self.subject, Connection { from, to, port }, way);
        because.is_allowed().then(|| (self.number)(&because))
    }

    fn peer_at(&self, network: IpNet) -> Peer<'_> {
        let unknown = Peer::Network { network, may_be_pod: self.is_mesh(network) };
        self.known.get(&network).map_or(unknown, Peer::Pod)
    }

    /// Of a pod; any other network is asked by itself.
    fn likeness(&self, network: IpNet, blocks: &[&Block]) -> Option<Likeness<'_>> {
        let pod = self.known.get(&network)?;
        let ports = pod.named_ports.iter();
        Some(Likeness {
            namespace: &pod.namespace,
            labels: &pod.labels,
            ports: ports
                .map(|named| {
                    (named.name.as_str(), named.port.number, number_of(named.port.protocol))
                })
                .collect(),
            is_ipv4: network.addr().is_ipv4(),
            is_mesh: self.is_mesh(network),
            blocks: blocks.iter().map(|block| block.contains(network)).collect(),
        })
    }

    fn is_mesh(&self, network: IpNet) -> bool {
        self.mesh.iter().any(|mesh| mesh.contains(&network))
    }
}

/// Pods by address, each as one that has this address alone: what is asked of one must not be answered for another. The
/// error is an address of two.
pub(super) fn by_address(cluster: &Cluster) -> Result<BTreeMap<IpNet, Pod>, IpNet> {
    let mut known = BTreeMap::new();
    for pod in cluster.pods.iter().filter(|pod| pod.is_governed()) {
        for address in &pod.addresses {
            let network = IpNet::from(*address);
            let alone = Pod { addresses: vec![*address], ..pod.clone() };
            if known.insert(network, alone).is_some() {
                return Err(network);
            }
        }
    }
    Ok(known)
}

fn entry(way: Direction, protocol: u8, ports: (u16, u16), rule: u16) -> NetworkEntry {
    let direction = match way {
        Direction::Ingress => network::Direction::Ingress,
        Direction::Egress => network::Direction::Egress,
    };
    NetworkEntry { direction, protocol, port_low: ports.0, port_high: ports.1, rule }
}

const fn number_of(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

/// Every network that the answer can depend on; one comes before what it holds.
fn networks(cluster: &Cluster, subject: &Subject<'_>, mesh: &[IpNet]) -> BTreeSet<IpNet> {
    let everywhere = [IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())];
    let mut networks: BTreeSet<IpNet> =
        everywhere.into_iter().chain(mesh.iter().copied()).collect();
    let is_for_any = !subject.network_policies.is_empty() || !subject.cluster_policies.is_empty();
    if is_for_any {
        let pods = cluster.pods.iter().flat_map(|pod| &pod.addresses);
        let nodes = cluster.nodes.iter().flat_map(|node| &node.addresses);
        networks.extend(pods.chain(nodes).copied().map(IpNet::from));
    }
    networks.extend(blocks(subject).flat_map(|block| block.networks().collect::<Vec<_>>()));
    networks
}

fn blocks<'a>(subject: &'a Subject<'_>) -> impl Iterator<Item = &'a Block> {
    let own = subject.network_policies.iter().flat_map(|policy| {
        let rules = [policy.ingress.as_deref(), policy.egress.as_deref()].into_iter().flatten();
        rules.flatten().flat_map(|rule| rule.peers.iter().flatten())
    });
    let own = own.filter_map(|peer| match peer {
        network_policy::RulePeer::Block(block) => Some(block),
        network_policy::RulePeer::Pods { .. } => None,
    });
    let wide = subject.cluster_policies.iter();
    let wide = wide.flat_map(|policy| &policy.egress).flat_map(|rule| &rule.peers);
    let wide = wide.filter_map(|peer| match peer {
        cluster_policy::RulePeer::Networks(blocks) => Some(blocks),
        _ => None,
    });
    own.chain(wide.flatten())
}

/// Where spans of ports begin that are answered alike, ascending; the first is 0.
fn port_starts(cluster: &Cluster, subject: &Subject<'_>) -> Vec<u16> {
    let own = subject.network_policies.iter().flat_map(|policy| {
        let rules = [policy.ingress.as_deref(), policy.egress.as_deref()].into_iter().flatten();
        rules.flatten().flat_map(|rule| rule.ports.iter().flatten())
    });
    let wide = subject.cluster_policies.iter().flat_map(|policy| {
        let rules = policy.ingress.iter().chain(&policy.egress);
        rules.flat_map(|rule| rule.ports.iter().flatten())
    });
    let mut starts = BTreeSet::from([0]);
    for (first, last) in own.chain(wide).flat_map(|port| spans(cluster, port)) {
        starts.extend([Some(first), last.checked_add(1)].into_iter().flatten());
    }
    starts.into_iter().collect()
}

fn spans(cluster: &Cluster, port: &PortMatch) -> Vec<(u16, u16)> {
    match &port.ports {
        Ports::All => Vec::new(),
        Ports::Range(first, last) => vec![(*first, *last)],
        Ports::Named(name) => {
            let ports = cluster.pods.iter().flat_map(|pod| &pod.named_ports);
            let so_called = ports.filter(|named| named.name == *name);
            so_called.map(|named| (named.port.number, named.port.number)).collect()
        }
    }
}
