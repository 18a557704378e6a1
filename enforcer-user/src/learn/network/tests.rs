//! Reports as the daemon makes them, and the rules that come of them as the daemon reads them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::Path;

use proptest::prelude::*;
use proptest::sample::select;

use super::fit::{ENTRIES_MAX, Kind};
use super::network_rules;
use super::table::Rule;
use super::text::{NAME_MAX, name};
use crate::config::Config;
use crate::identity::Identity;
use crate::learn::record::LearnedReport;
use crate::learn::{Configured, Learned};
use crate::materials;
use crate::policy::network::{NetworkTable, check_rules, compile};
use crate::policy::{Direction, Protocol};

const WORKLOADS: [(&str, &str); 3] = [("/a", "web"), ("/a", "db"), ("/b", "web")];

fn workload(place: usize) -> Identity {
    let (namespace, name) = WORKLOADS[place];
    Identity::new("example.org", namespace.parse().unwrap(), name, BTreeMap::new()).unwrap()
}

/// What the daemon makes of a configuration with these rules, for each workload.
fn tables(rules: &str) -> Vec<NetworkTable> {
    let mut text = String::from("trust_domain = \"example.org\"\n");
    text.push_str("[identity]\nmode = \"psk\"\npsk_file = \"psk.key\"\n");
    for (number, (namespace, name)) in WORKLOADS.iter().enumerate() {
        let _ = writeln!(
            text,
            "[[workload]]\nname = {name:?}\nnamespace = {namespace:?}\ninterface = \"eth{number}\""
        );
    }
    text.push_str(rules);
    let config = Config::parse(&text, Path::new("e.toml"), Path::new("/"))
        .unwrap_or_else(|error| panic!("{error}\n{rules}"));
    let rules = materials::network_rules(&config).unwrap();
    check_rules(&rules).unwrap();
    let table = |place| compile(&rules, &workload(place), Vec::new()).unwrap();
    (0..WORKLOADS.len()).map(table).collect()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn host(number: u16) -> IpAddr {
    ip(&format!("203.0.113.{number}"))
}

#[test]
fn few_tables_say_what_was_seen() {
    let mut learned = Learned::default();
    let web = workload(0);
    for (address, port) in [(1, 443), (2, 443), (1, 8443), (2, 8443), (1, 8444), (2, 8444)] {
        let far = (Direction::Egress, host(address));
        learned.note_address(&web, far, (port, Protocol::TCP), 3600);
    }
    let name_server = (Direction::Egress, ip("2001:db8::53"));
    learned.note_address(&web, name_server, (53, Protocol::UDP), 7200);
    let caller = (Direction::Ingress, host(9));
    learned.note_address(&web, caller, (0, Protocol::from_number(47)), 7200);
    let expected = r#"# Seen from 1970-01-01 01:00 UTC to 1970-01-01 01:00 UTC, in 1 hour of the week
[[network_rule]]
name = "learned-web-egress-tcp-443"
namespace = "/a"
workload = "web"
direction = "egress"
cidr = ["203.0.113.1/32", "203.0.113.2/32"]
protocol = "tcp"
ports = ["443", "8443-8444"]

# Seen from 1970-01-01 02:00 UTC to 1970-01-01 02:00 UTC, in 1 hour of the week
[[network_rule]]
name = "learned-web-egress-udp-53"
namespace = "/a"
workload = "web"
direction = "egress"
cidr = ["2001:db8::53/128"]
protocol = "udp"
ports = ["53"]

# Seen from 1970-01-01 02:00 UTC to 1970-01-01 02:00 UTC, in 1 hour of the week
[[network_rule]]
name = "learned-web-ingress-47"
namespace = "/a"
workload = "web"
direction = "ingress"
cidr = ["203.0.113.9/32"]
protocol = 47

"#;
    assert_eq!(network_rules(&learned.report()), expected);
    tables(expected);
    assert_eq!(network_rules(&LearnedReport::default()), "");
}

#[test]
fn many_addresses_become_their_network_and_say_so() {
    let mut learned = Learned::default();
    for number in 0..18 {
        let far = (Direction::Ingress, host(number));
        learned.note_address(&workload(0), far, (80, Protocol::TCP), 0);
        if number < 16 {
            learned.note_address(&workload(0), far, (81, Protocol::TCP), 0);
        }
    }
    let text = network_rules(&learned.report());
    assert!(
        text.contains("# Wider than seen: more than 16 addresses of 203.0.113.0/24 were seen\n"),
        "{text}"
    );
    let table = &tables(&text)[0];
    let passes = |number, port| {
        table.lookup(Direction::Ingress, host(number), Protocol::TCP, port).is_some()
    };
    assert!(passes(200, 80) && passes(15, 81) && !passes(16, 81) && !passes(200, 81), "{text}");
}

#[test]
fn many_ports_become_spans_by_the_smallest_gaps() {
    let mut learned = Learned::default();
    let far = (Direction::Egress, host(1));
    for port in (0..20).map(|number| 1000 + 2 * number).chain([22, 443]) {
        learned.note_address(&workload(0), far, (port, Protocol::TCP), 0);
    }
    let text = network_rules(&learned.report());
    assert!(text.contains("# Wider than seen: "), "{text}");
    let table = &tables(&text)[0];
    let passes = |port| table.lookup(Direction::Egress, far.1, Protocol::TCP, port).is_some();
    assert!(passes(22) && passes(443) && passes(1000) && passes(1038), "{text}");
    assert!(!passes(23) && !passes(444) && !passes(999) && !passes(1039), "{text}");
}

#[test]
fn many_protocols_become_any_and_say_so() {
    let mut learned = Learned::default();
    for number in 100..120 {
        let far = (Direction::Egress, host(1));
        learned.note_address(&workload(0), far, (0, Protocol::from_number(number)), 0);
    }
    let text = network_rules(&learned.report());
    assert!(text.contains("# Wider than seen: 20 protocols were used\n"), "{text}");
    let table = &tables(&text)[0];
    assert!(table.lookup(Direction::Egress, host(1), Protocol::TCP, 1).is_some());
    assert!(table.lookup(Direction::Ingress, host(1), Protocol::TCP, 1).is_none());
}

#[test]
fn a_name_that_others_have_below_is_told() {
    let mut learned = Learned::default();
    learned.watch([&workload(0)].into_iter(), 0);
    let far = (Direction::Egress, host(1));
    learned.note_address(&workload(0), far, (80, Protocol::TCP), 0);
    let ids = ["/a/web", "/a/b/web", "/a/b/db", "/b/web"];
    let text = network_rules(&configured(&learned, &ids, &[]));
    let told = "# Wider than seen: also for spiffe://example.org/a/b/web\n";
    assert!(text.contains(told), "it does not learn, but the rule is for it: {text}");
}

fn configured(learned: &Learned, paths: &[&str], rules: &[&str]) -> LearnedReport {
    let workloads = paths.iter().map(|path| format!("spiffe://example.org{path}")).collect();
    let network_rules = rules.iter().map(|name| (*name).to_owned()).collect();
    LearnedReport { configured: Some(Configured { workloads, network_rules }), ..learned.report() }
}

#[test]
fn workloads_that_are_gone_are_left_out_and_said_to_be() {
    let mut learned = Learned::default();
    let far = (Direction::Egress, host(1));
    for own in [workload(0), workload(1)] {
        learned.note_address(&own, far, (80, Protocol::TCP), 0);
    }
    let text = network_rules(&configured(&learned, &["/a/web"], &[]));
    let told = "# Left out, not in the configuration any more: spiffe://example.org/a/db\n\n";
    assert!(text.starts_with(told) && !text.contains("\"db\""), "{text}");
    assert!(tables(&text)[0].lookup(far.0, far.1, Protocol::TCP, 80).is_some(), "{text}");
}

#[test]
fn rules_in_force_keep_their_names_and_are_not_proposed_again() {
    let mut learned = Learned::default();
    for port in [80, 81] {
        learned.note_address(&workload(0), (Direction::Egress, host(1)), (port, Protocol::TCP), 0);
    }
    let names = ["learned-web-egress-tcp-81", "learned-web-egress-tcp-81-2"];
    let mut report = configured(&learned, &["/a/web"], &names);
    report.addresses[0].allowed = true;
    let text = network_rules(&report);
    assert!(text.contains("name = \"learned-web-egress-tcp-81-3\""), "{text}");
    assert!(text.contains("ports = [\"81\"]"), "{text}");
    report.addresses[1].allowed = true;
    assert_eq!(network_rules(&report), "");
}

#[test]
fn what_one_address_does_opens_nothing_to_its_neighbours() {
    let mut learned = Learned::default();
    for number in 1..19 {
        let far = (Direction::Ingress, host(number));
        learned.note_address(&workload(0), far, (80, Protocol::TCP), 0);
    }
    for direction in [Direction::Ingress, Direction::Egress] {
        for (port, protocol) in [(443, 6), (53, 17), (0, 1), (0, 47), (0, 50), (0, 51)] {
            let service = (port, Protocol::from_number(protocol));
            learned.note_address(&workload(0), (direction, host(5)), service, 0);
        }
    }
    let text = network_rules(&learned.report());
    let table = &tables(&text)[0];
    let passes = |direction, number, protocol, port| {
        let protocol = Protocol::from_number(protocol);
        table.lookup(direction, host(number), protocol, port).is_some()
    };
    assert!(passes(Direction::Ingress, 200, 6, 80), "{text}");
    for (direction, protocol, port) in
        [(Direction::Ingress, 6, 443), (Direction::Ingress, 47, 0), (Direction::Egress, 6, 80)]
    {
        assert!(!passes(direction, 200, protocol, port), "{protocol} {port}\n{text}");
    }
    assert!(passes(Direction::Ingress, 5, 51, 0) && passes(Direction::Egress, 5, 17, 53));
}

#[test]
fn ports_of_one_address_join_none_of_its_network() {
    let mut learned = Learned::default();
    let mut note = |number, port| {
        let far = (Direction::Ingress, host(number));
        learned.note_address(&workload(0), far, (port, Protocol::TCP), 0);
    };
    for number in 1..19 {
        note(number, 80);
        note(number, 443);
    }
    (1..10).for_each(|port| note(5, 1000 * port));
    let text = network_rules(&learned.report());
    let table = &tables(&text)[0];
    let passes = |number, port| {
        table.lookup(Direction::Ingress, host(number), Protocol::TCP, port).is_some()
    };
    assert!(passes(200, 80) && passes(200, 443) && !passes(200, 81), "{text}");
    assert!((1..10).all(|port| passes(5, 1000 * port)) && !passes(5, 444), "{text}");
}

#[test]
fn names_are_unique_and_short_enough() {
    let long = "w".repeat(63);
    let own = Identity::new("example.org", "/a".parse().unwrap(), &long, BTreeMap::new());
    let own = own.unwrap();
    let mut names = BTreeSet::new();
    let kind = Kind { direction: Direction::Ingress, protocol: Some("icmpv6") };
    for _ in 0..12 {
        name(&own, kind, &Rule::default(), &mut names);
    }
    assert_eq!(names.len(), 12);
    assert!(names.iter().all(|name| name.len() <= NAME_MAX), "{names:?}");
}

/// Workload, whether it called, address, port, protocol.
type Deed = (usize, bool, IpAddr, u16, u8);

fn deed() -> impl Strategy<Value = Deed> {
    let addresses = ["198.51.100.1", "198.51.100.2", "198.51.100.3", "2001:db8::1", "2001:db8::2"];
    let mut addresses: Vec<IpAddr> = addresses.map(ip).to_vec();
    addresses.extend((0..18).map(host));
    let ports: Vec<u16> = vec![1, 22, 80, 81, 443, u16::MAX];
    (
        0..WORKLOADS.len(),
        any::<bool>(),
        select(addresses),
        select(ports),
        select(vec![1, 6, 17, 47, 58]),
    )
}

proptest! {
    /// Whatever was seen passes. Of addresses of networks that are not named as a whole, and with few enough ports,
    /// nothing else does.
    #[test]
    fn what_was_seen_passes_and_nothing_else(
        seen in prop::collection::vec(deed(), 0..120),
        others in prop::collection::vec(deed(), 40),
    ) {
        let mut learned = Learned::default();
        for (own, called, address, port, protocol) in &seen {
            let direction = if *called { Direction::Egress } else { Direction::Ingress };
            let service = (*port, Protocol::from_number(*protocol));
            learned.note_address(&workload(*own), (direction, *address), service, 0);
        }
        let report = learned.report();
        let text = network_rules(&report);
        let tables = tables(&text);
        let passes = |(own, called, address, port, protocol): &Deed| {
            let direction = if *called { Direction::Egress } else { Direction::Ingress };
            let protocol = Protocol::from_number(*protocol);
            tables[*own].lookup(direction, *address, protocol, *port).is_some()
        };
        // Of the same port where there are ports.
        let alike = |one: &Deed, other: &Deed| {
            let has_ports = Protocol::from_number(one.4).has_ports();
            (one.0, one.1, one.2, one.4) == (other.0, other.1, other.2, other.4)
                && (!has_ports || one.3 == other.3)
        };
        let can_be_said = |one: &Deed| match one.4 {
            1 => one.2.is_ipv4(),
            58 => one.2.is_ipv6(),
            _ => true,
        };
        for one in &seen {
            prop_assert!(passes(one) || !can_be_said(one), "{one:?}\n{text}");
        }
        if text.contains("Wider than seen") {
            return Ok(());
        }
        for one in others.iter().filter(|one| can_be_said(one)) {
            let was_seen = seen.iter().any(|deed| alike(deed, one));
            prop_assert_eq!(passes(one), was_seen, "{:?}\n{}", one, text);
        }
    }

    /// However much it is, the configuration takes it, and nothing passes that is in no network that was seen.
    #[test]
    fn much_of_anything_is_taken(
        seen in prop::collection::vec((0_u16..40, 1_u16..200, select(vec![6_u8, 17, 132, 47, 50, 51, 100, 101]), any::<bool>()), 0..600),
    ) {
        let mut learned = Learned::default();
        for (number, port, protocol, called) in &seen {
            let direction = if *called { Direction::Egress } else { Direction::Ingress };
            let service = (*port, Protocol::from_number(*protocol));
            learned.note_address(&workload(0), (direction, host(*number)), service, 0);
        }
        let text = network_rules(&learned.report());
        let tables = tables(&text);
        for (number, port, protocol, called) in &seen {
            let direction = if *called { Direction::Egress } else { Direction::Ingress };
            let protocol = Protocol::from_number(*protocol);
            let port = if protocol.has_ports() { *port } else { 0 };
            prop_assert!(tables[0].lookup(direction, host(*number), protocol, port).is_some(), "{}", text);
        }
        prop_assert!(tables[0].lookup(Direction::Egress, ip("192.0.2.1"), Protocol::TCP, 80).is_none());
        let any = text.contains("protocols were used");
        for number in 0..40 {
            // Behind every port that was seen.
            let beyond = tables[0].lookup(Direction::Egress, host(number), Protocol::TCP, 200);
            prop_assert!(any || beyond.is_none(), "{}", text);
        }
        let room = tables[0].prefixes().iter().all(|found| found.entries.len() <= ENTRIES_MAX);
        prop_assert!(room, "{}", text);
        prop_assert!(tables[1].prefixes().is_empty() && tables[2].prefixes().is_empty());
    }
}
