//! Network rules that name hosts: the kernel holds each answer of the name server until what it opens is open.

use std::net::{IpAddr, SocketAddr};

use enforcer_tests::config::{Config, NetworkRule, Workload};
use enforcer_tests::enforcer::Enforcer;
use enforcer_tests::host::{Family, Host};
use enforcer_tests::interactive::Interactive;
use enforcer_tests::keys::Keys;
use enforcer_tests::names::{NameServer, Resolver};
use enforcer_tests::policy::ALLOW_ALL;
use enforcer_tests::scenario::{Contact, NAMESPACE, PORT, Setup, contact};
use enforcer_tests::tcp::{PATIENCE, Server, Service};
use enforcer_tests::topology::{OneNode, TwoHosts};

/// What the name server of [`TwoHosts`] knows.
const RECORDS: [&str; 4] = [
    "--host-record=api.example.com,192.0.2.2,2001:db8::2,60",
    "--host-record=node.elsewhere.example,192.0.2.2,2001:db8::2,60",
    "--host-record=other.example.com,192.0.2.2,2001:db8::2,60",
    "--cname=www.cdn.example,node.elsewhere.example,60",
];
const API: &str = "api.example.com";

/// A client whose rules open the name server, and one port of hosts by their names.
struct Scene {
    net: TwoHosts,
    daemon: Enforcer,
    server: Server,
    _names: NameServer,
}

impl Scene {
    fn new() -> Self {
        let net = TwoHosts::new().unwrap();
        let names = NameServer::start(&net.server, &RECORDS).unwrap();
        let server = Server::start(&net.server, PORT, &Service::Echo).unwrap();
        let daemon = Enforcer::start(&net.client, &config(&[API, "*.cdn.example"])).unwrap();
        Self { net, daemon, server, _names: names }
    }

    fn resolve(&self, family: Family, name: &str) -> Vec<IpAddr> {
        let server = self.net.server.address(family);
        let resolver = Resolver::new(&self.net.client, server).unwrap();
        resolver.resolve_family(family, name).unwrap()
    }

    /// The first connection behind the answer, at once.
    fn call(&self, family: Family, name: &str) -> Contact {
        let addresses = self.resolve(family, name);
        assert_eq!(addresses, [self.net.server.address(family)], "{name}");
        contact(&self.net.client, SocketAddr::new(addresses[0], PORT), &self.server).unwrap()
    }

    fn direct(&self, family: Family) -> Contact {
        contact(&self.net.client, self.net.server.at(family, PORT), &self.server).unwrap()
    }
}

fn config(hosts: &[&str]) -> Config {
    let mut config = Setup::psk().unwrap().client;
    config.network_rules = vec![
        NetworkRule::egress("dns", "udp", "192.0.2.2/32", 53).and("2001:db8::2/128"),
        NetworkRule::to_hosts("hosts", hosts, PORT),
    ];
    config
}

#[test]
fn a_host_is_reached_once_its_name_was_resolved_and_not_before() {
    let scene = Scene::new();
    for family in Family::BOTH {
        assert_eq!(scene.direct(family), Contact::REFUSED);
        assert_eq!(scene.call(family, API), Contact::MADE);
        assert_eq!(scene.direct(family), Contact::MADE);
    }
    let counters = scene.daemon.counters().unwrap();
    assert_eq!(counters.event("answer_unread"), 0);
    assert!(counters.event("answer_held") >= 2);
    let hosts: serde_json::Value = scene.daemon.ask(&["hosts"]).unwrap();
    let told = |address: IpAddr| {
        let all = hosts.as_array().unwrap();
        all.iter().any(|one| one["host"] == API && one["address"] == address.to_string())
    };
    assert!(
        Family::BOTH.into_iter().all(|family| told(scene.net.server.address(family))),
        "{hosts}"
    );
}

