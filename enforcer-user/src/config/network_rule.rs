//! `[[network_rule]]`: what has no identity, by network, protocol and port.

use std::ops::RangeInclusive;

use ipnet::IpNet;

use super::mesh;
use super::reader::{Claims, Read, Section, Value};
use super::workload::{self, Workloads};
use crate::identity::Namespace;
use crate::policy::Direction;
use crate::policy::network::{HostPattern, MAX_CIDRS, MAX_HOSTS, MAX_PORT_RANGES};

/// IANA protocol numbers that have a word here.
const PROTOCOLS: [(&str, u8); 5] =
    [("tcp", 6), ("udp", 17), ("icmp", 1), ("icmpv6", 58), ("sctp", 132)];
/// Those with ports.
const WITH_PORTS: [u8; 3] = [6, 17, 132];

/// One rule as it stands in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkRuleConfig {
    /// Names it in logs and explanations; unique in the file.
    pub name: String,
    /// It serves workloads in or below this namespace.
    pub namespace: Namespace,
    /// If set, only workloads of this name, of which the file has one that lies in `namespace`.
    pub workload: Option<String>,
    /// Seen from the workload.
    pub direction: Direction,
    /// The other end; no two overlap. Empty only where there are hosts.
    pub cidr: Vec<IpNet>,
    /// The other end by names of hosts; of egress only.
    pub hosts: Vec<HostPattern>,
    /// IANA protocol number; `None` is any protocol.
    pub protocol: Option<u8>,
    /// The server's ports (remote for egress, local for ingress). Empty: all, or a protocol without.
    pub ports: Vec<RangeInclusive<u16>>,
}

pub(super) fn read(
    sections: Vec<Section<'_>>,
    workloads: &Workloads,
) -> Option<Vec<NetworkRuleConfig>> {
    let mut names = Claims::new();
    let rules: Vec<_> =
        sections.into_iter().map(|section| one(section, workloads, &mut names)).collect();
    rules.into_iter().collect()
}

fn one(
    mut section: Section<'_>,
    workloads: &Workloads,
    names: &mut Claims<String>,
) -> Option<NetworkRuleConfig> {
    let name = section.required("name", "a name for logs and explanations", |value| {
        names.claim(value, rule_name(value)?, "a name that no other rule has")
    });
    let namespace = section.or("namespace", Namespace::root(), workload::namespace);
    let workload = section.optional("workload", |value| workload_in(value, workloads, &namespace));
    let words = [("egress", Direction::Egress), ("ingress", Direction::Ingress)];
    let direction =
        section.required("direction", "\"egress\" or \"ingress\"", |value| value.word(&words));
    let names_hosts = section.has("hosts");
    let hosts = section.optional("hosts", |value| hosts(value, direction));
    // An absent list must never mean "everywhere".
    let networks = |value: &Value<'_>| match mesh::networks(value, MAX_CIDRS)? {
        cidr if cidr.is_empty() => {
            value.refuse("at least one network; everywhere is \"0.0.0.0/0\"")
        }
        cidr => Ok(cidr),
    };
    let hint = "the networks of the other end, such as [\"198.51.100.53/32\"], or hosts";
    let cidr = if names_hosts {
        Some(section.or("cidr", Vec::new(), networks))
    } else {
        section.required("cidr", hint, networks)
    };
    let protocol = section.required("protocol", "tcp, udp, icmp, icmpv6, sctp or any", protocol);
    let ports = section.or("ports", Vec::new(), |value| match protocol {
        Some(protocol) => ports(value, protocol),
        // The protocol itself was refused: nothing can be said of its ports.
        None => Ok(Vec::new()),
    });
    section.finish();
    Some(NetworkRuleConfig {
        name: name?,
        namespace,
        workload,
        direction: direction?,
        cidr: cidr?,
        hosts: hosts.unwrap_or_default(),
        protocol: protocol?,
        ports,
    })
}

fn rule_name(value: &Value<'_>) -> Read<String> {
    let name = value.text()?;
    if name.is_empty() || name.len() > 64 || name.chars().any(|c| c.is_control() || c == '"') {
        return value.refuse("1 to 64 printable characters");
    }
    Ok(name.to_owned())
}

fn workload_in(value: &Value<'_>, workloads: &Workloads, namespace: &Namespace) -> Read<String> {
    let name = value.text()?;
    let Some(homes) = workloads.names.get(name) else {
        return value.refuse("the name of a [[workload]] of this file");
    };
    // Where a namespace was refused, that is told there.
    if homes.iter().any(|home| home.as_ref().is_none_or(|home| namespace.contains(home))) {
        return Ok(name.to_owned());
    }
    let homes: Vec<&str> = homes.iter().flatten().map(Namespace::as_str).collect();
    let homes = homes.join(" and ");
    value.refuse(format!("a workload in or below {namespace}; {name:?} lives in {homes}"))
}

fn hosts(value: &Value<'_>, direction: Option<Direction>) -> Read<Vec<HostPattern>> {
    if direction == Some(Direction::Ingress) {
        return value.refuse("no hosts: who calls is told by its address, use cidr");
    }
    let hosts = value.list(MAX_HOSTS, |item| match item.text()?.parse() {
        Ok(host) => Ok(host),
        Err(expected) => item.refuse(expected),
    })?;
    if hosts.is_empty() {
        return value.refuse("at least one host; leave the key out to mean networks only");
    }
    Ok(hosts)
}

fn protocol(value: &Value<'_>) -> Read<Option<u8>> {
    if value.is_integer() {
        return value.integer(&(1..=255)).map(Some);
    }
    let text = value.text()?;
    if text == "any" {
        return Ok(None);
    }
    match PROTOCOLS.iter().find(|(word, _)| *word == text) {
        Some((_, number)) => Ok(Some(*number)),
        None => value.refuse("tcp, udp, icmp, icmpv6, sctp, any or a protocol number"),
    }
}

fn ports(value: &Value<'_>, protocol: Option<u8>) -> Read<Vec<RangeInclusive<u16>>> {
    if !protocol.is_some_and(|number| WITH_PORTS.contains(&number)) {
        return value.refuse("no ports: only tcp, udp and sctp have them");
    }
    let mut read: Vec<RangeInclusive<u16>> = Vec::new();
    let ports = value.list(MAX_PORT_RANGES, |item| {
        let range = port_range(item)?;
        let meets = |other: &&RangeInclusive<u16>| {
            other.start() <= range.end() && range.start() <= other.end()
        };
        if let Some(other) = read.iter().find(meets) {
            return item.refuse(format!(
                "no overlap with {}-{}, which is listed before it",
                other.start(),
                other.end()
            ));
        }
        read.push(range.clone());
        Ok(range)
    })?;
    if ports.is_empty() {
        return value.refuse("at least one port; leave the key out to mean every port");
    }
    Ok(ports)
}

fn port_range(value: &Value<'_>) -> Read<RangeInclusive<u16>> {
    if value.is_integer() {
        let port = value.integer(&(1..=u16::MAX))?;
        return Ok(port..=port);
    }
    let text = value.text()?;
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.parse::<u16>(), last.parse::<u16>()) {
        (Ok(first), Ok(last)) if first > 0 && first <= last => Ok(first..=last),
        _ => value.refuse("a port or range such as \"53\" or \"8000-8010\", from 1 to 65535"),
    }
}
