//! Commands that ask a running enforcer.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use serde_json::Value;

use super::fake::Daemon;
use super::{command, run};

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn status_for_people_and_for_programs() {
    let daemon = Daemon::start(0);
    let table = daemon.ask(&["status"]).good();
    for line in [
        "instance   default",
        "ready      yes",
        "version    1.2.3 (abi 4)",
        "process    4711, up 5h02m",
        "workload   web on eth0: tcx, observe: denials pass",
        "flows      2",
    ] {
        assert!(table.lines().any(|found| found == line), "{line:?} not in\n{table}");
    }
    let report = json(&daemon.ask(&["status", "--json"]).good());
    assert_eq!(report["ready"], true);
    assert_eq!(report["attach"][0]["method"], "tcx");
}

#[test]
fn waiting_ends_when_ready() {
    let daemon = Daemon::start(3);
    let report = json(&daemon.ask(&["status", "--wait-ready", "60", "--json"]).good());
    assert_eq!(report["ready"], true);
}

#[test]
fn waiting_in_vain_tells_the_reasons() {
    let daemon = Daemon::start(usize::MAX);
    assert_eq!(
        daemon.ask(&["status", "--wait-ready", "0"]).refused(),
        "not ready after 0 s: workload web: eth0 is not attached"
    );
    // Without waiting the answer is an answer, whatever it says.
    let table = daemon.ask(&["status"]).good();
    assert!(table.contains("not ready  workload web: eth0 is not attached"), "{table}");
    assert!(table.contains("web on eth0: not attached"), "{table}");
}

#[test]
fn without_a_daemon_the_next_step_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("control.sock");
    let socket = socket.to_str().unwrap();
    for name in ["status", "workloads", "flows", "identities", "hosts", "counters", "reload"] {
        let told = run(&[name, "--socket", socket]).refused();
        assert_eq!(
            told,
            format!(
                "no enforcer answers on {socket}: is it running? start it with `enforcer run --config \
                 FILE`, or name another with --config or --socket"
            )
        );
    }
}

#[test]
fn the_socket_is_found_through_the_configuration() {
    let daemon = Daemon::start(0);
    let config = daemon.dir.path().join("e.toml");
    let text = "trust_domain = \"example.org\"\nrun_dir = \".\"\n\
                [identity]\nmode = \"psk\"\npsk_file = \"psk.key\"\n";
    std::fs::write(&config, text).unwrap();
    let config = config.to_str().unwrap();
    assert!(run(&["status", "--config", config]).good().contains("4711"));
    assert_eq!(
        run(&["detach", "--config", config]).refused(),
        "instance \"default\": its enforcer still runs (pid 4711); stop it first"
    );
}

#[test]
fn workloads_and_identities() {
    let daemon = Daemon::start(0);
    let table = daemon.ask(&["workloads"]).good();
    let columns: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
    let expected = [
        "web",
        "3",
        "eth0",
        "own",
        "clsact",
        "enforce",
        "0011223344556677",
        "expired",
        "10.0.0.1,fd00::1",
        "tier=front",
        "node.zone=north,user=web",
        "spiffe://example.org/acme/web",
    ];
    assert_eq!(columns, expected);
    let report = json(&daemon.ask(&["workloads", "--json"]).good());
    assert_eq!(report[0]["attached"], "clsact");
    assert_eq!(report[0]["attributes"]["node.zone"], "north");

    let table = daemon.ask(&["hosts"]).good();
    assert!(table.contains("/acme/web  api.example.com  192.0.2.7"), "{table}");
    let report = json(&daemon.ask(&["hosts", "--json"]).good());
    assert_eq!(report[0]["host"], "api.example.com");
    let table = daemon.ask(&["identities"]).good();
    assert!(table.contains("8899aabbccddeeff  web"), "{table}");
    assert!(!table.contains('\u{1b}'), "a peer's label must not move the cursor: {table:?}");
    let report = json(&daemon.ask(&["identities", "--json"]).good());
    assert_eq!(report[0]["spiffe_id"], "spiffe://example.org/acme/db");
}

#[test]
fn flows_are_listed_up_to_a_limit() {
    let daemon = Daemon::start(0);
    let table = daemon.ask(&["flows", "--limit", "1"]).good();
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 3, "{table}");
    let columns: Vec<&str> = lines[1].split_whitespace().collect();
    let expected = [
        "web",
        "egress",
        "tcp",
        "10.0.0.1:40000",
        "10.0.0.2:5432",
        "established",
        "7",
        "12",
        "3400",
        "2s",
        "spiffe://example.org/acme/db",
    ];
    assert_eq!(columns, expected);
    assert_eq!(lines[2], "1 of 2 flows; --limit N lists more");
    let report = json(&daemon.ask(&["flows", "--json"]).good());
    assert_eq!(report["total"], 1);
}

#[test]
fn followed_flows_open_and_end() {
    let daemon = Daemon::start(0);
    let socket = daemon.socket();
    let arguments = ["flows", "--follow", "--json", "--socket", socket.to_str().unwrap()];
    let mut child = command(&arguments).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let events: Vec<(String, String)> = lines
        .take(3)
        .map(|line| json(&line.unwrap()))
        .map(|event| (event["event"].to_string(), event["flow"]["remote"].to_string()))
        .collect();
    child.kill().unwrap();
    child.wait().unwrap();
    let expected = [
        ("\"opened\"", "\"10.0.0.2:5432\""),
        ("\"opened\"", "\"10.0.0.3:5432\""),
        ("\"ended\"", "\"10.0.0.3:5432\""),
    ];
    let events: Vec<(&str, &str)> = events.iter().map(|(a, b)| (&a[..], &b[..])).collect();
    assert_eq!(events, expected);
}

