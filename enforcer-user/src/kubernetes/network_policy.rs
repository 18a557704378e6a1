//! NetworkPolicy, `networking.k8s.io/v1`.

use serde::Deserialize;

use super::block::{Block, RawBlock};
use super::object::Metadata;
use super::port::{PortMatch, Ports, Protocol, check_name, number};
use super::selector::{RawSelector, Selector};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawNetworkPolicy {
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
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawSpec {
    pod_selector: Option<RawSelector>,
    policy_types: Option<Vec<PolicyType>>,
    ingress: Option<Vec<Option<RawIngress>>>,
    egress: Option<Vec<Option<RawEgress>>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
enum PolicyType {
    Ingress,
    Egress,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawIngress {
    from: Option<Vec<Option<RawPeer>>>,
    ports: Option<Vec<Option<RawPort>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEgress {
    to: Option<Vec<Option<RawPeer>>>,
    ports: Option<Vec<Option<RawPort>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawPeer {
    pod_selector: Option<RawSelector>,
    namespace_selector: Option<RawSelector>,
    ip_block: Option<RawBlock>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawPort {
    protocol: Option<Protocol>,
    port: Option<NumberOrName>,
    end_port: Option<i64>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum NumberOrName {
    Number(i64),
    Name(String),
}

/// A checked NetworkPolicy.
#[derive(Debug)]
pub(super) struct NetworkPolicy {
    pub(super) namespace: String,
    pub(super) name: String,
    /// The pods of its namespace that it is for.
    pub(super) subject: Selector,
    /// What may come in; `None` if the policy says nothing of that.
    pub(super) ingress: Option<Vec<Rule>>,
    /// What may go out, likewise.
    pub(super) egress: Option<Vec<Rule>>,
}

/// Allows what matches one of the peers and one of the ports.
#[derive(Debug)]
pub(super) struct Rule {
    /// `None` is everybody.
    pub(super) peers: Option<Vec<RulePeer>>,
    /// `None` is all of them.
    pub(super) ports: Option<Vec<PortMatch>>,
}

#[derive(Debug)]
pub(super) enum RulePeer {
    Block(Block),
    /// Pods of namespaces; `None` is the policy's own.
    Pods {
        namespaces: Option<Selector>,
        pods: Selector,
    },
}

impl NetworkPolicy {
    /// What it lets in, or else out; `None` if it says nothing of that.
    pub(super) fn rules(&self, ingress: bool) -> Option<&[Rule]> {
        if ingress { self.ingress.as_deref() } else { self.egress.as_deref() }
    }
}

impl RawNetworkPolicy {
    pub(super) fn check(self) -> Result<NetworkPolicy, String> {
        let spec = self.spec;
        let (has_ingress, has_egress) = directions(&spec)?;
        let ingress =
            rules(spec.ingress, |rule: RawIngress| rule_of("from", rule.from, rule.ports))
                .map_err(|fault| format!("spec.ingress{fault}"))?;
        let egress = rules(spec.egress, |rule: RawEgress| rule_of("to", rule.to, rule.ports))
            .map_err(|fault| format!("spec.egress{fault}"))?;
        let subject = Selector::try_from(spec.pod_selector.unwrap_or_default());
        Ok(NetworkPolicy {
            namespace: self.metadata.namespace()?,
            name: self.metadata.name()?,
            subject: subject.map_err(|fault| format!("spec.podSelector: {fault}"))?,
            ingress: has_ingress.then_some(ingress),
            egress: has_egress.then_some(egress),
        })
    }
}

/// Whether it speaks of ingress, and of egress. Without policyTypes it does of ingress, and of egress if it has a rule
/// for that (`SetDefaults_NetworkPolicy`).
fn directions(spec: &RawSpec) -> Result<(bool, bool), String> {
    match spec.policy_types.as_deref() {
        None | Some([]) => Ok((true, spec.egress.as_ref().is_some_and(|rules| !rules.is_empty()))),
        Some(types) if types.len() > 2 => {
            Err("spec.policyTypes: expected at most Ingress and Egress".to_owned())
        }
        Some(types) => {
            Ok((types.contains(&PolicyType::Ingress), types.contains(&PolicyType::Egress)))
        }
    }
}

/// Every rule; one that is null is empty, as the API server reads it.
fn rules<R: Default>(
    raw: Option<Vec<Option<R>>>,
    check: impl Fn(R) -> Result<Rule, String>,
) -> Result<Vec<Rule>, String> {
    let numbered = raw.unwrap_or_default().into_iter().enumerate();
    numbered
        .map(|(n, rule)| check(rule.unwrap_or_default()).map_err(|fault| format!("[{n}].{fault}")))
        .collect()
}

fn rule_of(
    side: &str,
    peers: Option<Vec<Option<RawPeer>>>,
    ports: Option<Vec<Option<RawPort>>>,
) -> Result<Rule, String> {
    Ok(Rule {
        peers: some(side, peers, RawPeer::check)?,
        ports: some("ports", ports, RawPort::check)?,
    })
}

/// `None` if there are none: that restricts nothing.
fn some<R: Default, T>(
    name: &str,
    raw: Option<Vec<Option<R>>>,
    check: impl Fn(R) -> Result<T, String>,
) -> Result<Option<Vec<T>>, String> {
    let raw = raw.unwrap_or_default();
    if raw.is_empty() {
        return Ok(None);
    }
    let numbered = raw.into_iter().enumerate();
    let checked: Result<Vec<T>, String> = numbered
        .map(|(n, entry)| {
            check(entry.unwrap_or_default()).map_err(|fault| format!("{name}[{n}]: {fault}"))
        })
        .collect();
    checked.map(Some)
}

impl RawPeer {
    fn check(self) -> Result<RulePeer, String> {
        let selector = |name: &'static str, raw: Option<RawSelector>| {
            raw.map(Selector::try_from).transpose().map_err(|fault| format!("{name}: {fault}"))
        };
        let namespaces = selector("namespaceSelector", self.namespace_selector)?;
        let pods = selector("podSelector", self.pod_selector)?;
        match (self.ip_block, namespaces, pods) {
            (Some(block), None, None) => {
                Ok(RulePeer::Block(block.try_into().map_err(|fault| format!("ipBlock: {fault}"))?))
            }
            (Some(_), ..) => {
                Err("ipBlock stands with a selector: expected one or the other".to_owned())
            }
            (None, None, None) => {
                Err("no peer: expected podSelector, namespaceSelector or ipBlock".to_owned())
            }
            (None, namespaces, pods) => {
                Ok(RulePeer::Pods { namespaces, pods: pods.unwrap_or_default() })
            }
        }
    }
}

impl RawPort {
    fn check(self) -> Result<PortMatch, String> {
        let ports = match (self.port, self.end_port) {
            (None, None) => Ports::All,
            (None, Some(_)) => return Err("endPort without port".to_owned()),
            (Some(NumberOrName::Name(name)), None) => {
                check_name(&name)?;
                Ports::Named(name)
            }
            (Some(NumberOrName::Name(name)), Some(_)) => {
                return Err(format!("endPort stands with the name {name:?}: expected a number"));
            }
            (Some(NumberOrName::Number(first)), last) => {
                let (first, last) = (number(first)?, number(last.unwrap_or(first))?);
                if last < first {
                    return Err(format!("endPort {last} is less than port {first}"));
                }
                Ports::Range(first, last)
            }
        };
        Ok(PortMatch { protocol: Some(self.protocol.unwrap_or_default()), ports })
    }
}
