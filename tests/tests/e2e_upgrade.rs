//! An enforcer whose maps have another layout takes over from one that runs: under load, on both sides,
//! between two workloads of one host, killed at every step, and never backwards.
//!
//! The later version is this very source, built with the feature `abi-next`, which has another layout of
//! flows and configuration.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Result;
use enforcer_common::abi::ABI_VERSION;
use enforcer_tests::bulk;
use enforcer_tests::config::NetworkRule;
use enforcer_tests::enforcer::{Enforcer, binary, next_binary};
use enforcer_tests::host::{Family, Host};
use enforcer_tests::interactive::Interactive;
use enforcer_tests::intruder::Intruder;
use enforcer_tests::load::{Load, prepare_client};
use enforcer_tests::onlooked::Onlooked;
use enforcer_tests::policy;
use enforcer_tests::scenario::{self, Contact, PORT, Pair, Setup};
use enforcer_tests::tcp::{PATIENCE, Server, Service};
use enforcer_tests::topology::OneNode;
use enforcer_tests::twin::Enforcement;
use enforcer_tests::udp::{Responder, ask};
use enforcer_user::datapath::Mechanism;
use enforcer_user::fault::{KillPoint, Phase};
use serde_json::Value;

/// The layout of the ordinary build, and that of the later version.
const EARLIER: u64 = ABI_VERSION as u64;
const NEXT: u64 = EARLIER + 1;

const RATE: u16 = PORT + 1;
const UP: u16 = PORT + 2;
const DOWN: u16 = PORT + 3;
const DNS: u16 = 53;
/// Bytes of each bulk stream; one follows the other.
const BULK: u64 = 16 << 20;
/// Long enough for a load to run through an upgrade.
const LONG: Duration = Duration::from_mins(10);
/// What the later version is refused with in the other direction.
const LATER: &str = "made by a later version";
/// What the earlier version is refused with once the later one has begun to take over.
const BEGUN: &str = "was begun and not ended";

#[test]
fn an_upgrade_of_the_servers_enforcer_under_load_loses_nothing() {
    under_load(false, |pair| pair.daemons.server().unwrap());
}

#[test]
fn an_upgrade_behind_guards_under_load_loses_nothing() {
    under_load(true, |pair| pair.daemons.client().unwrap());
}

#[test]
fn an_upgrade_of_the_clients_enforcer_under_load_loses_nothing() {
    under_load(false, |pair| pair.daemons.client().unwrap());
}

/// Streams of all kinds are open and connections come and go while one side is upgraded. The books of both
/// hosts say whether a packet was lost that no counter knows, across the two layouts of the counters.
fn under_load(guarded: bool, side: impl Fn(&mut Pair) -> &mut Enforcer) {
    let mut setup = Setup::psk().unwrap();
    let (to, from) = (["192.0.2.2/32", "2001:db8::2/128"], ["192.0.2.1/32", "2001:db8::1/128"]);
    setup.client.network_rules = vec![NetworkRule::egress("dns", "udp", to[0], DNS).and(to[1])];
    setup.server.network_rules =
        vec![NetworkRule::ingress("dns", "udp", from[0], DNS).and(from[1])];
    if guarded {
        (setup.client, setup.server) = (setup.client.guarded(), setup.server.guarded());
    }
    let mut pair = setup.start_pair(Enforcement::Enforced).unwrap();
    if guarded {
        // XDP at a veth makes the sender cut long segments below its stack.
        pair = pair.without_books("a stack counts a long segment once, the wire its pieces");
    }
    let (client, server) = (pair.net.client.clone(), pair.net.server.clone());
    let _servers = Servers::start(&server);
    let _dns = Responder::start(&server, DNS).unwrap();
    let question = || ask(&client, server.at(Family::V6, DNS), PATIENCE).unwrap();
    question().expect("an answer before the upgrade");
    let mut idle = Interactive::open(&client, server.at(Family::V6, PORT)).unwrap();
    prepare_client(&client).unwrap();
    let load = Load::connections(server.at(Family::V4, RATE), 0).clients(2).lasting(LONG).resting();
    let running = load.start(&client).unwrap();
    let traffic = Traffic::start(&client, &server);
    running.wait_completed(100, PATIENCE).unwrap();

    let daemon = side(&mut pair);
    let (flow, counted) = (flow_of(daemon, &idle), counters(daemon));
    let guard = guard_of(daemon);
    upgrade(daemon);
    assert_eq!(guard_of(side(&mut pair)), guard);
    let daemon = side(&mut pair);
    let (later, counted_later) = (flow_of(daemon, &idle), counters(daemon));

    running.wait_completed(running.completed() + 100, PATIENCE).unwrap();
    let report = running.stop().unwrap();
    assert_eq!(report.failed, 0, "{:?}", report.first_failure);
    traffic.finish();
    idle.exchange().unwrap();
    question().expect("an answer after the upgrade");
    for (name, before) in counted {
        let after = counted_later.get(&name).copied().unwrap_or(0);
        assert!(after >= before, "{name} fell from {before} to {after}");
    }
    for same in ["workload", "direction", "local", "remote", "peer", "state", "packets", "bytes"] {
        assert_eq!(flow[same], later[same], "{same} of a flow that was idle: {flow}, {later}");
    }
    let both = [
        pair.daemons.client().unwrap().counters().unwrap(),
        pair.daemons.server().unwrap().counters().unwrap(),
    ];
    for events in both.map(|counters| counters.events) {
        let resets = ["reset_local", "reset_remote"].map(|name| events.get(name).copied());
        assert_eq!(resets.map(Option::unwrap_or_default), [0, 0], "resets");
    }
}

