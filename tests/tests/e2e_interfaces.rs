//! Interfaces that come and go, and strangers at their hooks: noticed by the kernel's word and by glances, with the
//! tick that looks at everything held back.

use enforcer_tests::config::Workload;
use enforcer_tests::enforcer::{Enforcer, Reload};
use enforcer_tests::host::Family;
use enforcer_tests::interactive::Interactive;
use enforcer_tests::intruder::Intruder;
use enforcer_tests::policy;
use enforcer_tests::scenario::{Contact, NAMESPACE, PORT, Setup, contact};
use enforcer_tests::stranger::{Passing, Stand};
use enforcer_tests::tcp::{Server, Service};
use enforcer_tests::topology::{INTERFACE, ThreeHosts, TwoHosts, configure, link, near};
use serde_json::Value;

fn is_ready(status: &Value) -> bool {
    status["ready"] == true
}

fn waits_for(status: &Value, interface: &str) -> bool {
    let waiting = status["waiting"].as_array().unwrap();
    waiting.iter().any(|line| line.as_str().unwrap().contains(interface))
}

fn waits(status: &Value) -> bool {
    waits_for(status, "")
}

#[test]
fn an_interface_that_comes_is_enforced_at_the_kernels_word() {
    let net = TwoHosts::new().unwrap();
    let setup = Setup::psk().unwrap();
    let server = Enforcer::start(&net.server, &setup.server).unwrap();
    let client = Enforcer::start(&net.client, &setup.client).unwrap();
    let echo = Server::start(&net.server, PORT, &Service::Echo).unwrap();
    let both = [&server, &client];
    for daemon in both {
        daemon.hold_ticks().unwrap();
    }
    net.server.ip(&format!("link delete {INTERFACE}")).unwrap();
    for daemon in both {
        // Nothing can pass: what is there is enforced.
        daemon.wait_status(|status| is_ready(status) && waits(status)).unwrap();
    }
    link(&net.client, INTERFACE, &net.server, INTERFACE).unwrap();
    configure(&net.client, INTERFACE, near(1)).unwrap();
    configure(&net.server, INTERFACE, near(2)).unwrap();
    for daemon in both {
        daemon.wait_status(|status| is_ready(status) && !waits(status)).unwrap();
    }
    let to = net.server.at(Family::V4, PORT);
    assert_eq!(contact(&net.client, to, &echo).unwrap(), Contact::MADE);
    server.change_policy(policy::DENY_ALL, Reload::Signal).unwrap();
    assert!(!contact(&net.client, to, &echo).unwrap().is_made());
}

#[test]
fn an_interface_that_gets_the_configured_name_is_enforced_at_the_kernels_word() {
    let net = TwoHosts::new().unwrap();
    let mut config = Setup::psk().unwrap().server;
    config.workloads.push(Workload::behind(NAMESPACE, "late", "late0", &["192.0.2.99".to_owned()]));
    let server = Enforcer::start(&net.server, &config).unwrap();
    server.wait_status(|status| is_ready(status) && waits_for(status, "late0")).unwrap();
    assert!(server.log().contains("waits for its interface"), "{}", server.log());
    server.hold_ticks().unwrap();
    net.server.ip("link add early0 type veth peer name inside").unwrap();
    net.server.ip("link set early0 up").unwrap();
    server.wait_status(|status| waits_for(status, "late0")).unwrap();
    net.server.ip("link set early0 down").unwrap();
    net.server.ip("link set early0 name late0").unwrap();
    server.wait_status(|status| is_ready(status) && !waits(status)).unwrap();
    let status: Value = server.ask(&["status"]).unwrap();
    assert!(status["attach"].as_array().unwrap().iter().all(|one| one["method"].is_string()));
}

/// A server, a client and somebody without an identity; the server's ticks are held.
struct Scene {
    server: Enforcer,
    _client: Enforcer,
    _echo: Server,
    net: ThreeHosts,
}

impl Scene {
    fn start() -> Self {
        let net = ThreeHosts::new().unwrap();
        let setup = Setup::psk().unwrap();
        let server = Enforcer::start(&net.server, &setup.server).unwrap();
        let client = Enforcer::start(&net.client, &setup.client).unwrap();
        let echo = Server::start(&net.server, PORT, &Service::Echo).unwrap();
        server.hold_ticks().unwrap();
        Self { server, _client: client, _echo: echo, net }
    }

    fn event(&self, name: &str) -> u64 {
        self.server.counters().unwrap().event(name)
    }
}

#[test]
fn programs_that_a_stranger_replaces_in_their_place_are_put_back() {
    let scene = Scene::start();
    let to = scene.net.server.at(Family::V4, PORT);
    let mut stream = Interactive::open(&scene.net.client, to).unwrap();
    let stands = Stand::both(&scene.server, &scene.net.server, INTERFACE).unwrap();
    for (times, stand) in (1..).zip(&stands) {
        stand.replace(&Passing::load().unwrap()).unwrap();
        scene
            .server
            .wait_status(|status| {
                is_ready(status) && scene.event("programs_detached_by_others") >= times
            })
            .unwrap();
    }
    stream.exchange().unwrap();
    Intruder::start(&scene.net.other, to).hears_nothing().unwrap();
}

#[test]
fn a_program_in_front_of_ours_is_told_for_as_long_as_it_is_there() {
    let scene = Scene::start();
    let other = Passing::load().unwrap();
    let front = other.stand_in_front(&scene.net.server, INTERFACE).unwrap();
    let in_front =
        |status: &Value| status["reasons_not_ready"].to_string().contains("stands before");
    scene.server.wait_status(|status| in_front(status) && !is_ready(status)).unwrap();
    assert_eq!(scene.event("programs_displaced_by_others"), 1);
    assert!(scene.server.log().contains("not first at its interface"));
    drop(front);
    scene.server.release_ticks().unwrap();
    scene.server.wait_status(is_ready).unwrap();
    let to = scene.net.server.at(Family::V4, PORT);
    Intruder::start(&scene.net.other, to).hears_nothing().unwrap();
}
