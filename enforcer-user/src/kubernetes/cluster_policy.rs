//! ClusterNetworkPolicy, `policy.networking.k8s.io/v1alpha2`, with the fields of its experimental channel.

use serde::Deserialize;

use super::block::{Block, network};
use super::object::Metadata;
use super::port::{PortMatch, Ports, Protocol, check_name, number};
use super::selector::{RawSelector, Selector};

/// The most rules of a direction, and the most entries of each list (the CRD's validation).
const LIST_MAX: usize = 25;
const RULE_NAME_MAX: usize = 100;
const PRIORITY_MAX: i64 = 1000;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawClusterPolicy {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    metadata: Metadata,
    spec: RawSpec,
    // What a cluster reports of it.
    #[serde(rename = "status")]
    _status: Option<serde::de::IgnoredAny>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSpec {
    tier: Tier,
    priority: i64,
    subject: RawPeer,
    ingress: Option<Vec<RawIngress>>,
    egress: Option<Vec<RawEgress>>,
}

/// Where a policy stands. NetworkPolicy is between these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum Tier {
    /// Asked before every NetworkPolicy.
    Admin,
    /// Asked where no NetworkPolicy selects the pod.
    Baseline,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawIngress {
    name: Option<String>,
    action: Action,
    from: Vec<RawPeer>,
    protocols: Option<Vec<RawProtocol>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEgress {
    name: Option<String>,
    action: Action,
    to: Vec<RawEgressPeer>,
    protocols: Option<Vec<RawProtocol>>,
}

/// What a rule does with a connection that it matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) enum Action {
    Accept,
    Deny,
    /// Nothing more of this tier is asked.
    Pass,
}

/// A subject, or a peer of an ingress rule.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPeer {
    namespaces: Option<RawSelector>,
    pods: Option<RawPods>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawEgressPeer {
    namespaces: Option<RawSelector>,
    pods: Option<RawPods>,
    nodes: Option<RawSelector>,
    networks: Option<Vec<String>>,
    domain_names: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawPods {
    namespace_selector: Option<RawSelector>,
    pod_selector: RawSelector,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawProtocol {
    tcp: Option<RawTransport>,
    udp: Option<RawTransport>,
    sctp: Option<RawTransport>,
    destination_named_port: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawTransport {
    destination_port: RawPort,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPort {
    number: Option<i64>,
    range: Option<RawRange>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRange {
    start: i64,
    end: i64,
}

/// A checked ClusterNetworkPolicy.
#[derive(Debug)]
pub(super) struct ClusterPolicy {
    pub(super) tier: Tier,
    /// The least is asked first.
    pub(super) priority: u16,
    pub(super) name: String,
    pub(super) subject: Pods,
    /// In their order: the first that matches decides.
    pub(super) ingress: Vec<Rule>,
    pub(super) egress: Vec<Rule>,
}

#[derive(Debug)]
pub(super) struct Rule {
    /// As written, or its number from 0.
    pub(super) name: String,
    pub(super) action: Action,
    /// Never empty.
    pub(super) peers: Vec<RulePeer>,
    /// `None` is every connection.
    pub(super) ports: Option<Vec<PortMatch>>,
}

#[derive(Debug)]
pub(super) struct Pods {
    pub(super) namespaces: Selector,
    pub(super) pods: Selector,
}

#[derive(Debug)]
pub(super) enum RulePeer {
    Pods(Pods),
    Nodes(Selector),
    Networks(Vec<Block>),
    Names(Vec<DomainName>),
}

/// A DNS name, or with `*.` before it all below it.
#[derive(Debug)]
pub(super) struct DomainName {
    name: String,
    is_wildcard: bool,
}

impl DomainName {
    pub(super) fn means(&self, host: &str) -> bool {
        let below = || host.strip_suffix(&self.name).is_some_and(|rest| rest.ends_with('.'));
        if self.is_wildcard { below() } else { host == self.name }
    }
}

impl ClusterPolicy {
    /// Those for what comes in, or else for what goes out.
    pub(super) fn rules(&self, ingress: bool) -> &[Rule] {
        if ingress { &self.ingress } else { &self.egress }
    }
}

impl RawClusterPolicy {
    pub(super) fn check(self) -> Result<ClusterPolicy, String> {
        let spec = self.spec;
        let priority = u16::try_from(spec.priority).ok().filter(|p| i64::from(*p) <= PRIORITY_MAX);
        let subject = spec.subject.check().map_err(|fault| format!("spec.subject: {fault}"))?;
        let ingress = rules(spec.ingress, RawIngress::check);
        let egress = rules(spec.egress, RawEgress::check);
        Ok(ClusterPolicy {
            tier: spec.tier,
            priority: priority.ok_or_else(|| {
                format!("spec.priority: {}: expected 0 to {PRIORITY_MAX}", spec.priority)
            })?,
            name: self.metadata.name()?,
            subject,
            ingress: ingress.map_err(|fault| format!("spec.ingress{fault}"))?,
            egress: egress.map_err(|fault| format!("spec.egress{fault}"))?,
        })
    }
}

fn rules<R>(
    raw: Option<Vec<R>>,
    check: impl Fn(R, usize) -> Result<Rule, String>,
) -> Result<Vec<Rule>, String> {
    let raw = raw.unwrap_or_default();
    check_length(raw.len(), 0).map_err(|fault| format!(": {fault}"))?;
    let numbered = raw.into_iter().enumerate();
    numbered.map(|(n, rule)| check(rule, n).map_err(|fault| format!("[{n}].{fault}"))).collect()
}

impl RawIngress {
    fn check(self, n: usize) -> Result<Rule, String> {
        let pods = |peer: RawPeer| peer.check().map(RulePeer::Pods);
        Ok(Rule {
            name: rule_name(self.name, n)?,
            action: self.action,
            peers: list("from", self.from, 1, pods)?,
            ports: ports(self.protocols)?,
        })
    }
}

impl RawEgress {
    fn check(self, n: usize) -> Result<Rule, String> {
        let rule = Rule {
            name: rule_name(self.name, n)?,
            action: self.action,
            peers: list("to", self.to, 1, RawEgressPeer::check)?,
            ports: ports(self.protocols)?,
        };
        let is_named = |port: &PortMatch| matches!(port.ports, Ports::Named(_));
        let has_named = rule.ports.iter().flatten().any(is_named);
        if has_named && !rule.peers.iter().all(|peer| matches!(peer, RulePeer::Pods(_))) {
            return Err("protocols: destinationNamedPort stands with nodes, networks or domainNames, which name no \
                        ports"
                .to_owned());
        }
        let has_names = rule.peers.iter().any(|peer| matches!(peer, RulePeer::Names(_)));
        if has_names && rule.action != Action::Accept {
            return Err(format!(
                "to: domainNames stand in a rule with action {:?}: expected Accept",
                rule.action
            ));
        }
        Ok(rule)
    }
}

fn rule_name(name: Option<String>, n: usize) -> Result<String, String> {
    match name {
        None => Ok(n.to_string()),
        Some(name) if name.chars().count() <= RULE_NAME_MAX => Ok(name),
        Some(_) => Err(format!("name: expected at most {RULE_NAME_MAX} characters")),
    }
}

impl RawPeer {
    fn check(self) -> Result<Pods, String> {
        match (self.namespaces, self.pods) {
            (Some(namespaces), None) => of_namespaces(namespaces),
            (None, Some(pods)) => pods.check(),
            _ => Err("expected one of namespaces and pods".to_owned()),
        }
    }
}

fn of_namespaces(namespaces: RawSelector) -> Result<Pods, String> {
    let namespaces = namespaces.try_into().map_err(|fault| format!("namespaces: {fault}"))?;
    Ok(Pods { namespaces, pods: Selector::default() })
}

impl RawPods {
    fn check(self) -> Result<Pods, String> {
        // Left out it is empty, and that selects all.
        let namespaces = self.namespace_selector.unwrap_or_default().try_into();
        let pods = self.pod_selector.try_into();
        Ok(Pods {
            namespaces: namespaces.map_err(|fault| format!("pods.namespaceSelector: {fault}"))?,
            pods: pods.map_err(|fault| format!("pods.podSelector: {fault}"))?,
        })
    }
}

impl RawEgressPeer {
    fn check(self) -> Result<RulePeer, String> {
        match (self.namespaces, self.pods, self.nodes, self.networks, self.domain_names) {
            (Some(namespaces), None, None, None, None) => {
                of_namespaces(namespaces).map(RulePeer::Pods)
            }
            (None, Some(pods), None, None, None) => pods.check().map(RulePeer::Pods),
            (None, None, Some(nodes), None, None) => {
                let nodes = Selector::try_from(nodes).map_err(|fault| format!("nodes: {fault}"))?;
                Ok(RulePeer::Nodes(nodes))
            }
            (None, None, None, Some(networks), None) => {
                let block = |text: String| network(&text).map(Block::from);
                Ok(RulePeer::Networks(list("networks", networks, 1, block)?))
            }
            (None, None, None, None, Some(names)) => {
                Ok(RulePeer::Names(list("domainNames", names, 1, |name| domain_name(&name))?))
            }
            _ => {
                Err("expected one of namespaces, pods, nodes, networks and domainNames".to_owned())
            }
        }
    }
}

fn domain_name(text: &str) -> Result<DomainName, String> {
    let (is_wildcard, name) = match text.strip_prefix("*.") {
        Some(name) => (true, name),
        None => (false, text),
    };
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let is_part = |part: &str| {
        let edges = [part.bytes().next(), part.bytes().last()];
        edges.iter().all(|b| b.is_some_and(|b| b.is_ascii_alphanumeric()))
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    if !name.contains('.') || !name.split('.').all(is_part) {
        return Err(format!(
            "{text:?}: expected a DNS name of two parts or more, perhaps begun by \"*.\""
        ));
    }
    Ok(DomainName { name, is_wildcard })
}

fn ports(raw: Option<Vec<RawProtocol>>) -> Result<Option<Vec<PortMatch>>, String> {
    raw.map(|protocols| list("protocols", protocols, 1, RawProtocol::check)).transpose()
}

impl RawProtocol {
    fn check(self) -> Result<PortMatch, String> {
        let of = |protocol, transport: RawTransport| {
            let ports = transport.destination_port.check()?;
            Ok(PortMatch { protocol: Some(protocol), ports })
        };
        match (self.tcp, self.udp, self.sctp, self.destination_named_port) {
            (Some(tcp), None, None, None) => of(Protocol::Tcp, tcp),
            (None, Some(udp), None, None) => of(Protocol::Udp, udp),
            (None, None, Some(sctp), None) => of(Protocol::Sctp, sctp),
            (None, None, None, Some(name)) => {
                check_name(&name)?;
                Ok(PortMatch { protocol: None, ports: Ports::Named(name) })
            }
            _ => Err("expected one of tcp, udp, sctp and destinationNamedPort".to_owned()),
        }
    }
}

impl RawPort {
    fn check(self) -> Result<Ports, String> {
        match (self.number, self.range) {
            (Some(value), None) => {
                let value = number(value)?;
                Ok(Ports::Range(value, value))
            }
            (None, Some(range)) => {
                let (first, last) = (number(range.start)?, number(range.end)?);
                if first >= last {
                    return Err(format!("range: start {first} is not less than end {last}"));
                }
                Ok(Ports::Range(first, last))
            }
            _ => Err("destinationPort: expected one of number and range".to_owned()),
        }
    }
}

fn list<R, T>(
    name: &str,
    raw: Vec<R>,
    least: usize,
    check: impl Fn(R) -> Result<T, String>,
) -> Result<Vec<T>, String> {
    check_length(raw.len(), least).map_err(|fault| format!("{name}: {fault}"))?;
    let numbered = raw.into_iter().enumerate();
    numbered
        .map(|(n, entry)| check(entry).map_err(|fault| format!("{name}[{n}]: {fault}")))
        .collect()
}

fn check_length(length: usize, least: usize) -> Result<(), String> {
    if (least..=LIST_MAX).contains(&length) {
        return Ok(());
    }
    Err(format!("{length} entries: expected {least} to {LIST_MAX}"))
}
