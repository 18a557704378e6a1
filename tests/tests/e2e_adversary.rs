//! What an attacker on the network can try: replay, mirror, forge, flood.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use enforcer_tests::capture::{Capture, Direction, EXID, Flags, IDENTITY_KIND, Segment};
use enforcer_tests::enforcer::Enforcer;
use enforcer_tests::host::{Family, Host};
use enforcer_tests::interactive::Interactive;
use enforcer_tests::load::{Load, prepare_client};
use enforcer_tests::raw::Forged;
use enforcer_tests::scenario::{Contact, Daemons, PORT, Setup, contact};
use enforcer_tests::tcp::{Got, PATIENCE, SILENCE, Server, Service, dial};
use enforcer_tests::topology::{INTERFACE, ThreeHosts, TwoHosts};
use enforcer_tests::twin;
use enforcer_tests::twin::Enforcement;

fn enforced() -> (Daemons, ThreeHosts) {
    let net = ThreeHosts::new().unwrap();
    let setup = Setup::pki().unwrap();
    (setup.start(&net.client, &net.server, Enforcement::Enforced).unwrap(), net)
}

fn is_s1(segment: &Segment) -> bool {
    segment.flags == Flags::SYN && segment.identity().is_some()
}

fn is_proof(segment: &Segment) -> bool {
    segment.flags == Flags::ACK && segment.identity().is_some()
}

#[test]
fn a_replayed_handshake_gets_the_servers_credential_and_nothing_more() {
    let (_daemons, net) = enforced();
    let server = Server::start(&net.server, PORT, &Service::Echo).unwrap();
    let at_server = Capture::start(&net.server, INTERFACE).unwrap();
    let to = net.server.at(Family::V4, PORT);
    assert_eq!(contact(&net.client, to, &server).unwrap(), Contact::MADE);
    let s1 = at_server.wait_for("S1", PATIENCE, is_s1).unwrap();
    let proof = at_server.wait_for("proof", PATIENCE, is_proof).unwrap();

    let thief = net.other.at(Family::V4, 5000);
    net.other.drop_arriving_tcp().unwrap();
    Forged { source: thief, ..Forged::replay(&s1) }.send(&net.other).unwrap();
    let answers = |s: &Segment| s.destination == thief && s.flags == Flags::SYN_ACK;
    let s2 = at_server.wait_for("S2 to the replayed S1", PATIENCE, answers).unwrap();
    let acknowledged = Forged {
        source: thief,
        acknowledgement: s2.sequence.wrapping_add(1),
        ..Forged::replay(&proof)
    };
    acknowledged.send(&net.other).unwrap();
    let data = Forged { options: Vec::new(), ..acknowledged.clone() }.payload(b"hello");
    data.send(&net.other).unwrap();
    std::thread::sleep(SILENCE);
    assert_eq!(server.accepted(), 1, "the thief got a connection");
    let told = at_server.segments().unwrap().into_iter().filter(|s| s.destination == thief);
    assert!(told.clone().all(|s| s.flags == Flags::SYN_ACK), "{:#?}", told.collect::<Vec<_>>());
    let whole = told.filter(|s| s.payload_length > 0).count();
    assert!(whole <= 3, "S2 comes whole at most three times");
}

#[test]
fn a_replayed_proof_from_the_same_address_opens_nothing() {
    let (_daemons, net) = enforced();
    let server = Server::start(&net.server, PORT, &Service::OneByte).unwrap();
    let at_server = Capture::start(&net.server, INTERFACE).unwrap();
    let to = net.server.at(Family::V4, PORT);
    Load::connections(to, 1).run(&net.client).unwrap();
    let proof = at_server.wait_for("proof", PATIENCE, is_proof).unwrap();
    let before = server.accepted();
    Forged::replay(&proof).send(&net.other).unwrap();
    Forged { source: net.other.at(Family::V4, 5001), ..Forged::replay(&proof) }
        .send(&net.other)
        .unwrap();
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(server.accepted(), before);
    at_server.assert_silent_towards(net.other.address(Family::V4)).unwrap();
}

twin!(a_peer_that_mirrors_the_option_back_is_not_believed, mirrored,
    enforced: false, Absent: true);

