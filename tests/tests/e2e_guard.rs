//! The guard in front of the stack (XDP): allowed work goes on, strangers hear nothing and are dropped by it, every
//! packet is counted, and it stays, comes back and goes when it should.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use enforcer_tests::accounting::Books;
use enforcer_tests::bulk::{download, upload};
use enforcer_tests::capture::Capture;
use enforcer_tests::enforcer::{Counters, Enforcer};
use enforcer_tests::host::{Family, Host};
use enforcer_tests::interactive::Interactive;
use enforcer_tests::load::{Load, prepare_client};
use enforcer_tests::scenario::{Contact, PORT, Pair, Setup, contact, server as server_workload};
use enforcer_tests::stranger::{Passing, detach_link};
use enforcer_tests::tcp::{PATIENCE, SILENCE, Server, Service};
use enforcer_tests::topology::{INTERFACE, TwoHosts, configure, near};
use enforcer_tests::twin;
use enforcer_tests::twin::Enforcement;
use enforcer_tests::udp::{Responder, ask};
use enforcer_user::sandbox::NEEDED;
use serde_json::Value;

const BULK: u64 = 8 << 20;
/// Long enough for a load to run through a restart.
const LONG: Duration = Duration::from_mins(10);

fn guarded() -> Setup {
    let mut setup = Setup::psk().unwrap();
    setup.client = setup.client.guarded();
    setup.server = setup.server.guarded();
    setup
}

fn guard(status: &Value) -> &str {
    status["attach"][0]["guard"].as_str().unwrap_or_default()
}

/// The number of the XDP program of the server's interface.
fn program(host: &Host) -> String {
    let shown = host.ip(&format!("-details link show {INTERFACE}")).unwrap();
    let id = shown.split("prog/xdp id ").nth(1).and_then(|rest| rest.split_whitespace().next());
    id.unwrap_or_else(|| panic!("no XDP program: {shown}")).to_owned()
}

#[test]
fn allowed_calls_go_on_through_a_restart_that_swaps_the_guard() {
    let mut pair = guarded().start_pair(Enforcement::Enforced).unwrap();
    let _echo = Server::start(&pair.net.server, PORT, &Service::Echo).unwrap();
    let _rate = Server::start_threads(&pair.net.server, PORT + 1, &Service::OneByte, 2).unwrap();
    for family in [Family::V4, Family::V6] {
        let to = pair.net.server.at(family, PORT);
        Interactive::open(&pair.net.client, to).unwrap().exchange().unwrap();
    }
    let to = pair.net.server.at(Family::V4, PORT);
    let mut stream = Interactive::open(&pair.net.client, to).unwrap();
    prepare_client(&pair.net.client).unwrap();
    let rate = pair.net.server.at(Family::V4, PORT + 1);
    let load = Load::connections(rate, 0).clients(2).lasting(LONG).resting();
    let running = load.start(&pair.net.client).unwrap();
    running.wait_completed(50, PATIENCE).unwrap();
    swap(&mut pair);
    running.wait_completed(running.completed() + 50, PATIENCE).unwrap();
    let report = running.stop().unwrap();
    assert_eq!(report.failed, 0, "{:?}", report.first_failure);
    stream.exchange().unwrap();
}

/// Starts the server's daemon anew. There must be a guard at every moment, and another one behind it.
fn swap(pair: &mut Pair) {
    let before = program(&pair.net.server);
    let (host, over) = (pair.net.server.clone(), Arc::new(AtomicBool::new(false)));
    let ended = Arc::clone(&over);
    let watch = std::thread::spawn(move || {
        let mut looks = 0;
        while !ended.load(Ordering::Relaxed) {
            assert!(host.has_xdp(INTERFACE).unwrap(), "no guard after {looks} looks");
            looks += 1;
        }
        looks
    });
    let server = pair.daemons.server().unwrap();
    server.terminate().unwrap();
    server.launch().unwrap();
    over.store(true, Ordering::Relaxed);
    assert!(watch.join().unwrap() > 0);
    server.wait_status(|status| guard(status) == "native").unwrap();
    assert_ne!(program(&pair.net.server), before);
}

