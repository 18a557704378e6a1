//! Modes: shared key and certificates do not mix, keys must be the same, and observing is not enforcing.

use enforcer_tests::config::Config;
use enforcer_tests::host::Family;
use enforcer_tests::keys::{Keys, NodeKeys};
use enforcer_tests::policy::{self, DENY_ALL};
use enforcer_tests::scenario::{Contact, NAMESPACE, PORT, Setup, client, contact, server};
use enforcer_tests::tcp::{Server, Service};
use enforcer_tests::twin::Enforcement;

#[test]
fn nodes_with_different_shared_keys_do_not_connect() {
    let (first, second) = (Keys::psk().unwrap(), Keys::psk().unwrap());
    assert!(!connects(&node(&first, "client-node"), &node(&second, "server-node")));
}

#[test]
fn nodes_with_one_shared_key_connect() {
    let keys = Keys::psk().unwrap();
    assert!(connects(&node(&keys, "client-node"), &node(&keys, "server-node")));
}

#[test]
fn a_caller_with_a_shared_key_does_not_reach_a_callee_with_certificates() {
    let (psk, pki) = (Keys::psk().unwrap(), Keys::pki().unwrap());
    assert!(!connects(&node(&psk, "client-node"), &node(&pki, "server-node")));
}

#[test]
fn a_caller_with_certificates_does_not_reach_a_callee_with_a_shared_key() {
    let (psk, pki) = (Keys::psk().unwrap(), Keys::pki().unwrap());
    assert!(!connects(&node(&pki, "client-node"), &node(&psk, "server-node")));
}

fn node(keys: &Keys, name: &str) -> NodeKeys {
    keys.node(name, NAMESPACE).unwrap()
}

/// Whether the client reaches the server when each holds these keys and both policies permit it.
fn connects(of_client: &NodeKeys, of_server: &NodeKeys) -> bool {
    let policy = policy::allow(&client(), &server());
    let setup = Setup {
        keys: Keys::psk().unwrap(),
        client: Config::new(of_client.clone(), client(), &policy),
        server: Config::new(of_server.clone(), server(), &policy),
    };
    let pair = setup.start_pair(Enforcement::Enforced).unwrap();
    let listener = Server::start(&pair.net.server, PORT, &Service::Echo).unwrap();
    let made = Family::BOTH.map(|family| {
        contact(&pair.net.client, pair.net.server.at(family, PORT), &listener).unwrap().is_made()
    });
    assert_eq!(made[0], made[1], "both families alike");
    made[0]
}

#[test]
fn what_observing_lets_through_is_reported() {
    let setup = Setup::psk().unwrap().client_policy(DENY_ALL).server_policy(DENY_ALL);
    let mut pair = setup.start_pair(Enforcement::Observed).unwrap();
    let listener = Server::start(&pair.net.server, PORT, &Service::Echo).unwrap();
    let to = pair.net.server.at(Family::V4, PORT);
    assert_eq!(contact(&pair.net.client, to, &listener).unwrap(), Contact::MADE);
    assert!(pair.daemons.client().unwrap().counters().unwrap().event("would_deny") > 0);
    assert!(pair.daemons.server().unwrap().counters().unwrap().event("would_deny") > 0);
}

#[test]
fn observing_reports_nothing_that_is_permitted() {
    let mut pair = Setup::psk().unwrap().start_pair(Enforcement::Observed).unwrap();
    let listener = Server::start(&pair.net.server, PORT, &Service::Echo).unwrap();
    let to = pair.net.server.at(Family::V4, PORT);
    assert_eq!(contact(&pair.net.client, to, &listener).unwrap(), Contact::MADE);
    assert_eq!(pair.daemons.client().unwrap().counters().unwrap().event("would_deny"), 0);
    assert_eq!(pair.daemons.server().unwrap().counters().unwrap().event("would_deny"), 0);
}
