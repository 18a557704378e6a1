//! Traffic of permitted pairs: bulk with and without offloads, many short connections, long silences.

use enforcer_tests::bulk::{download, upload};
use enforcer_tests::capture::Capture;
use enforcer_tests::host::Family;
use enforcer_tests::interactive::Interactive;
use enforcer_tests::load::{Load, prepare_client};
use enforcer_tests::scenario::{PORT, Pair, Setup};
use enforcer_tests::stats::Stats;
use enforcer_tests::tcp::{PATIENCE, Server, Service, dial};
use enforcer_tests::topology::INTERFACE;
use enforcer_tests::twin::Enforcement;

const BULK: u64 = 8 << 20;

#[test]
fn bulk_arrives_unchanged_both_ways_with_offloads() {
    bulk(true, true);
}

#[test]
fn bulk_arrives_unchanged_both_ways_without_offloads() {
    bulk(false, false);
}

#[test]
fn bulk_arrives_unchanged_from_offloads_to_none_and_back() {
    bulk(true, false);
    bulk(false, true);
}

fn bulk(client_offloads: bool, server_offloads: bool) {
    let pair = enforced().without_books("a stack counts a long segment once, the wire its pieces");
    let (client, server) = (&pair.net.client, &pair.net.server);
    client.set_offloads(INTERFACE, client_offloads).unwrap();
    server.set_offloads(INTERFACE, server_offloads).unwrap();
    let _digest = Server::start(server, PORT, &Service::Digest).unwrap();
    let _source = Server::start(server, PORT + 1, &Service::Source(BULK)).unwrap();
    let captures = [client, server].map(|host| Capture::start_cut(host, INTERFACE, 2048).unwrap());
    let before = [client, server].map(|host| Stats::read(host).unwrap());
    for family in Family::BOTH {
        upload(client, server.at(family, PORT), BULK).unwrap();
        download(client, server.at(family, PORT + 1), BULK).unwrap();
    }
    for (host, before) in [client, server].iter().zip(&before) {
        let after = Stats::read(host).unwrap();
        assert_eq!(after.checksum_errors_since(before).unwrap(), 0, "{}", host.label());
    }
    for capture in &captures {
        let segments = capture.segments().unwrap();
        let wrong: Vec<_> = segments.iter().filter(|s| s.checksum_right == Some(false)).collect();
        assert!(wrong.is_empty(), "wrong checksums on the wire: {wrong:#?}");
    }
}

#[test]
fn ten_thousand_short_connections_all_succeed() {
    const CONNECTIONS: u64 = 10_000;
    let mut pair = enforced();
    prepare_client(&pair.net.client).unwrap();
    let server = Server::start_threads(&pair.net.server, PORT, &Service::OneByte, 4).unwrap();
    let to = pair.net.server.at(Family::V4, PORT);
    let report = Load::connections(to, CONNECTIONS).clients(4).run(&pair.net.client).unwrap();
    assert_eq!((report.completed, report.failed), (CONNECTIONS, 0), "{:?}", report.first_failure);
    assert_eq!(server.accepted(), CONNECTIONS);
    let counters = pair.daemons.server().unwrap().counters().unwrap();
    assert_eq!(counters.event("proof_accepted"), CONNECTIONS, "{counters:?}");
}

#[test]
fn connections_between_known_identities_need_no_daemon() {
    let mut pair = enforced();
    let _server = Server::start_threads(&pair.net.server, PORT, &Service::OneByte, 2).unwrap();
    let to = pair.net.server.at(Family::V4, PORT);
    Load::connections(to, 1).run(&pair.net.client).unwrap();
    let cold = cold_segments(&mut pair);
    let report = Load::connections(to, 1000).clients(2).run(&pair.net.client).unwrap();
    assert_eq!(report.failed, 0, "{:?}", report.first_failure);
    assert_eq!(cold_segments(&mut pair), cold);
}

fn cold_segments(pair: &mut Pair) -> [u64; 2] {
    let client = pair.daemons.client().unwrap().counters().unwrap();
    let server = pair.daemons.server().unwrap().counters().unwrap();
    [client.event("cold_segments"), server.event("cold_segments")]
}

#[test]
fn ended_flows_leave_the_table() {
    let mut pair = enforced();
    let server = Server::start(&pair.net.server, PORT, &Service::OneByte).unwrap();
    let to = pair.net.server.at(Family::V4, PORT);
    Load::connections(to, 200).run(&pair.net.client).unwrap();
    drop(server);
    let deadline = std::time::Instant::now() + std::time::Duration::from_mins(2);
    while pair.daemons.server().unwrap().status().unwrap().flows > 0 {
        assert!(std::time::Instant::now() < deadline, "flows of ended connections stay");
        std::thread::sleep(std::time::Duration::from_millis(500));
    }
}

#[test]
fn simultaneous_first_contacts_all_succeed() {
    let pair = enforced();
    let _server = Server::start_threads(&pair.net.server, PORT, &Service::OneByte, 4).unwrap();
    let to = pair.net.server.at(Family::V6, PORT);
    let report = Load::connections(to, 64).clients(32).run(&pair.net.client).unwrap();
    assert_eq!((report.completed, report.failed), (64, 0), "{:?}", report.first_failure);
}

#[test]
fn a_server_with_syn_cookies_is_reached() {
    let pair = enforced();
    pair.net.server.sysctl("ipv4/tcp_syncookies", "2").unwrap();
    let _server = Server::start(&pair.net.server, PORT, &Service::Echo).unwrap();
    for family in Family::BOTH {
        Interactive::open(&pair.net.client, pair.net.server.at(family, PORT)).unwrap();
    }
}

#[test]
fn a_server_that_speaks_first_is_heard() {
    let pair = enforced();
    let _server = Server::start(&pair.net.server, PORT, &Service::Line("ale".into())).unwrap();
    for _ in 0..20 {
        let stream = dial(&pair.net.client, pair.net.server.at(Family::V4, PORT), PATIENCE);
        let line = std::io::read_to_string(stream.unwrap().stream().unwrap()).unwrap();
        assert_eq!(line, "ale\n");
    }
}

fn enforced() -> Pair {
    Setup::psk().unwrap().start_pair(Enforcement::Enforced).unwrap()
}
