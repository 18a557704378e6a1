//! `[[workload]]`: who lives here, and behind which interface.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::mode::Modes;
use super::reader::{Claims, Read, Section, Value};
use crate::identity::{Attribute, Attributes, Identity, Namespace};

/// The most workloads of one configuration.
pub(super) const MAX_WORKLOADS: usize = 4096;
/// The most addresses of one workload.
const MAX_ADDRESSES: usize = 64;
/// The most bytes of an interface's name (`IFNAMSIZ` less its closing zero).
const MAX_INTERFACE_BYTES: usize = 15;

/// One workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadConfig {
    /// Who it is. Its name is unique in its namespace.
    pub identity: Identity,
    /// The network interface; unique in the file.
    pub interface: String,
    /// Which end of the wire the interface is.
    pub side: Side,
    /// Source addresses the workload may use. Empty only for [`Side::Own`]: those on the interface.
    pub addresses: Vec<IpAddr>,
    /// The source MAC expected from it; only for [`Side::Host`], and unchecked when absent.
    pub mac: Option<[u8; 6]>,
    /// Whether its verdicts bind.
    pub mode: Mode,
    /// What happens to connections that are open when it is first attached.
    pub existing: Existing,
    /// Whether a program in front of the stack (XDP) drops early what floods consist of; only for
    /// [`Side::Own`].
    pub guard: bool,
}

/// As the configuration says them.
pub(super) const MODES: [(&str, Mode); 3] =
    [("enforce", Mode::Enforce), ("observe", Mode::Observe), ("learn", Mode::Learn)];

/// Which end of the wire a workload's interface is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The netdev is the workload's own: what leaves it passes the egress hook.
    Own,
    /// The host's end of the workload's veth: what leaves the workload arrives at the ingress hook.
    Host,
}

/// Whether a workload's verdicts bind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Denied is denied.
    Enforce,
    /// A policy denial is reported and let pass; everything else is still enforced.
    Observe,
    /// As `Observe`, and what the workload does is remembered, for a policy that permits it.
    Learn,
}

/// What happens to connections older than the attachment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// They are reset at both ends.
    Reset,
    /// They become flows without a peer identity and live on.
    Adopt,
}

impl Side {
    /// The word of the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Host => "host",
        }
    }
}

impl Mode {
    /// The word of the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Observe => "observe",
            Self::Learn => "learn",
        }
    }
}

/// The workloads that were read, and the names that occur even where a workload was refused.
pub(super) struct Workloads {
    /// `None` if any was refused.
    pub(super) read: Option<Vec<WorkloadConfig>>,
    /// Each name, with its namespaces where those could be read.
    pub(super) names: BTreeMap<String, Vec<Option<Namespace>>>,
}

struct Seen {
    names: Claims<(Option<Namespace>, String)>,
    interfaces: Claims<String>,
    addresses: Claims<IpAddr>,
}

pub(super) fn read(sections: Vec<Section<'_>>, trust_domain: &str, modes: &Modes) -> Workloads {
    let mut seen =
        Seen { names: Claims::new(), interfaces: Claims::new(), addresses: Claims::new() };
    let mut workloads = Some(Vec::with_capacity(sections.len()));
    let mut names = BTreeMap::new();
    for section in sections {
        match one(section, trust_domain, modes, &mut seen, &mut names) {
            Some(workload) => workloads.iter_mut().for_each(|all| all.push(workload.clone())),
            None => workloads = None,
        }
    }
    Workloads { read: workloads, names }
}

fn one(
    mut section: Section<'_>,
    trust_domain: &str,
    modes: &Modes,
    seen: &mut Seen,
    names: &mut BTreeMap<String, Vec<Option<Namespace>>>,
) -> Option<WorkloadConfig> {
    let hint = "the namespace's path, such as \"/acme/prod/shop\"";
    let namespace = section.required("namespace", hint, namespace);
    let claims = &mut seen.names;
    let name = section.required("name", "the workload's name", |value| {
        let own = (namespace.clone(), segment(value)?);
        let what = "a name that no other workload of its namespace has";
        claims.claim(value, own, what).map(|(_, name)| name)
    });
    if let Some(name) = &name {
        names.entry(name.clone()).or_default().push(namespace.clone());
    }
    let labels = section.or("labels", BTreeMap::new(), labels);
    let attributes = attributes(&mut section);
    let claims = &mut seen.interfaces;
    let interface = section.required("interface", "the name of a network interface", |value| {
        let interface = interface(value)?;
        claims.claim(value, interface, "an interface that no other workload has")
    });
    let side = section
        .or("side", Side::Own, |value| value.word(&[("own", Side::Own), ("host", Side::Host)]));
    let addresses = addresses(&mut section, side, &mut seen.addresses);
    let mac = mac(&mut section, side);
    let around = namespace.as_ref().map_or(Mode::Enforce, |namespace| modes.of(namespace));
    let mode = section.or("mode", around, |value| value.word(&MODES));
    let choices = [("reset", Existing::Reset), ("adopt", Existing::Adopt)];
    let existing = section.or("existing", Existing::Reset, |value| value.word(&choices));
    let guard = guard(&mut section, side);
    let identity = name.zip(namespace).and_then(|(name, namespace)| {
        let made = Identity::new(trust_domain, namespace, &name, labels)
            .and_then(|identity| identity.with_attributes(attributes));
        made.map_err(|error| section.fault(format!("[[workload]]: {error}"))).ok()
    });
    // Also when a key is missing: it may be there under a misspelt name.
    section.finish();
    let (identity, interface, addresses) = (identity?, interface?, addresses?);
    Some(WorkloadConfig { identity, interface, side, addresses, mac, mode, existing, guard })
}

