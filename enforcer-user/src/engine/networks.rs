//! Network rules and the mesh as the kernel's longest-prefix trie holds them.
//!
//! Rule set 0 is the mesh of even epochs, 1 that of odd ones. Tables of workloads have the numbers
//! 2, 4, … in even epochs and 3, 5, … in odd ones, so that two epochs stand beside each other.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use enforcer_common::abi::{
    Address, NETWORK_ENTRIES, NetworkEntry, NetworkKey, NetworkValue, direction, mapped,
    network_flags,
};
use enforcer_common::datapath::network::ANY_PROTOCOL;
use ipnet::{IpNet, Ipv4Net};

use super::io::Network;
use crate::identity::Identity;
use crate::policy::network::{MAX_ENTRIES_A_PREFIX, NetworkPrefix, NetworkTables};
use crate::policy::{Direction, NetworkRuleError, NetworkTable, Policy, Protocol};

/// The rule set of a workload without a policy: no prefix has it, so nothing is allowed.
pub const NO_RULES: u32 = u32::MAX;
/// Bits of the rule set in front of each prefix.
const RULE_SET_BITS: u32 = 32;
/// Bits in front of an IPv4 prefix in mapped form.
const MAPPED_BITS: u32 = 96;

const _: () = assert!(MAX_ENTRIES_A_PREFIX == NETWORK_ENTRIES);

/// The tables of one epoch.
#[derive(Debug, Default)]
pub struct Networks {
    epoch: u32,
    tables: NetworkTables,
}

impl Networks {
    /// No tables yet.
    pub fn new(epoch: u32) -> Self {
        Self { epoch, tables: NetworkTables::default() }
    }

    /// The rule set of a workload, and what must be installed for it: nothing if another workload
    /// has the same rules.
    pub fn rule_set(
        &mut self,
        policy: &Policy,
        id: u16,
        workload: &Identity,
    ) -> Result<(u32, Vec<Network>), NetworkRuleError> {
        let table = policy.network_table(workload)?;
        let known = self.tables.tables().len();
        let number = self.tables.number_of(table, id).ok_or_else(|| NetworkRuleError {
            rule: "all".to_owned(),
            problem: format!("{known} different tables; let more workloads have the same rules"),
        })?;
        let rule_set = 2 + 2 * number + (self.epoch & 1);
        let fresh = self.tables.tables().get(known);
        Ok((rule_set, fresh.map(|table| entries(rule_set, table)).unwrap_or_default()))
    }

    /// Whether any rule of a rule set names hosts.
    pub fn name_hosts(&self, rule_set: u32) -> bool {
        self.table(rule_set).is_some_and(|table| !table.hosts().is_empty())
    }

    /// Whether any rule of a rule set names this host.
    pub fn names(&self, rule_set: u32, host: &str) -> bool {
        self.table(rule_set).is_some_and(|table| table.names(host))
    }

    /// What stands at an address that has these names; none if nothing does that is not around it. An error says what
    /// is too much.
    pub fn at<'a>(
        &self,
        rule_set: u32,
        address: IpAddr,
        hosts: impl IntoIterator<Item = &'a str>,
    ) -> Result<Option<Network>, String> {
        let Some(table) = self.table(rule_set) else { return Ok(None) };
        let found = table.at(address, hosts)?;
        let is_around = table.exactly(found.prefix).is_none() && table.at(address, [])? == found;
        let (bits, key) = key(rule_set, &found.prefix);
        Ok((!is_around).then(|| (bits, key, value(&found))))
    }

    fn table(&self, rule_set: u32) -> Option<&NetworkTable> {
        let number = usize::try_from(rule_set.checked_sub(2)? / 2).ok()?;
        self.tables.tables().get(number)
    }

    /// Whether the rules of a rule set allow a service (port and protocol) of or to an address that has these names.
    pub fn allow<'a>(
        &self,
        rule_set: u32,
        (direction, address): (Direction, IpAddr),
        (port, protocol): (u16, Protocol),
        hosts: impl IntoIterator<Item = &'a str>,
    ) -> bool {
        let found = self.table(rule_set).and_then(|table| table.at(address, hosts).ok());
        found.is_some_and(|found| {
            found.entries.iter().any(|entry| entry.speaks_for(direction, protocol, port))
        })
    }
}

/// Where the mesh is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mesh {
    /// Destinations where peers are expected to speak the protocol.
    pub networks: Vec<IpNet>,
    /// Destinations that may answer from another address (Services, published ports).
    pub virtual_addresses: Vec<IpNet>,
}

