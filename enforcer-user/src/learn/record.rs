//! What workloads that learn did: whom they called, who called them, at which ports, in which hours of the week.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::identity::Identity;
use crate::policy::{Action, Direction, Protocol};

/// The most that is remembered; more is counted as lost.
pub const MAX_FLOWS: usize = 16_384;
/// The most addresses and ports that are remembered; more is counted as lost, too.
pub const MAX_ADDRESSES: usize = 4_096;
/// The most of them of one workload: anybody may send datagrams to it, and the others need room too.
pub const MAX_ADDRESSES_A_WORKLOAD: usize = 1_024;
/// From so many addresses of one network at one port on it is named as a whole: nobody reads more.
pub(super) const ADDRESSES_MAX: usize = 16;
/// Bits of such a network.
const V4_BITS: u8 = 24;
const V6_BITS: u8 = 64;

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;
/// The first day of Unix time was a Thursday.
const FIRST_WEEKDAY: u64 = 3;

/// Hours of the week, in UTC: a word for each day from Monday on, of which bit `n` is the hour from `n` o'clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hours([u32; 7]);

impl Hours {
    /// Notes the hour of this second (Unix time).
    pub fn note(&mut self, unix: u64) {
        let day = usize::try_from((unix / DAY + FIRST_WEEKDAY) % 7).unwrap_or_default();
        if let Some(hours) = self.0.get_mut(day) {
            *hours |= 1 << (unix % DAY / HOUR);
        }
    }

    /// How many of the 168.
    #[must_use]
    pub fn count(self) -> u32 {
        self.0.iter().map(|hours| hours.count_ones()).sum()
    }

    /// Those of either.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        let mut both = self;
        both.0.iter_mut().zip(other.0).for_each(|(hours, more)| *hours |= more);
        both
    }
}

/// A workload that learns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LearnedWorkload {
    /// Who it is.
    pub spiffe_id: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Since when it learns.
    pub since_unix: u64,
    /// When it was watched, whether or not it did something.
    pub watched: Hours,
}

/// The other end of something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LearnedPeer {
    /// Who it is.
    pub spiffe_id: String,
    /// Its labels, as last seen.
    pub labels: BTreeMap<String, String>,
}

/// Connections of one pair to one port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LearnedFlow {
    /// Who called.
    pub from: String,
    /// Who was called.
    pub to: String,
    /// Which end learned it: `connect` for the caller's, `accept` for the callee's.
    pub action: String,
    /// The callee's port.
    pub port: u16,
    /// Its protocol.
    pub protocol: String,
    /// When they were.
    #[serde(flatten)]
    pub when: When,
}

/// Connections of a workload with an address that nothing vouches for, at one port. A network rule would allow them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LearnedAddress {
    /// The workload's SPIFFE ID.
    pub workload: String,
    /// `egress` if the workload called, `ingress` if it was called.
    pub direction: Direction,
    /// The other end. The first address of a /24 (IPv6: /64) stands for all of it that came behind
    /// the first 16.
    pub address: IpAddr,
    /// The server's port; 0 of protocols without.
    pub port: u16,
    /// The protocol.
    pub protocol: String,
    /// Whether a network rule in force allows it by now; only told, never kept.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allowed: bool,
    /// When they were.
    #[serde(flatten)]
    pub when: When,
}

/// What is configured when somebody asks what was learned.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configured {
    /// SPIFFE IDs of all workloads, whether or not they learn.
    pub workloads: Vec<String>,
    /// Names of the network rules in force.
    pub network_rules: Vec<String>,
}

/// When something was seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct When {
    /// When it was first seen.
    pub first_unix: u64,
    /// When it was last seen.
    pub last_unix: u64,
    /// Of how many hours it was seen in, each counted once.
    pub times: u64,
    /// The hours of the week in which it was seen.
    pub hours: Hours,
}

impl When {
    /// Notes that it was seen at this second (Unix time).
    pub fn note(&mut self, unix: u64) {
        if self.times == 0 {
            self.first_unix = unix;
        }
        if self.times == 0 || self.last_unix / HOUR != unix / HOUR {
            self.times += 1;
        }
        self.last_unix = unix;
        self.hours.note(unix);
    }
}

