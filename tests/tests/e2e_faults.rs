//! What breaks around the daemon: disk, clock, interfaces, namespaces, pins, other people's tools. Throughout, a
//! caller without an identity hears nothing, and what was in force stays in force.

use std::fs;
use std::time::Duration;

use enforcer_tests::config::Workload;
use enforcer_tests::enforcer::Enforcer;
use enforcer_tests::host::Family;
use enforcer_tests::mounted::Mounted;
use enforcer_tests::onlooked::Onlooked;
use enforcer_tests::policy;
use enforcer_tests::scenario::{Contact, NAMESPACE, PORT, Setup, contact};
use enforcer_tests::stranger::Stand;
use enforcer_tests::tcp::{Got, SILENCE, Server, Service, dial};
use enforcer_tests::topology::{INTERFACE, OneNode, ThreeHosts, TwoHosts, configure, link, near};
use serde_json::Value;

const HOURS: i64 = 3600;

fn has_problem(status: &Value, area: &str) -> bool {
    let problems = status["problems"].as_array().unwrap();
    problems.iter().any(|problem| problem.as_str().unwrap().starts_with(&format!("{area}:")))
}

fn is_ready(status: &Value) -> bool {
    status["ready"] == true
}

/// Whether a workload waits for its interface.
fn waits(status: &Value) -> bool {
    status["waiting"].as_array().is_some_and(|waiting| !waiting.is_empty())
}

#[test]
fn a_full_disk_is_told_and_a_daemon_starts_all_the_same() {
    let disk = Mounted::small_disk(64).unwrap();
    disk.fill().unwrap();
    let mut scene = Onlooked::start_at(&Setup::psk().unwrap(), |place| {
        disk.path().clone_into(&mut place.run_dir);
    })
    .unwrap();
    let intruder = scene.intruder();
    // The first contact: its credential cannot be written down, and is believed all the same.
    let mut stream = scene.open().unwrap();
    scene.server.wait_status(|status| has_problem(status, "memory") && is_ready(status)).unwrap();
    stream.exchange().unwrap();
    // A daemon that is killed meanwhile is followed by one that starts.
    scene.server.kill().unwrap();
    scene.server.launch().unwrap();
    // The kernel has kept who the peer of the old connection was.
    stream.exchange().unwrap();
    assert_eq!(scene.contact().unwrap(), Contact::MADE);
    intruder.hears_nothing().unwrap();
    scene.server.wait_status(|status| has_problem(status, "memory")).unwrap();
    disk.make_room().unwrap();
    scene.server.wait_status(|status| !has_problem(status, "memory")).unwrap();
    let memory = scene.server.run_folder().join("credentials.memory");
    assert!(fs::metadata(&memory).unwrap().len() > 100, "the peer is not remembered");
    scene.server.kill().unwrap();
    scene.server.launch().unwrap();
    stream.exchange().unwrap();
    intruder.hears_nothing().unwrap();
}

#[test]
fn wall_clocks_that_jump_by_hours_let_nobody_in_and_known_peers_connect_again() {
    let scene = Onlooked::start().unwrap();
    drop(scene.open().unwrap());
    let intruder = scene.intruder();
    for hours in [3, -3, 0] {
        for daemon in [&scene.client, &scene.server] {
            daemon.shift_clock(hours * HOURS).unwrap();
        }
        wait_let_in(&scene);
        intruder.hears_nothing().unwrap();
        scene.server.wait_status(is_ready).unwrap();
    }
}

#[test]
fn one_wall_clock_that_jumps_lets_nobody_in_and_recovers_when_it_is_set_right() {
    let scene = Onlooked::start().unwrap();
    let _stream = scene.open().unwrap();
    let intruder = scene.intruder();
    for hours in [5, -5] {
        scene.server.shift_clock(hours * HOURS).unwrap();
        std::thread::sleep(Duration::from_secs(3));
        intruder.hears_nothing().unwrap();
        scene.server.shift_clock(0).unwrap();
        wait_let_in(&scene);
        intruder.hears_nothing().unwrap();
    }
}

#[test]
fn wall_clocks_that_jump_ahead_by_hours_reset_no_connection() {
    let scene = Onlooked::start().unwrap();
    let mut stream = scene.open().unwrap();
    for hours in [5, 0] {
        for daemon in [&scene.client, &scene.server] {
            daemon.shift_clock(hours * HOURS).unwrap();
        }
        wait_let_in(&scene);
        stream.exchange().unwrap();
    }
    let counters = scene.server.counters().unwrap();
    assert_eq!(counters.event("engine_flows_cut"), 0);
}

