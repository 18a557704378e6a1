//! SIGKILL at every step that `enforcer_user::fault::KillPoint` names. Whoever adds a step to the daemon adds it
//! to that table, and these tests go through the table; a point that is not reached fails them.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use aya::maps::{Array, Map, MapData};
use enforcer_common::abi::WorkloadValue;
use enforcer_tests::enforcer::Enforcer;
use enforcer_tests::host::Family;
use enforcer_tests::interactive::Interactive;
use enforcer_tests::intruder::Intruder;
use enforcer_tests::keys::NodeFiles;
use enforcer_tests::policy;
use enforcer_tests::scenario::{Contact, PORT, Setup, client, contact, server as server_workload};
use enforcer_tests::tcp::{End, Got, PATIENCE, Server, Service, dial};
use enforcer_tests::topology::{INTERFACE, ThreeHosts};
use enforcer_user::datapath::Mechanism;
use enforcer_user::fault::{KillPoint, Phase};
use serde_json::Value;
use tempfile::TempDir;

/// The port that the narrower policy does not allow.
const OTHER_PORT: u16 = PORT + 1;
/// How long a connect is watched that must not be answered.
const SHORT: Duration = Duration::from_millis(400);

/// A server whose daemon dies, a client, and somebody without an identity.
struct Scene {
    daemon: Enforcer,
    client: Enforcer,
    echo: Server,
    _other_echo: Server,
    net: ThreeHosts,
    key: PathBuf,
    _folder: TempDir,
}

impl Scene {
    /// Everything runs but the server's daemon, which was never started.
    fn prepare() -> Self {
        let net = ThreeHosts::new().unwrap();
        let mut setup = Setup::psk().unwrap().client_policy(policy::ALLOW_ALL);
        // Its own copy of the key: the client's daemon has nothing to do with what happens to it.
        let folder = TempDir::with_prefix("enftest-key-").unwrap();
        let key = folder.path().join("psk.key");
        let NodeFiles::Psk { psk_file } = &mut setup.server.keys.files else {
            panic!("expected a pre-shared key")
        };
        fs::copy(&psk_file, &key).unwrap();
        psk_file.clone_from(&key);
        Self {
            daemon: Enforcer::prepare(&net.server, &setup.server).unwrap(),
            client: Enforcer::start(&net.client, &setup.client).unwrap(),
            echo: Server::start(&net.server, PORT, &Service::Echo).unwrap(),
            _other_echo: Server::start(&net.server, OTHER_PORT, &Service::Echo).unwrap(),
            key,
            _folder: folder,
            net,
        }
    }

    fn open(&self, port: u16) -> Interactive {
        Interactive::open(&self.net.client, self.net.server.at(Family::V4, port)).unwrap()
    }

    fn intruder(&self) -> Intruder {
        Intruder::start(&self.net.other, self.net.server.at(Family::V4, PORT))
    }

    fn is_let_in(&self) -> bool {
        contact(&self.net.client, self.net.server.at(Family::V4, PORT), &self.echo).unwrap()
            == Contact::MADE
    }

    /// What the start of a daemon leads to, whatever happened before.
    fn state(&self) -> State {
        let status: Value = self.daemon.ask(&["status"]).unwrap();
        let workloads: Vec<Value> = self.daemon.ask(&["workloads"]).unwrap();
        let lasting =
            ["name", "id", "spiffe_id", "interface", "side", "addresses", "mode", "attached"];
        let pick = |one: &Value| lasting.map(|key| one[key].clone());
        State {
            pins: pins(&self.daemon),
            ready: status["ready"].clone(),
            problems: status["problems"].clone(),
            attach: status["attach"].clone(),
            workloads: workloads.iter().map(pick).collect(),
        }
    }
}

#[derive(Debug, PartialEq)]
struct State {
    pins: BTreeSet<String>,
    ready: Value,
    problems: Value,
    attach: Value,
    workloads: Vec<[Value; 8]>,
}

