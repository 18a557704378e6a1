//! Network rules: from their text to the table that the kernel looks up.

use std::collections::BTreeMap;
use std::net::IpAddr;

use enforcer_user::identity::Identity;
use enforcer_user::policy::network::{check_rules, compile};
use enforcer_user::policy::{Direction, NetworkRule, NetworkRuleSpec, NetworkTable, Protocol};
use serde::Deserialize;

use super::pki::TRUST_DOMAIN;

/// More rules say nothing more.
const MAX_RULES: usize = 8;

#[derive(Deserialize)]
struct File {
    network_rule: Vec<NetworkRuleSpec>,
}

/// `data` is a TOML file of `[[network_rule]]` tables.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(File { mut network_rule }) = toml::from_str(text) else { return };
    network_rule.truncate(MAX_RULES);
    let rules: Vec<NetworkRule> =
        network_rule.into_iter().filter_map(|spec| NetworkRule::try_from(spec).ok()).collect();
    for rule in &rules {
        well_formed(rule);
    }
    if check_rules(&rules).is_err() {
        return;
    }
    let namespace = "/acme/prod".parse().expect("a namespace");
    let workload = Identity::new(TRUST_DOMAIN, namespace, "shop", BTreeMap::new());
    let workload = workload.expect("plain names");
    if let Ok(table) = compile(&rules, &workload, Vec::new()) {
        same_answers(&rules, &workload, &table);
    }
}

fn well_formed(rule: &NetworkRule) {
    assert!(rule.cidrs().is_sorted_by(|a, b| a < b), "{rule:?}");
    assert!(rule.cidrs().iter().all(|cidr| cidr.trunc() == *cidr));
    assert!(!rule.ports().is_empty());
    assert!(rule.ports().iter().all(|(low, high)| low <= high));
    let touching = |pair: &[(u16, u16)]| u32::from(pair[0].1) + 1 >= u32::from(pair[1].0);
    assert!(!rule.ports().windows(2).any(touching), "{rule:?}");
}

/// The table lets through what some rule lets through, at the ends of each network and range, beside
/// them, and with the protocols that are written.
fn same_answers(rules: &[NetworkRule], workload: &Identity, table: &NetworkTable) {
    let applying: Vec<&NetworkRule> =
        rules.iter().filter(|rule| rule.applies_to(workload)).collect();
    let cidrs = rules.iter().flat_map(NetworkRule::cidrs).take(16);
    let addresses: Vec<IpAddr> = cidrs
        .flat_map(|cidr| [cidr.network(), cidr.broadcast(), neighbour(cidr.broadcast())])
        .collect();
    for rule in rules {
        for direction in [Direction::Egress, Direction::Ingress] {
            for protocol in [rule.protocol().max(1), 17].map(Protocol::from_number) {
                for (low, high) in rule.ports().iter().take(4) {
                    for port in [low.saturating_sub(1), *low, *high, high.saturating_add(1)] {
                        for address in &addresses {
                            let plainly = applying
                                .iter()
                                .any(|rule| rule.matches(direction, *address, protocol, port));
                            let found = table.lookup(direction, *address, protocol, port);
                            assert_eq!(
                                found.is_some(),
                                plainly,
                                "{direction:?} {address} {protocol} {port}: {found:?} of {rules:?}"
                            );
                        }
                    }
                }
            }
        }
    }
}

/// The next address, or the first one behind the last.
fn neighbour(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) => IpAddr::V4(v4.to_bits().wrapping_add(1).into()),
        IpAddr::V6(v6) => IpAddr::V6(v6.to_bits().wrapping_add(1).into()),
    }
}
