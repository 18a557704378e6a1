//! Policies of a cluster as Cedar, which the enforcer decides by: between pods, who are known by identity.
//!
//! Cedar knows no order, so a rule of a ClusterNetworkPolicy says of itself which rules before it must not hold. A pod
//! without a NetworkPolicy is open, so every namespace has a rule for its pods that none selects.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::block::Block;
use super::cluster::{Cluster, Pod};
use super::cluster_policy::{self, Action, ClusterPolicy, Pods, Tier};
use super::condition::{Condition, Side, all, any};
use super::network_policy::{self, NetworkPolicy};
use super::port::{PortMatch, Ports, Protocol};
use super::selector::Selector;
use crate::identity::Namespace;
use crate::policy::quoted;

/// One end of connections, whose policies are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Way {
    /// As the action is called in Cedar.
    action: &'static str,
    /// As manifests call it.
    word: &'static str,
    /// Whom the policies are for.
    subject: Side,
    peer: Side,
}

const WAYS: [Way; 2] = [
    Way { action: "accept", word: "ingress", subject: Side::Callee, peer: Side::Caller },
    Way { action: "connect", word: "egress", subject: Side::Caller, peer: Side::Callee },
];

/// The most rules of a direction for pods that are open.
const OPEN_RULES_MAX: usize = 64;
/// The most bytes of an id, with room for a number behind it.
const ID_BYTES_MAX: usize = 224;

/// What is assumed of pods that no manifest tells the addresses of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unknown {
    /// They are in every block: of what denies.
    Inside,
    /// They are in none: of what accepts.
    Outside,
}

/// The most bytes of all rules: what many policies of the whole cluster say of each other grows with their square.
pub(super) const BYTES_MAX: usize = 8 << 20;

/// Writes the rules; pods of namespace `x` are workloads of `x` below `above`. More than [`BYTES_MAX`] are not all of
/// them.
pub(super) fn write(cluster: &Cluster, above: &Namespace) -> String {
    let mut writer = Writer { cluster, above, text: String::new(), ids: BTreeSet::new() };
    writer.all();
    writer.text
}

struct Writer<'a> {
    cluster: &'a Cluster,
    above: &'a Namespace,
    text: String,
    /// Of the rules so far: each has its own.
    ids: BTreeSet<String>,
}

impl<'a> Writer<'a> {
    fn all(&mut self) {
        self.itself();
        for way in WAYS {
            self.admin_tier(way);
            for policy in &self.cluster.network_policies {
                self.network_policy(policy, way);
            }
            let namespaces: Vec<&str> =
                self.cluster.namespaces.keys().map(String::as_str).collect();
            // Each rule names all of them as peers: of many, some are one rule.
            for some in namespaces.chunks(namespaces.len().div_ceil(OPEN_RULES_MAX).max(1)) {
                self.open(some, way);
            }
        }
    }

    /// Nothing keeps a pod from itself.
    fn itself(&mut self) {
        let is = all([itself(), self.lives_in_any(Side::Caller)]);
        self.rule("permit", "a pod reaches itself", "principal, action, resource", &is);
    }

    fn admin_tier(&mut self, way: Way) {
        let rules = self.rules(Tier::Admin, way);
        for (number, (policy, rule)) in rules.iter().enumerate() {
            let (effect, unknown, before) = match rule.action {
                Action::Accept => ("permit", Unknown::Outside, Unknown::Inside),
                Action::Deny => ("forbid", Unknown::Inside, Unknown::Outside),
                Action::Pass => continue,
            };
            let is_earlier = any(rules.iter().take(number).filter_map(|(earlier, other)| {
                // Of the denials before it each is in force by itself.
                let decides = other.action != Action::Deny && other.action != rule.action;
                decides.then(|| self.cluster_rule(earlier, other, way, before))
            }));
            let not_itself = if effect == "forbid" { itself().not() } else { Condition::Always };
            let holds = self.cluster_rule(policy, rule, way, unknown);
            let is = all([holds, is_earlier.not(), not_itself]);
            let id = format!("ClusterNetworkPolicy {}, {} {}", policy.name, way.word, rule.name);
            self.rule(effect, &id, &way.head(None), &is);
        }
    }

    fn network_policy(&mut self, policy: &NetworkPolicy, way: Way) {
        let Some(rules) = policy.rules(way.word == "ingress") else { return };
        for (number, rule) in rules.iter().enumerate() {
            let peers = match &rule.peers {
                None => self.lives_in_any(way.peer),
                Some(peers) => any(peers.iter().map(|peer| self.peer(peer, policy, way))),
            };
            let is = all([
                self.lives_in(way.subject, &policy.namespace),
                policy.subject.condition(way.subject),
                peers,
                self.ports(rule.ports.as_deref(), Unknown::Outside),
            ]);
            let id = format!(
                "NetworkPolicy {}/{}, {} {number}",
                policy.namespace, policy.name, way.word
            );
            let head = way.head(Some(&self.namespace(&policy.namespace)));
            self.rule("permit", &id, &head, &is);
        }
    }

