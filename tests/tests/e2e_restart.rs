//! The daemon goes and comes; the datapath stays. And connections that are older than the enforcer.

use std::time::Duration;

use aya::maps::{HashMap, Map, MapData};
use enforcer_common::abi::{CredentialValue, Handle};
use enforcer_tests::config::Existing;
use enforcer_tests::enforcer::Enforcer;
use enforcer_tests::host::Family;
use enforcer_tests::interactive::Interactive;
use enforcer_tests::load::Load;
use enforcer_tests::policy;
use enforcer_tests::scenario::{
    CUT_BY_DAEMON, Contact, NAMESPACE, PORT, Pair, Setup, client, contact,
    server as server_workload,
};
use enforcer_tests::tcp::{End, Got, PATIENCE, Server, Service, dial};
use enforcer_tests::topology::{ThreeHosts, TwoHosts};
use enforcer_tests::twin::Enforcement;

/// Long enough for a load to run through whatever happens to the daemons.
const LONG: Duration = Duration::from_mins(10);
/// As long as a stack sends SYNs, nearly: the last of them may be the first that finds both daemons.
const SYN_RETRIES: Duration = Duration::from_mins(2);

#[test]
fn established_flows_and_known_identities_go_on_while_both_daemons_are_dead() {
    let pair = Setup::psk().unwrap().start_pair(Enforcement::Enforced).unwrap();
    let mut pair = pair.without_books("the daemons cannot be asked once they are dead");
    let _echo = Server::start(&pair.net.server, PORT, &Service::Echo).unwrap();
    let mut stream = open(&pair);
    pair.daemons.client().unwrap().kill().unwrap();
    pair.daemons.server().unwrap().kill().unwrap();
    stream.exchange().unwrap();
    open(&pair).exchange().unwrap();
    stream.exchange().unwrap();
}

#[test]
fn unknown_identities_are_refused_while_the_daemon_is_dead() {
    let net = ThreeHosts::new().unwrap();
    let mut setup = Setup::psk().unwrap();
    setup.server.policy = policy::ALLOW_ALL.into();
    setup.client.policy = policy::ALLOW_ALL.into();
    let _known = Enforcer::start(&net.client, &setup.client).unwrap();
    let mut server = Enforcer::start(&net.server, &setup.server).unwrap();
    let mut other = setup.client.clone();
    other.workloads = vec![enforcer_tests::config::Workload::own(NAMESPACE, "other")];
    let _unknown = Enforcer::start(&net.other, &other).unwrap();
    let listener = Server::start(&net.server, PORT, &Service::Echo).unwrap();
    let to = net.server.at(Family::V4, PORT);
    assert_eq!(contact(&net.client, to, &listener).unwrap(), Contact::MADE);
    server.kill().unwrap();
    assert_eq!(contact(&net.client, to, &listener).unwrap(), Contact::MADE);
    assert!(!contact(&net.other, to, &listener).unwrap().is_made());
    // The twin: the same caller is let in as soon as the daemon is back.
    server.launch().unwrap();
    assert_eq!(contact(&net.other, to, &listener).unwrap(), Contact::MADE);
}

#[test]
fn strangers_hear_nothing_while_the_daemon_is_dead() {
    let net = TwoHosts::new().unwrap();
    let setup = Setup::psk().unwrap();
    let mut enforcer = Enforcer::start(&net.server, &setup.server).unwrap();
    let listener = Server::start(&net.server, PORT, &Service::Echo).unwrap();
    enforcer.kill().unwrap();
    let to = net.server.at(Family::V4, PORT);
    assert_eq!(contact(&net.client, to, &listener).unwrap(), Contact::SILENT);
}

#[test]
fn a_killed_server_daemon_that_comes_back_loses_no_connection_under_load() {
    under_load(|pair| {
        pair.daemons.server().unwrap().kill().unwrap();
        std::thread::sleep(Duration::from_millis(500));
        pair.daemons.server().unwrap().launch().unwrap();
    });
}

#[test]
fn a_killed_client_daemon_that_comes_back_loses_no_connection_under_load() {
    under_load(|pair| {
        pair.daemons.client().unwrap().kill().unwrap();
        std::thread::sleep(Duration::from_millis(500));
        pair.daemons.client().unwrap().launch().unwrap();
    });
}

