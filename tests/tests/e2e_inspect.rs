//! What the command line and bpftool show of a running pair.

use enforcer_tests::host::Family;
use enforcer_tests::interactive::Interactive;
use enforcer_tests::need;
use enforcer_tests::scenario::{PORT, Pair, Setup};
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