/// All of it, for a file and for whoever asks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LearnedReport {
    /// Who learns, or did.
    pub workloads: Vec<LearnedWorkload>,
    /// Whom they met.
    pub peers: Vec<LearnedPeer>,
    /// What was seen.
    pub flows: Vec<LearnedFlow>,
    /// What was seen of others, which have no identity.
    #[serde(default)]
    pub addresses: Vec<LearnedAddress>,
    /// Times that something was seen for which there was no room.
    pub lost: u64,
    /// What is configured; only told, never kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configured: Option<Configured>,
}

/// Caller, callee, whether the callee's end learned it, port, protocol.
type Key = (String, String, bool, u16, u8);
/// Workload, whether it called, address, port, protocol.
type AddressKey = (String, bool, IpAddr, u16, u8);

/// What was learned so far.
#[derive(Debug, Default)]
pub struct Learned {
    workloads: BTreeMap<String, LearnedWorkload>,
    peers: BTreeMap<String, BTreeMap<String, String>>,
    flows: BTreeMap<Key, When>,
    addresses: BTreeMap<AddressKey, When>,
    /// How many of them each workload has.
    shares: BTreeMap<String, usize>,
    lost: u64,
    changes: u64,
}

impl Learned {
    /// Notes a connection of a workload that learns, at its own end, at this second (Unix time).
    pub fn note(
        &mut self,
        (own, peer): (&Identity, &Identity),
        action: Action,
        (port, protocol): (u16, Protocol),
        unix: u64,
    ) {
        let (own_id, peer_id) = (own.spiffe_id(), peer.spiffe_id());
        let (from, to) = match action {
            Action::Connect => (own_id, peer_id.clone()),
            Action::Accept => (peer_id.clone(), own_id),
        };
        let key = (from, to, action == Action::Accept, port, protocol.number());
        if note_in(&mut self.flows, key, MAX_FLOWS, unix) {
            self.changes += 1;
            self.peers.insert(peer_id, peer.labels().clone());
        } else {
            self.lost += 1;
        }
    }

    /// Notes a connection of a workload that learns with an address that nothing vouches for; nothing if no network
    /// rule could say it.
    pub fn note_address(
        &mut self,
        own: &Identity,
        (direction, address): (Direction, IpAddr),
        (port, protocol): (u16, Protocol),
        unix: u64,
    ) {
        let called = direction == Direction::Egress;
        let Some(key) = ruled(own.spiffe_id(), called, address, port, protocol) else { return };
        let key = self.place_of(key);
        let share = self.shares.entry(key.0.clone()).or_default();
        let max = if *share < MAX_ADDRESSES_A_WORKLOAD { MAX_ADDRESSES } else { 0 };
        let before = self.addresses.len();
        if note_in(&mut self.addresses, key, max, unix) {
            *share += self.addresses.len() - before;
            self.changes += 1;
        } else {
            self.lost += 1;
        }
    }

    /// Where an address is noted: new ones of a network that is named as a whole are at its first address.
    fn place_of(&self, key: AddressKey) -> AddressKey {
        if self.addresses.contains_key(&key) {
            return key;
        }
        let (workload, called, address, port, protocol) = key;
        let network = network_of(address);
        let first = (workload.clone(), called, network.network(), 0, 0);
        let inside = self.addresses.range(first..).map(|(key, _)| key);
        let inside = inside
            .take_while(|key| (&key.0, key.1) == (&workload, called) && network.contains(&key.2));
        let others =
            inside.filter(|key| (key.3, key.4) == (port, protocol) && key.2 != network.network());
        let is_whole = others.count() >= ADDRESSES_MAX;
        let address = if is_whole { network.network() } else { address };
        (workload, called, address, port, protocol)
    }

