//! From what workloads do to a policy that permits it, and nothing else.

use std::fs;
use std::time::{Duration, Instant};

use enforcer_tests::config::Mode;
use enforcer_tests::enforcer::Enforcer;
use enforcer_tests::host::Family;
use enforcer_tests::policy::DENY_ALL;
use enforcer_tests::scenario::{Contact, Daemons, PORT, Pair, Setup, contact};
use enforcer_tests::tcp::{PATIENCE, Server, Service, dial};
use enforcer_tests::topology::TwoHosts;
use enforcer_tests::udp::{Responder, ask};

/// A port that nobody uses while it is learned.
const UNSEEN: u16 = PORT + 1;

#[test]
fn what_was_learned_is_proposed_applied_and_then_enforced() {
    let setup = Setup::psk().unwrap().client_policy(DENY_ALL).server_policy(DENY_ALL);
    let (of_client, of_server) = (setup.client.clone(), setup.server.clone());
    let net = TwoHosts::new().unwrap();
    let daemons = Daemons::of(
        Enforcer::start(&net.client, &of_client.clone().mode(Mode::Learn)).unwrap(),
        Enforcer::start(&net.server, &of_server.clone().mode(Mode::Learn)).unwrap(),
    );
    let mut pair = Pair::new(daemons, net);
    let seen = Server::start(&pair.net.server, PORT, &Service::Echo).unwrap();
    let unseen = Server::start(&pair.net.server, UNSEEN, &Service::Echo).unwrap();
    let at = |port| pair.net.server.at(Family::V4, port);
    let (to_seen, to_unseen) = (at(PORT), at(UNSEEN));
    assert_eq!(contact(&pair.net.client, to_seen, &seen).unwrap(), Contact::MADE);

    // It is known behind a restart that nobody announced, once it was written down; an orderly one writes it.
    let server = pair.daemons.server().unwrap();
    server.terminate().unwrap();
    server.launch().unwrap();
    for end in pair.daemons.each() {
        let status = end.cli(&["learn", "status"]).unwrap();
        assert!(status.contains(" of 168 hours"), "{status}");
        let proposed = end.cli(&["learn", "propose"]).unwrap();
        assert!(proposed.contains(&format!("context.port == {PORT}")), "{proposed}");
        let told = end.cli(&["learn", "apply"]).unwrap();
        assert!(told.contains("/acme/prod/learned.cedar: written, in force"), "{told}");
    }
    for (end, config) in pair.daemons.each().zip([of_client, of_server]) {
        end.terminate().unwrap();
        end.write_config(&config.mode(Mode::Enforce)).unwrap();
        end.launch().unwrap();
    }
    assert_eq!(contact(&pair.net.client, to_seen, &seen).unwrap(), Contact::MADE);
    assert!(!contact(&pair.net.client, to_unseen, &unseen).unwrap().is_made());

    let server = pair.daemons.server().unwrap();
    let told = server.cli(&["learn", "forget"]).unwrap();
    assert!(told.contains("1 learned connections forgotten"), "{told}");
    assert!(server.cli(&["learn", "apply"]).is_err(), "there is nothing to apply any more");
}

/// How long an answer may take that is not to come.
const SHORT: Duration = Duration::from_secs(1);
const DNS: u16 = 53;
/// What the proposal says of the peer without an enforcer, in the words of the configuration.
const RULES: [&str; 4] = [
    "client-egress-tcp-8080",
    "client-egress-udp-53",
    "client-ingress-tcp-8080",
    "client-ingress-udp-53",
];