/// The mesh of an epoch.
pub fn mesh(mesh: &Mesh, epoch: u32) -> Vec<Network> {
    let mut prefixes: Vec<IpNet> =
        mesh.networks.iter().chain(&mesh.virtual_addresses).copied().collect();
    prefixes.sort_unstable();
    prefixes.dedup();
    let holds = |nets: &[IpNet], inner: &IpNet| nets.iter().any(|outer| outer.contains(inner));
    let stop = mapped_stop(epoch & 1, prefixes.iter());
    prefixes
        .iter()
        .map(|prefix| {
            let mut flags = 0;
            if holds(&mesh.networks, prefix) {
                flags |= network_flags::MESH;
            }
            if holds(&mesh.virtual_addresses, prefix) {
                flags |= network_flags::VIRTUAL;
            }
            let (bits, key) = key(epoch & 1, prefix);
            (bits, key, NetworkValue { flags, ..NetworkValue::default() })
        })
        .chain(stop)
        .collect()
}

/// IPv4 stands in the trie in mapped form, so that an IPv6 prefix as wide as `::/0` would speak for
/// it too: an empty entry above all of IPv4 keeps the families apart, unless there is one already.
fn mapped_stop<'a>(
    rule_set: u32,
    mut prefixes: impl Iterator<Item = &'a IpNet> + Clone,
) -> Option<Network> {
    let all_of_ipv4 = IpNet::V4(Ipv4Net::default());
    let mapped: Ipv6Addr = Ipv4Addr::UNSPECIFIED.to_ipv6_mapped();
    let covered = prefixes.clone().any(|prefix| match prefix {
        IpNet::V6(net) => u32::from(net.prefix_len()) <= MAPPED_BITS && net.contains(&mapped),
        IpNet::V4(_) => false,
    });
    if !covered || prefixes.any(|prefix| *prefix == all_of_ipv4) {
        return None;
    }
    let (bits, key) = key(rule_set, &all_of_ipv4);
    Some((bits, key, NetworkValue::default()))
}

fn entries(rule_set: u32, table: &NetworkTable) -> Vec<Network> {
    table
        .prefixes()
        .iter()
        .map(|found| {
            let (bits, key) = key(rule_set, &found.prefix);
            (bits, key, value(found))
        })
        .chain(mapped_stop(rule_set, table.prefixes().iter().map(|found| &found.prefix)))
        .collect()
}

fn value(found: &NetworkPrefix) -> NetworkValue {
    let mut value = NetworkValue::default();
    for (slot, entry) in value.entries.iter_mut().zip(&found.entries) {
        *slot = NetworkEntry {
            protocol: if entry.protocol == 0 { ANY_PROTOCOL } else { entry.protocol },
            direction: match entry.direction {
                Direction::Egress => direction::EGRESS,
                Direction::Ingress => direction::INGRESS,
            },
            port_low: entry.port_low,
            port_high: entry.port_high,
            rule: entry.rule,
        };
    }
    value
}

/// The key of one address in a rule set, with its length in bits.
pub fn key_of(rule_set: u32, address: IpAddr) -> (u32, NetworkKey) {
    key(rule_set, &address.into())
}

fn key(rule_set: u32, prefix: &IpNet) -> (u32, NetworkKey) {
    let length = u32::from(prefix.prefix_len());
    match prefix {
        IpNet::V4(net) => {
            let address = mapped(net.network().octets());
            (RULE_SET_BITS + MAPPED_BITS + length, NetworkKey { rule_set, address })
        }
        IpNet::V6(net) => {
            let address = net.network().octets();
            (RULE_SET_BITS + length, NetworkKey { rule_set, address })
        }
    }
}

/// An address of the maps, IPv4 as IPv4.
#[must_use]
pub fn ip_address(address: &Address) -> IpAddr {
    IpAddr::from(*address).to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mesh_of(networks: &[&str]) -> Vec<Network> {
        let networks = networks.iter().map(|net| net.parse().unwrap()).collect();
        mesh(&Mesh { networks, virtual_addresses: vec![] }, 0)
    }

    #[test]
    fn all_of_ipv6_does_not_speak_for_ipv4() {
        let found = mesh_of(&["::/0"]);
        let stop = found.iter().find(|(bits, ..)| *bits == RULE_SET_BITS + MAPPED_BITS);
        assert_eq!(stop.map(|(_, _, value)| value.flags), Some(0));
    }

    #[test]
    fn a_rule_for_all_of_ipv4_stays() {
        let found = mesh_of(&["::/0", "0.0.0.0/0"]);
        assert_eq!(found.len(), 2);
        assert!(found.iter().all(|(_, _, value)| value.flags == network_flags::MESH));
    }

    #[test]
    fn narrower_ipv6_networks_need_no_stop() {
        assert_eq!(mesh_of(&["2001:db8::/32", "10.0.0.0/8"]).len(), 2);
    }
}
