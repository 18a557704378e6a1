//! What the command line and bpftool show of a running pair.

use enforcer_tests::enforcer::Reload;
use enforcer_tests::host::Family;
use enforcer_tests::interactive::Interactive;
use enforcer_tests::need;
use enforcer_tests::policy::ALLOW_ALL;
use enforcer_tests::scenario::{PORT, Pair, Setup, contact};
use enforcer_tests::tcp::{Server, Service};
use enforcer_tests::twin::Enforcement;
use serde_json::Value;

const CLIENT: &str = "spiffe://example.org/acme/prod/client";
const SERVER: &str = "spiffe://example.org/acme/prod/server";

/// A pair with one open stream from the client to the server.
fn with_open_stream() -> (Interactive, Server, Pair) {
    let pair = Setup::pki().unwrap().start_pair(Enforcement::Enforced).unwrap();
    let server = Server::start(&pair.net.server, PORT, &Service::Echo).unwrap();
    let stream = Interactive::open(&pair.net.client, pair.net.server.at(Family::V4, PORT)).unwrap();
    (stream, server, pair)
}

#[test]
fn flows_name_the_peer_at_both_ends() {
    let (_stream, _server, mut pair) = with_open_stream();
    let at_client: Value = pair.daemons.client().unwrap().ask(&["flows"]).unwrap();
    let at_server: Value = pair.daemons.server().unwrap().ask(&["flows"]).unwrap();
    assert!(at_client.to_string().contains(SERVER), "{at_client}");
    assert!(at_server.to_string().contains(CLIENT), "{at_server}");
    assert!(at_client.to_string().contains("egress"), "{at_client}");
    assert!(at_server.to_string().contains("ingress"), "{at_server}");
    assert!(at_server.to_string().contains(&format!(":{PORT}")), "{at_server}");
}

#[test]
fn identities_and_workloads_are_listed() {
    let (_stream, _server, mut pair) = with_open_stream();
    let server = pair.daemons.server().unwrap();
    let identities: Value = server.ask(&["identities"]).unwrap();
    assert!(identities.to_string().contains(CLIENT), "{identities}");
    let workloads: Value = server.ask(&["workloads"]).unwrap();
    assert!(workloads.to_string().contains(SERVER), "{workloads}");
    assert!(server.status().unwrap().ready);
}

#[test]
fn tables_for_people_have_the_same_rows() {
    let (_stream, _server, mut pair) = with_open_stream();
    let server = pair.daemons.server().unwrap();
    assert!(server.cli(&["flows"]).unwrap().contains("client"));
    assert!(server.cli(&["identities"]).unwrap().contains("client"));
    assert!(server.cli(&["workloads"]).unwrap().contains("server"));
    assert!(server.cli(&["counters"]).unwrap().contains("proof_accepted"));
}

#[test]
fn explain_says_allow_with_its_rule_and_deny_without() {
    let (_stream, _server, mut pair) = with_open_stream();
    let server = pair.daemons.server().unwrap();
    let (code, allowed) = server.explain(CLIENT, SERVER, PORT).unwrap();
    assert_eq!((code, &allowed["allow"]), (0, &Value::Bool(true)), "{allowed}");
    assert!(allowed["rules"].to_string().contains("main.cedar"), "{allowed}");
    let (code, denied) = server.explain(SERVER, CLIENT, PORT).unwrap();
    assert_eq!((code, &denied["allow"]), (3, &Value::Bool(false)), "{denied}");
}

#[test]
fn bpftool_prints_flows_and_verdicts_with_named_fields() {
    let (_stream, _server, mut pair) = with_open_stream();
    let pins = pair.daemons.server().unwrap().pins();
    for (map, field) in [("FLOWS4", "remote_port"), ("VERDICTS", "epoch")] {
        let mut dump = std::process::Command::new(need::tool("bpftool").unwrap());
        dump.args(["map", "dump", "pinned"]).arg(pins.join(map));
        let text = need::run(&mut dump).unwrap();
        assert!(text.contains(&format!("\"{field}\"")), "{map}: {text}");
    }
}

#[test]
fn the_pin_folder_is_closed_to_others() {
    use std::os::unix::fs::PermissionsExt;
    let (_stream, _server, mut pair) = with_open_stream();
    let folder = std::fs::metadata(pair.daemons.server().unwrap().pins()).unwrap();
    assert_eq!(folder.permissions().mode() & 0o777, 0o700);
}

#[test]
fn a_live_flow_is_explained_by_its_ends() {
    let (_stream, _server, mut pair) = with_open_stream();
    let server = pair.daemons.server().unwrap();
    let flows: Value = server.ask(&["flows"]).unwrap();
    let flow = &flows["flows"][0];
    let ends = format!("{},{}", flow["local"].as_str().unwrap(), flow["remote"].as_str().unwrap());
    let told = server.cli(&["explain", "--flow", &ends]).unwrap();
    assert!(
        told.starts_with(&format!("flow {}: ingress, established", ends.replace(',', " "))),
        "{told}"
    );
    assert!(told.contains(&format!("allow: {CLIENT} -> {SERVER} port {PORT}/tcp")), "{told}");
    let nobodys = server.cli(&["explain", "--flow", "192.0.2.2:1,192.0.2.1:2"]).unwrap_err();
    assert!(nobodys.to_string().contains("`enforcer flows` shows those that live"), "{nobodys}");
}