/// A host without an enforcer answers a SYN with a SYN-ACK that carries the same options and payload.
fn mirrored(enforcement: Enforcement) -> bool {
    let net = TwoHosts::new().unwrap();
    let setup = Setup::psk().unwrap();
    let _enforcer = (enforcement == Enforcement::Enforced)
        .then(|| Enforcer::start(&net.client, &setup.client).unwrap());
    net.server.drop_arriving_tcp().unwrap();
    let capture = Capture::start(&net.server, INTERFACE).unwrap();
    let mirror = net.server.clone();
    let reflecting = std::thread::spawn(move || {
        let is_syn = |s: &Segment| s.flags == Flags::SYN && s.direction == Direction::In;
        let syn = capture.wait_for("SYN", PATIENCE, is_syn).unwrap();
        let answer = Forged {
            source: syn.destination,
            destination: syn.source,
            sequence: 77,
            acknowledgement: syn.sequence.wrapping_add(1),
            flags: Flags::SYN_ACK,
            ..Forged::replay(&syn)
        };
        answer.send(&mirror).unwrap();
        syn.identity().is_some()
    });
    let got = dial(&net.client, net.server.at(Family::V4, PORT), SILENCE).unwrap().got();
    let was_stamped = reflecting.join().unwrap();
    assert_eq!(was_stamped, enforcement == Enforcement::Enforced);
    got == Got::Connection
}

#[test]
fn a_forged_reset_outside_the_window_does_not_end_a_flow() {
    let (_daemons, net) = enforced();
    let _server = Server::start(&net.server, PORT, &Service::Echo).unwrap();
    let to = net.server.at(Family::V4, PORT);
    let mut stream = Interactive::open(&net.client, to).unwrap();
    let from = stream.local().unwrap();
    for sequence in [0, 0x4000_0000, 0x8000_0000, 0xC000_0000] {
        let forged = Forged { sequence, ..Forged::new(from, to, Flags::RST) };
        forged.send(&net.other).unwrap();
        Forged { source: to, destination: from, ..forged }.send(&net.other).unwrap();
    }
    std::thread::sleep(Duration::from_millis(200));
    stream.exchange().unwrap();
}

#[test]
fn segments_of_no_connection_get_no_answer() {
    let (_daemons, net) = enforced();
    let server = Server::start(&net.server, PORT, &Service::Echo).unwrap();
    let capture = Capture::start(&net.server, INTERFACE).unwrap();
    let from = net.other.at(Family::V4, 6000);
    for flags in
        [Flags::ACK, Flags::RST, Flags::FIN, Flags::SYN_ACK, Flags::RST_ACK, Flags(0), Flags(63)]
    {
        Forged::new(from, net.server.at(Family::V4, PORT), flags)
            .payload(b"x")
            .send(&net.other)
            .unwrap();
    }
    std::thread::sleep(Duration::from_millis(500));
    capture.assert_silent_towards(from.ip()).unwrap();
    assert_eq!(server.accepted(), 0);
}

#[test]
fn a_workload_that_stamps_the_option_itself_is_dropped() {
    let (mut daemons, net) = enforced();
    let capture = Capture::start(&net.client, INTERFACE).unwrap();
    let from = net.client.at(Family::V4, 6001);
    Forged::syn(from, net.server.at(Family::V4, PORT))
        .identity(&[9; 16])
        .payload(b"credential of another")
        .send(&net.client)
        .unwrap();
    std::thread::sleep(Duration::from_millis(200));
    let left = capture.segments().unwrap().into_iter().any(|s| s.source == from);
    assert!(!left, "the forged segment left the host");
    assert!(daemons.client().unwrap().counters().unwrap().drop("forged_option") > 0);
}

#[test]
fn a_flood_of_garbage_credentials_does_not_stop_known_identities() {
    let (_daemons, net) = enforced();
    prepare_client(&net.client).unwrap();
    let _server = Server::start_threads(&net.server, PORT, &Service::OneByte, 2).unwrap();
    let to = net.server.at(Family::V4, PORT);
    Load::connections(to, 1).run(&net.client).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let flood = flood(&net.other, to, &stop);
    let report = Load::connections(to, 500).clients(2).run(&net.client).unwrap();
    stop.store(true, Ordering::Release);
    assert!(flood.join().unwrap() > 0);
    assert_eq!(report.failed, 0, "{:?}", report.first_failure);
}

