//! Whether a connection is allowed, at both of its ends, and by what.

use std::fmt;

pub use super::cluster_policy::Tier;

use super::cluster::{Cluster, Peer, Pod};
use super::cluster_policy::{self, Action, ClusterPolicy};
use super::network_policy::{self, NetworkPolicy};
use super::port::{Port, PortMatch};

/// What both ends say of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// What the policies say that are for the destination.
    pub ingress: Because,
    /// What those say that are for the source.
    pub egress: Because,
}

impl Decision {
    /// Both have to allow it.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        self.ingress.is_allowed() && self.egress.is_allowed()
    }
}

/// Why one end allows or denies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Because {
    /// Nothing keeps a pod from itself.
    Itself,
    /// That end is outside, or has its node's network.
    Outside,
    /// A rule of a ClusterNetworkPolicy.
    Cluster {
        /// Where the policy stands.
        tier: Tier,
        /// Its name.
        policy: String,
        /// The rule's name, or its number from 0.
        rule: String,
        /// What the rule says.
        accepts: bool,
    },
    /// A NetworkPolicy allows it: namespace and name.
    Allowed(String),
    /// These NetworkPolicies are for the pod, and none allows it.
    NoneAllows(Vec<String>),
    /// No policy is for the pod.
    NoPolicy,
}

impl Because {
    /// Whether that end allows it.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        match self {
            Self::Itself | Self::Outside | Self::Allowed(_) | Self::NoPolicy => true,
            Self::Cluster { accepts, .. } => *accepts,
            Self::NoneAllows(_) => false,
        }
    }
}

impl fmt::Display for Because {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Itself => f.write_str("a pod reaches itself"),
            Self::Outside => f.write_str("no policy can be for this end"),
            Self::NoPolicy => f.write_str("no policy is for this pod"),
            Self::Allowed(policy) => write!(f, "allowed by NetworkPolicy {policy}"),
            Self::NoneAllows(policies) => {
                write!(f, "allowed by none of NetworkPolicy {}", policies.join(", "))
            }
            Self::Cluster { tier, policy, rule, accepts } => {
                let does = if *accepts { "accepted" } else { "denied" };
                write!(f, "{does} by rule {rule} of ClusterNetworkPolicy {policy} ({tier:?})")
            }
        }
    }
}

/// Which end's policies are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Ingress,
    Egress,
}

/// A connection.
#[derive(Clone, Copy)]
pub(super) struct Connection<'a> {
    pub(super) from: Peer<'a>,
    pub(super) to: Peer<'a>,
    /// None of a protocol that has no ports, which rules without ports mean too.
    pub(super) port: Option<Port>,
}

/// The peers of a cluster, each with the policies that are for it.
pub struct Judge<'a> {
    cluster: &'a Cluster,
    subjects: Vec<Subject<'a>>,
}

/// A peer with the policies that are for it.
pub(super) struct Subject<'a> {
    peer: Peer<'a>,
    pub(super) network_policies: Vec<&'a NetworkPolicy>,
    pub(super) cluster_policies: Vec<&'a ClusterPolicy>,
}

impl<'a> Judge<'a> {
    /// Of all that are there.
    #[must_use]
    pub fn new(cluster: &'a Cluster) -> Self {
        let subjects = cluster.peers().into_iter().map(|peer| subject(cluster, peer)).collect();
        Self { cluster, subjects }
    }

    /// In the order of [`Cluster::peers`].
    pub fn peers(&self) -> impl Iterator<Item = Peer<'a>> {
        self.subjects.iter().map(|subject| subject.peer)
    }

    /// Judges a connection between two peers, by their numbers in [`Self::peers`]; `None` if there is no such.
    #[must_use]
    pub fn decide(&self, from: usize, to: usize, port: Port) -> Option<Decision> {
        let (from, to) = (self.subjects.get(from)?, self.subjects.get(to)?);
        let connection = Connection { from: from.peer, to: to.peer, port: Some(port) };
        Some(Decision {
            ingress: self.cluster.ask(to, connection, Direction::Ingress),
            egress: self.cluster.ask(from, connection, Direction::Egress),
        })
    }
}

impl Cluster {
    /// What the policies for one end say of its connection.
    pub(super) fn ask(
        &self,
        subject: &Subject<'_>,
        connection: Connection<'_>,
        way: Direction,
    ) -> Because {
        let Some(pod) = subject.peer.governed() else { return Because::Outside };
        if connection.from.is(connection.to) {
            return Because::Itself;
        }
        self.ask_tier(subject, Tier::Admin, connection, way)
            .or_else(|| self.ask_network_policies(subject, pod, connection, way))
            .or_else(|| self.ask_tier(subject, Tier::Baseline, connection, way))
            .unwrap_or(Because::NoPolicy)
    }

    /// The first rule that matches decides, or passes to the next tier.
    fn ask_tier(
        &self,
        subject: &Subject<'_>,
        tier: Tier,
        connection: Connection<'_>,
        way: Direction,
    ) -> Option<Because> {
        let policies = subject.cluster_policies.iter().filter(|policy| policy.tier == tier);
        let mut rules = policies.flat_map(|policy| {
            policy.rules(way == Direction::Ingress).iter().map(move |rule| (policy, rule))
        });
        let (policy, rule) = rules.find(|(_, rule)| self.cluster_rule(rule, connection, way))?;
        let because = |accepts| Because::Cluster {
            tier,
            policy: policy.name.clone(),
            rule: rule.name.clone(),
            accepts,
        };
        match rule.action {
            Action::Accept => Some(because(true)),
            Action::Deny => Some(because(false)),
            Action::Pass => None,
        }
    }