#[test]
fn every_connection_of_a_logged_rule_is_told_at_both_ends() {
    const CONNECTIONS: usize = 5;
    let logged = r#"@id("told") @log permit(principal, action, resource);"#;
    let setup = Setup::psk().unwrap().server_policy(logged).client_policy(logged);
    let mut pair = setup.start_pair(Enforcement::Enforced).unwrap();
    let listener = Server::start(&pair.net.server, PORT, &Service::Echo).unwrap();
    let to = pair.net.server.at(Family::V4, PORT);
    for _ in 0..CONNECTIONS {
        assert!(contact(&pair.net.client, to, &listener).unwrap().is_made());
    }
    for end in ["egress", "ingress"] {
        let daemon = match end {
            "egress" => pair.daemons.client().unwrap(),
            _ => pair.daemons.server().unwrap(),
        };
        daemon
            .wait_status(|_| daemon.log().matches("connected workload").count() == CONNECTIONS)
            .unwrap_or_else(|error| panic!("{end}: {error:#}\n{}", daemon.log()));
        let log = daemon.log();
        let line = log.lines().find(|line| line.contains("connected workload")).unwrap();
        assert!(line.contains(CLIENT) && line.contains(SERVER) && line.contains(end), "{line}");
        assert!(line.contains("permitted by told"), "{line}");
        let counters = daemon.counters().unwrap();
        assert_eq!(counters.event("reported"), CONNECTIONS as u64);
        assert_eq!(counters.event("unreported"), 0);
    }
}

#[test]
fn what_must_be_encrypted_is_refused_and_told() {
    let secret = r#"@id("secret") @encrypt permit(principal, action, resource);"#;
    let setup = Setup::psk().unwrap().server_policy(secret);
    let mut pair = setup.start_pair(Enforcement::Enforced).unwrap();
    let listener = Server::start(&pair.net.server, PORT, &Service::Echo).unwrap();
    let to = pair.net.server.at(Family::V4, PORT);
    assert!(!contact(&pair.net.client, to, &listener).unwrap().is_made());
    let server = pair.daemons.server().unwrap();
    let (code, why) = server.explain(CLIENT, SERVER, PORT).unwrap();
    assert_eq!(code, 3, "{why}");
    let log = server.log();
    let line = log.lines().find(|line| line.contains("connection denied")).unwrap();
    assert!(line.contains("secret") && line.contains("asks for encryption"), "{line}");
}

/// The rule that comes nearest, and what keeps it from applying.
const NEAREST: &str = "its action is not accept";

#[test]
fn a_past_denial_is_explained_as_its_log_line_says() {
    let connects = r#"@id("may-call") permit(principal, action == Action::"connect", resource);"#;
    let setup = Setup::psk().unwrap().server_policy(connects);
    let mut pair = setup.start_pair(Enforcement::Enforced).unwrap();
    let listener = Server::start(&pair.net.server, PORT, &Service::Echo).unwrap();
    let to = pair.net.server.at(Family::V4, PORT);
    assert!(!contact(&pair.net.client, to, &listener).unwrap().is_made());
    let server = pair.daemons.server().unwrap();
    let denied: Value = server.ask(&["policy", "denied"]).unwrap();
    let one = &denied[0];
    assert_eq!((&one["from"], &one["action"]), (&CLIENT.into(), &"accept".into()), "{denied}");
    // Nothing passed that would have been denied.
    assert_eq!(server.ask::<Value>(&["policy", "observed"]).unwrap(), Value::Array(Vec::new()));
    let number = one["number"].to_string();
    let (code, why) = server.explain_with(&["--denial", &number]).unwrap();
    let text = why["text"].as_str().unwrap();
    assert_eq!(code, 3, "{why}");
    assert!(text.starts_with(&format!("denial {number}: ")) && text.contains(NEAREST), "{text}");
    let log = server.log();
    let line = log.lines().find(|line| line.contains("connection denied")).unwrap();
    assert!(line.contains("nearest permit: may-call") && line.contains(NEAREST), "{line}");
    // A policy that permits it explains the same denial otherwise.
    server.change_policy(ALLOW_ALL, Reload::Signal).unwrap();
    let (code, why) = server.explain_with(&["--denial", &number]).unwrap();
    assert_eq!(code, 0, "{why}");
    let forgotten = server.explain_with(&["--denial", "4711"]).unwrap_err();
    assert!(forgotten.to_string().contains("denial 4711 is not remembered"), "{forgotten}");
}
