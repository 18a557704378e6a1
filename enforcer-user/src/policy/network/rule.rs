//! One network rule, as it is written and as it is meant.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize};
use thiserror::Error;

use super::host::HostPattern;
use crate::identity::{Identity, Namespace};
use crate::policy::protocol::Protocol;

/// The most network rules of one configuration; a rule's index fits 16 bits.
pub const MAX_RULES: usize = 4096;
/// The most CIDRs of one rule.
pub const MAX_CIDRS: usize = 256;
/// The most names of hosts of one rule.
pub const MAX_HOSTS: usize = 256;
/// The most port ranges of one rule, before those that touch are merged.
pub const MAX_PORT_RANGES: usize = 64;

/// Which way the connection or datagram flow is opened, said from the workload's side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// The workload opens it.
    Egress,
    /// The workload is spoken to.
    Ingress,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Egress => "egress",
            Self::Ingress => "ingress",
        })
    }
}

/// A `[[network_rule]]` table of the configuration, unchecked.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkRuleSpec {
    /// The rule's name, in every line that tells of its use.
    pub name: String,
    /// The rule is for workloads in or below this namespace; absent: all.
    #[serde(default = "root_path")]
    pub namespace: String,
    /// Only for the workload of this name.
    #[serde(default)]
    pub workload: Option<String>,
    /// `egress` or `ingress`.
    pub direction: Direction,
    /// The other side's addresses.
    #[serde(default)]
    pub cidr: Vec<String>,
    /// The other side's hosts by their names; of egress only.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// A name, a number, or `any`.
    #[serde(deserialize_with = "text_or_number")]
    pub protocol: String,
    /// The server's ports, single or as `low-high`; empty: all.
    #[serde(default, deserialize_with = "texts_or_numbers")]
    pub ports: Vec<String>,
}

/// Why a network rule was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("network rule {rule:?}: {problem}")]
pub struct NetworkRuleError {
    /// The rule's name.
    pub rule: String,
    /// What was found, and what was expected.
    pub problem: String,
}

/// A network rule that makes sense.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct NetworkRule {
    name: String,
    namespace: String,
    workload: Option<String>,
    direction: Direction,
    cidrs: Vec<IpNet>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    hosts: Vec<HostPattern>,
    /// IP protocol number; 0 is any.
    protocol: u8,
    /// Inclusive, ascending, neither overlapping nor touching.
    ports: Vec<(u16, u16)>,
    #[serde(skip)]
    scope: Namespace,
}

impl NetworkRule {
    /// The rule's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Egress or ingress, from the workload's side.
    #[must_use]
    pub fn direction(&self) -> Direction {
        self.direction
    }

    /// The other side's networks, ascending, each once.
    #[must_use]
    pub fn cidrs(&self) -> &[IpNet] {
        &self.cidrs
    }

    /// The other side's hosts, ascending, each once.
    #[must_use]
    pub fn hosts(&self) -> &[HostPattern] {
        &self.hosts
    }

    /// IP protocol number; 0 is any.
    #[must_use]
    pub fn protocol(&self) -> u8 {
        self.protocol
    }

    /// The server's ports, inclusive ranges, ascending; all ports are one range from 0 to 65535.
    #[must_use]
    pub fn ports(&self) -> &[(u16, u16)] {
        &self.ports
    }

    /// Whether the rule is for this workload.
    #[must_use]
    pub fn applies_to(&self, workload: &Identity) -> bool {
        self.scope.contains(workload.namespace())
            && self.workload.as_deref().is_none_or(|name| name == workload.name())
    }

    /// Whether the rule lets this through, for a workload it applies to.
    ///
    /// `port` is the server's, host byte order; protocols without ports pass 0.
    #[must_use]
    pub fn matches(
        &self,
        direction: Direction,
        address: IpAddr,
        protocol: Protocol,
        port: u16,
    ) -> bool {
        self.direction == direction
            && [0, protocol.number()].contains(&self.protocol)
            && self.ports.iter().any(|(low, high)| (low..=high).contains(&&port))
            && self.cidrs.iter().any(|cidr| cidr.contains(&address))
    }
}

impl TryFrom<NetworkRuleSpec> for NetworkRule {
    type Error = NetworkRuleError;

    fn try_from(spec: NetworkRuleSpec) -> Result<Self, NetworkRuleError> {
        let rule = spec.name.clone();
        check(spec).map_err(|problem| NetworkRuleError { rule, problem })
    }
}

/// Checks that there are not too many rules and that no two have one name.
pub fn check_rules(rules: &[NetworkRule]) -> Result<(), NetworkRuleError> {
    let refused =
        |rule: &NetworkRule, problem| NetworkRuleError { rule: rule.name.clone(), problem };
    if let Some(rule) = rules.get(MAX_RULES) {
        return Err(refused(rule, format!("is one too many, at most {MAX_RULES} are allowed")));
    }
    let mut names = BTreeMap::new();
    for (number, rule) in rules.iter().enumerate() {
        if let Some(earlier) = names.insert(rule.name(), number) {
            let problem = format!(
                "the name stands twice, at rule {} and rule {}; give each a name of its own",
                earlier + 1,
                number + 1
            );
            return Err(refused(rule, problem));
        }
    }
    Ok(())
}

