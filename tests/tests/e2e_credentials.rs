//! Credentials that must not be believed: of another authority, expired, cut, altered, too long.

use std::time::Duration;

use enforcer_tests::capture::{Capture, Direction, Flags, Segment};
use enforcer_tests::config::{Config, Workload};
use enforcer_tests::enforcer::Enforcer;
use enforcer_tests::host::{Family, Host};
use enforcer_tests::interactive::Interactive;
use enforcer_tests::keys::{Keys, NodeFiles, NodeKeys};
use enforcer_tests::load::Load;
use enforcer_tests::policy;
use enforcer_tests::raw::Forged;
use enforcer_tests::scenario::{
    CUT_BY_DAEMON, Contact, NAMESPACE, PORT, Pair, Setup, client, contact, server,
};
use enforcer_tests::tcp::{Got, PATIENCE, SILENCE, Server, Service, dial};
use enforcer_tests::topology::{INTERFACE, ThreeHosts, TwoHosts};
use enforcer_tests::twin::Enforcement;

/// A lifetime short enough to wait for.
const SHORT_LIFE_SECONDS: u64 = 8;

#[test]
fn nodes_of_authorities_that_do_not_know_each_other_do_not_connect() {
    let (first, second) = (Keys::pki().unwrap(), Keys::pki().unwrap());
    let of_client = first.node("client-node", NAMESPACE).unwrap();
    let of_server = second.node("server-node", NAMESPACE).unwrap();
    assert_eq!(contact_with(of_client, of_server), Contact::SILENT);
}

#[test]
fn nodes_that_trust_both_authorities_connect() {
    let (first, second) = (Keys::pki().unwrap(), Keys::pki().unwrap());
    let of_client = trusting(first.node("client-node", NAMESPACE).unwrap(), &second);
    let of_server = trusting(second.node("server-node", NAMESPACE).unwrap(), &first);
    assert_eq!(contact_with(of_client, of_server), Contact::MADE);
}

fn trusting(mut node: NodeKeys, other: &Keys) -> NodeKeys {
    let Keys::Pki(other) = other else { panic!("expected an authority") };
    let NodeFiles::Pki { authorities, .. } = &mut node.files else {
        panic!("expected a node with a certificate")
    };
    authorities.push(other.authority());
    node
}

fn contact_with(of_client: NodeKeys, of_server: NodeKeys) -> Contact {
    let net = TwoHosts::new().unwrap();
    let policy = policy::allow(&client(), &server());
    let _client = Enforcer::start(&net.client, &Config::new(of_client, client(), &policy)).unwrap();
    let _server = Enforcer::start(&net.server, &Config::new(of_server, server(), &policy)).unwrap();
    let listener = Server::start(&net.server, PORT, &Service::Echo).unwrap();
    contact(&net.client, net.server.at(Family::V4, PORT), &listener).unwrap()
}

#[test]
fn a_node_does_not_start_a_workload_outside_its_namespaces() {
    let net = TwoHosts::new().unwrap();
    let keys = Keys::pki().unwrap();
    let node = keys.node("street-node", "/acme/street").unwrap();
    let config = Config::new(node, client(), policy::ALLOW_ALL);
    let error = format!("{:#}", Enforcer::start(&net.client, &config).unwrap_err());
    assert!(error.contains("/acme/street") && error.contains(NAMESPACE), "{error}");
}

#[test]
fn labels_that_do_not_fit_are_refused_when_the_workload_is_added() {
    let net = TwoHosts::new().unwrap();
    let keys = Keys::pki().unwrap();
    let labelled = (0..20)
        .fold(client(), |workload, n| workload.label(&format!("label{n}"), &"x".repeat(100)));
    let rule = (0..20).map(|n| policy::allow_label(&format!("label{n}"), "x")).collect::<Vec<_>>();
    let node = keys.node("client-node", NAMESPACE).unwrap();
    let config = Config::new(node, labelled, &rule.join("\n"));
    let error = format!("{:#}", Enforcer::start(&net.client, &config).unwrap_err());
    assert!(error.contains("label") && error.contains("bytes"), "{error}");
}