#[test]
fn bulk_work_arrives_whole_behind_guards() {
    let pair = guarded().start_pair(Enforcement::Enforced).unwrap();
    let pair = pair.without_books("a stack counts a long segment once, the wire its pieces");
    let _sink = Server::start(&pair.net.server, PORT, &Service::Digest).unwrap();
    let _source = Server::start(&pair.net.server, PORT + 1, &Service::Source(BULK)).unwrap();
    for family in [Family::V4, Family::V6] {
        upload(&pair.net.client, pair.net.server.at(family, PORT), BULK).unwrap();
        download(&pair.net.client, pair.net.server.at(family, PORT + 1), BULK).unwrap();
    }
}

/// What a stranger got by TCP and UDP, and whether the server's host said anything.
fn stranger(enforcement: Enforcement) -> (Contact, bool, bool) {
    let net = TwoHosts::new().unwrap();
    let server = (enforcement == Enforcement::Enforced)
        .then(|| Enforcer::start(&net.server, &guarded().server).unwrap());
    let read = |side: usize| match &server {
        Some(server) if side == 1 => server.counters(),
        _ => Ok(Counters::default()),
    };
    let listener = Server::start(&net.server, PORT, &Service::Echo).unwrap();
    let _responder = Responder::start(&net.server, PORT).unwrap();
    let books = Books::open([&net.client, &net.server], INTERFACE, &read).unwrap();
    let capture = Capture::start(&net.server, INTERFACE).unwrap();
    let to = net.server.at(Family::V4, PORT);
    let tcp = contact(&net.client, to, &listener).unwrap();
    let udp = ask(&net.client, to, SILENCE).unwrap().is_some();
    let spoke = capture.segments().unwrap().iter().any(|s| s.source.ip() == to.ip());
    let accounts = books.close(&read).unwrap();
    for account in &accounts {
        account.verify().unwrap();
    }
    let guarded = net.server.dropped_by_xdp(INTERFACE).unwrap();
    let counted: i64 = accounts.iter().map(enforcer_tests::accounting::Account::counted).sum();
    // All of it was the guard's work, but for multicast reports that the server's own stack may send meanwhile.
    let reports = accounts.iter().filter_map(|account| account.drops.get("extension_header"));
    let reports = i64::try_from(reports.sum::<u64>()).unwrap();
    let work = counted - reports..=counted;
    assert!(work.contains(&i64::try_from(guarded).unwrap()), "{guarded}: {accounts:?}");
    assert_eq!(guarded > 0, enforcement == Enforcement::Enforced);
    (tcp, udp, spoke)
}

twin!(a_stranger_hears_nothing_and_is_dropped_by_the_guard, stranger,
    enforced: (Contact::SILENT, false, false), Absent: (Contact::MADE, true, true));

#[test]
fn where_a_driver_has_no_xdp_the_guard_runs_behind_it() {
    const BRIDGE: &str = "br0";
    let net = TwoHosts::new().unwrap();
    net.server.ip(&format!("link add {BRIDGE} type bridge stp_state 0 mcast_snooping 0")).unwrap();
    net.server.ip(&format!("addr flush dev {INTERFACE}")).unwrap();
    net.server.ip(&format!("link set {INTERFACE} master {BRIDGE}")).unwrap();
    configure(&net.server, BRIDGE, near(2)).unwrap();
    let mut setup = guarded();
    setup.server.workloads = vec![server_workload().at(BRIDGE).guarded()];
    let server = Enforcer::start(&net.server, &setup.server).unwrap();
    server.wait_status(|status| guard(status) == "generic").unwrap();
    assert!(server.log().contains("trying generic XDP"), "{}", server.log());
    let listener = Server::start(&net.server, PORT, &Service::Echo).unwrap();
    let to = net.server.at(Family::V4, PORT);
    // What is dropped is not even captured.
    let capture = Capture::start(&net.server, BRIDGE).unwrap();
    assert_eq!(contact(&net.client, to, &listener).unwrap(), Contact::SILENT);
    assert!(capture.segments().unwrap().is_empty());
    assert!(server.counters().unwrap().drop("peer_without_identity") > 0);
    let _client = Enforcer::start(&net.client, &setup.client).unwrap();
    for family in [Family::V4, Family::V6] {
        let to = net.server.at(family, PORT);
        assert_eq!(contact(&net.client, to, &listener).unwrap(), Contact::MADE);
    }
}