    /// Pods that no NetworkPolicy is for are open, but for what the baseline says.
    fn open(&mut self, namespaces: &[&str], way: Way) {
        let open = any(namespaces.iter().map(|namespace| self.is_open(namespace, way)));
        let is = all([self.lives_in_any(way.peer), open]);
        let (id, head) = match namespaces {
            [one] => (format!("a pod of {one}"), way.head(Some(&self.namespace(one)))),
            several => (format!("a pod of {}", several.join(", ")), way.head(None)),
        };
        let id = format!("no NetworkPolicy, {}, is for {id}", way.word);
        self.rule("permit", &id, &head, &is);
    }

    fn is_open(&self, namespace: &str, way: Way) -> Condition {
        let own = self.cluster.network_policies.iter().filter(|policy| {
            policy.namespace == namespace && policy.rules(way.word == "ingress").is_some()
        });
        // Policies often select alike.
        let selectors: BTreeSet<String> =
            own.map(|policy| policy.subject.condition(way.subject).to_string()).collect();
        let is_isolated = any(selectors.into_iter().map(Condition::from));
        all([
            self.lives_in(way.subject, namespace),
            is_isolated.not(),
            self.baseline_denies(namespace, way).not(),
        ])
    }

    fn baseline_denies(&self, namespace: &str, way: Way) -> Condition {
        let labels = self.cluster.labels_of(namespace);
        let mut rules = self.rules(Tier::Baseline, way);
        rules.retain(|(policy, _)| labels.is_some_and(|l| policy.subject.namespaces.selects(l)));
        any(rules.iter().enumerate().filter(|(_, (_, rule))| rule.action == Action::Deny).map(
            |(number, (policy, rule))| {
                let before =
                    rules.iter().take(number).filter(|(_, one)| one.action != Action::Deny);
                let earlier =
                    before.map(|(one, other)| self.cluster_rule(one, other, way, Unknown::Outside));
                all([self.cluster_rule(policy, rule, way, Unknown::Inside), any(earlier).not()])
            },
        ))
    }

    /// Of a tier, in the order in which they are asked.
    fn rules(&self, tier: Tier, way: Way) -> Vec<(&'a ClusterPolicy, &'a cluster_policy::Rule)> {
        let policies = self.cluster.wide_policies.iter().filter(|policy| policy.tier == tier);
        let of = |policy| ClusterPolicy::rules(policy, way.word == "ingress").iter();
        policies.flat_map(|policy| of(policy).map(move |rule| (policy, rule))).collect()
    }

    fn cluster_rule(
        &self,
        policy: &ClusterPolicy,
        rule: &cluster_policy::Rule,
        way: Way,
        unknown: Unknown,
    ) -> Condition {
        let peers = rule.peers.iter().map(|peer| self.cluster_peer(peer, way, unknown));
        all([
            self.pods(&policy.subject, way.subject),
            any(peers),
            self.ports(rule.ports.as_deref(), unknown),
        ])
    }

    fn cluster_peer(
        &self,
        peer: &cluster_policy::RulePeer,
        way: Way,
        unknown: Unknown,
    ) -> Condition {
        use cluster_policy::RulePeer;
        match peer {
            RulePeer::Pods(pods) => self.pods(pods, way.peer),
            RulePeer::Networks(blocks) => {
                any(blocks.iter().map(|block| self.block(block, way.peer, unknown)))
            }
            // No pod has an address or a name of these.
            RulePeer::Nodes(_) | RulePeer::Names(_) => Condition::Never,
        }
    }

    fn peer(&self, peer: &network_policy::RulePeer, policy: &NetworkPolicy, way: Way) -> Condition {
        match peer {
            network_policy::RulePeer::Block(block) => self.block(block, way.peer, Unknown::Outside),
            network_policy::RulePeer::Pods { namespaces, pods } => {
                let lives = match namespaces {
                    None => self.lives_in(way.peer, &policy.namespace),
                    Some(selector) => self.lives_where(way.peer, selector),
                };
                all([lives, pods.condition(way.peer)])
            }
        }
    }

    fn pods(&self, pods: &Pods, side: Side) -> Condition {
        all([self.lives_where(side, &pods.namespaces), pods.pods.condition(side)])
    }

    /// Pods are in a block by the addresses that manifests give them: to be accepted by all of them, to be denied by one.
    fn block(&self, block: &Block, side: Side, unknown: Unknown) -> Condition {
        let mut inside = |address: &IpAddr| block.contains((*address).into());
        let has_some = |pod: &Pod| !pod.addresses.is_empty();
        match unknown {
            Unknown::Outside => {
                self.named(side, |pod| has_some(pod) && pod.addresses.iter().all(&mut inside))
            }
            Unknown::Inside => any([
                self.named(side, |pod| pod.addresses.iter().any(&mut inside)),
                self.named(side, has_some).not(),
            ]),
        }
    }

    /// The pods of manifests for which `is` holds, by name.
    fn named(&self, side: Side, mut is: impl FnMut(&Pod) -> bool) -> Condition {
        let mut names: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for pod in self.cluster.pods.iter().filter(|pod| pod.is_governed() && is(pod)) {
            names.entry(&pod.namespace).or_default().push(&pod.name);
        }
        any(names.into_iter().map(|(namespace, names)| {
            all([self.lives_in(side, namespace), Condition::name_is_one_of(side, &names)])
        }))
    }