    fn cluster_rule(
        &self,
        rule: &cluster_policy::Rule,
        connection: Connection<'_>,
        way: Direction,
    ) -> bool {
        let peer = connection.far(way);
        let is_port = connection.is_to(rule.ports.as_deref());
        // Whom nobody knows is not accepted, and denied with those it may be one of.
        let may_be_meant = |entry: &cluster_policy::RulePeer| {
            let is_pods = matches!(entry, cluster_policy::RulePeer::Pods(_));
            rule.action == Action::Deny && is_pods && peer.may_be_pod()
        };
        is_port
            && rule
                .peers
                .iter()
                .any(|entry| self.cluster_peer(entry, peer, connection) || may_be_meant(entry))
    }

    fn cluster_peer(
        &self,
        entry: &cluster_policy::RulePeer,
        peer: Peer<'_>,
        connection: Connection<'_>,
    ) -> bool {
        use cluster_policy::RulePeer;
        match entry {
            RulePeer::Pods(pods) => peer.governed().is_some_and(|pod| selects(self, pods, pod)),
            RulePeer::Networks(blocks) => Peer::addresses(connection.from, connection.to)
                .is_some_and(|(_, to)| blocks.iter().any(|block| block.contains(to))),
            RulePeer::Nodes(nodes) => {
                let Some((_, to)) = Peer::addresses(connection.from, connection.to) else {
                    return false;
                };
                let of_node = self.nodes.iter().filter(|node| node.has(to));
                // An address of a pod is none of its node's.
                peer.governed().is_none() && of_node.into_iter().any(|n| nodes.selects(&n.labels))
            }
            RulePeer::Names(names) => match peer {
                Peer::Host(host) => names.iter().any(|name| name.means(&host.name)),
                Peer::Pod(_) | Peer::Network { .. } => false,
            },
        }
    }

    /// If any is for the pod, they decide.
    fn ask_network_policies<'s>(
        &self,
        subject: &Subject<'s>,
        pod: &Pod,
        connection: Connection<'_>,
        way: Direction,
    ) -> Option<Because> {
        let rules = |policy: &'s NetworkPolicy| policy.rules(way == Direction::Ingress);
        let asked = subject.network_policies.iter().copied();
        let mut asked = asked.filter_map(|policy| Some((policy, rules(policy)?))).peekable();
        asked.peek()?;
        let mut none_allows = Vec::new();
        for (policy, rules) in asked {
            let name = format!("{}/{}", policy.namespace, policy.name);
            if rules.iter().any(|rule| self.network_rule(rule, pod, connection, way)) {
                return Some(Because::Allowed(name));
            }
            none_allows.push(name);
        }
        Some(Because::NoneAllows(none_allows))
    }

    fn network_rule(
        &self,
        rule: &network_policy::Rule,
        pod: &Pod,
        connection: Connection<'_>,
        way: Direction,
    ) -> bool {
        let is_port = connection.is_to(rule.ports.as_deref());
        let is_peer = |entry| self.network_peer(entry, pod, connection, way);
        is_port && rule.peers.as_ref().is_none_or(|peers| peers.iter().any(is_peer))
    }

    fn network_peer(
        &self,
        entry: &network_policy::RulePeer,
        pod: &Pod,
        connection: Connection<'_>,
        way: Direction,
    ) -> bool {
        match entry {
            network_policy::RulePeer::Block(block) => {
                let ends = Peer::addresses(connection.from, connection.to);
                let far = ends.map(|(from, to)| if way == Direction::Ingress { from } else { to });
                far.is_some_and(|address| block.contains(address))
            }
            network_policy::RulePeer::Pods { namespaces, pods } => {
                let Some(far) = connection.far(way).governed() else { return false };
                let is_namespace = match namespaces {
                    None => far.namespace == pod.namespace,
                    Some(selector) => {
                        let labels = self.labels_of(&far.namespace);
                        labels.is_some_and(|labels| selector.selects(labels))
                    }
                };
                is_namespace && pods.selects(&far.labels)
            }
        }
    }
}

impl<'a> Connection<'a> {
    /// Whether it goes to one of these; none are all.
    fn is_to(&self, ports: Option<&[PortMatch]>) -> bool {
        let is = |port: &PortMatch| self.port.is_some_and(|asked| port.holds(asked, self.to));
        ports.is_none_or(|ports| ports.iter().any(is))
    }

    /// Whom the asked end speaks with.
    fn far(self, way: Direction) -> Peer<'a> {
        match way {
            Direction::Ingress => self.from,
            Direction::Egress => self.to,
        }
    }
}

/// With the policies that are for it.
pub(super) fn subject<'a>(cluster: &'a Cluster, peer: Peer<'a>) -> Subject<'a> {
    let Some(pod) = peer.governed() else {
        return Subject { peer, network_policies: Vec::new(), cluster_policies: Vec::new() };
    };
    let is_for = |policy: &&NetworkPolicy| {
        policy.namespace == pod.namespace && policy.subject.selects(&pod.labels)
    };
    let is_for_cluster = |policy: &&ClusterPolicy| selects(cluster, &policy.subject, pod);
    Subject {
        peer,
        network_policies: cluster.network_policies.iter().filter(is_for).collect(),
        cluster_policies: cluster.wide_policies.iter().filter(is_for_cluster).collect(),
    }
}

fn selects(cluster: &Cluster, pods: &cluster_policy::Pods, pod: &Pod) -> bool {
    let labels = cluster.labels_of(&pod.namespace);
    labels.is_some_and(|labels| pods.namespaces.selects(labels)) && pods.pods.selects(&pod.labels)
}
