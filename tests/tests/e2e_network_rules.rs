//! What has no identity: plain servers, name servers and probes, by explicit network rules only.

use std::time::{Duration, Instant};

use enforcer_tests::config::{Config, NetworkRule, Workload};
use enforcer_tests::enforcer::Enforcer;
use enforcer_tests::host::Family;
use enforcer_tests::keys::Keys;
use enforcer_tests::policy::ALLOW_ALL;
use enforcer_tests::scenario::{Contact, NAMESPACE, PORT, Setup, contact};
use enforcer_tests::tcp::{Got, PATIENCE, SILENCE, Server, Service, dial};
use enforcer_tests::topology::{INTERFACE, OneNode, TwoHosts};
use enforcer_tests::twin;
use enforcer_tests::twin::Enforcement;
use enforcer_tests::udp::{Asker, Responder, ask};

const DNS: u16 = 53;
const SHORT: Duration = Duration::from_secs(1);
/// The server of [`TwoHosts`], in both families.
const SERVER: [&str; 2] = ["192.0.2.2/32", "2001:db8::2/128"];

/// An enforced client with these rules, or none, on a network whose server has no enforcer.
fn plain_server(enforcement: Enforcement, rules: &[NetworkRule]) -> (Option<Enforcer>, TwoHosts) {
    let net = TwoHosts::new().unwrap();
    let mut setup = Setup::psk().unwrap();
    setup.client.network_rules = rules.to_vec();
    let enforcer = (enforcement == Enforcement::Enforced)
        .then(|| Enforcer::start(&net.client, &setup.client).unwrap());
    (enforcer, net)
}

twin!(a_plain_server_in_a_mesh_network_is_refused_without_a_rule_over_ipv4, plain_v4,
    enforced: Got::Refusal, Absent: Got::Connection);
twin!(a_plain_server_in_a_mesh_network_is_refused_without_a_rule_over_ipv6, plain_v6,
    enforced: Got::Refusal, Absent: Got::Connection);

fn plain_v4(enforcement: Enforcement) -> Got {
    plain(enforcement, Family::V4)
}

fn plain_v6(enforcement: Enforcement) -> Got {
    plain(enforcement, Family::V6)
}

fn plain(enforcement: Enforcement, family: Family) -> Got {
    let (_enforcer, net) = plain_server(enforcement, &[]);
    let _server = Server::start(&net.server, PORT, &Service::Echo).unwrap();
    dial(&net.client, net.server.at(family, PORT), SILENCE).unwrap().got()
}

#[test]
fn the_refusal_of_a_plain_server_says_why() {
    let (enforcer, net) = plain_server(Enforcement::Enforced, &[]);
    let server = Server::start(&net.server, PORT, &Service::Echo).unwrap();
    let contact = contact(&net.client, net.server.at(Family::V4, PORT), &server).unwrap();
    assert_eq!(contact, Contact::REFUSED);
    assert!(enforcer.unwrap().counters().unwrap().drop("peer_without_identity") > 0);
}

#[test]
fn a_plain_server_in_a_mesh_network_is_reached_with_a_rule() {
    let rule = NetworkRule::egress("plain", "tcp", SERVER[0], PORT).and(SERVER[1]);
    let (_enforcer, net) = plain_server(Enforcement::Enforced, &[rule]);
    let server = Server::start(&net.server, PORT, &Service::Echo).unwrap();
    for family in Family::BOTH {
        let to = net.server.at(family, PORT);
        assert_eq!(contact(&net.client, to, &server).unwrap(), Contact::MADE);
    }
}

#[test]
fn a_rule_opens_only_the_port_it_names() {
    let rule = NetworkRule::egress("plain", "tcp", "192.0.2.0/24", PORT);
    let (_enforcer, net) = plain_server(Enforcement::Enforced, &[rule]);
    let server = Server::start(&net.server, PORT + 1, &Service::Echo).unwrap();
    let to = net.server.at(Family::V4, PORT + 1);
    assert_eq!(contact(&net.client, to, &server).unwrap(), Contact::REFUSED);
}

#[test]
fn a_plain_client_reaches_a_workload_with_an_ingress_rule_only() {
    for (rules, expected) in [
        (vec![], Contact::SILENT),
        (vec![NetworkRule::ingress("legacy", "tcp", "192.0.2.1/32", PORT)], Contact::MADE),
    ] {
        let net = TwoHosts::new().unwrap();
        let mut setup = Setup::psk().unwrap();
        setup.server.network_rules = rules;
        let _enforcer = Enforcer::start(&net.server, &setup.server).unwrap();
        let server = Server::start(&net.server, PORT, &Service::Echo).unwrap();
        let got = contact(&net.client, net.server.at(Family::V4, PORT), &server).unwrap();
        assert_eq!(got, expected);
    }
}