#[test]
fn a_label_opens_what_its_policy_says() {
    for (tier, expected) in [("front", Contact::MADE), ("back", Contact::SILENT)] {
        let mut setup = Setup::pki().unwrap().server_policy(&policy::allow_label("tier", "front"));
        setup.client.policy = policy::ALLOW_ALL.into();
        setup.client.workloads = vec![client().label("tier", tier)];
        let pair = setup.start_pair(Enforcement::Enforced).unwrap();
        assert_eq!(contact_once(&pair), expected, "tier {tier}");
    }
}

#[test]
fn a_namespace_opens_what_its_policy_says() {
    for (namespace, expected) in
        [("/acme/prod", Contact::MADE), ("/acme/production", Contact::SILENT)]
    {
        let keys = Keys::pki().unwrap();
        let node = keys.node("caller-node", namespace).unwrap();
        let caller = Workload::own(namespace, "client");
        let mut setup = Setup::with(keys)
            .unwrap()
            .server_policy(&policy::allow_namespace("/acme/prod", "/acme/prod"));
        setup.client = Config::new(node, caller, policy::ALLOW_ALL);
        let pair = setup.start_pair(Enforcement::Enforced).unwrap();
        assert_eq!(contact_once(&pair), expected, "namespace {namespace}");
    }
}

fn contact_once(pair: &Pair) -> Contact {
    let listener = Server::start(&pair.net.server, PORT, &Service::Echo).unwrap();
    contact(&pair.net.client, pair.net.server.at(Family::V4, PORT), &listener).unwrap()
}

#[test]
fn nothing_outlives_its_credential_when_the_daemon_is_away() {
    let mut pair = short_lived().without_books(CUT_BY_DAEMON);
    let listener = Server::start(&pair.net.server, PORT, &Service::Echo).unwrap();
    let to = pair.net.server.at(Family::V4, PORT);
    let mut stream = Interactive::open(&pair.net.client, to).unwrap();
    pair.daemons.client().unwrap().kill().unwrap();
    assert_eq!(contact(&pair.net.client, to, &listener).unwrap(), Contact::MADE);
    std::thread::sleep(Duration::from_secs(SHORT_LIFE_SECONDS + 2));
    assert!(!contact(&pair.net.client, to, &listener).unwrap().is_made());
    assert!(stream.exchange().is_err());
    // The twin: with the daemon back, the same caller is let in.
    pair.daemons.client().unwrap().launch().unwrap();
    assert_eq!(contact(&pair.net.client, to, &listener).unwrap(), Contact::MADE);
}

#[test]
fn credentials_rotate_without_a_lost_connection() {
    let pair = short_lived();
    let _echo = Server::start(&pair.net.server, PORT, &Service::Echo).unwrap();
    let _rate = Server::start(&pair.net.server, PORT + 1, &Service::OneByte).unwrap();
    let mut stream =
        Interactive::open(&pair.net.client, pair.net.server.at(Family::V4, PORT)).unwrap();
    let load = Load::connections(pair.net.server.at(Family::V4, PORT + 1), 0);
    let lifetimes = Duration::from_secs(2 * SHORT_LIFE_SECONDS + 2);
    let report = load.lasting(lifetimes).run(&pair.net.client).unwrap();
    assert!(report.completed > 100);
    assert_eq!(report.failed, 0, "{:?}", report.first_failure);
    stream.exchange().unwrap();
}

fn short_lived() -> Pair {
    let mut setup = Setup::pki().unwrap();
    setup.client.credential_lifetime_seconds = SHORT_LIFE_SECONDS;
    setup.server.credential_lifetime_seconds = SHORT_LIFE_SECONDS;
    setup.start_pair(Enforcement::Enforced).unwrap()
}