#[test]
fn another_xdp_program_keeps_the_guard_out_until_it_goes() {
    let net = TwoHosts::new().unwrap();
    let taken = net
        .server
        .run(|| Passing::load_xdp()?.take_xdp(INTERFACE))
        .expect("the place of XDP is free");
    let server = Enforcer::start(&net.server, &guarded().server).unwrap();
    let status: Value = server.ask(&["status"]).unwrap();
    assert_eq!((guard(&status), &status["ready"]), ("missing", &Value::Bool(true)));
    let problem = status["problems"][0].as_str().unwrap();
    assert!(problem.contains(&format!("XDP program number {}", program(&net.server))), "{problem}");
    assert!(server.log().contains("not guarded; enforced without"), "{}", server.log());
    // Enforced without it.
    let listener = Server::start(&net.server, PORT, &Service::Echo).unwrap();
    let to = net.server.at(Family::V4, PORT);
    assert_eq!(contact(&net.client, to, &listener).unwrap(), Contact::SILENT);
    assert!(server.counters().unwrap().drop("peer_without_identity") > 0);
    drop(taken);
    server.wait_status(|status| guard(status) == "native").unwrap();
    let status: Value = server.ask(&["status"]).unwrap();
    assert_eq!(status["problems"], Value::Array(Vec::new()));
}

#[test]
fn a_guard_that_somebody_detaches_comes_back_with_no_more_rights_than_needed() {
    let net = TwoHosts::new().unwrap();
    let mut server = Enforcer::prepare(&net.server, &guarded().server).unwrap();
    server.bound_capabilities(&NEEDED);
    server.launch().unwrap();
    let ifindex = net.server.run(|| Ok(nix::net::if_::if_nametoindex(INTERFACE)?)).unwrap();
    detach_link(&server.pins().join(format!("link_{ifindex}_guard"))).unwrap();
    assert!(!net.server.has_xdp(INTERFACE).unwrap());
    let deadline = Instant::now() + PATIENCE;
    while !net.server.has_xdp(INTERFACE).unwrap() {
        assert!(Instant::now() < deadline, "it does not come back: {}", server.log());
    }
    server.wait_status(|status| guard(status) == "native").unwrap();
}

#[test]
fn a_guard_goes_with_its_setting_and_with_the_rest() {
    let net = TwoHosts::new().unwrap();
    let config = guarded().server;
    let mut server = Enforcer::start(&net.server, &config).unwrap();
    assert!(net.server.has_xdp(INTERFACE).unwrap());
    let shown = server.cli(&["status"]).unwrap();
    assert!(shown.contains("guard native"), "{shown}");
    server.terminate().unwrap();
    assert!(net.server.has_xdp(INTERFACE).unwrap(), "it stays while the daemon is away");
    let mut without = config.clone();
    without.workloads = vec![server_workload()];
    server.write_config(&without).unwrap();
    server.launch().unwrap();
    assert!(!net.server.has_xdp(INTERFACE).unwrap(), "it goes with its setting");
    server.terminate().unwrap();
    server.write_config(&config).unwrap();
    server.launch().unwrap();
    assert!(net.server.has_xdp(INTERFACE).unwrap());
    server.terminate().unwrap();
    server.detach().unwrap();
    assert!(!net.server.has_xdp(INTERFACE).unwrap(), "it goes with everything");
}
