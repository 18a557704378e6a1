//! From what workloads do to a policy that permits it, and nothing else.

use enforcer_tests::config::Mode;
use enforcer_tests::enforcer::Enforcer;
use enforcer_tests::host::Family;
use enforcer_tests::policy::DENY_ALL;
use enforcer_tests::scenario::{Contact, Daemons, PORT, Pair, Setup, contact};
use enforcer_tests::tcp::{Server, Service};
use enforcer_tests::topology::TwoHosts;

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