    /// Notes that these workloads are watched at this second (Unix time).
    pub fn watch<'a>(&mut self, learning: impl Iterator<Item = &'a Identity>, unix: u64) {
        for own in learning {
            let id = own.spiffe_id();
            let workload = self.workloads.entry(id.clone()).or_insert_with(|| LearnedWorkload {
                spiffe_id: id,
                labels: BTreeMap::new(),
                since_unix: unix,
                watched: Hours::default(),
            });
            workload.labels.clone_from(own.labels());
            workload.watched.note(unix);
            self.changes += 1;
        }
    }

    /// A number that grows with every change.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// All of it.
    #[must_use]
    pub fn report(&self) -> LearnedReport {
        let peer = |(id, labels): (&String, &BTreeMap<String, String>)| LearnedPeer {
            spiffe_id: id.clone(),
            labels: labels.clone(),
        };
        LearnedReport {
            workloads: self.workloads.values().cloned().collect(),
            peers: self.peers.iter().map(peer).collect(),
            flows: self.flows.iter().map(flow).collect(),
            addresses: self.addresses.iter().map(address).collect(),
            lost: self.lost,
            configured: None,
        }
    }

    /// What a report says that is well formed and that there is room for.
    #[must_use]
    pub fn of(report: LearnedReport) -> Self {
        let flows = report.flows.iter().filter_map(|flow| Some((key(flow)?, flow.when)));
        let flows: BTreeMap<Key, When> = flows.take(MAX_FLOWS).collect();
        let addresses =
            report.addresses.iter().filter_map(|one| Some((address_key(one)?, one.when)));
        let ends: BTreeSet<&str> =
            flows.keys().flat_map(|key| [key.0.as_str(), key.1.as_str()]).collect();
        let peers = report.peers.into_iter().filter(|peer| ends.contains(peer.spiffe_id.as_str()));
        let peers = peers.map(|peer| (peer.spiffe_id, peer.labels)).collect();
        let workloads = report.workloads.into_iter().take(MAX_FLOWS);
        let workloads = workloads.map(|one| (one.spiffe_id.clone(), one)).collect();
        let addresses: BTreeMap<AddressKey, When> = addresses.take(MAX_ADDRESSES).collect();
        let mut shares: BTreeMap<String, usize> = BTreeMap::new();
        for (workload, ..) in addresses.keys() {
            *shares.entry(workload.clone()).or_default() += 1;
        }
        Self { workloads, peers, flows, addresses, shares, lost: report.lost, changes: 0 }
    }
}

/// Notes it, if it is known or there is room for one more.
fn note_in<K: Ord>(all: &mut BTreeMap<K, When>, key: K, max: usize, unix: u64) -> bool {
    if !all.contains_key(&key) && all.len() >= max {
        return false;
    }
    all.entry(key).or_default().note(unix);
    true
}

fn flow((key, when): (&Key, &When)) -> LearnedFlow {
    let (from, to, accepts, port, protocol) = key;
    let action = if *accepts { Action::Accept } else { Action::Connect };
    LearnedFlow {
        from: from.clone(),
        to: to.clone(),
        action: action.to_string(),
        port: *port,
        protocol: Protocol::from_number(*protocol).to_string(),
        when: *when,
    }
}

fn key(flow: &LearnedFlow) -> Option<Key> {
    let accepts = match flow.action.as_str() {
        "connect" => false,
        "accept" => true,
        _ => return None,
    };
    let protocol: Protocol = flow.protocol.parse().ok()?;
    Some((flow.from.clone(), flow.to.clone(), accepts, flow.port, protocol.number()))
}

fn address((key, when): (&AddressKey, &When)) -> LearnedAddress {
    let (workload, called, address, port, protocol) = key;
    let direction = if *called { Direction::Egress } else { Direction::Ingress };
    LearnedAddress {
        workload: workload.clone(),
        direction,
        address: *address,
        port: *port,
        protocol: Protocol::from_number(*protocol).to_string(),
        allowed: false,
        when: *when,
    }
}

fn address_key(one: &LearnedAddress) -> Option<AddressKey> {
    let called = one.direction == Direction::Egress;
    let protocol: Protocol = one.protocol.parse().ok()?;
    ruled(one.workload.clone(), called, one.address, one.port, protocol)
}

/// The network that an address is named with, if many of it were seen.
pub(super) fn network_of(address: IpAddr) -> IpNet {
    // Both lengths are valid; if one were not, the address would stand for itself.
    let net = match address {
        IpAddr::V4(v4) => Ipv4Net::new(v4, V4_BITS).map(|net| net.trunc().into()),
        IpAddr::V6(v6) => Ipv6Net::new(v6, V6_BITS).map(|net| net.trunc().into()),
    };
    net.unwrap_or_else(|_| address.into())
}