#[test]
fn aliases_are_followed_from_a_name_below_the_one_that_the_rule_says() {
    let scene = Scene::new();
    assert_eq!(scene.call(Family::V4, "www.cdn.example"), Contact::MADE);
    assert_eq!(scene.direct(Family::V6), Contact::REFUSED);
}

#[test]
fn names_that_no_rule_says_are_resolved_and_open_nothing() {
    let scene = Scene::new();
    for name in ["other.example.com", "node.elsewhere.example"] {
        assert_eq!(scene.call(Family::V4, name), Contact::REFUSED);
    }
    assert!(scene.resolve(Family::V4, "nobody.example.com").is_empty());
    // The twin: the name that the rule says has the same address.
    assert_eq!(scene.call(Family::V4, API), Contact::MADE);
}

#[test]
fn while_the_daemon_is_away_names_resolve_and_what_was_open_stays_open() {
    let mut scene = Scene::new();
    assert_eq!(scene.call(Family::V4, API), Contact::MADE);
    let mut stream =
        Interactive::open(&scene.net.client, scene.net.server.at(Family::V4, PORT)).unwrap();
    stream.exchange().unwrap();
    scene.daemon.kill().unwrap();
    stream.exchange().unwrap();
    // The first answer waits for a daemon; the resolver asks once more.
    assert_eq!(scene.call(Family::V4, API), Contact::MADE);
    // Nobody read this one.
    assert_eq!(scene.call(Family::V6, API), Contact::REFUSED);
    scene.daemon.launch().unwrap();
    stream.exchange().unwrap();
    assert_eq!(scene.direct(Family::V4), Contact::MADE);
    assert_eq!(scene.call(Family::V6, API), Contact::MADE);
    stream.exchange().unwrap();
}

#[test]
fn a_rule_that_no_longer_says_the_name_ends_its_connections() {
    let scene = Scene::new();
    assert_eq!(scene.call(Family::V4, "www.cdn.example"), Contact::MADE);
    let to = scene.net.server.at(Family::V4, PORT);
    let mut stream = Interactive::open(&scene.net.client, to).unwrap();
    scene.daemon.write_config(&config(&[API, "more.example.com"])).unwrap();
    scene.daemon.reload().unwrap();
    stream.wait_end(PATIENCE).unwrap();
    assert_eq!(scene.direct(Family::V4), Contact::REFUSED);
    assert_eq!(scene.call(Family::V4, API), Contact::MADE);
}

#[test]
fn an_answer_of_the_node_itself_to_a_workload_behind_a_veth_is_read_too() {
    let net = OneNode::new().unwrap();
    let keys = Keys::psk().unwrap();
    let addresses = Family::BOTH.map(|family| net.a.address(family).to_string());
    let workload = Workload::behind(NAMESPACE, "a", OneNode::TO_A, &addresses);
    let mut config = Config::new(keys.node("node", NAMESPACE).unwrap(), workload, ALLOW_ALL);
    let own = |family| net.node.address(family);
    let record = format!("--host-record={API},{},{},60", own(Family::V4), own(Family::V6));
    config.network_rules = vec![
        NetworkRule::egress("dns", "udp", &format!("{}/32", own(Family::V4)), 53)
            .and(&format!("{}/128", own(Family::V6))),
        NetworkRule::to_hosts("hosts", &[API], PORT),
    ];
    let _names = NameServer::start(&net.node, &[&record]).unwrap();
    let server = Server::start(&net.node, PORT, &Service::Echo).unwrap();
    let daemon = Enforcer::start(&net.node, &config).unwrap();
    let call = |host: &Host, family: Family| {
        let resolver = Resolver::new(host, own(family)).unwrap();
        assert_eq!(resolver.resolve_family(family, API).unwrap(), [own(family)]);
        contact(host, SocketAddr::new(own(family), PORT), &server).unwrap()
    };
    for family in Family::BOTH {
        assert_eq!(call(&net.a, family), Contact::MADE);
    }
    assert_eq!(daemon.counters().unwrap().event("answer_unread"), 0);
}
