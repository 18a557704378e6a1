//! What is to be open at which network, with no more at any than the kernel's table has room for.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use crate::learn::record::{ADDRESSES_MAX, LearnedAddress, network_of};
use crate::policy::Direction;

/// The most that is open at one address: the kernel's table has room for 16, of which rules that are there already need
/// some, and so does what remains when protocols are joined.
pub(super) const ENTRIES_MAX: usize = 10;
/// The most that is open in a network: an address in it has what the network has, and needs no more than one of either
/// direction beside it. So nothing that one address does widens what is open to its neighbours.
const ENTRIES_MAX_NETWORK: usize = ENTRIES_MAX - 2;

/// What one rule is for: a direction and a protocol, or any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Kind<'a> {
    pub(super) direction: Direction,
    pub(super) protocol: Option<&'a str>,
}

/// What is to be open at one network.
#[derive(Debug, Clone)]
pub(super) struct Open<'a> {
    pub(super) kind: Kind<'a>,
    pub(super) prefix: IpNet,
    /// First and last; 0 of protocols without.
    pub(super) ports: (u16, u16),
    pub(super) seen: Vec<&'a LearnedAddress>,
}

impl Open<'_> {
    pub(super) fn ports_used(&self) -> usize {
        self.seen.iter().map(|one| one.port).collect::<BTreeSet<u16>>().len()
    }
}

/// Each address that no rule allows by itself, or its network, if many of it were seen at one port.
pub(super) fn widened<'a>(seen: &[&'a LearnedAddress]) -> Vec<Open<'a>> {
    let mut by_network: BTreeMap<(Kind<'a>, u16, IpNet), Vec<&'a LearnedAddress>> = BTreeMap::new();
    for one in seen {
        let kind = Kind { direction: one.direction, protocol: Some(&one.protocol) };
        by_network.entry((kind, one.port, network_of(one.address))).or_default().push(one);
    }
    let mut all = Vec::new();
    for ((kind, port, network), seen) in by_network {
        let open = |prefix, seen| Open { kind, prefix, ports: (port, port), seen };
        let is_whole = seen.len() > ADDRESSES_MAX;
        let needed: Vec<_> = seen.into_iter().filter(|one| !one.allowed).collect();
        if is_whole && !needed.is_empty() {
            all.push(open(network, needed));
        } else {
            all.extend(needed.into_iter().map(|one| open(one.address.into(), vec![one])));
        }
    }
    all
}

/// The same, with so much joined that every address has room for what is open there.
pub(super) fn fitted(all: Vec<Open<'_>>) -> Vec<Open<'_>> {
    let mut by_network: BTreeMap<IpNet, Vec<Open<'_>>> = BTreeMap::new();
    for open in all {
        by_network.entry(network_of(open.prefix.addr())).or_default().push(open);
    }
    for opens in by_network.values_mut() {
        // A network stands before the addresses in it, which have what is open in it too and take the room that is left.
        let prefixes: BTreeSet<IpNet> = opens.iter().map(|open| open.prefix).collect();
        for prefix in prefixes {
            fit(opens, prefix);
        }
    }
    by_network.into_values().flatten().collect()
}

/// Joins what is open at exactly this prefix until there is room for it.
fn fit(opens: &mut Vec<Open<'_>>, prefix: IpNet) {
    opens.sort_unstable_by_key(|open| (open.prefix, open.kind, open.ports));
    let is_network = prefix.prefix_len() < prefix.max_prefix_len();
    let max = if is_network { ENTRIES_MAX_NETWORK } else { ENTRIES_MAX };
    while opens.iter().filter(|open| open.prefix.contains(&prefix)).count() > max {
        let pairs = opens.windows(2).enumerate().filter_map(|(place, pair)| {
            let [one, next] = pair else { return None };
            let is_pair =
                one.prefix == prefix && (one.kind, one.prefix) == (next.kind, next.prefix);
            is_pair.then(|| (next.ports.0.abs_diff(one.ports.1), place))
        });
        match pairs.min() {
            Some((_, place)) => join(opens, place),
            None => return join_protocols(opens, prefix),
        }
    }
}

/// The ports of two that stand beside each other become one span.
fn join(opens: &mut Vec<Open<'_>>, place: usize) {
    let next = opens.remove(place + 1);
    if let Some(one) = opens.get_mut(place) {
        one.ports.1 = next.ports.1;
        one.seen.extend(next.seen);
    }
}

/// Everything that is open at exactly this prefix becomes open by any protocol and at any port.
fn join_protocols(opens: &mut Vec<Open<'_>>, prefix: IpNet) {
    let mut joined: Vec<Open<'_>> = Vec::new();
    let mut kept = Vec::new();
    for open in opens.drain(..) {
        if open.prefix != prefix {
            kept.push(open);
            continue;
        }
        let kind = Kind { protocol: None, ..open.kind };
        match joined.iter_mut().find(|one| one.kind == kind) {
            Some(one) => one.seen.extend(open.seen),
            None => joined.push(Open { kind, ports: (0, 0), ..open }),
        }
    }
    opens.extend(kept.into_iter().chain(joined));
    opens.sort_unstable_by_key(|open| (open.prefix, open.kind, open.ports));
}