    /// The port of a connection between pods, which is always TCP here.
    fn ports(&self, ports: Option<&[PortMatch]>, unknown: Unknown) -> Condition {
        let Some(ports) = ports else { return Condition::Always };
        let tcp = ports.iter().filter(|port| port.protocol.is_none_or(|p| p == Protocol::Tcp));
        any(tcp.map(|port| match &port.ports {
            Ports::All => Condition::Always,
            Ports::Range(first, last) => Condition::port_within(*first, *last),
            Ports::Named(name) => self.named_port(name, unknown),
        }))
    }

    /// Of a callee that no manifest describes, nobody knows what its ports are called.
    fn named_port(&self, name: &str, unknown: Unknown) -> Condition {
        let known = self.known_port(name);
        match unknown {
            Unknown::Outside => known,
            Unknown::Inside => any([known, self.named(Side::Callee, |_| true).not()]),
        }
    }

    fn known_port(&self, name: &str) -> Condition {
        let ports = self.cluster.pods.iter().flat_map(|pod| &pod.named_ports);
        let tcp = ports.filter(|p| p.name == name && p.port.protocol == Protocol::Tcp);
        let numbers: BTreeSet<u16> = tcp.map(|named| named.port.number).collect();
        any(numbers.into_iter().map(|number| {
            let calls_it_so = |pod: &Pod| {
                pod.named_ports.iter().any(|named| {
                    named.name == name
                        && (named.port.number, named.port.protocol) == (number, Protocol::Tcp)
                })
            };
            all([Condition::port_within(number, number), self.named(Side::Callee, calls_it_so)])
        }))
    }

    /// A pod there: one with its node's network is nobody that a policy can mean.
    fn lives_in(&self, side: Side, namespace: &str) -> Condition {
        self.lives_in_one_of(side, &[namespace])
    }

    /// In a namespace that some manifest describes: only of these policies say something.
    fn lives_in_any(&self, side: Side) -> Condition {
        let namespaces: Vec<&str> = self.cluster.namespaces.keys().map(String::as_str).collect();
        self.lives_in_one_of(side, &namespaces)
    }

    fn lives_where(&self, side: Side, selector: &Selector) -> Condition {
        let all = self.cluster.namespaces.iter();
        let selected = all.filter(|(_, labels)| selector.selects(labels));
        let selected: Vec<&str> = selected.map(|(namespace, _)| namespace.as_str()).collect();
        self.lives_in_one_of(side, &selected)
    }

    fn lives_in_one_of(&self, side: Side, namespaces: &[&str]) -> Condition {
        let paths: Vec<String> = namespaces.iter().map(|name| self.namespace(name)).collect();
        let of_nodes = self.cluster.pods.iter().filter(|pod| {
            pod.is_host_network && !pod.has_ended && namespaces.contains(&pod.namespace.as_str())
        });
        let is_of_a_node = any(of_nodes.map(|pod| {
            let home = Condition::namespace_is_one_of(side, &[self.namespace(&pod.namespace)]);
            all([home, Condition::name_is_one_of(side, &[&pod.name])])
        }));
        all([Condition::namespace_is_one_of(side, &paths), is_of_a_node.not()])
    }

    fn namespace(&self, name: &str) -> String {
        format!("{}/{name}", self.above.as_str().trim_end_matches('/'))
    }

    fn rule(&mut self, effect: &str, id: &str, head: &str, is: &Condition) {
        if *is == Condition::Never {
            return;
        }
        let id = self.id(id);
        // What is too long is refused as a whole; no more than that is kept.
        if self.text.len() <= BYTES_MAX {
            let text = format!("@id({})\n{effect} ({head})\nwhen {{ {is} }};\n\n", quoted(&id));
            self.text.push_str(&text);
        }
    }

    /// An id that no other rule has, as short and as plain as those of files are.
    fn id(&mut self, wanted: &str) -> String {
        let plain: String = wanted.chars().filter(|c| !c.is_control()).collect();
        let mut id = format!("kubernetes: {plain}");
        id.truncate(id.floor_char_boundary(ID_BYTES_MAX));
        let base = id.clone();
        // One of so many is free.
        for number in 2..=self.ids.len() + 2 {
            if self.ids.insert(id.clone()) {
                break;
            }
            id = format!("{base} ({number})");
        }
        id
    }
}

impl Way {
    fn head(self, namespace: Option<&str>) -> String {
        let action = format!("action == Action::\"{}\"", self.action);
        let inside = namespace.map(|name| format!(" in Namespace::{}", quoted(name)));
        let inside = inside.unwrap_or_default();
        match self.subject {
            Side::Caller => format!("principal{inside}, {action}, resource"),
            Side::Callee => format!("principal, {action}, resource{inside}"),
        }
    }
}

fn itself() -> Condition {
    Condition::from("principal.spiffe_id == resource.spiffe_id".to_owned())
}