fn check(spec: NetworkRuleSpec) -> Result<NetworkRule, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if spec.name.is_empty() || spec.name.len() > 64 || !spec.name.chars().all(plain) {
        return Err("name: expected 1 to 64 letters, digits, '.', '-' or '_'".to_owned());
    }
    let scope: Namespace = spec.namespace.parse().map_err(|e| format!("{e}"))?;
    if let Some(name) = &spec.workload {
        Identity::new("example.org", scope.clone(), name, BTreeMap::new())
            .map_err(|e| e.to_string())?;
    }
    let protocol = match spec.protocol.as_str() {
        "any" => 0,
        text => text.parse::<Protocol>().map_err(|e| format!("{e}, or any"))?.number(),
    };
    let hosts = check_hosts(&spec.hosts, spec.direction)?;
    let cidrs = if hosts.is_empty() || !spec.cidr.is_empty() {
        check_cidrs(&spec.cidr, protocol)?
    } else {
        Vec::new()
    };
    let ports = check_ports(&spec.ports, protocol)?;
    Ok(NetworkRule {
        name: spec.name,
        namespace: spec.namespace,
        workload: spec.workload,
        direction: spec.direction,
        cidrs,
        hosts,
        protocol,
        ports,
        scope,
    })
}

fn check_cidrs(texts: &[String], protocol: u8) -> Result<Vec<IpNet>, String> {
    if !(1..=MAX_CIDRS).contains(&texts.len()) {
        return Err(format!("cidr: {} networks, expected 1 to {MAX_CIDRS}", texts.len()));
    }
    let mut cidrs = texts.iter().map(|text| check_cidr(text)).collect::<Result<Vec<_>, _>>()?;
    cidrs.sort_unstable();
    cidrs.dedup();
    let other_family = cidrs.iter().find(|cidr| match Protocol::from_number(protocol) {
        Protocol::ICMP => cidr.addr().is_ipv6(),
        Protocol::ICMPV6 => cidr.addr().is_ipv4(),
        _ => false,
    });
    match other_family {
        Some(cidr) => Err(format!(
            "cidr {cidr}: never carries {}; use icmp for IPv4 and icmpv6 for IPv6",
            Protocol::from_number(protocol)
        )),
        None => Ok(cidrs),
    }
}

fn check_hosts(texts: &[String], direction: Direction) -> Result<Vec<HostPattern>, String> {
    if texts.is_empty() {
        return Ok(Vec::new());
    }
    if direction == Direction::Ingress {
        return Err("hosts: only of egress; who calls is told by its address, use cidr".to_owned());
    }
    if texts.len() > MAX_HOSTS {
        return Err(format!("hosts: {} names, at most {MAX_HOSTS}", texts.len()));
    }
    let read =
        |text: &String| text.parse().map_err(|error| format!("hosts: {text:?}, expected {error}"));
    let mut hosts = texts.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    hosts.sort_unstable();
    hosts.dedup();
    Ok(hosts)
}

fn check_cidr(text: &str) -> Result<IpNet, String> {
    let cidr: IpNet = text.parse().map_err(|_| {
        format!("cidr {text:?}: expected a network such as 198.51.100.0/24 or 2001:db8::/32")
    })?;
    if cidr.trunc() != cidr {
        return Err(format!(
            "cidr {text:?}: has bits set behind its prefix length; write {} or {}/{}",
            cidr.trunc(),
            cidr.addr(),
            cidr.max_prefix_len()
        ));
    }
    match cidr {
        IpNet::V6(v6) if v6.addr().to_ipv4_mapped().is_some() => {
            Err(format!("cidr {text:?}: IPv4 travels as IPv4; write the IPv4 network"))
        }
        _ => Ok(cidr),
    }
}

fn check_ports(texts: &[String], protocol: u8) -> Result<Vec<(u16, u16)>, String> {
    if texts.is_empty() {
        return Ok(vec![(0, u16::MAX)]);
    }
    if !Protocol::from_number(protocol).has_ports() {
        return Err("ports: only tcp, udp and sctp have them; leave ports out".to_owned());
    }
    if texts.len() > MAX_PORT_RANGES {
        return Err(format!("ports: {} ranges, at most {MAX_PORT_RANGES}", texts.len()));
    }
    let mut ranges = texts.iter().map(|text| check_range(text)).collect::<Result<Vec<_>, _>>()?;
    ranges.sort_unstable();
    Ok(merge(&ranges))
}

fn check_range(text: &str) -> Result<(u16, u16), String> {
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    let port = |part: &str| {
        let plain = part.bytes().all(|b| b.is_ascii_digit());
        part.parse::<u16>().ok().filter(|port| plain && *port != 0)
    };
    match (port(low), port(high)) {
        (Some(low), Some(high)) if low <= high => Ok((low, high)),
        _ => {
            Err(format!("ports: {text:?}, expected a port such as 53 or a range such as 8000-8010"))
        }
    }
}

/// Joins ranges that overlap or touch; `sorted` is ascending.
fn merge(sorted: &[(u16, u16)]) -> Vec<(u16, u16)> {
    let mut merged: Vec<(u16, u16)> = Vec::new();
    for &(low, high) in sorted {
        match merged.last_mut() {
            Some(last) if low <= last.1.saturating_add(1) => last.1 = last.1.max(high),
            _ => merged.push((low, high)),
        }
    }
    merged
}

fn root_path() -> String {
    Namespace::root().to_string()
}

#[derive(Deserialize)]
#[serde(untagged)]
enum TextOrNumber {
    Text(String),
    Number(u64),
}

impl From<TextOrNumber> for String {
    fn from(found: TextOrNumber) -> Self {
        match found {
            TextOrNumber::Text(text) => text,
            TextOrNumber::Number(number) => number.to_string(),
        }
    }
}

fn text_or_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    TextOrNumber::deserialize(deserializer).map(Into::into)
}

fn texts_or_numbers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let found = Vec::<TextOrNumber>::deserialize(deserializer)?;
    Ok(found.into_iter().map(Into::into).collect())
}