#[test]
fn peers_without_identity_are_learned_as_network_rules() {
    let net = TwoHosts::new().unwrap();
    let config = Setup::psk().unwrap().client_policy(DENY_ALL).client;
    let mut end = Enforcer::start(&net.client, &config.clone().mode(Mode::Learn)).unwrap();
    // Either end calls the other: of each pair the first is called.
    let ends = [(&net.server, &net.client), (&net.client, &net.server)];
    let seen = ends.map(|(called, _)| Server::start(called, PORT, &Service::Echo).unwrap());
    let unseen = ends.map(|(called, _)| Server::start(called, UNSEEN, &Service::Echo).unwrap());
    let _responders =
        ends.map(|(called, _)| [DNS, DNS + 1].map(|port| Responder::start(called, port).unwrap()));
    let meets_seen = || {
        for ((called, calling), server) in ends.iter().zip(&seen) {
            for family in Family::BOTH {
                let to = called.at(family, PORT);
                assert_eq!(contact(calling, to, server).unwrap(), Contact::MADE, "{to}");
                let answer = ask(calling, called.at(family, DNS), PATIENCE).unwrap();
                assert!(answer.is_some(), "{family:?}");
            }
        }
    };
    meets_seen();

    // The kernel's records are read beside what was seen.
    let deadline = Instant::now() + PATIENCE;
    let rules = loop {
        let proposed: serde_json::Value = end.ask(&["learn", "propose"]).unwrap();
        let rules = proposed["network_rules"].as_str().unwrap().to_owned();
        let whole = RULES.iter().all(|rule| rules.contains(&format!("\"learned-{rule}\"")));
        if whole && rules.matches("\"2001:db8::2/128\"").count() >= RULES.len() {
            break rules;
        }
        assert!(Instant::now() < deadline, "{rules}");
        std::thread::sleep(Duration::from_millis(50));
    };
    assert!(rules.contains("cidr = [\"192.0.2.2/32\", \"2001:db8::2/128\"]"), "{rules}");
    let told = end.cli(&["learn", "apply"]).unwrap();
    assert!(told.contains("For the configuration file") && told.contains(&rules), "{told}");
    let told = end.cli(&["learn", "propose"]).unwrap();
    assert!(told.contains(&rules), "{told}");

    end.terminate().unwrap();
    end.write_config(&config.mode(Mode::Enforce)).unwrap();
    let file = end.config_file();
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("{text}\n{rules}")).unwrap();
    end.launch().unwrap();
    meets_seen();
    let proposed: serde_json::Value = end.ask(&["learn", "propose"]).unwrap();
    assert_eq!(proposed["network_rules"], "", "all of it is in force");
    for ((called, calling), server) in ends.iter().zip(&unseen) {
        for family in Family::BOTH {
            let to = called.at(family, UNSEEN);
            assert!(!contact(calling, to, server).unwrap().is_made(), "{to}");
            assert_eq!(ask(calling, called.at(family, DNS + 1), SHORT).unwrap(), None);
        }
    }
    let told = end.cli(&["learn", "forget"]).unwrap();
    assert!(told.contains("with peers without an identity"), "{told}");
}

/// How often the daemon looks at the flows that are open.
const LOOK: Duration = Duration::from_secs(15);

#[test]
fn what_is_open_when_learning_begins_is_learned() {
    let net = TwoHosts::new().unwrap();
    let config = Setup::psk().unwrap().client_policy(DENY_ALL).client;
    let mut end = Enforcer::start(&net.client, &config.clone().mode(Mode::Observe)).unwrap();
    let _server = Server::start(&net.client, PORT, &Service::Echo).unwrap();
    let to = net.client.at(Family::V4, PORT);
    let _open = dial(&net.server, to, PATIENCE).unwrap().stream().unwrap();

    end.terminate().unwrap();
    end.write_config(&config.mode(Mode::Learn)).unwrap();
    end.launch().unwrap();
    let deadline = Instant::now() + LOOK + PATIENCE;
    loop {
        let proposed: serde_json::Value = end.ask(&["learn", "propose"]).unwrap();
        let rules = proposed["network_rules"].as_str().unwrap();
        if rules.contains("\"learned-client-ingress-tcp-8080\"") {
            return;
        }
        assert!(Instant::now() < deadline, "{rules}");
        std::thread::sleep(Duration::from_millis(250));
    }
}