fn segment(value: &Value<'_>) -> Read<String> {
    let name = value.text()?;
    match Identity::new("invalid", Namespace::root(), name, BTreeMap::new()) {
        Ok(_) => Ok(name.to_owned()),
        Err(_) => value.refuse("1 to 255 letters, digits, '.', '-' or '_'"),
    }
}

/// A namespace's path.
pub(super) fn namespace(value: &Value<'_>) -> Read<Namespace> {
    value.parsed("an absolute path of letters, digits, '.', '-' and '_' such as \"/acme/prod\"")
}

fn labels(value: &Value<'_>) -> Read<BTreeMap<String, String>> {
    let labels = value.string_map()?;
    match Identity::new("invalid", Namespace::root(), "invalid", labels.clone()) {
        Ok(_) => Ok(labels),
        Err(error) => value.refuse(format!("other labels: {error}")),
    }
}

/// What it runs, as far as the file says so.
fn attributes(section: &mut Section<'_>) -> Attributes {
    let mut found = Attributes::new();
    for attribute in Attribute::ALL {
        let value = section.optional(attribute.as_str(), |value| {
            let text = value.text()?;
            match attribute.check(text) {
                Ok(()) => Ok(text.to_owned()),
                Err(_) => value.refuse(attribute.expected()),
            }
        });
        found.extend(value.map(|value| (attribute, value)));
    }
    found
}

fn interface(value: &Value<'_>) -> Read<String> {
    let name = value.text()?;
    let bad = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    if name.is_empty()
        || name.len() > MAX_INTERFACE_BYTES
        || name.starts_with('.')
        || name.contains(bad)
    {
        return value.refuse("the name of a network interface, 1 to 15 bytes");
    }
    Ok(name.to_owned())
}

fn addresses(
    section: &mut Section<'_>,
    side: Side,
    seen: &mut Claims<IpAddr>,
) -> Option<Vec<IpAddr>> {
    let mut one = |value: &Value<'_>| {
        let address = address(value)?;
        seen.claim(value, address, "an address that no other workload has")
    };
    let mut list = |value: &Value<'_>| {
        let addresses = value.list(MAX_ADDRESSES, &mut one)?;
        match (side, addresses.is_empty()) {
            (Side::Host, true) => value.refuse("the workload's addresses (side = \"host\")"),
            _ => Ok(addresses),
        }
    };
    match side {
        Side::Own if !section.has("addresses") => {
            section.optional("addresses", list).or(Some(vec![]))
        }
        Side::Own => section.optional("addresses", list),
        Side::Host => {
            let hint =
                "the workload's addresses: with side = \"host\" they are not on the interface";
            section.required("addresses", hint, &mut list)
        }
    }
}

fn address(value: &Value<'_>) -> Read<IpAddr> {
    let address: IpAddr = value.parsed("an address without a prefix, such as \"10.0.0.7\"")?;
    let mapped = matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
    if address.is_unspecified() || address.is_multicast() || mapped {
        return value.refuse("a unicast address of its own family");
    }
    Ok(address)
}

fn mac(section: &mut Section<'_>, side: Side) -> Option<[u8; 6]> {
    match side {
        Side::Own => {
            section.forbidden("mac", "no such key with side = \"own\": the interface has its own");
            None
        }
        Side::Host => section.optional("mac", mac_address),
    }
}

fn guard(section: &mut Section<'_>, side: Side) -> bool {
    match side {
        Side::Own => section.or("guard", false, Value::boolean),
        // XDP sees what arrives at an interface, and here that is what the workload sends.
        Side::Host => {
            section.forbidden(
                "guard",
                "no such key with side = \"host\": it is for a host's own network card",
            );
            false
        }
    }
}

fn mac_address(value: &Value<'_>) -> Read<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = value.text()?.split(':');
    let mut complete = true;
    for byte in &mut mac {
        let part = parts.next().filter(|part| part.len() == 2);
        match part.and_then(|part| u8::from_str_radix(part, 16).ok()) {
            Some(parsed) => *byte = parsed,
            None => complete = false,
        }
    }
    let unicast = mac[0] & 1 == 0 && mac != [0; 6];
    if !complete || parts.next().is_some() || !unicast {
        return value.refuse("a unicast MAC such as \"02:00:00:00:00:01\"");
    }
    Ok(mac)
}
