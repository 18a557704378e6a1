//! What an interface is, and whether a workload may be enforced on it.

use std::net::IpAddr;

use enforcer_common::abi::{Address, mapped};
use nix::ifaddrs::getifaddrs;

use super::error::DatapathError;
use super::netlink::{self, LinkFacts};

/// Kinds whose frames can pass beside the hooks: those of macvlan and ipvlan leave by another
/// device, netkit has programs of its own in front.
const UNFIT: [&str; 5] = ["ipvlan", "ipvtap", "macvlan", "macvtap", "netkit"];

/// The index of every namespace's loopback device. Its two ends are one, so there is no side on which
/// a workload is.
const LOOPBACK: u32 = 1;

/// Addresses that one interface may have here.
const MAX_ADDRESSES: usize = 256;

/// Reads an interface and refuses one that cannot be enforced.
pub(super) fn inspect(name: &str) -> Result<LinkFacts, DatapathError> {
    let facts = netlink::link(name)?.ok_or_else(|| DatapathError::NoInterface(name.to_owned()))?;
    let unfit =
        |kind: &str| DatapathError::UnfitInterface { name: name.to_owned(), kind: kind.to_owned() };
    if facts.ifindex == LOOPBACK {
        return Err(unfit("loopback"));
    }
    match &facts.kind {
        Some(kind) if UNFIT.contains(&kind.as_str()) => Err(unfit(kind)),
        _ => Ok(facts),
    }
}

/// The IP addresses of an interface, in the form of the maps, sorted.
pub(super) fn addresses(name: &str) -> Result<Vec<Address>, DatapathError> {
    let all = getifaddrs().map_err(|e| DatapathError::Netlink {
        action: "list addresses".to_owned(),
        source: e.into(),
    })?;
    let mut found: Vec<Address> = all
        .filter(|entry| entry.interface_name == name)
        .filter_map(|entry| {
            let storage = entry.address?;
            let v4 = storage.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            v4.or_else(|| storage.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
        })
        .map(address)
        .take(MAX_ADDRESSES)
        .collect();
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// An address in the form of the maps.
#[must_use]
pub fn address(ip: IpAddr) -> Address {
    match ip {
        IpAddr::V4(v4) => mapped(v4.octets()),
        IpAddr::V6(v6) => v6.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_has_its_address() {
        let refused = inspect("lo").unwrap_err();
        assert!(matches!(refused, DatapathError::UnfitInterface { .. }), "{refused}");
        let found = addresses("lo").unwrap();
        assert!(found.iter().all(|a| *a == mapped([127, 0, 0, 1]) || a[15] == 1), "{found:?}");
    }

    #[test]
    fn a_missing_interface_is_named() {
        let error = inspect("no-such-device").unwrap_err().to_string();
        assert!(error.contains("no-such-device") && error.contains("ip -br link"), "{error}");
    }
}
