//! Policies of a cluster as Cedar, which the enforcer decides by: between pods, who are known by identity.
//!
//! Cedar knows no order, so a rule of a ClusterNetworkPolicy says of itself which rules before it must not hold. A pod
//! without a NetworkPolicy is open, so every namespace has a rule for its pods that none selects.

use std::collections::{BTreeMap, BTreeSet};

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

/// Writes the rules; pods of namespace `x` are workloads of `x` below `above`.
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
            self.strangers(way);
            self.admin_tier(way);
            for policy in &self.cluster.network_policies {
                self.network_policy(policy, way);
            }
            for namespace in self.cluster.namespaces.keys() {
                self.not_isolated(namespace, way);
            }
        }
    }

    /// Nothing keeps a pod from itself.
    fn itself(&mut self) {
        let is = all([itself(), self.lives_in_any(Side::Caller)]);
        self.rule("permit", "a pod reaches itself", "principal, action, resource", &is);
    }

    /// What policies say of a namespace's labels cannot be asked of one that no manifest describes.
    fn strangers(&mut self, way: Way) {
        let is = all([
            self.lives_in_any(way.subject),
            self.lives_below(way.peer),
            self.lives_in_any(way.peer).not(),
        ]);
        let id = format!("its namespace has no manifest, {}", way.word);
        self.rule("forbid", &id, &way.head(None), &is);
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
                None => Condition::Always,
                Some(peers) => any(peers.iter().map(|peer| self.peer(peer, policy, way))),
            };
            let is = all([
                self.lives_in(way.subject, &policy.namespace),
                policy.subject.condition(way.subject),
                peers,
                self.ports(rule.ports.as_deref()),
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
    fn not_isolated(&mut self, namespace: &str, way: Way) {
        let own = self.cluster.network_policies.iter().filter(|policy| {
            policy.namespace == namespace && policy.rules(way.word == "ingress").is_some()
        });
        // Policies often select alike.
        let selectors: BTreeSet<String> =
            own.map(|policy| policy.subject.condition(way.subject).to_string()).collect();
        let is_isolated = any(selectors.into_iter().map(Condition::from));
        let is = all([
            self.lives_in(way.subject, namespace),
            is_isolated.not(),
            self.baseline_denies(namespace, way).not(),
        ]);
        let id = format!("no NetworkPolicy is for a pod of {namespace}, {}", way.word);
        self.rule("permit", &id, &way.head(Some(&self.namespace(namespace))), &is);
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
            self.ports(rule.ports.as_deref()),
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

    /// Pods are in a block by the addresses that manifests give them.
    fn block(&self, block: &Block, side: Side, unknown: Unknown) -> Condition {
        let inside = self.named(side, |pod| {
            pod.addresses.iter().any(|address| block.contains((*address).into()))
        });
        match unknown {
            Unknown::Outside => inside,
            Unknown::Inside => any([inside, self.named(side, |p| !p.addresses.is_empty()).not()]),
        }
    }

    /// The pods of manifests for which `is` holds, by name.
    fn named(&self, side: Side, is: impl Fn(&Pod) -> bool) -> Condition {
        let mut names: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for pod in self.cluster.pods.iter().filter(|pod| pod.is_governed() && is(pod)) {
            names.entry(&pod.namespace).or_default().push(&pod.name);
        }
        any(names.into_iter().map(|(namespace, names)| {
            all([self.lives_in(side, namespace), Condition::name_is_one_of(side, &names)])
        }))
    }

    /// The port of a connection between pods, which is always TCP here.
    fn ports(&self, ports: Option<&[PortMatch]>) -> Condition {
        let Some(ports) = ports else { return Condition::Always };
        let tcp = ports.iter().filter(|port| port.protocol.is_none_or(|p| p == Protocol::Tcp));
        any(tcp.map(|port| match &port.ports {
            Ports::All => Condition::Always,
            Ports::Range(first, last) => Condition::port_within(*first, *last),
            Ports::Named(name) => self.named_port(name),
        }))
    }

    fn named_port(&self, name: &str) -> Condition {
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

    fn lives_in(&self, side: Side, namespace: &str) -> Condition {
        Condition::namespace_is(side, &self.namespace(namespace))
    }

    fn lives_in_any(&self, side: Side) -> Condition {
        any(self.cluster.namespaces.keys().map(|namespace| self.lives_in(side, namespace)))
    }

    fn lives_where(&self, side: Side, selector: &Selector) -> Condition {
        if selector.is_empty() {
            return self.lives_below(side);
        }
        let selected =
            self.cluster.namespaces.iter().filter(|(_, labels)| selector.selects(labels));
        any(selected.map(|(namespace, _)| self.lives_in(side, namespace)))
    }

    fn lives_below(&self, side: Side) -> Condition {
        Condition::namespace_is_below(side, self.above)
    }

    fn namespace(&self, name: &str) -> String {
        format!("{}/{name}", self.above.as_str().trim_end_matches('/'))
    }

    fn rule(&mut self, effect: &str, id: &str, head: &str, is: &Condition) {
        if *is == Condition::Never {
            return;
        }
        let id = self.id(id);
        let text = format!("@id({})\n{effect} ({head})\nwhen {{ {is} }};\n\n", quoted(&id));
        self.text.push_str(&text);
    }

    /// An id that no other rule has, as short and as plain as those of files are.
    fn id(&mut self, wanted: &str) -> String {
        let plain: String = wanted.chars().filter(|c| !c.is_control()).collect();
        let mut id = plain[..plain.floor_char_boundary(ID_BYTES_MAX)].to_owned();
        if self.ids.contains(&id) {
            id = format!("{id}, rule {}", self.ids.len());
        }
        self.ids.insert(id.clone());
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