#[test]
fn a_wall_clock_that_is_set_back_prolongs_no_credential() {
    const BACK: u64 = 20 * 60;
    let scene = Onlooked::start().unwrap();
    let _stream = scene.open().unwrap();
    let known = || scene.server.ask::<Value>(&["identities"]).unwrap();
    let end = |known: &Value| known[0]["expires_unix"].as_u64().unwrap();
    let before = known();
    let issued = || scene.server.counters().unwrap().event("engine_credentials_issued");
    let first = issued();
    scene.server.shift_clock(-BACK.cast_signed()).unwrap();
    // It has noticed when what this node shows is replaced.
    let mut tries = 0..100;
    assert!(tries.any(|_| {
        std::thread::sleep(Duration::from_millis(100));
        issued() > first
    }));
    let after = known();
    assert_eq!(before[0]["handle"], after[0]["handle"]);
    // The same moment, read by a clock that was set back; the first pair ended with the server's own
    // credential, which was issued some seconds before.
    assert!(end(&after).abs_diff(end(&before) - BACK) <= 120, "{before} and then {after}");
    scene.intruder().hears_nothing().unwrap();
}

/// New credentials take a second or two to be issued.
fn wait_let_in(scene: &Onlooked) {
    let to = scene.net.server.at(Family::V4, PORT);
    let mut tries = 0..20;
    let let_in = tries.any(|_| {
        std::thread::sleep(Duration::from_secs(1));
        dial(&scene.net.client, to, SILENCE).unwrap().got() == Got::Connection
    });
    assert!(let_in, "nobody is let in any more");
}

#[test]
fn with_both_daemons_away_nothing_outlives_its_credentials() {
    const LIFE: u64 = 12;
    let mut setup = Setup::psk().unwrap();
    setup.client.credential_lifetime_seconds = LIFE;
    setup.server.credential_lifetime_seconds = LIFE;
    let mut scene = Onlooked::start_at(&setup, |_| ()).unwrap();
    let mut stream = scene.open().unwrap();
    scene.client.kill().unwrap();
    scene.server.kill().unwrap();
    // Known identities go on, without anybody there.
    assert_eq!(scene.contact().unwrap(), Contact::MADE);
    stream.exchange().unwrap();
    let intruder = scene.intruder();
    std::thread::sleep(Duration::from_secs(LIFE + 1));
    assert!(!scene.contact().unwrap().is_made(), "a connection was made after every deadline");
    intruder.hears_nothing().unwrap();
    scene.client.launch().unwrap();
    scene.server.launch().unwrap();
    assert_eq!(scene.contact().unwrap(), Contact::MADE);
    intruder.hears_nothing().unwrap();
}

#[test]
fn an_interface_that_is_made_anew_is_enforced_again_and_leaves_nothing_behind() {
    let net = TwoHosts::new().unwrap();
    let setup = Setup::psk().unwrap();
    let server = Enforcer::start(&net.server, &setup.server).unwrap();
    let client = Enforcer::start(&net.client, &setup.client).unwrap();
    let echo = Server::start(&net.server, PORT, &Service::Echo).unwrap();
    let to = net.server.at(Family::V4, PORT);
    let pins = fs::read_dir(server.pins()).unwrap().count();
    for _ in 0..2 {
        net.server.ip(&format!("link delete {INTERFACE}")).unwrap();
        for daemon in [&server, &client] {
            daemon.wait_status(waits).unwrap();
        }
        link(&net.client, INTERFACE, &net.server, INTERFACE).unwrap();
        configure(&net.client, INTERFACE, near(1)).unwrap();
        configure(&net.server, INTERFACE, near(2)).unwrap();
        for daemon in [&server, &client] {
            daemon.wait_status(|status| is_ready(status) && !waits(status)).unwrap();
        }
        assert_eq!(contact(&net.client, to, &echo).unwrap(), Contact::MADE);
        assert_eq!(fs::read_dir(server.pins()).unwrap().count(), pins);
    }
    // The twin: the programs on the new interface are not just there, they enforce.
    client.detach().unwrap_err();
    server.change_policy(policy::DENY_ALL, enforcer_tests::enforcer::Reload::Signal).unwrap();
    assert!(!contact(&net.client, to, &echo).unwrap().is_made());
}

#[test]
fn an_interface_under_another_name_stays_enforced_and_is_ready_when_the_name_is_back() {
    let scene = Onlooked::start().unwrap();
    let mut stream = scene.open().unwrap();
    let intruder = scene.intruder();
    rename(&scene.net, INTERFACE, "moved");
    scene.server.wait_status(waits).unwrap();
    intruder.hears_nothing().unwrap();
    stream.exchange().unwrap();
    rename(&scene.net, "moved", INTERFACE);
    scene.server.wait_status(|status| is_ready(status) && !waits(status)).unwrap();
    stream.exchange().unwrap();
    assert_eq!(scene.contact().unwrap(), Contact::MADE);
    intruder.hears_nothing().unwrap();
}

fn rename(net: &ThreeHosts, from: &str, to: &str) {
    net.server.ip(&format!("link set {from} down")).unwrap();
    net.server.ip(&format!("link set {from} name {to}")).unwrap();
    net.server.ip(&format!("link set {to} up")).unwrap();
}

