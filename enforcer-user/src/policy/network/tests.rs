//! Refusals, and the compiled table against the rules themselves.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::*;
use crate::identity::Identity;
use crate::policy::Protocol;

fn spec(
    name: &str,
    direction: Direction,
    cidr: &[&str],
    protocol: &str,
    ports: &[&str],
) -> NetworkRuleSpec {
    let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
    NetworkRuleSpec {
        name: name.to_owned(),
        namespace: "/".to_owned(),
        workload: None,
        direction,
        cidr: texts(cidr),
        hosts: Vec::new(),
        protocol: protocol.to_owned(),
        ports: texts(ports),
    }
}

fn rule(name: &str, cidr: &[&str], protocol: &str, ports: &[&str]) -> NetworkRule {
    spec(name, Direction::Egress, cidr, protocol, ports).try_into().unwrap()
}

fn workload(namespace: &str, name: &str) -> Identity {
    let labels = BTreeMap::new();
    Identity::new("example.org", namespace.parse().unwrap(), name, labels).unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn the_longest_prefix_knows_the_rules_of_the_networks_around_it() {
    let rules = [
        rule("wide", &["198.51.100.0/24"], "tcp", &["443"]),
        rule("dns", &["198.51.100.53/32", "2001:db8::53/128"], "udp", &["53"]),
        rule("other", &["203.0.113.0/24"], "any", &[]),
    ];
    let table = compile(&rules, &workload("/a", "web"), Vec::new()).unwrap();
    let found = |address, protocol, port| {
        table
            .lookup(Direction::Egress, ip(address), protocol, port)
            .map(|e| rules[usize::from(e.rule)].name())
    };
    assert_eq!(found("198.51.100.53", Protocol::UDP, 53), Some("dns"));
    assert_eq!(found("198.51.100.53", Protocol::TCP, 443), Some("wide"));
    assert_eq!(found("198.51.100.54", Protocol::UDP, 53), None);
    assert_eq!(found("2001:db8::53", Protocol::UDP, 53), Some("dns"));
    assert_eq!(found("203.0.113.9", Protocol::ICMP, 0), Some("other"));
    assert_eq!(table.lookup(Direction::Ingress, ip("203.0.113.9"), Protocol::TCP, 1), None);
}

#[test]
fn a_rule_is_for_the_workloads_it_names() {
    let narrowed = NetworkRuleSpec {
        namespace: "/a".to_owned(),
        workload: Some("web".to_owned()),
        ..spec("r", Direction::Egress, &["0.0.0.0/0"], "any", &[])
    };
    let rules = [NetworkRule::try_from(narrowed).unwrap()];
    for (namespace, name, applies) in
        [("/a", "web", true), ("/a/b", "web", true), ("/ab", "web", false), ("/a", "db", false)]
    {
        let table = compile(&rules, &workload(namespace, name), Vec::new()).unwrap();
        assert_eq!(!table.prefixes().is_empty(), applies, "{namespace} {name}");
    }
}

#[test]
fn what_says_nothing_more_takes_no_room() {
    let rules = [
        rule("all", &["198.51.100.0/24"], "tcp", &[]),
        rule("one", &["198.51.100.7/32"], "tcp", &["80", "81-90", "91"]),
    ];
    assert_eq!(rules[1].ports(), [(80, 91)]);
    let table = compile(&rules, &workload("/a", "web"), Vec::new()).unwrap();
    assert_eq!(table.prefixes().len(), 1);
}

#[test]
fn too_many_entries_at_one_prefix_name_the_network_and_the_rules() {
    let ports: Vec<String> = (0..12).map(|n| (1000 + 2 * n).to_string()).collect();
    let ports: Vec<&str> = ports.iter().map(String::as_str).collect();
    let rules = [
        rule("first", &["198.51.100.0/24"], "tcp", &ports),
        rule("second", &["198.51.100.7/32"], "udp", &ports),
    ];
    let error = compile(&rules, &workload("/a", "web"), Vec::new()).unwrap_err().to_string();
    for part in ["198.51.100.7/32", "24 entries", "first, second"] {
        assert!(error.contains(part), "{error}");
    }
    let rules = [rules[0].clone(), rule("apart", &["203.0.113.7/32"], "udp", &ports)];
    compile(&rules, &workload("/a", "web"), Vec::new()).unwrap();
}

#[test]
fn workloads_with_equal_rules_share_a_table() {
    let narrowed = NetworkRuleSpec {
        namespace: "/b".to_owned(),
        ..spec("b", Direction::Ingress, &["::/0"], "tcp", &["22"])
    };
    let rules = [rule("dns", &["198.51.100.53/32"], "udp", &["53"]), narrowed.try_into().unwrap()];
    let mut tables = NetworkTables::default();
    let numbers: Vec<u32> = [("/a", "web"), ("/b", "web"), ("/a", "db")]
        .into_iter()
        .zip(1..)
        .map(|((ns, name), id)| {
            let table = compile(&rules, &workload(ns, name), Vec::new()).unwrap();
            tables.number_of(table, id).unwrap()
        })
        .collect();
    assert_eq!(numbers, [0, 1, 0]);
    assert_eq!(tables.tables().len(), 2);
}

/// To hosts of these names.
fn to_hosts(name: &str, hosts: &[&str], ports: &[&str]) -> NetworkRule {
    let hosts = hosts.iter().map(|text| (*text).to_owned()).collect();
    let spec = NetworkRuleSpec { hosts, ..spec(name, Direction::Egress, &[], "tcp", ports) };
    spec.try_into().unwrap()
}

#[test]
fn what_names_of_hosts_open_is_added_to_what_is_open_around_them() {
    let rules = [
        rule("all", &["198.51.100.0/24"], "tcp", &["80"]),
        rule("one", &["198.51.100.7/32"], "tcp", &["22"]),
        to_hosts("api", &["api.example.com", "*.example.net"], &["443"]),
        to_hosts("other", &["other.example.com"], &["80", "8443"]),
    ];
    let table = compile(&rules, &workload("/a", "web"), Vec::new()).unwrap();
    assert!(table.names("api.example.com") && table.names("x.y.example.net"));
    assert!(!table.names("example.net"));
    let ports = |address: &str, hosts: &[&str]| -> Vec<u16> {
        let found = table.at(address.parse().unwrap(), hosts.iter().copied()).unwrap();
        assert_eq!(found.prefix, IpNet::from(address.parse::<IpAddr>().unwrap()));
        found.entries.iter().map(|entry| entry.port_low).collect()
    };
    assert!(ports("203.0.113.9", &[]).is_empty());
    assert!(ports("203.0.113.9", &["nobody.example.com"]).is_empty());
    assert_eq!(ports("203.0.113.9", &["api.example.com"]), [443]);
    assert_eq!(ports("2001:db8::9", &["x.example.net", "other.example.com"]), [80, 443, 8443]);
    assert_eq!(ports("198.51.100.9", &["api.example.com"]), [80, 443]);
    // What is open around it covers what the name opens.
    assert_eq!(ports("198.51.100.9", &["other.example.com"]), [80, 8443]);
    assert_eq!(ports("198.51.100.7", &["api.example.com"]), [22, 80, 443]);
    assert!(table.exactly("198.51.100.7/32".parse().unwrap()).is_some());
    assert!(table.exactly("198.51.100.9/32".parse().unwrap()).is_none());
}

#[test]
fn too_much_at_one_address_is_told() {
    let ports: Vec<String> = (0..12).map(|n| (2 * n + 1).to_string()).collect();
    let ports: Vec<&str> = ports.iter().map(String::as_str).collect();
    let more: Vec<String> = (0..12).map(|n| (2 * n + 1001).to_string()).collect();
    let more: Vec<&str> = more.iter().map(String::as_str).collect();
    let rules = [to_hosts("a", &["a.example"], &ports), to_hosts("b", &["b.example"], &more)];
    let table = compile(&rules, &workload("/a", "web"), Vec::new()).unwrap();
    let at = |hosts: &[&str]| table.at("192.0.2.1".parse().unwrap(), hosts.iter().copied());
    assert_eq!(at(&["a.example"]).unwrap().entries.len(), 12);
    let error = at(&["a.example", "b.example"]).unwrap_err();
    assert!(error.contains("24 entries would apply at 192.0.2.1"), "{error}");
}

#[test]
fn workloads_whose_rules_name_hosts_share_no_table() {
    let rules = [to_hosts("api", &["api.example.com"], &["443"])];
    let mut tables = NetworkTables::default();
    let mut number = |name, id| {
        let table = compile(&rules, &workload("/a", name), Vec::new()).unwrap();
        tables.number_of(table, id).unwrap()
    };
    assert_eq!([number("a", 1), number("b", 2), number("a", 1)], [0, 1, 0]);
}

#[test]
fn rules_with_hosts_are_checked() {
    let refused = |hosts: &[&str], direction, cidr: &[&str]| {
        let hosts = hosts.iter().map(|text| (*text).to_owned()).collect();
        let spec = NetworkRuleSpec { hosts, ..spec("r1", direction, cidr, "tcp", &[]) };
        NetworkRule::try_from(spec).map(drop).map_err(|error| error.to_string())
    };
    let many: Vec<String> = (0..=MAX_HOSTS).map(|n| format!("h{n}.example")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    for (result, part) in [
        (refused(&["a.example"], Direction::Ingress, &[]), "only of egress"),
        (refused(&["a b"], Direction::Egress, &[]), "hosts: \"a b\", expected a host's name"),
        (refused(&["192.0.2.1"], Direction::Egress, &[]), "a host's name"),
        (refused(&many, Direction::Egress, &[]), "257 names, at most 256"),
        (refused(&[], Direction::Egress, &[]), "0 networks"),
        (refused(&["a.example"], Direction::Egress, &["10.0.0.1/8"]), "write 10.0.0.0/8"),
    ] {
        let error = result.unwrap_err();
        assert!(error.contains(part), "{error}");
    }
    refused(&["a.example"], Direction::Egress, &["192.0.2.0/24"]).unwrap();
}

#[test]
fn refusals_name_the_rule_the_value_and_what_to_write() {
    let egress = |cidr: &[&str], protocol, ports: &[&str]| {
        let refused = NetworkRule::try_from(spec("r1", Direction::Egress, cidr, protocol, ports));
        refused.unwrap_err().to_string()
    };
    for (error, part) in [
        (egress(&["10.0.0.1/8"], "tcp", &[]), "write 10.0.0.0/8 or 10.0.0.1/32"),
        (egress(&["example.org"], "tcp", &[]), "\"example.org\""),
        (egress(&["::ffff:0:0/96"], "tcp", &[]), "write the IPv4 network"),
        (egress(&["::/0"], "icmp", &[]), "icmpv6 for IPv6"),
        (egress(&[], "tcp", &[]), "0 networks"),
        (egress(&["::/0"], "tpc", &[]), "did you mean \"tcp\"?"),
        (egress(&["::/0"], "any", &["53"]), "leave ports out"),
        (egress(&["::/0"], "tcp", &["9-3"]), "\"9-3\""),
        (egress(&["::/0"], "tcp", &["0"]), "\"0\""),
        (egress(&["::/0"], "tcp", &["+80"]), "\"+80\""),
        (egress(&["::/0"], "tcp", &["65536"]), "\"65536\""),
    ] {
        assert!(error.starts_with("network rule \"r1\": ") && error.contains(part), "{error}");
    }
    let twice = [rule("r", &["::/0"], "tcp", &[]), rule("r", &["::/0"], "udp", &[])];
    assert!(check_rules(&twice).unwrap_err().to_string().contains("stands twice"));
}

#[test]
fn the_configuration_may_write_numbers_as_numbers() {
    let text = "name = \"r\"\ndirection = \"ingress\"\ncidr = [\"::/0\"]\nprotocol = 6\nports = [53, \"8000-8010\"]";
    let rule = NetworkRule::try_from(toml::from_str::<NetworkRuleSpec>(text).unwrap()).unwrap();
    assert_eq!((rule.protocol(), rule.ports()), (6, [(53, 53), (8000, 8010)].as_slice()));
}

fn any_rule() -> impl Strategy<Value = NetworkRuleSpec> {
    let cidrs = subsequence(
        vec![
            "0.0.0.0/0",
            "198.51.100.0/24",
            "198.51.100.0/25",
            "198.51.100.7/32",
            "198.51.100.128/25",
            "203.0.113.0/24",
            "::/0",
            "2001:db8::/32",
            "2001:db8::7/128",
        ],
        1..4,
    );
    let direction = select(vec![Direction::Egress, Direction::Ingress]);
    let ports = subsequence(vec!["1-100", "53", "80", "50-90", "443"], 0..3);
    (
        cidrs,
        direction,
        select(vec!["tcp", "udp", "any", "47"]),
        ports,
        select(vec!["/", "/a", "/b"]),
    )
        .prop_map(|(cidr, direction, protocol, ports, namespace)| {
            let ports = if ["tcp", "udp"].contains(&protocol) { ports } else { vec![] };
            NetworkRuleSpec {
                namespace: namespace.to_owned(),
                ..spec("r", direction, &cidr, protocol, &ports)
            }
        })
}

fn any_other() -> impl Strategy<Value = NetworkPrefix> {
    let prefixes =
        ["0.0.0.0/0", "198.51.100.0/24", "198.51.100.7/32", "198.51.100.0/25", "2001:db8::/32"];
    let entry = (
        select(vec![Direction::Egress, Direction::Ingress]),
        select(vec![0_u8, 6, 17]),
        select(vec![(0, u16::MAX), (53, 53), (80, 90)]),
    );
    let entry = entry.prop_map(|(direction, protocol, (port_low, port_high))| NetworkEntry {
        direction,
        protocol,
        port_low,
        port_high,
        rule: 100,
    });
    (select(prefixes.to_vec()), prop::collection::vec(entry, 0..3))
        .prop_map(|(prefix, entries)| NetworkPrefix { prefix: prefix.parse().unwrap(), entries })
}

fn lets_through(entry: NetworkEntry, direction: Direction, protocol: Protocol, port: u16) -> bool {
    entry.direction == direction
        && [0, protocol.number()].contains(&entry.protocol)
        && (entry.port_low..=entry.port_high).contains(&port)
}

proptest! {
    #[test]
    fn the_table_finds_what_the_rules_say(
        specs in prop::collection::vec(any_rule(), 0..5),
        others in prop::collection::vec(any_other(), 0..4),
        address in select(vec!["198.51.100.7", "198.51.100.8", "198.51.100.200", "203.0.113.1", "192.0.2.1", "2001:db8::7", "2001:db8::8", "2001:db9::1"]),
        direction in select(vec![Direction::Egress, Direction::Ingress]),
        protocol in select(vec![6_u8, 17, 47]),
        port in select(vec![0_u16, 53, 80, 95, 443, 1000]),
    ) {
        let rules: Vec<NetworkRule> = specs.into_iter().map(|spec| spec.try_into().unwrap()).collect();
        let web = workload("/a", "web");
        // Each network once.
        let others: BTreeMap<IpNet, NetworkPrefix> =
            others.into_iter().map(|other| (other.prefix, other)).collect();
        let table = compile(&rules, &web, others.values().cloned().collect()).unwrap();
        prop_assert_eq!(&table, &compile(&rules, &web, others.values().cloned().collect()).unwrap());
        let (address, protocol) = (ip(address), Protocol::from_number(protocol));
        let around = others.values().filter(|other| other.prefix.contains(&address));
        let nearest = around.max_by_key(|other| other.prefix.prefix_len());
        let by_other = nearest.is_some_and(|other| {
            other.entries.iter().any(|entry| lets_through(*entry, direction, protocol, port))
        });
        let matching: Vec<usize> = (0..rules.len())
            .filter(|n| rules[*n].applies_to(&web) && rules[*n].matches(direction, address, protocol, port))
            .collect();
        let found = table.lookup(direction, address, protocol, port).map(|entry| usize::from(entry.rule));
        prop_assert_eq!(found.is_some(), !matching.is_empty() || by_other);
        prop_assert!(found.is_none_or(|rule| matching.contains(&rule) || (by_other && rule == 100)));
    }
}
