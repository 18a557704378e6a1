//! The configuration changed under a running daemon: what can be put in force at once is, without a lost connection,
//! and the rest is named.

use std::time::{Duration, Instant};

use enforcer_tests::config::{Config, Mode, NetworkRule, Workload};
use enforcer_tests::enforcer::Enforcer;
use enforcer_tests::host::Family;
use enforcer_tests::interactive::Interactive;
use enforcer_tests::scenario::{NAMESPACE, PORT, Setup};
use enforcer_tests::tcp::{Got, PATIENCE, SILENCE, Server, Service, dial};
use enforcer_tests::topology::ThreeHosts;
use serde_json::Value;

/// A server, a client, and somebody without an identity.
struct Scene {
    server: Enforcer,
    /// What the server's daemon was started with.
    config: Config,
    _client: Enforcer,
    _echo: Server,
    net: ThreeHosts,
}

impl Scene {
    fn start(mode: Mode) -> Self {
        let net = ThreeHosts::new().unwrap();
        let setup = Setup::psk().unwrap();
        let config = setup.server.mode(mode);
        Self {
            server: Enforcer::start(&net.server, &config).unwrap(),
            config,
            _client: Enforcer::start(&net.client, &setup.client).unwrap(),
            _echo: Server::start(&net.server, PORT, &Service::Echo).unwrap(),
            net,
        }
    }

    fn open(&self) -> Interactive {
        Interactive::open(&self.net.client, self.net.server.at(Family::V4, PORT)).unwrap()
    }

    /// What the one without an identity gets.
    fn other_gets(&self) -> Got {
        dial(&self.net.other, self.net.server.at(Family::V4, PORT), SILENCE).unwrap().got()
    }

    fn status(&self) -> Value {
        self.server.ask(&["status"]).unwrap()
    }
}

#[test]
fn network_rules_and_mesh_of_a_changed_file_hold_at_once_and_cost_no_connection() {
    let scene = Scene::start(Mode::Enforce);
    let mut stream = scene.open();
    assert_eq!(scene.other_gets(), Got::Silence);
    let rule = NetworkRule::ingress("probe", "tcp", "192.0.2.3/32", PORT);
    let epoch = |status: &Value| status["epoch"].as_u64().unwrap();
    let before = epoch(&scene.status());
    scene.server.write_config(&scene.config.clone().rule(rule)).unwrap();
    scene.server.wait_status(|status| epoch(status) > before).unwrap();
    assert_eq!(scene.other_gets(), Got::Connection);
    stream.exchange().unwrap();

    let mut meshed = scene.config.clone();
    meshed.mesh.push("198.18.0.0/15".to_owned());
    let before = epoch(&scene.status());
    scene.server.write_config(&meshed).unwrap();
    scene.server.reload().unwrap();
    scene.server.wait_status(|status| epoch(status) > before).unwrap();
    assert_eq!(scene.other_gets(), Got::Silence, "the rule is gone");
    stream.exchange().unwrap();
    assert_eq!(scene.status()["problems"], serde_json::json!([]));
}

#[test]
fn workloads_come_and_go_with_the_file() {
    let scene = Scene::start(Mode::Enforce);
    let mut stream = scene.open();
    scene.net.server.ip("link add extra0 type veth peer name inside").unwrap();
    let attached = |status: &Value, many: usize| {
        let all = status["attach"].as_array().unwrap();
        all.len() == many && all.iter().all(|one| one["method"].is_string())
    };
    let mut more = scene.config.clone();
    more.workloads.push(Workload::behind(NAMESPACE, "extra", "extra0", &["192.0.2.77".to_owned()]));
    scene.server.write_config(&more).unwrap();
    scene.server.wait_status(|status| attached(status, 2) && status["ready"] == true).unwrap();
    scene.server.write_config(&scene.config).unwrap();
    scene.server.wait_status(|status| attached(status, 1)).unwrap();
    assert_eq!(scene.status()["workloads"], 1);
    stream.exchange().unwrap();
    assert_eq!(scene.other_gets(), Got::Silence);
}

#[test]
fn what_only_a_start_reads_is_named_and_a_broken_file_changes_nothing() {
    let scene = Scene::start(Mode::Enforce);
    let mut stream = scene.open();
    let problems = |status: &Value| status["problems"].to_string();
    let mut changed = scene.config.clone().mode(Mode::Observe);
    changed.credential_lifetime_seconds = 600;
    changed.limits.insert("flows".to_owned(), 4096);
    scene.server.write_config(&changed).unwrap();
    scene.server.wait_status(|status| problems(status).contains("restart to apply")).unwrap();
    let told = problems(&scene.status());
    for field in ["identity.credential_lifetime_seconds", "[limits]", "workload", "server"] {
        assert!(told.contains(field), "{field}: {told}");
    }
    assert!(scene.server.log().contains("restart to apply"));
    assert_eq!(scene.status()["attach"][0]["mode"], "enforce", "what holds, not what is written");

    let mut broken = scene.config.clone();
    broken.mesh = vec!["nowhere".to_owned()];
    scene.server.write_config(&broken).unwrap();
    // Commands read the same file: only the log tells.
    let deadline = Instant::now() + PATIENCE;
    while !scene.server.log().contains("the one before it holds") {
        assert!(Instant::now() < deadline, "nothing is told of a broken file");
        std::thread::sleep(Duration::from_millis(50));
    }
    stream.exchange().unwrap();
    assert_eq!(scene.other_gets(), Got::Silence);
    scene.server.write_config(&scene.config).unwrap();
    scene.server.wait_status(|status| problems(status) == "[]").unwrap();
}

#[test]
fn the_status_says_who_is_only_observed() {
    let scene = Scene::start(Mode::Observe);
    assert_eq!(scene.status()["attach"][0]["mode"], "observe");
    let shown = scene.server.cli(&["status"]).unwrap();
    assert!(shown.contains("observe: denials pass"), "{shown}");
}