#[test]
fn an_orderly_restart_loses_no_connection_under_load() {
    under_load(|pair| {
        for _ in 0..3 {
            pair.daemons.server().unwrap().terminate().unwrap();
            pair.daemons.server().unwrap().launch().unwrap();
        }
    });
}

#[test]
fn restarts_without_end_leave_a_bounded_number_of_credentials() {
    let pair = Setup::psk().unwrap().start_pair(Enforcement::Enforced).unwrap();
    let mut pair = pair.without_books("a daemon that is away cannot be asked");
    let echo = Server::start(&pair.net.server, PORT, &Service::Echo).unwrap();
    let mut stream = open(&pair);
    let to = pair.net.server.at(Family::V4, PORT);
    for _ in 0..8 {
        let server = pair.daemons.server().unwrap();
        server.kill().unwrap();
        server.launch().unwrap();
        stream.exchange().unwrap();
    }
    assert_eq!(contact(&pair.net.client, to, &echo).unwrap(), Contact::MADE);
    let pin = pair.daemons.server().unwrap().pins().join("CREDENTIALS");
    let map = Map::from_map_data(MapData::from_pin(pin).unwrap()).unwrap();
    let credentials: HashMap<_, Handle, CredentialValue> = HashMap::try_from(map).unwrap();
    // Three of earlier daemons, the one shown before, and the new one.
    assert!(credentials.keys().count() <= 5, "{}", credentials.keys().count());
}

/// Connections come and go, and a stream is open, while something happens.
fn under_load(happens: impl FnOnce(&mut Pair)) {
    let mut pair = Setup::psk().unwrap().start_pair(Enforcement::Enforced).unwrap();
    let _echo = Server::start(&pair.net.server, PORT, &Service::Echo).unwrap();
    let _rate = Server::start_threads(&pair.net.server, PORT + 1, &Service::OneByte, 2).unwrap();
    let mut stream = open(&pair);
    let to = pair.net.server.at(Family::V4, PORT + 1);
    enforcer_tests::load::prepare_client(&pair.net.client).unwrap();
    let load = Load::connections(to, 0).clients(2).lasting(LONG).resting();
    let running = load.start(&pair.net.client).unwrap();
    running.wait_completed(100, PATIENCE).unwrap();
    happens(&mut pair);
    running.wait_completed(running.completed() + 100, PATIENCE).unwrap();
    let report = running.stop().unwrap();
    assert_eq!(report.failed, 0, "{:?}", report.first_failure);
    stream.exchange().unwrap();
}

#[test]
fn the_next_daemon_adopts_flows_and_still_cuts_them_by_policy() {
    let pair = Setup::psk().unwrap().start_pair(Enforcement::Enforced).unwrap();
    let mut pair = pair.without_books(CUT_BY_DAEMON);
    let echo = Server::start(&pair.net.server, PORT, &Service::Echo).unwrap();
    let mut stream = open(&pair);
    let server = pair.daemons.server().unwrap();
    server.kill().unwrap();
    server.launch().unwrap();
    assert_eq!(server.status().unwrap().flows, 1);
    stream.exchange().unwrap();
    server.change_policy(policy::DENY_ALL, enforcer_tests::enforcer::Reload::Signal).unwrap();
    assert_eq!(stream.wait_end(PATIENCE).unwrap(), End::Reset);
    assert_eq!(echo.wait_ends(1, PATIENCE).unwrap(), [End::Reset]);
}

#[test]
fn a_policy_that_changed_while_the_daemon_was_dead_is_enforced_by_the_next() {
    let pair = Setup::psk().unwrap().start_pair(Enforcement::Enforced).unwrap();
    let mut pair = pair.without_books(CUT_BY_DAEMON);
    let _echo = Server::start(&pair.net.server, PORT, &Service::Echo).unwrap();
    let mut stream = open(&pair);
    let server = pair.daemons.server().unwrap();
    server.kill().unwrap();
    server.write_policy(policy::DENY_ALL).unwrap();
    stream.exchange().unwrap();
    server.launch().unwrap();
    assert_eq!(stream.wait_end(PATIENCE).unwrap(), End::Reset);
}