fn pins(daemon: &Enforcer) -> BTreeSet<String> {
    let entries = fs::read_dir(daemon.pins()).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Every time that every point is passed in a phase.
fn deaths(phase: Phase) -> impl Iterator<Item = (KillPoint, u32)> {
    let attached = Mechanism::probe();
    let times = move |point: KillPoint| 1..=point.times(phase, attached);
    KillPoint::ALL.iter().flat_map(move |point| times(*point).map(|nth| (*point, nth)))
}

#[test]
fn a_first_start_that_is_killed_at_any_step_does_not_hinder_the_next() {
    let mut scene = Scene::prepare();
    scene.daemon.launch().unwrap();
    let undisturbed = scene.state();
    for (point, nth) in deaths(Phase::Start) {
        eprintln!("{point:?} {nth}");
        scene.daemon.terminate().unwrap();
        scene.daemon.detach().unwrap();
        die_at_start(&mut scene, point, nth);
        scene.daemon.launch().unwrap();
        assert_eq!(scene.state(), undisturbed, "after {point:?} {nth}");
        scene.intruder().hears_nothing().unwrap();
    }
    assert!(scene.is_let_in());
}

#[test]
fn maps_that_a_killed_start_has_pinned_in_part_do_not_hinder_the_next() {
    let mut scene = Scene::prepare();
    scene.daemon.launch().unwrap();
    let undisturbed = scene.state();
    for kept in
        [["CONFIG"].as_slice(), &["ADDRESSES", "FLOWS4"], &["CONFIG", "WORKLOADS", "NONCES"]]
    {
        scene.daemon.terminate().unwrap();
        scene.daemon.detach().unwrap();
        die_at_start(&mut scene, KillPoint::MapsPinned, 1);
        for pin in pins(&scene.daemon) {
            if !kept.contains(&pin.as_str()) {
                fs::remove_file(scene.daemon.pins().join(pin)).unwrap();
            }
        }
        scene.daemon.launch().unwrap();
        assert_eq!(scene.state(), undisturbed, "with {kept:?} left");
        scene.intruder().hears_nothing().unwrap();
    }
    assert!(scene.is_let_in());
}

#[test]
fn an_adoption_that_is_killed_at_any_step_lets_nothing_pass_and_loses_nothing() {
    let mut scene = Scene::prepare();
    scene.daemon.launch().unwrap();
    let mut stream = scene.open(PORT);
    let undisturbed = scene.state();
    let intruder = scene.intruder();
    for (point, nth) in deaths(Phase::Adoption) {
        eprintln!("{point:?} {nth}");
        scene.daemon.kill().unwrap();
        die_at_start(&mut scene, point, nth);
        intruder.hears_nothing().unwrap();
        stream.exchange().unwrap();
        scene.daemon.launch().unwrap();
        stream.exchange().unwrap();
        assert_eq!(scene.state(), undisturbed, "after {point:?} {nth}");
    }
    assert!(scene.is_let_in());
    intruder.hears_nothing().unwrap();
}

fn die_at_start(scene: &mut Scene, point: KillPoint, nth: u32) {
    scene.daemon.kill_at(point, nth).unwrap();
    scene.daemon.spawn().unwrap();
    scene.daemon.wait_killed().unwrap_or_else(|error| panic!("{point:?} {nth}: {error:#}"));
    scene.daemon.kill_no_more().unwrap();
}

#[test]
fn a_policy_change_that_is_killed_at_any_step_is_made_by_the_next_start() {
    let wide = policy::allow(&client(), &server_workload());
    let narrow = policy::allow_port(&client(), &server_workload(), PORT);
    let mut scene = Scene::prepare();
    scene.daemon.launch().unwrap();
    let mut kept = scene.open(PORT);
    let intruder = scene.intruder();
    let mut flipped = false;
    for (point, nth) in deaths(Phase::Change) {
        eprintln!("{point:?} {nth}");
        let mut lost = scene.open(OTHER_PORT);
        scene.daemon.kill_at(point, nth).unwrap();
        scene.daemon.write_policy(&narrow).unwrap();
        scene.daemon.reload().unwrap();
        scene.daemon.wait_killed().unwrap_or_else(|error| panic!("{point:?} {nth}: {error:#}"));
        scene.daemon.kill_no_more().unwrap();
        flipped |= point == KillPoint::EpochFlipped;
        intruder.hears_nothing().unwrap();
        kept.exchange().unwrap();
        let to = scene.net.server.at(Family::V4, OTHER_PORT);
        let got = dial(&scene.net.client, to, SHORT).unwrap().got();
        // One policy or the other holds, whole, also with nobody there.
        let past_flip = flipped || (point == KillPoint::NetworksRemoved && nth == 2);
        assert_eq!(got == Got::Connection, !past_flip, "after {point:?} {nth}");
        scene.daemon.launch().unwrap();
        assert_eq!(lost.wait_end(PATIENCE).unwrap(), End::Reset, "after {point:?} {nth}");
        assert_ne!(dial(&scene.net.client, to, SHORT).unwrap().got(), Got::Connection);
        kept.exchange().unwrap();
        scene.daemon.change_policy(&wide, enforcer_tests::enforcer::Reload::Signal).unwrap();
    }
    assert!(flipped && scene.is_let_in());
    assert!(scene.client.status().unwrap().ready);
}

#[test]
fn a_rotation_that_is_killed_at_any_step_loses_no_peer_and_no_connection() {
    let mut scene = Scene::prepare();
    scene.daemon.launch().unwrap();
    let mut stream = scene.open(PORT);
    let intruder = scene.intruder();
    for (point, nth) in deaths(Phase::Rotation) {
        eprintln!("{point:?} {nth}");
        scene.daemon.kill_at(point, nth).unwrap();
        rotate(&scene);
        scene.daemon.wait_killed().unwrap_or_else(|error| panic!("{point:?} {nth}: {error:#}"));
        scene.daemon.kill_no_more().unwrap();
        intruder.hears_nothing().unwrap();
        stream.exchange().unwrap();
        // The client is a known identity: it is let in with nobody there.
        assert!(scene.is_let_in(), "after {point:?} {nth}");
        scene.daemon.launch().unwrap();
        stream.exchange().unwrap();
        assert!(scene.is_let_in(), "after {point:?} {nth}");
    }
}

/// A set that is named while it is another would have flows pass from an address that is not the workload's any more.
#[test]
fn a_change_of_addresses_that_is_killed_at_any_step_leaves_no_set_named() {
    let mut scene = Scene::prepare();
    scene.daemon.launch().unwrap();
    let mut stream = scene.open(PORT);
    let mut before = address_set(&scene);
    for change in ["add", "del"] {
        for (point, nth) in deaths(Phase::Addresses) {
            eprintln!("{change} {point:?} {nth}");
            assert_ne!(before, 0);
            let address = if point == KillPoint::AddressesChanged { 101 } else { 102 };
            scene.daemon.kill_at(point, nth).unwrap();
            let change = format!("addr {change} 192.0.2.{address}/24 dev {INTERFACE}");
            scene.net.server.ip(&change).unwrap();
            scene.daemon.wait_killed().unwrap_or_else(|error| panic!("{point:?} {nth}: {error:#}"));
            scene.daemon.kill_no_more().unwrap();
            assert_eq!(address_set(&scene), 0, "after {point:?} {nth}");
            stream.exchange().unwrap();
            scene.daemon.launch().unwrap();
            let named = address_set(&scene);
            assert_ne!(named, before, "after {point:?} {nth}");
            before = named;
        }
    }
    stream.exchange().unwrap();
    assert!(scene.is_let_in());
}

/// Which set of addresses the server's row names.
fn address_set(scene: &Scene) -> u32 {
    let pin = scene.daemon.pins().join("WORKLOADS");
    let map = Map::from_map_data(MapData::from_pin(pin).unwrap()).unwrap();
    let rows: Array<_, WorkloadValue> = map.try_into().unwrap();
    let mut rows = rows.iter().map(Result::unwrap).filter(WorkloadValue::is_present);
    rows.next().expect("a workload").address_set
}

/// The same key, in a file that differs: keys count as new, and credentials are issued anew.
fn rotate(scene: &Scene) {
    let text = fs::read_to_string(&scene.key).unwrap();
    let text = if text.ends_with('\n') { text.trim_end().to_owned() } else { format!("{text}\n") };
    fs::write(&scene.key, text).unwrap();
    scene.daemon.reload().unwrap();
}

#[test]
fn the_table_names_each_point_once() {
    let names: BTreeSet<&str> = KillPoint::ALL.iter().map(|point| point.name()).collect();
    assert_eq!(names.len(), KillPoint::ALL.len());
    let phases = [
        Phase::Start,
        Phase::Adoption,
        Phase::Upgrade,
        Phase::Change,
        Phase::Rotation,
        Phase::Addresses,
    ];
    for point in KillPoint::ALL {
        let tried = |attached| phases.iter().any(|phase| point.times(*phase, attached) > 0);
        let somewhere = [Mechanism::Tcx, Mechanism::Clsact].into_iter().any(tried);
        assert!(somewhere, "{point:?} is never tried");
    }
}
