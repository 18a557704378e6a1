//! Policies on what a workload runs, and on the node that it runs on.

use std::fs;

use enforcer_tests::config::Config;
use enforcer_tests::host::Family;
use enforcer_tests::interactive::Interactive;
use enforcer_tests::keys::{Keys, NodeKeys, Pki};
use enforcer_tests::policy;
use enforcer_tests::scenario::{
    CUT_BY_DAEMON, Contact, NAMESPACE, PORT, Pair, Setup, client, contact, server,
};
use enforcer_tests::tcp::{Server, Service};
use enforcer_tests::twin::Enforcement;
use serde_json::Value;
use tempfile::TempDir;

const CLIENT_NODE: &str = "placed-node";
const SAME_ZONE: &str = "permit(principal, action, resource)
    when { principal.node.zone == resource.node.zone };";

#[test]
fn what_a_workload_runs_opens_what_its_policy_says() {
    let policy = "permit(principal, action, resource)
        when { principal.image like \"registry.example/*\" && principal.user == \"1000\" };";
    let digest = format!("sha256:{}", "5a".repeat(32));
    let plain = client().attribute("executable", &digest).attribute("user", "1000");
    for (workload, expected) in [
        (plain.clone().attribute("image", "registry.example/shop:1"), Contact::MADE),
        (plain.clone().attribute("image", "elsewhere.example/shop:1"), Contact::SILENT),
        (plain, Contact::SILENT),
    ] {
        let said = format!("{workload:?}");
        let mut setup = Setup::pki().unwrap().server_policy(policy);
        setup.client.policy = policy::ALLOW_ALL.into();
        setup.client.workloads = vec![workload];
        let mut pair = setup.start_pair(Enforcement::Enforced).unwrap();
        assert_eq!(contact_once(&pair), expected, "{said}");
        if expected == Contact::MADE {
            let seen = identities(&mut pair);
            assert_eq!(seen[0]["attributes"]["image"], "registry.example/shop:1", "{seen}");
            assert_eq!(seen[0]["attributes"]["executable"], digest, "{seen}");
        }
    }
}

fn contact_once(pair: &Pair) -> Contact {
    let listener = Server::start(&pair.net.server, PORT, &Service::Echo).unwrap();
    contact(&pair.net.client, pair.net.server.at(Family::V4, PORT), &listener).unwrap()
}

/// The peers that the server's node knows.
fn identities(pair: &mut Pair) -> Value {
    let daemon = pair.daemons.server().unwrap();
    serde_json::from_str(&daemon.cli(&["identities", "--json"]).unwrap()).unwrap()
}

/// A client on a node that its authority signed with these labels, and a server in the zone `north`.
fn placed(labels: &[&str]) -> (Pair, Pki, NodeKeys) {
    let mut setup = Setup::pki().unwrap();
    let Keys::Pki(pki) = &setup.keys else { panic!("expected an authority") };
    let pki = pki.clone();
    let of_client = pki.labelled_node(CLIENT_NODE, NAMESPACE, labels).unwrap();
    let of_server = pki.labelled_node("placed-server", NAMESPACE, &["zone=north"]).unwrap();
    setup.client = Config::new(of_client.clone(), client(), policy::ALLOW_ALL);
    setup.server = Config::new(of_server, server(), SAME_ZONE);
    (setup.start_pair(Enforcement::Enforced).unwrap(), pki, of_client)
}

#[test]
fn the_zone_that_the_authority_signed_opens_what_its_policy_says() {
    for (labels, expected) in [
        (&["zone=north", "rack=r7"][..], Contact::MADE),
        (&["zone=south"], Contact::SILENT),
        (&[], Contact::SILENT),
    ] {
        let mut pair = placed(labels).0;
        assert_eq!(contact_once(&pair), expected, "{labels:?}");
        if expected == Contact::MADE {
            let seen = identities(&mut pair);
            assert_eq!(seen[0]["attributes"]["node.rack"], "r7", "{seen}");
        }
    }
}

/// A node moves when its authority and a start of its daemon say so: not by a reload, and not alone.
#[test]
fn a_certificate_with_other_labels_takes_a_restart() {
    let (mut pair, pki, node) = placed(&["zone=north"]);
    let listener = Server::start(&pair.net.server, PORT, &Service::Echo).unwrap();
    let to = pair.net.server.at(Family::V4, PORT);
    let mut stream = Interactive::open(&pair.net.client, to).unwrap();
    pki.relabel(&node, (CLIENT_NODE, NAMESPACE), &["zone=south"]).unwrap();

    let daemon = pair.daemons.client().unwrap();
    daemon.reload().unwrap();
    daemon
        .wait_status(|status| status["problems"].to_string().contains("restart the daemon"))
        .unwrap();
    assert_eq!(contact(&pair.net.client, to, &listener).unwrap(), Contact::MADE);

    daemon.terminate().unwrap();
    daemon.launch().unwrap();
    assert_eq!(contact(&pair.net.client, to, &listener).unwrap(), Contact::SILENT);
    // What was proven stays proven: by the identity that it had.
    stream.exchange().unwrap();
}

/// A certificate that cannot be taken over keeps nobody from being revoked.
#[test]
fn revocations_count_beside_a_certificate_with_other_labels() {
    let folder = TempDir::with_prefix("enftest-").unwrap();
    let list = folder.path().join("revoked.toml");
    fs::write(&list, "").unwrap();
    let mut setup = Setup::pki().unwrap();
    let Keys::Pki(pki) = &setup.keys else { panic!("expected an authority") };
    let pki = pki.clone();
    let node = pki.labelled_node("placed-server", NAMESPACE, &["zone=north"]).unwrap();
    setup.server = Config::new(node.clone(), server(), policy::ALLOW_ALL);
    setup.server.revocations = Some(list.clone());
    let mut pair = setup.start_pair(Enforcement::Enforced).unwrap().without_books(CUT_BY_DAEMON);
    assert_eq!(contact_once(&pair), Contact::MADE);

    pki.relabel(&node, ("placed-server", NAMESPACE), &["zone=south"]).unwrap();
    fs::write(&list, format!("namespaces = [{NAMESPACE:?}]")).unwrap();
    let daemon = pair.daemons.server().unwrap();
    daemon.reload().unwrap();
    daemon
        .wait_status(|status| status["problems"].to_string().contains("revocations are in force"))
        .unwrap();
    assert_eq!(contact_once(&pair), Contact::SILENT);
}
