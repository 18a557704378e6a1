//! What went wrong in others of this kind, where no other file has a test that names it; docs/TESTING.md has the list.

use std::time::{Duration, Instant};

use enforcer_tests::capture::Capture;
use enforcer_tests::config::{Config, Mode, Workload};
use enforcer_tests::enforcer::Enforcer;
use enforcer_tests::handmade::{Call, Speaker};
use enforcer_tests::host::{Family, Host};
use enforcer_tests::keys::Keys;
use enforcer_tests::policy;
use enforcer_tests::scenario::{Contact, NAMESPACE, PORT, Setup, contact};
use enforcer_tests::tcp::{PATIENCE, SILENCE, Server, Service};
use enforcer_tests::topology::{INTERFACE, OneNode, ThreeHosts};
use enforcer_tests::twin::Enforcement;

/// One malformed length ended the daemon, and without it everything passed.
#[test]
fn malformed_lengths_end_no_daemon_and_let_nobody_in() {
    let net = ThreeHosts::new().unwrap();
    let setup = Setup::pki().unwrap();
    let speaker = Speaker::new(&setup.client.keys).unwrap();
    let id = format!("spiffe://example.org{NAMESPACE}/other");
    let credential = speaker.issue(&id).unwrap().bytes().to_vec();
    let mut daemons = setup.start(&net.client, &net.server, Enforcement::Enforced).unwrap();
    let listener = Server::start(&net.server, PORT, &Service::Echo).unwrap();
    net.other.drop_arriving_tcp().unwrap();
    let capture = Capture::start(&net.server, INTERFACE).unwrap();
    let pid = daemons.server().unwrap().pid();
    let to = net.server.at(Family::V4, PORT);
    // Each head of the first 90 bytes claims other lengths: none, one short, 2^16, 2^64, endless.
    let heads = [0x40u8, 0x57, 0x59, 0x5b, 0x5f, 0x9b, 0xbb, 0xff];
    for at in 0..90u16 {
        for (n, head) in (0u16..).zip(heads) {
            let mut altered = credential.clone();
            altered[usize::from(at)] = head;
            if altered == credential {
                continue;
            }
            let source = net.other.at(Family::V4, 20_000 + at * 8 + n);
            Call::new(source, to).hello(&altered).send(&net.other).unwrap();
        }
    }
    std::thread::sleep(SILENCE);
    capture.assert_silent_towards(net.other.address(Family::V4)).unwrap();
    let server = daemons.server().unwrap();
    let refused = server.counters().unwrap().event("credential_refused_malformed");
    assert!(refused > 100, "{refused} were read and refused");
    assert_eq!(server.pid(), pid);
    assert!(server.status().unwrap().ready);
    assert_eq!(contact(&net.client, to, &listener).unwrap(), Contact::MADE);
    assert_eq!(listener.accepted(), 1);
}

/// The clauses of a rule were counted by the values that matched, so that two values of one clause stood for two clauses.
#[test]
fn two_values_of_one_clause_do_not_stand_for_another_clause() {
    let rule = r#"permit(principal, action, resource) when {
        (principal.labels.tier == "web" || principal.labels.tier == "api" || principal.labels.tier like "*")
        && principal.labels.env == "prod" };"#;
    for (env, expected) in [("dev", Contact::SILENT), ("prod", Contact::MADE)] {
        let mut setup = Setup::psk().unwrap().server_policy(rule).client_policy(policy::ALLOW_ALL);
        let workload = setup.client.workloads.remove(0);
        setup.client.workloads.push(workload.label("tier", "web").label("env", env));
        let pair = setup.start_pair(Enforcement::Enforced).unwrap();
        let listener = Server::start(&pair.net.server, PORT, &Service::Echo).unwrap();
        let to = pair.net.server.at(Family::V4, PORT);
        assert_eq!(contact(&pair.net.client, to, &listener).unwrap(), expected, "env {env}");
    }
}

/// A selector without conditions stood for everybody.
#[test]
fn a_rule_for_an_empty_set_lets_nobody_in() {
    let rule = r#"permit(principal, action, resource)
        when { principal.labels.team == "" };"#;
    for text in ["", "// nothing but this\n", rule] {
        let setup = Setup::psk().unwrap().client_policy(policy::ALLOW_ALL);
        let pair = setup.server_policy(text).start_pair(Enforcement::Enforced).unwrap();
        let listener = Server::start(&pair.net.server, PORT, &Service::Echo).unwrap();
        let to = pair.net.server.at(Family::V4, PORT);
        let got = contact(&pair.net.client, to, &listener).unwrap();
        assert_eq!(got, Contact::SILENT, "with the policy {text:?}");
    }
    // A literal one does not even load.
    let empty = r"permit(principal, action, resource)
        when { [].contains(principal.namespace) };";
    let setup = Setup::psk().unwrap().server_policy(empty);
    let refused = Enforcer::start(&Host::new("server").unwrap(), &setup.server).unwrap_err();
    assert!(format!("{refused:#}").contains("main.cedar:2"), "{refused:#}");
}

/// While one was audited, nothing was enforced, and what would have been denied was told without the rule.
#[test]
fn observing_one_workload_enforces_the_others_and_names_what_is_missing() {
    let net = OneNode::new().unwrap();
    let keys = Keys::psk().unwrap();
    let workload = |host: &Host, port: &str| {
        let addresses = Family::BOTH.map(|family| host.address(family).to_string());
        Workload::behind(NAMESPACE, host.label(), port, &addresses)
    };
    let rules = format!(
        "{}\nforbid(principal, action, resource) when {{ context.port == {PORT} }};",
        policy::ALLOW_ALL
    );
    let node = keys.node("node", NAMESPACE).unwrap();
    // The policy forbids both directions; `a` alone is observed.
    let mut config = Config::new(node, workload(&net.a, OneNode::TO_A), &rules).mode(Mode::Observe);
    config.workloads.push(workload(&net.b, OneNode::TO_B));
    let node = Enforcer::start(&net.node, &config).unwrap();
    let [at_a, at_b] =
        [&net.a, &net.b].map(|host| Server::start(host, PORT, &Service::Echo).unwrap());
    // It calls whom nobody lets it call, and that one is enforced; and is itself called by who may not.
    let to_b = contact(&net.a, net.b.at(Family::V4, PORT), &at_b).unwrap();
    assert_eq!(to_b, Contact::SILENT, "the callee is enforced");
    let to_a = contact(&net.b, net.a.at(Family::V4, PORT), &at_a).unwrap();
    assert_eq!(to_a, Contact::REFUSED, "the caller is enforced");
    let told = |what: &str| {
        let log = node.log();
        let names =
            |line: &str| ["main.cedar:2", "spiffe://"].iter().all(|word| line.contains(word));
        log.lines().any(|line| line.contains(what) && names(line))
    };
    let deadline = Instant::now() + PATIENCE;
    while !(told("connection would be denied") && told("connection denied")) {
        assert!(Instant::now() < deadline, "no line names the rule:\n{}", node.log());
        std::thread::sleep(Duration::from_millis(50));
    }
}