twin!(names_are_not_resolved_without_a_rule, unresolved, enforced: (false, 0), Absent: (true, 2));

/// Whether any question was answered, and how many reached the name server.
fn unresolved(enforcement: Enforcement) -> (bool, u64) {
    let (_enforcer, net) = plain_server(enforcement, &[]);
    let responder = Responder::start(&net.server, DNS).unwrap();
    let answered = Family::BOTH
        .map(|family| ask(&net.client, net.server.at(family, DNS), SHORT).unwrap().is_some());
    (answered.contains(&true), responder.received())
}

#[test]
fn names_are_resolved_over_udp_with_a_rule() {
    let rule = NetworkRule::egress("dns", "udp", SERVER[0], DNS).and(SERVER[1]);
    let (_enforcer, net) = plain_server(Enforcement::Enforced, &[rule]);
    let responder = Responder::start(&net.server, DNS).unwrap();
    for family in Family::BOTH {
        let answer = ask(&net.client, net.server.at(family, DNS), PATIENCE).unwrap();
        assert_eq!(answer.as_deref(), Some(&b"which beer today?"[..]));
    }
    assert_eq!(responder.received(), 2);
}

/// An address that a workload gets is its own, and one that it loses is refused to what it has open.
#[test]
fn datagrams_leave_from_the_addresses_that_the_interface_has_now() {
    let rule = NetworkRule::egress("plain", "udp", SERVER[0], PORT);
    let (enforcer, net) = plain_server(Enforcement::Enforced, &[rule]);
    let enforcer = enforcer.unwrap();
    let spoofed = || enforcer.counters().unwrap().drop("spoofed_source");
    let responder = Responder::start(&net.server, PORT).unwrap();
    net.client.ip(&format!("addr add 192.0.2.77/24 dev {INTERFACE}")).unwrap();
    let from = "192.0.2.77".parse().unwrap();
    let to = net.server.at(Family::V4, PORT);
    let asker = Asker::new(&net.client, from, to, SHORT).unwrap();
    assert!(comes(|| asker.ask().unwrap().is_some()), "an own address is refused");
    for _ in 0..3 {
        assert!(asker.ask().unwrap().is_some());
    }
    net.client.ip(&format!("addr del 192.0.2.77/24 dev {INTERFACE}")).unwrap();
    let is_refused = || {
        let before = spoofed();
        asker.ask().unwrap().is_none() && spoofed() > before
    };
    assert!(comes(is_refused), "a lost address is used");
    let heard = responder.received();
    for _ in 0..3 {
        assert_eq!(asker.ask().unwrap(), None);
    }
    assert_eq!(responder.received(), heard);
}

/// Whether it is so in time: the daemon hears of addresses from the kernel, and looks every five seconds besides.
fn comes(mut is_so: impl FnMut() -> bool) -> bool {
    let begun = Instant::now();
    while !is_so() {
        if begun.elapsed() > 3 * PATIENCE {
            return false;
        }
    }
    true
}

#[test]
fn a_rule_for_questions_does_not_let_the_name_server_ask() {
    let rule = NetworkRule::egress("dns", "udp", "192.0.2.2/32", DNS);
    let (_enforcer, net) = plain_server(Enforcement::Enforced, &[rule]);
    let responder = Responder::start(&net.client, DNS).unwrap();
    assert_eq!(ask(&net.server, net.client.at(Family::V4, DNS), SHORT).unwrap(), None);
    assert_eq!(responder.received(), 0);
}

twin!(a_probe_from_the_host_is_refused_without_a_rule, probe_without_rule,
    enforced: Contact::SILENT, Absent: Contact::MADE);

fn probe_without_rule(enforcement: Enforcement) -> Contact {
    probe(enforcement, &[])
}

#[test]
fn a_probe_from_the_host_passes_with_a_rule() {
    let rule = NetworkRule::ingress("probe", "tcp", "192.0.2.254/32", PORT);
    assert_eq!(probe(Enforcement::Enforced, &[rule]), Contact::MADE);
}

/// The node's own address connects to one of its workloads.
fn probe(enforcement: Enforcement, rules: &[NetworkRule]) -> Contact {
    let net = OneNode::new().unwrap();
    let keys = Keys::psk().unwrap();
    let addresses = Family::BOTH.map(|family| net.a.address(family).to_string());
    let workload = Workload::behind(NAMESPACE, "a", OneNode::TO_A, &addresses);
    let mut config = Config::new(keys.node("node", NAMESPACE).unwrap(), workload, ALLOW_ALL);
    config.network_rules = rules.to_vec();
    let _enforcer = (enforcement == Enforcement::Enforced)
        .then(|| Enforcer::start(&net.node, &config).unwrap());
    let server = Server::start(&net.a, PORT, &Service::Echo).unwrap();
    contact(&net.node, net.a.at(Family::V4, PORT), &server).unwrap()
}