fn flood(
    from: &Host,
    to: std::net::SocketAddr,
    stop: &Arc<AtomicBool>,
) -> std::thread::JoinHandle<u32> {
    let (host, stop) = (from.clone(), Arc::clone(stop));
    std::thread::spawn(move || {
        let mut sent = 0u32;
        while !stop.load(Ordering::Acquire) {
            let junk = blake3::hash(&sent.to_be_bytes());
            let port = 1024 + u16::try_from(sent % 60_000).unwrap();
            Forged::syn(host.at(Family::V4, port), to)
                .identity(&junk.as_bytes()[..16])
                .payload(&junk.as_bytes().repeat(20))
                .send(&host)
                .unwrap();
            sent += 1;
        }
        sent
    })
}

#[test]
fn a_cut_or_spliced_hello_and_one_of_another_version_get_no_answer() {
    let (mut daemons, net) = enforced();
    let server = Server::start(&net.server, PORT, &Service::Echo).unwrap();
    let at_server = Capture::start(&net.server, INTERFACE).unwrap();
    let to = net.server.at(Family::V4, PORT);
    assert_eq!(contact(&net.client, to, &server).unwrap(), Contact::MADE);
    let s1 = at_server.wait_for("S1", PATIENCE, is_s1).unwrap();
    let from = |port| Forged { source: net.other.at(Family::V4, port), ..Forged::replay(&s1) };
    let whole = s1.payload.len();
    Forged { payload: s1.payload[..whole - 1].to_vec(), ..from(5002) }.send(&net.other).unwrap();
    let mut spliced = s1.payload.clone();
    spliced[whole / 2] ^= 1;
    Forged { payload: spliced, ..from(5003) }.send(&net.other).unwrap();
    let longer = [&EXID[..], s1.identity().unwrap(), &[0; 2]].concat();
    Forged { options: Vec::new(), ..from(5004) }
        .option(IDENTITY_KIND, &longer)
        .send(&net.other)
        .unwrap();
    std::thread::sleep(SILENCE);
    at_server.assert_silent_towards(net.other.address(Family::V4)).unwrap();
    assert_eq!(server.accepted(), 1);
    let counters = daemons.server().unwrap().counters().unwrap();
    for reason in ["credential_length", "wrong_version"] {
        assert!(counters.drop(reason) > 0, "no {reason}: {counters:?}");
    }
}

#[test]
fn a_hello_replayed_on_the_tuple_of_an_open_connection_does_not_take_it_over() {
    let (_daemons, net) = enforced();
    let server = Server::start(&net.server, PORT, &Service::Echo).unwrap();
    let at_server = Capture::start(&net.server, INTERFACE).unwrap();
    let mut stream = Interactive::open(&net.client, net.server.at(Family::V4, PORT)).unwrap();
    let s1 = at_server.wait_for("S1", PATIENCE, is_s1).unwrap();
    let proof = at_server.wait_for("proof", PATIENCE, is_proof).unwrap();
    let sequence = s1.sequence.wrapping_add(0x1000_0000);
    Forged { sequence, ..Forged::replay(&s1) }.send(&net.other).unwrap();
    let taken = Forged { sequence: sequence.wrapping_add(1), ..Forged::replay(&proof) };
    taken.send(&net.other).unwrap();
    Forged { options: Vec::new(), ..taken }.payload(b"taken").send(&net.other).unwrap();
    for _ in 0..20 {
        stream.exchange().unwrap();
    }
    assert_eq!(server.accepted(), 1, "the replayed handshake made a connection");
}

#[test]
fn a_pre_shared_key_is_no_way_into_a_node_that_asks_for_certificates() {
    let net = TwoHosts::new().unwrap();
    let (psk, pki) = (Setup::psk().unwrap(), Setup::pki().unwrap());
    let _client = Enforcer::start(&net.client, &psk.client).unwrap();
    let server_side = Enforcer::start(&net.server, &pki.server).unwrap();
    let server = Server::start(&net.server, PORT, &Service::Echo).unwrap();
    let to = net.server.at(Family::V4, PORT);
    assert_eq!(contact(&net.client, to, &server).unwrap(), Contact::SILENT);
    assert!(server_side.counters().unwrap().drop("held") > 0, "the daemon was never asked");
}