#[test]
fn two_workloads_of_one_host_and_a_stranger_in_it_notice_no_upgrade() {
    let net = OneNode::new().unwrap();
    let config = scenario::one_node(&net, policy::ALLOW_ALL).unwrap();
    let mut daemon = Enforcer::start(&net.node, &config).unwrap();
    let _servers = Servers::start(&net.b);
    // The node itself has no identity.
    let intruder = Intruder::start(&net.node, net.b.at(Family::V4, PORT));
    let load = Load::connections(net.b.at(Family::V4, RATE), 0).clients(1).lasting(LONG).resting();
    prepare_client(&net.a).unwrap();
    let running = load.start(&net.a).unwrap();
    let traffic = Traffic::start(&net.a, &net.b);
    running.wait_completed(100, PATIENCE).unwrap();
    upgrade(&mut daemon);
    running.wait_completed(running.completed() + 100, PATIENCE).unwrap();
    let report = running.stop().unwrap();
    assert_eq!(report.failed, 0, "{:?}", report.first_failure);
    traffic.finish();
    intruder.hears_nothing().unwrap();
}

fn is_let_in(scene: &Onlooked) -> bool {
    scene.contact().unwrap() == Contact::MADE
}

/// With a guard at the server: it must come along at every step too.
fn guarded() -> Onlooked {
    let mut setup = Setup::psk().unwrap();
    setup.server = setup.server.guarded();
    Onlooked::start_at(&setup, |_| ()).unwrap()
}

/// Has the earlier or the later version run on the server from the next start on.
fn use_later(scene: &mut Onlooked, later: bool) {
    let binary = if later { next_binary() } else { binary() };
    scene.server.use_binary(binary.unwrap());
}

#[test]
fn the_later_version_waits_for_the_end_of_the_earlier_one() {
    let mut scene = guarded();
    let mut stream = scene.open().unwrap();
    let intruder = scene.intruder();
    use_later(&mut scene, true);
    let said = scene.server.run_another().unwrap();
    assert!(said.contains("another"), "{said}");
    assert_eq!(layout(&scene.server), EARLIER);
    stream.exchange().unwrap();
    assert!(is_let_in(&scene));
    intruder.hears_nothing().unwrap();
}

#[test]
fn an_earlier_version_refuses_the_maps_of_a_later_one_which_go_on_enforcing() {
    let mut scene = guarded();
    let mut stream = scene.open().unwrap();
    let intruder = scene.intruder();
    upgrade(&mut scene.server);
    assert_eq!(layout(&scene.server), NEXT);
    scene.server.terminate().unwrap();
    use_later(&mut scene, false);
    let said = scene.server.run_another().unwrap();
    assert!(said.contains(LATER) && said.contains("layout 3"), "{said}");
    intruder.hears_nothing().unwrap();
    stream.exchange().unwrap();
    assert!(is_let_in(&scene));
    use_later(&mut scene, true);
    scene.server.launch().unwrap();
    stream.exchange().unwrap();
    assert!(is_let_in(&scene));
}

#[test]
fn an_upgrade_that_is_killed_at_any_step_lets_nothing_pass_and_loses_nothing() {
    let mut scene = guarded();
    let mut begun = false;
    for (point, nth) in deaths() {
        eprintln!("{point:?} {nth}");
        let intruder = scene.intruder();
        let mut stream = scene.open().unwrap();
        begun |= point == KillPoint::TakeoverBegun;
        scene.server.kill().unwrap();
        use_later(&mut scene, true);
        scene.server.kill_at(point, nth).unwrap();
        scene.server.spawn().unwrap();
        scene.server.wait_killed().unwrap_or_else(|error| panic!("{point:?} {nth}: {error:#}"));
        scene.server.kill_no_more().unwrap();
        intruder.hears_nothing().unwrap();
        stream.exchange().unwrap();
        // The second place is that of the program with which the takeover begins.
        start_earlier(&mut scene, begun || (point, nth) == (KillPoint::PlaceTaken, 2), point);
        intruder.hears_nothing().unwrap();
        stream.exchange().unwrap();
        use_later(&mut scene, true);
        scene.server.launch().unwrap();
        assert_eq!(layout(&scene.server), NEXT, "after {point:?} {nth}");
        assert_eq!(leftovers(&scene.server), [""; 0], "after {point:?} {nth}");
        stream.exchange().unwrap();
        assert!(is_let_in(&scene), "after {point:?} {nth}");
        intruder.hears_nothing().unwrap();
        drop((stream, intruder));
        // Back to the earlier layout for the next death.
        scene.server.terminate().unwrap();
        scene.server.detach().unwrap();
        use_later(&mut scene, false);
        scene.server.launch().unwrap();
    }
    assert!(begun && scene.client.status().unwrap().ready);
}