/// A host without an enforcer sends them: what leaves an enforced one with the option is dropped there.
#[test]
fn a_credential_altered_in_any_part_gets_no_answer() {
    let net = ThreeHosts::new().unwrap();
    let setup = Setup::pki().unwrap();
    let _daemons = setup.start(&net.client, &net.server, Enforcement::Enforced).unwrap();
    let _listener = Server::start(&net.server, PORT, &Service::Echo).unwrap();
    let s1 = captured_s1(&net.client, &net.server);
    net.other.drop_arriving_tcp().unwrap();
    let capture = Capture::start(&net.server, INTERFACE).unwrap();
    for (index, (what, payload)) in alterations(&s1.payload).iter().enumerate() {
        // Both the handle that fits the altered bytes and the one that is known already.
        for (offset, handle) in [(0, handle_of(payload)), (1, identity(&s1)[..8].to_vec())] {
            let port = 20_000 + 2 * u16::try_from(index).unwrap() + offset;
            forged_s1(&net.other, &s1, port, &handle, payload);
            let arrived = |s: &Segment| s.direction == Direction::In && s.source.port() == port;
            capture.wait_for(what, PATIENCE, arrived).unwrap();
            let answered = what_answers(&capture, port);
            assert_eq!(answered, None, "{what}, port {port}");
        }
    }
    // The twin: the unaltered credential, sent the same way, is answered.
    forged_s1(&net.other, &s1, 30_000, &handle_of(&s1.payload), &s1.payload);
    let answer = capture.wait_for("SYN-ACK", PATIENCE, |s| s.destination.port() == 30_000).unwrap();
    assert_eq!(answer.flags, Flags::SYN_ACK);
}

/// Credentials that differ from this one, each with what was done to it.
fn alterations(credential: &[u8]) -> Vec<(String, Vec<u8>)> {
    let length = credential.len();
    let mut altered: Vec<(String, Vec<u8>)> = (0..length)
        .step_by(length / 40)
        .map(|at| {
            let mut payload = credential.to_vec();
            payload[at] ^= 1;
            (format!("bit changed in byte {at}"), payload)
        })
        .collect();
    altered.push(("last byte missing".into(), credential[..length - 1].to_vec()));
    altered.push(("half missing".into(), credential[..length / 2].to_vec()));
    altered.push(("no credential".into(), Vec::new()));
    altered.push(("a byte more".into(), [credential, &[0]].concat()));
    altered.push(("twice".into(), [credential, &credential[..length.min(600)]].concat()));
    altered
}

#[test]
fn the_handle_is_the_hash_of_the_credential() {
    let pair = Setup::pki().unwrap().start_pair(Enforcement::Enforced).unwrap();
    let _listener = Server::start(&pair.net.server, PORT, &Service::Echo).unwrap();
    let s1 = captured_s1(&pair.net.client, &pair.net.server);
    assert_eq!(identity(&s1)[..8], handle_of(&s1.payload));
}

/// What a permitted contact begins with, as it arrives.
fn captured_s1(client: &Host, server: &Host) -> Segment {
    let capture = Capture::start(server, INTERFACE).unwrap();
    let to = server.at(Family::V4, PORT);
    assert_eq!(dial(client, to, SILENCE).unwrap().got(), Got::Connection);
    let is_s1 = |s: &Segment| s.flags == Flags::SYN && s.direction == Direction::In;
    capture.wait_for("S1", PATIENCE, is_s1).unwrap()
}

fn identity(segment: &Segment) -> Vec<u8> {
    segment.identity().expect("a handshake segment carries the option").to_vec()
}

fn handle_of(credential: &[u8]) -> Vec<u8> {
    blake3::hash(credential).as_bytes()[..8].to_vec()
}

fn forged_s1(from: &Host, s1: &Segment, port: u16, handle: &[u8], payload: &[u8]) {
    let body = [handle, &identity(s1)[8..]].concat();
    Forged::syn(from.at(Family::V4, port), s1.destination)
        .identity(&body)
        .payload(payload)
        .send(from)
        .unwrap();
}

/// The flags of what the server said to a port, after time enough to answer.
fn what_answers(capture: &Capture, port: u16) -> Option<Flags> {
    std::thread::sleep(Duration::from_millis(50));
    let segments = capture.segments().unwrap();
    let answer =
        segments.iter().find(|s| s.direction == Direction::Out && s.destination.port() == port);
    answer.map(|segment| segment.flags)
}