#[test]
fn an_open_stream_goes_on_when_existing_connections_are_adopted() {
    let (mut stream, _echo, _pair) = attached_to_open_stream(Existing::Adopt);
    for _ in 0..10 {
        stream.exchange().unwrap();
    }
}

#[test]
fn an_open_stream_is_reset_at_both_ends_when_existing_connections_are_reset() {
    let (mut stream, echo, _pair) = attached_to_open_stream(Existing::Reset);
    // An idle stream may learn of it only when it is used.
    let _ = stream.exchange();
    assert!(stream.exchange().is_err());
    assert_eq!(echo.wait_ends(1, PATIENCE).unwrap(), [End::Reset]);
}

/// A stream that was opened before the daemons of its two hosts started.
fn attached_to_open_stream(existing: Existing) -> (Interactive, Server, Pair) {
    let net = TwoHosts::new().unwrap();
    let echo = Server::start(&net.server, PORT, &Service::Echo).unwrap();
    let mut stream = Interactive::open(&net.client, net.server.at(Family::V4, PORT)).unwrap();
    stream.exchange().unwrap();
    let mut setup = Setup::psk().unwrap();
    setup.client = setup.client.existing(existing);
    setup.server = setup.server.existing(existing);
    let daemons = setup.start(&net.client, &net.server, Enforcement::Enforced).unwrap();
    (stream, echo, Pair::new(daemons, net))
}

#[test]
fn new_connections_are_enforced_beside_an_adopted_one() {
    let net = TwoHosts::new().unwrap();
    let echo = Server::start(&net.server, PORT, &Service::Echo).unwrap();
    let to = net.server.at(Family::V4, PORT);
    let mut stream = Interactive::open(&net.client, to).unwrap();
    let setup = Setup::psk().unwrap();
    let config = setup.server.existing(Existing::Adopt);
    let _enforcer = Enforcer::start(&net.server, &config).unwrap();
    stream.exchange().unwrap();
    assert_eq!(contact(&net.client, to, &echo).unwrap(), Contact::SILENT);
    stream.exchange().unwrap();
}

#[test]
fn an_upgrade_from_one_workload_policy_to_another_keeps_identities() {
    let mut pair = Setup::pki().unwrap().start_pair(Enforcement::Enforced).unwrap();
    let _echo = Server::start(&pair.net.server, PORT, &Service::Echo).unwrap();
    let mut stream = open(&pair);
    let rule = policy::allow_port(&client(), &server_workload(), PORT);
    for daemon in [true, false] {
        let enforcer = if daemon { pair.daemons.client() } else { pair.daemons.server() }.unwrap();
        enforcer.terminate().unwrap();
        enforcer.write_policy(&rule).unwrap();
        enforcer.launch().unwrap();
    }
    stream.exchange().unwrap();
    open(&pair);
}

fn open(pair: &Pair) -> Interactive {
    Interactive::open(&pair.net.client, pair.net.server.at(Family::V4, PORT)).unwrap()
}

#[test]
fn a_call_that_waits_for_its_first_contact_outlives_both_daemons() {
    let net = TwoHosts::new().unwrap();
    let daemons =
        Setup::psk().unwrap().start(&net.client, &net.server, Enforcement::Enforced).unwrap();
    let mut pair = Pair::new(daemons, net);
    let _echo = Server::start(&pair.net.server, PORT, &Service::Echo).unwrap();
    pair.daemons.server().unwrap().kill().unwrap();
    let (client, to) = (pair.net.client.clone(), pair.net.server.at(Family::V4, PORT));
    let call = std::thread::spawn(move || dial(&client, to, SYN_RETRIES).unwrap().got());
    // The SYN has left with the credential of a daemon that will be gone when the answer comes.
    let at_client = pair.daemons.client().unwrap();
    let deadline = std::time::Instant::now() + PATIENCE;
    while at_client.counters().unwrap().event("s1_sent") == 0 {
        assert!(std::time::Instant::now() < deadline, "no SYN leaves");
    }
    at_client.kill().unwrap();
    at_client.launch().unwrap();
    pair.daemons.server().unwrap().launch().unwrap();
    assert_eq!(call.join().unwrap(), Got::Connection);
}