/// Starts the earlier version over what a death left: it goes on as if nothing had been, or it refuses.
fn start_earlier(scene: &mut Onlooked, refused: bool, point: KillPoint) {
    use_later(scene, false);
    if refused {
        let said = scene.server.run_another().unwrap();
        assert!(said.contains(BEGUN) || said.contains(LATER), "after {point:?}: {said}");
        return;
    }
    scene.server.launch().unwrap();
    assert_eq!(layout(&scene.server), EARLIER, "after {point:?}");
    assert_eq!(leftovers(&scene.server), [""; 0], "after {point:?}");
    assert!(is_let_in(scene), "after {point:?}");
    scene.server.kill().unwrap();
}

/// Every time that every point of an upgrade is passed.
fn deaths() -> impl Iterator<Item = (KillPoint, u32)> {
    let attached = Mechanism::probe();
    let times = move |point: KillPoint| 1..=point.times(Phase::Upgrade, attached);
    KillPoint::ALL.iter().flat_map(move |point| times(*point).map(|nth| (*point, nth)))
}

fn upgrade(daemon: &mut Enforcer) {
    daemon.terminate().unwrap();
    daemon.use_binary(next_binary().unwrap());
    daemon.launch().unwrap();
    assert_eq!(leftovers(daemon), [""; 0]);
}

/// The layout of the pinned maps.
fn layout(daemon: &Enforcer) -> u64 {
    let status: Value = daemon.ask(&["status"]).unwrap();
    status["abi"].as_u64().expect("a number")
}

/// Where the guard runs; null without one.
fn guard_of(daemon: &Enforcer) -> Value {
    daemon.ask::<Value>(&["status"]).unwrap()["attach"][0]["guard"].clone()
}

/// Folders among the pins that are an upgrade's own, which go with its end; notes of qdiscs are folders too.
fn leftovers(daemon: &Enforcer) -> Vec<String> {
    let entries = std::fs::read_dir(daemon.pins()).unwrap().map(Result::unwrap);
    let folders = entries.filter(|entry| entry.file_type().unwrap().is_dir());
    let names = folders.map(|entry| entry.file_name().into_string().unwrap());
    names.filter(|name| !name.starts_with("clsact_")).collect()
}

/// The flow of a stream, as `enforcer flows` lists it.
fn flow_of(daemon: &Enforcer, stream: &Interactive) -> Value {
    let address = stream.local().unwrap().to_string();
    let list: Value = daemon.ask(&["flows", "--limit", "131072"]).unwrap();
    let mut flows = list["flows"].as_array().expect("a list").iter();
    let found = flows.find(|flow| flow["remote"] == *address || flow["local"] == *address);
    found.unwrap_or_else(|| panic!("no flow of {address}")).clone()
}

/// What the datapath counts; a daemon's own counters begin with it.
fn counters(daemon: &Enforcer) -> BTreeMap<String, u64> {
    let all = daemon.counters().unwrap();
    let events = all.events.into_iter().filter(|(name, _)| !name.starts_with("engine_"));
    all.drops.into_iter().chain(events).collect()
}

/// What traffic needs at its far end.
struct Servers {
    _all: [Server; 4],
}

impl Servers {
    fn start(host: &Host) -> Self {
        let start = |port, service| Server::start(host, port, &service).unwrap();
        Self {
            _all: [
                start(PORT, Service::Echo),
                Server::start_threads(host, RATE, &Service::OneByte, 2).unwrap(),
                start(UP, Service::Digest),
                start(DOWN, Service::Source(BULK)),
            ],
        }
    }
}

/// A stream that is used all the time, and bulk both ways; every byte is compared.
struct Traffic {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Traffic {
    fn start(client: &Host, server: &Host) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut stream = Interactive::open(client, server.at(Family::V4, PORT)).unwrap();
        let (up, down) = (server.at(Family::V6, UP), server.at(Family::V4, DOWN));
        let (uploader, downloader) = (client.clone(), client.clone());
        let threads = vec![
            until(&stop, move || stream.exchange().map(drop)),
            until(&stop, move || bulk::upload_slowly(&uploader, up, BULK)),
            until(&stop, move || bulk::download_slowly(&downloader, down, BULK)),
        ];
        Self { stop, threads }
    }

    fn finish(self) {
        self.stop.store(true, Ordering::Release);
        for thread in self.threads {
            thread.join().unwrap().unwrap();
        }
    }
}

fn until(
    stop: &Arc<AtomicBool>,
    mut work: impl FnMut() -> Result<()> + Send + 'static,
) -> JoinHandle<Result<()>> {
    let stop = Arc::clone(stop);
    std::thread::spawn(move || {
        while !stop.load(Ordering::Acquire) {
            work()?;
        }
        Ok(())
    })
}