/// The key of what a network rule can say: it knows neither port 0 nor ICMP of the other family.
fn ruled(
    workload: String,
    called: bool,
    address: IpAddr,
    port: u16,
    protocol: Protocol,
) -> Option<AddressKey> {
    let address = address.to_canonical();
    let port = if protocol.has_ports() { port } else { 0 };
    let can_be_said = match protocol {
        Protocol::ICMP => address.is_ipv4(),
        Protocol::ICMPV6 => address.is_ipv6(),
        _ => protocol.number() != 0 && protocol.has_ports() == (port != 0),
    };
    can_be_said.then_some((workload, called, address, port, protocol.number()))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn of(id: &str) -> Identity {
        Identity::from_spiffe_id(id, BTreeMap::new()).unwrap()
    }

    #[test]
    fn hours_are_those_of_the_week() {
        let mut hours = Hours::default();
        // Thursday 1970-01-01 00:00, and 23:59:59; Monday 1970-01-05 13:00.
        for unix in [0, DAY - 1, 4 * DAY + 13 * HOUR] {
            hours.note(unix);
        }
        assert_eq!(hours.0, [1 << 13, 0, 0, 1 | 1 << 23, 0, 0, 0]);
        assert_eq!((hours.count(), hours.or(hours)), (3, hours));
    }

    #[test]
    fn what_was_learned_is_the_same_behind_a_restart() {
        let mut learned = Learned::default();
        let (web, db) = (of("spiffe://example.org/a/web"), of("spiffe://example.org/a/db"));
        learned.watch([&web].into_iter(), 10);
        for unix in [10, 20, HOUR + 5] {
            learned.note((&web, &db), Action::Connect, (5432, Protocol::TCP), unix);
        }
        learned.note((&web, &db), Action::Accept, (80, Protocol::TCP), 30);
        let far = "2001:db8::1".parse().unwrap();
        learned.note_address(&web, (Direction::Egress, far), (53, Protocol::from_number(17)), 40);
        learned.note_address(&web, (Direction::Ingress, far), (80, Protocol::TCP), 40);
        learned.note_address(&web, (Direction::Ingress, far), (80, Protocol::TCP), 50);
        let report = learned.report();
        let calls = &report.flows[1];
        assert_eq!((calls.action.as_str(), calls.port, calls.when.times), ("connect", 5432, 2));
        assert_eq!(
            (calls.when.first_unix, calls.when.last_unix, calls.when.hours.count()),
            (10, HOUR + 5, 2)
        );
        assert_eq!(report.flows[0].from, "spiffe://example.org/a/db");
        let told =
            |one: &LearnedAddress| (one.direction.to_string(), one.protocol.clone(), one.port);
        let told: Vec<_> = report.addresses.iter().map(told).collect();
        assert_eq!(
            told,
            [("ingress".into(), "tcp".into(), 80), ("egress".into(), "udp".into(), 53)]
        );
        assert_eq!(Learned::of(report.clone()).report(), report);
    }

    #[test]
    fn what_no_network_rule_can_say_is_not_noted() {
        let mut learned = Learned::default();
        let web = of("spiffe://example.org/a/web");
        let [v4, v6, mapped]: [IpAddr; 3] =
            ["192.0.2.9", "2001:db8::9", "::ffff:192.0.2.9"].map(|text| text.parse().unwrap());
        for (address, port, protocol) in
            [(v4, 0, 17), (v4, 0, 58), (v6, 0, 1), (v4, 0, 0), (mapped, 7, 47), (v6, 7, 58)]
        {
            let service = (port, Protocol::from_number(protocol));
            learned.note_address(&web, (Direction::Egress, address), service, 10);
        }
        let report = learned.report();
        let told: Vec<_> = report
            .addresses
            .iter()
            .map(|one| (one.address, one.protocol.as_str(), one.port))
            .collect();
        assert_eq!((told, report.lost), (vec![(v4, "47", 0), (v6, "icmpv6", 0)], 0));
    }

    #[test]
    fn a_file_of_before_there_were_addresses_reads() {
        let text = r#"{"workloads": [], "peers": [], "flows": [{
            "from": "spiffe://example.org/a/web", "to": "spiffe://example.org/a/db", "action": "connect", "port": 5432,
            "protocol": "tcp", "first_unix": 10, "last_unix": 3605, "times": 2, "hours": [0, 0, 0, 3, 0, 0, 0]
        }], "lost": 1}"#;
        let report = Learned::of(serde_json::from_str(text).unwrap()).report();
        let [flow] = report.flows.as_slice() else { panic!("{report:?}") };
        let mut when = When::default();
        when.note(10);
        when.note(3605);
        assert_eq!((flow.port, flow.when, report.lost), (5432, when, 1));
        assert!(report.addresses.is_empty());
        // What is written is as flat as it was.
        let written = serde_json::to_value(flow).unwrap();
        assert_eq!(written["last_unix"], 3605, "{written}");
    }

    #[test]
    fn what_there_is_no_room_for_is_counted() {
        let mut learned = Learned::default();
        let (web, db) = (of("spiffe://example.org/a/web"), of("spiffe://example.org/a/db"));
        for port in 0..u16::try_from(MAX_FLOWS).unwrap() + 3 {
            learned.note((&web, &db), Action::Connect, (port, Protocol::TCP), 10);
        }
        let report = learned.report();
        assert_eq!((report.flows.len(), report.lost), (MAX_FLOWS, 3));
        let a_workload = u32::try_from(MAX_ADDRESSES_A_WORKLOAD).unwrap();
        for number in 0..a_workload + 2 {
            // Each of a network of its own.
            let far = (Direction::Ingress, Ipv4Addr::from(number << 8).into());
            for own in ["web", "db", "a", "b", "c"] {
                let own = of(&format!("spiffe://example.org/a/{own}"));
                learned.note_address(&own, far, (80, Protocol::TCP), 10);
            }
        }
        let report = learned.report();
        assert_eq!(report.addresses.len(), MAX_ADDRESSES);
        assert_eq!(report.lost, 3 + 5 * u64::from(a_workload + 2) - MAX_ADDRESSES as u64);
    }

    #[test]
    fn one_workload_leaves_room_for_the_others() {
        let mut learned = Learned::default();
        let web = of("spiffe://example.org/a/web");
        let far = |number: u32| (Direction::Ingress, IpAddr::from(Ipv4Addr::from(number << 8)));
        for number in 0..u32::try_from(MAX_ADDRESSES_A_WORKLOAD).unwrap() + 2 {
            learned.note_address(&web, far(number), (80, Protocol::TCP), 10);
        }
        learned.note_address(&web, far(0), (80, Protocol::TCP), HOUR);
        let report = learned.report();
        assert_eq!((report.addresses.len(), report.lost), (MAX_ADDRESSES_A_WORKLOAD, 2));
        assert_eq!(report.addresses[0].when.times, 2, "what is known is noted on");
        let mut learned = Learned::of(report);
        learned.note_address(&web, far(0xffff), (80, Protocol::TCP), 10);
        assert_eq!(learned.report().lost, 3, "behind a restart, too");
        let db = of("spiffe://example.org/a/db");
        learned.note_address(&db, far(0), (80, Protocol::TCP), 10);
        assert_eq!(learned.report().addresses.len(), MAX_ADDRESSES_A_WORKLOAD + 1);
    }

    #[test]
    fn a_network_that_is_named_as_a_whole_takes_no_more_room() {
        let mut learned = Learned::default();
        let web = of("spiffe://example.org/a/web");
        for (network, port) in [("203.0.113.", 80), ("203.0.113.", 81), ("2001:db8::", 80)] {
            for number in 1..100 {
                let far = (Direction::Ingress, format!("{network}{number}").parse().unwrap());
                learned.note_address(&web, far, (port, Protocol::TCP), 10);
            }
        }
        let report = learned.report();
        assert_eq!((report.addresses.len(), report.lost), (3 * (ADDRESSES_MAX + 1), 0));
        let first = |one: &&LearnedAddress| one.address == network_of(one.address).network();
        assert_eq!(report.addresses.iter().filter(first).count(), 3);
    }
}