#[test]
fn a_namespace_that_is_deleted_costs_only_its_own_workload() {
    let net = OneNode::new().unwrap();
    let at = |address: &str| vec![address.to_owned()];
    let a = Workload::behind(NAMESPACE, "a", OneNode::TO_A, &at("192.0.2.1"));
    let b = Workload::behind(NAMESPACE, "b", OneNode::TO_B, &at("192.0.2.2"));
    let mut config = Setup::psk().unwrap().server;
    config.workloads = vec![a, b];
    config.policy = policy::ALLOW_ALL.into();
    let enforcer = Enforcer::start(&net.node, &config).unwrap();
    let echo = Server::start(&net.b, PORT, &Service::Echo).unwrap();
    let to = net.b.at(Family::V4, PORT);
    assert_eq!(contact(&net.a, to, &echo).unwrap(), Contact::MADE);
    let OneNode { node, a, b } = net;
    drop(a);
    let waiting = |status: &Value| status["waiting"].to_string();
    enforcer.wait_status(|status| waiting(status).contains(OneNode::TO_A)).unwrap();
    let status: Value = enforcer.ask(&["status"]).unwrap();
    assert!(!waiting(&status).contains(OneNode::TO_B), "{status}");
    // The node itself has no identity: the other workload is as closed to it as ever.
    assert_eq!(contact(&node, to, &echo).unwrap(), Contact::SILENT);
    drop(b);
}

#[test]
fn pins_that_are_removed_under_a_daemon_cost_nothing_and_come_back() {
    let mut scene = Onlooked::start().unwrap();
    let mut stream = scene.open().unwrap();
    let intruder = scene.intruder();
    let pins = || fs::read_dir(scene.server.pins()).map_or(0, Iterator::count);
    let before = pins();
    fs::remove_dir_all(scene.server.pins()).unwrap();
    intruder.hears_nothing().unwrap();
    stream.exchange().unwrap();
    let mut waited = 0..200;
    assert!(
        waited.any(|_| {
            std::thread::sleep(Duration::from_millis(50));
            pins() == before
        }),
        "{} of {before} pins are back",
        pins()
    );
    intruder.hears_nothing().unwrap();
    // What is pinned is what is in force: the next daemon goes on with it.
    scene.server.kill().unwrap();
    intruder.hears_nothing().unwrap();
    stream.exchange().unwrap();
    scene.server.launch().unwrap();
    stream.exchange().unwrap();
    assert_eq!(scene.contact().unwrap(), Contact::MADE);
    intruder.hears_nothing().unwrap();
}

#[test]
fn a_bpf_file_system_that_is_unmounted_is_told_and_pinned_to_again() {
    let bpf = Mounted::bpf().unwrap();
    let mut scene = Onlooked::start_at(&Setup::psk().unwrap(), |place| {
        bpf.path().clone_into(&mut place.bpf_root);
    })
    .unwrap();
    let mut stream = scene.open().unwrap();
    let intruder = scene.intruder();
    bpf.unmount().unwrap();
    scene.server.wait_status(|status| has_problem(status, "pins")).unwrap();
    intruder.hears_nothing().unwrap();
    stream.exchange().unwrap();
    bpf.mount().unwrap();
    scene.server.wait_status(|status| !has_problem(status, "pins")).unwrap();
    scene.server.kill().unwrap();
    intruder.hears_nothing().unwrap();
    stream.exchange().unwrap();
    scene.server.launch().unwrap();
    stream.exchange().unwrap();
    intruder.hears_nothing().unwrap();
}

#[test]
fn a_program_that_a_stranger_detaches_is_attached_again() {
    let scene = Onlooked::start().unwrap();
    let mut stream = scene.open().unwrap();
    for stand in Stand::both(&scene.server, &scene.net.server, INTERFACE).unwrap() {
        stand.detach().unwrap();
    }
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while scene.server.log().matches("\"eth0\"").count() < 3 {
        assert!(std::time::Instant::now() < deadline, "not attached again");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(scene.server.log().contains("was detached by somebody"));
    scene.server.wait_status(is_ready).unwrap();
    scene.intruder().hears_nothing().unwrap();
    stream.exchange().unwrap();
}

#[test]
fn a_second_daemon_on_the_same_folders_is_refused_and_harms_nothing() {
    let scene = Onlooked::start().unwrap();
    let mut stream = scene.open().unwrap();
    let intruder = scene.intruder();
    let said = scene.server.run_another().unwrap();
    let pid = scene.server.pid().unwrap().to_string();
    assert!(said.contains("already runs") && said.contains(&pid), "{said}");
    // Nor when somebody has removed the lock of the run folder: the pin folder has its own.
    fs::remove_dir_all(scene.server.run_folder()).unwrap();
    let said = scene.server.run_another().unwrap();
    assert!(said.contains("another process holds this instance"), "{said}");
    stream.exchange().unwrap();
    assert_eq!(scene.contact().unwrap(), Contact::MADE);
    intruder.hears_nothing().unwrap();
}