#[test]
fn counters_leave_zeros_out_unless_asked() {
    let daemon = Daemon::start(0);
    let table = daemon.ask(&["counters"]).good();
    let rows: Vec<Vec<&str>> = table.lines().map(|l| l.split_whitespace().collect()).collect();
    let expected = [
        ["KIND", "COUNTER", "COUNT"],
        ["drop", "bad_mac", "4"],
        ["event", "cold_segments", "9"],
        ["web", "denied", "2"],
    ];
    assert_eq!(rows, expected);
    assert!(daemon.ask(&["counters", "--all"]).good().contains("no_room"));
    assert_eq!(json(&daemon.ask(&["counters", "--json"]).good())["drops"]["no_room"], 0);
}

#[test]
fn explain_exits_with_the_verdict() {
    let daemon = Daemon::start(0);
    let ask = |port: &str, more: &[&str]| {
        let arguments = ["explain", "--from", "web", "--to", "db", "--port", port];
        daemon.ask(&[&arguments[..], more].concat())
    };
    assert_eq!(ask("443", &[]).good(), "allow: as the daemon says\n");
    let denied = ask("80", &[]);
    assert_eq!((denied.code, denied.out.as_str()), (3, "deny: as the daemon says\n"));
    let labelled = ask("443", &["--from-label", "tier=front"]);
    assert_eq!(labelled.code, 3, "labels must reach the daemon");
    let report = ask("80", &["--json"]);
    assert_eq!((report.code, &json(&report.out)["allow"]), (3, &Value::Bool(false)));
}

#[test]
fn reload_says_what_changed() {
    let daemon = Daemon::start(0);
    assert_eq!(
        daemon.ask(&["reload"]).good(),
        "policy changed: epoch 8, load 2, 5 verdicts judged again, 1 flows cut\n"
    );
}

#[test]
fn reload_fails_when_keys_were_refused() {
    let daemon = Daemon::start(usize::MAX);
    assert_eq!(
        daemon.ask(&["reload"]).refused(),
        "trust: node.key: cannot open; keys and certificates loaded before hold"
    );
}

#[test]
fn files_of_the_policy_are_listed_written_and_removed() {
    let daemon = Daemon::start(0);
    let listed = daemon.ask(&["policy", "list"]).good();
    assert!(listed.contains("/acme") && listed.contains("tree/acme/shop.cedar"), "{listed}");
    let file = daemon.dir.path().join("new.cedar");
    std::fs::write(&file, "12345").unwrap();
    let file = file.to_str().unwrap();
    let told = daemon.ask(&["policy", "put", "/acme/new.cedar", file]).good();
    assert!(told.starts_with("policy changed") && told.contains("5 verdicts"), "{told}");
    assert!(daemon.ask(&["policy", "remove", "/acme/new.cedar"]).good().contains("0 verdicts"));
    let refused = daemon.ask(&["policy", "put", "/not/yours/new.cedar", file]).refused();
    assert_eq!(refused, "uid 1 may not write in /not/yours");
    for path in ["acme/new.cedar", "/acme/new", "/a b/new.cedar"] {
        assert_eq!(daemon.ask(&["policy", "put", path, file]).code, 2, "{path}");
    }
    assert!(
        daemon.ask(&["policy", "put", "/acme/new.cedar", "missing"]).refused().contains("missing")
    );
}

#[test]
fn overrides_are_made_with_a_reason_and_an_end() {
    let daemon = Daemon::start(0);
    let words = ["policy", "override", "allow", "--from", "/acme/ops", "--to", "*", "--for", "30m"];
    let because = [&words[..], &["--reason", "incident 4711"]].concat();
    let told = daemon.ask(&because).good();
    assert!(told.starts_with("override 1 allows /acme/ops -> * until "), "{told}");
    assert!(told.ends_with(": incident 4711\n"), "{told}");
    assert_eq!(daemon.ask(&words).code, 2, "a reason is needed");
    for (wrong, right) in [("30m", "25h"), ("30m", "soon"), ("*", "acme"), ("allow", "maybe")] {
        let changed: Vec<&str> =
            because.iter().map(|word| if *word == wrong { right } else { word }).collect();
        assert_eq!(daemon.ask(&changed).code, 2, "{right}");
    }
    assert!(daemon.ask(&["policy", "overrides"]).good().starts_with("NUMBER"));
    let refused = daemon.ask(&["policy", "overrides", "--end", "9"]).refused();
    assert_eq!(refused, "override 9: there is none in force");
}

#[test]
fn what_is_observed_is_listed() {
    let daemon = Daemon::start(0);
    assert!(daemon.ask(&["policy", "observed"]).good().starts_with("NUMBER"));
    assert!(daemon.ask(&["policy", "denied"]).good().starts_with("NUMBER"));
    assert_eq!(
        json(&daemon.ask(&["policy", "observed", "--json"]).good()),
        Value::Array(Vec::new())
    );
}
