//! `[mesh]`: where peers are expected to speak the protocol.

use ipnet::IpNet;

use super::reader::{Read, Section, Value};

/// Private and shared address space (RFC 1918, 6598, 4193) and link-local IPv6 (RFC 4291 2.5.6).
const DEFAULT_NETWORKS: [&str; 6] =
    ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7", "fe80::/10"];

/// The most networks in one list.
const MAX_NETWORKS: usize = 4096;

/// The whole section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeshConfig {
    /// Destinations whose peers must identify themselves. No two overlap.
    pub networks: Vec<IpNet>,
    /// Destinations that may answer from another address (services, published ports). No two overlap.
    pub virtual_addresses: Vec<IpNet>,
}

pub(super) fn read(mut section: Section<'_>) -> MeshConfig {
    let read = |value: &Value<'_>| networks(value, MAX_NETWORKS);
    let mesh = MeshConfig {
        networks: section.optional("networks", read).unwrap_or_else(default_networks),
        virtual_addresses: section.or("virtual_addresses", Vec::new(), read),
    };
    section.finish();
    mesh
}

/// One network; bits behind its prefix must be zero, so that no reader mistakes its extent.
pub(super) fn network(value: &Value<'_>) -> Read<IpNet> {
    let net: IpNet = value.parsed("a network such as \"10.0.0.0/8\" or \"2001:db8::/32\"")?;
    if net != net.trunc() {
        return value.refuse(format!("{} (the bits behind the prefix must be zero)", net.trunc()));
    }
    Ok(net)
}

/// A list of at most `most` networks of which none lies inside another.
pub(super) fn networks(value: &Value<'_>, most: usize) -> Read<Vec<IpNet>> {
    let mut read: Vec<IpNet> = Vec::new();
    value.list(most, |item| {
        let net = network(item)?;
        if let Some(other) = read.iter().find(|other| other.contains(&net) || net.contains(*other))
        {
            return item.refuse(format!("no overlap with {other}, which is listed before it"));
        }
        read.push(net);
        Ok(net)
    })
}

fn default_networks() -> Vec<IpNet> {
    DEFAULT_NETWORKS.iter().filter_map(|net| net.parse().ok()).collect()
}
