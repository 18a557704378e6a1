//! The harness itself, on plain hosts without an enforcer: what it is to see, it must be able to see.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use enforcer_tests::accounting::{Account, Books};
use enforcer_tests::bulk::{download, upload};
use enforcer_tests::capture::{Capture, Direction, Flags};
use enforcer_tests::enforcer::Counters;
use enforcer_tests::host::{Family, Host};
use enforcer_tests::interactive::Interactive;
use enforcer_tests::load::{Close, Load, prepare_client};
use enforcer_tests::raw::Forged;
use enforcer_tests::saved_syn::SynListener;
use enforcer_tests::stats::Stats;
use enforcer_tests::tcp::{End, Got, PATIENCE, Server, Service, dial, read_line};
use enforcer_tests::topology::{INTERFACE, OneNode, Routed, ThreeHosts, TwoHosts, near};
use enforcer_tests::udp::{Responder, ask};

const PORT: u16 = 8080;
const SHORT: Duration = Duration::from_millis(400);
/// Between two calls of somebody who never lets a capture rest.
const RESTLESS: Duration = Duration::from_millis(2);

#[test]
fn two_hosts_talk_in_both_families() {
    let net = TwoHosts::new().unwrap();
    let server = Server::start(&net.server, PORT, &Service::Line("stout".into())).unwrap();
    for family in Family::BOTH {
        let line = read_line(&net.client, net.server.at(family, PORT), PATIENCE).unwrap();
        assert_eq!(line, "stout");
    }
    assert_eq!(server.wait_ends(2, PATIENCE).unwrap(), [End::Closed, End::Closed]);
    assert_eq!(server.accepted(), 2);
}

#[test]
fn three_hosts_reach_each_other_over_the_bridge() {
    let net = ThreeHosts::new().unwrap();
    let _server = Server::start(&net.other, PORT, &Service::Echo).unwrap();
    for family in Family::BOTH {
        let to = net.other.at(family, PORT);
        Interactive::open(&net.client, to).unwrap();
        Interactive::open(&net.server, to).unwrap();
    }
}

#[test]
fn two_workloads_of_one_node_reach_each_other() {
    let net = OneNode::new().unwrap();
    let _server = Server::start(&net.b, PORT, &Service::Echo).unwrap();
    for family in Family::BOTH {
        Interactive::open(&net.a, net.b.at(family, PORT)).unwrap();
        Interactive::open(&net.node, net.b.at(family, PORT)).unwrap();
    }
}

#[test]
fn a_masqueraded_client_arrives_with_the_routers_address() {
    let net = Routed::new().unwrap();
    net.masquerade().unwrap();
    let _server = Server::start(&net.server, PORT, &Service::Line("ale".into())).unwrap();
    let capture = Capture::start(&net.server, INTERFACE).unwrap();
    for family in Family::BOTH {
        read_line(&net.client, net.server.at(family, PORT), PATIENCE).unwrap();
    }
    let client = [net.client.address(Family::V4), net.client.address(Family::V6)];
    let segments = capture.segments().unwrap();
    assert!(segments.iter().any(|s| s.direction == Direction::In));
    assert!(segments.iter().all(|s| !client.contains(&s.source.ip())), "{segments:#?}");
}

#[test]
fn a_published_port_leads_to_the_server() {
    let net = Routed::new().unwrap();
    net.publish(80, PORT).unwrap();
    let _server = Server::start(&net.server, PORT, &Service::Line("porter".into())).unwrap();
    for family in Family::BOTH {
        let published = std::net::SocketAddr::new(near(254).of(family), 80);
        assert_eq!(read_line(&net.client, published, PATIENCE).unwrap(), "porter");
    }
}

#[test]
fn a_connect_tells_refusal_from_silence() {
    let net = TwoHosts::new().unwrap();
    let to = net.server.at(Family::V4, PORT);
    assert_eq!(dial(&net.client, to, SHORT).unwrap().got(), Got::Refusal);
    drop_arriving(&net.server, PORT);
    assert_eq!(dial(&net.client, to, SHORT).unwrap().got(), Got::Silence);
}

#[test]
fn a_namespace_is_gone_after_its_host_even_when_a_test_panics() {
    let (name, maker) = (std::sync::mpsc::channel(), Host::new("doomed").unwrap());
    let result = std::thread::spawn(move || {
        name.0.send(maker.name().to_owned()).unwrap();
        panic!("on purpose: the namespace must still be removed");
    })
    .join();
    assert!(result.is_err());
    let name = name.1.recv().unwrap();
    assert!(!std::path::Path::new("/run/netns").join(name).exists());
}

#[test]
fn a_capture_shows_the_handshake_segment_by_segment() {
    for family in Family::BOTH {
        let net = TwoHosts::new().unwrap();
        let _server = Server::start(&net.server, PORT, &Service::Echo).unwrap();
        let capture = Capture::start(&net.server, INTERFACE).unwrap();
        let to = net.server.at(family, PORT);
        drop(Interactive::open(&net.client, to).unwrap());
        let segments = capture.segments().unwrap();
        let [syn, syn_ack, ack, ..] = segments.as_slice() else { panic!("{segments:#?}") };
        assert_eq!((syn.flags, syn.destination, syn.direction), (Flags::SYN, to, Direction::In));
        assert_eq!((syn_ack.flags, syn_ack.direction), (Flags::SYN_ACK, Direction::Out));
        assert_eq!(syn_ack.acknowledgement, syn.sequence.wrapping_add(1));
        assert_eq!((ack.flags, ack.payload_length), (Flags::ACK, 0));
        assert!(syn.options.iter().any(|option| option.kind == 2 && option.data.len() == 2));
        assert!(segments.iter().any(|s| s.payload == 1u64.to_be_bytes()));
        assert!(segments.iter().all(|s| s.identity().is_none()));
    }
}

#[test]
fn silence_is_told_from_an_answer() {
    let net = TwoHosts::new().unwrap();
    let capture = Capture::start(&net.server, INTERFACE).unwrap();
    let (client, to) = (net.client.address(Family::V4), net.server.at(Family::V4, PORT));
    drop_arriving(&net.server, PORT);
    dial(&net.client, to, SHORT).unwrap();
    capture.assert_silent_towards(client).unwrap();
    dial(&net.client, net.server.at(Family::V4, PORT + 1), SHORT).unwrap();
    capture.assert_silent_towards(client).unwrap_err();
}

#[test]
fn forged_segments_arrive_as_made() {
    for family in Family::BOTH {
        let net = TwoHosts::new().unwrap();
        let capture = Capture::start(&net.server, INTERFACE).unwrap();
        let body = [7; 16];
        let spoofed = std::net::SocketAddr::new(near(77).of(family), 4000);
        Forged::syn(spoofed, net.server.at(family, PORT))
            .identity(&body)
            .payload(b"junk")
            .send(&net.client)
            .unwrap();
        let seen = capture.wait_for("forged SYN", PATIENCE, |s| s.source == spoofed).unwrap();
        assert_eq!(seen.identity(), Some(body.as_slice()));
        assert_eq!(seen.payload, b"junk");
        assert_eq!(seen.checksum_right, Some(true));
        let mut broken = Forged::replay(&seen);
        broken.sequence += 1;
        broken.send(&net.client).unwrap();
        let wanted = seen.sequence + 1;
        let again = capture.wait_for("replayed SYN", PATIENCE, |s| s.sequence == wanted).unwrap();
        assert_eq!((again.options, again.payload), (seen.options, seen.payload));
    }
}

#[test]
fn bulk_arrives_unchanged_with_offloads_on_and_off() {
    const BYTES: u64 = 8 << 20;
    for on in [true, false] {
        let net = TwoHosts::new().unwrap();
        net.client.set_offloads(INTERFACE, on).unwrap();
        net.server.set_offloads(INTERFACE, on).unwrap();
        let _digest = Server::start(&net.server, PORT, &Service::Digest).unwrap();
        let _source = Server::start(&net.server, PORT + 1, &Service::Source(BYTES)).unwrap();
        let capture = Capture::start(&net.server, INTERFACE).unwrap();
        let before = Stats::read(&net.server).unwrap();
        for family in Family::BOTH {
            upload(&net.client, net.server.at(family, PORT), BYTES).unwrap();
            download(&net.client, net.server.at(family, PORT + 1), BYTES).unwrap();
        }
        let after = Stats::read(&net.server).unwrap();
        assert_eq!(after.checksum_errors_since(&before).unwrap(), 0);
        let segments = capture.segments().unwrap();
        assert!(segments.iter().all(|s| s.checksum_right != Some(false)));
        let all_judged = segments.iter().all(|s| s.checksum_right == Some(true));
        assert_eq!(all_judged, !on, "all checksums are on the wire only without offload");
        let longest = segments.iter().map(|s| s.payload_length).max().unwrap();
        assert_eq!(longest > 1500, on, "segments longer than the MTU only with offload");
    }
}

#[test]
fn a_saved_syn_is_the_one_on_the_wire() {
    let net = TwoHosts::new().unwrap();
    let listener = SynListener::start(&net.server, PORT).unwrap();
    for family in Family::BOTH {
        let capture = Capture::start(&net.server, INTERFACE).unwrap();
        dial(&net.client, net.server.at(family, PORT), PATIENCE).unwrap();
        let saved = listener.accept().unwrap();
        let seen = capture.wait_for("SYN", PATIENCE, |s| s.flags == Flags::SYN).unwrap();
        assert_eq!((saved.options, saved.sequence), (seen.options, seen.sequence));
        assert_eq!((saved.payload_length, seen.payload_length), (0, 0));
    }
}

#[test]
fn a_wrong_checksum_is_seen_by_the_stack_and_by_the_capture() {
    let net = TwoHosts::new().unwrap();
    let capture = Capture::start(&net.server, INTERFACE).unwrap();
    let before = Stats::read(&net.server).unwrap();
    let from = net.client.at(Family::V4, 4000);
    let segment = Forged::syn(from, net.server.at(Family::V4, PORT)).payload(b"beer");
    segment.send_corrupted(&net.client).unwrap();
    let seen = capture.wait_for("corrupted SYN", PATIENCE, |s| s.source == from).unwrap();
    assert_eq!(seen.checksum_right, Some(false));
    let after = Stats::read(&net.server).unwrap();
    assert_eq!(after.checksum_errors_since(&before).unwrap(), 1);
}

#[test]
fn load_counts_what_it_did() {
    let net = TwoHosts::new().unwrap();
    prepare_client(&net.client).unwrap();
    let server = Server::start_threads(&net.server, PORT, &Service::OneByte, 2).unwrap();
    let to = net.server.at(Family::V4, PORT);
    let report = Load::connections(to, 500).clients(4).run(&net.client).unwrap();
    assert_eq!((report.completed, report.failed), (500, 0), "{:?}", report.first_failure);
    assert_eq!((report.latencies.len(), server.accepted()), (500, 500));
    assert!(report.latency_permille(500) <= report.latency_permille(990));
    let aborting = Load { close: Close::Abort, ..Load::connections(to, 50) };
    assert_eq!(aborting.run(&net.client).unwrap().completed, 50);
    let ends = server.wait_ends(550, PATIENCE).unwrap();
    assert!(ends.contains(&End::Reset) && ends.contains(&End::Closed));
}

#[test]
fn load_reports_refusals() {
    let net = TwoHosts::new().unwrap();
    let to = net.server.at(Family::V4, PORT);
    let report = Load::connections(to, 3).run(&net.client).unwrap();
    assert_eq!((report.completed, report.failed), (0, 3));
    assert!(report.first_failure.unwrap().contains("Refused"));
}

#[test]
fn an_interactive_stream_notices_its_reset() {
    let net = TwoHosts::new().unwrap();
    let server = Server::start(&net.server, PORT, &Service::Echo).unwrap();
    let mut stream = Interactive::open(&net.client, net.server.at(Family::V4, PORT)).unwrap();
    stream.exchange().unwrap();
    stream.wait_end(SHORT).unwrap_err();
    let kill = format!("ss -K -t sport = :{}", stream.local().unwrap().port());
    enforcer_tests::need::run(net.client.command("sh").args(["-c", &kill])).unwrap();
    stream.exchange().unwrap_err();
    assert_eq!(server.wait_ends(1, PATIENCE).unwrap(), [End::Reset]);
}

#[test]
fn a_name_server_answers_over_udp() {
    let net = TwoHosts::new().unwrap();
    let responder = Responder::start(&net.server, 53).unwrap();
    for family in Family::BOTH {
        let answer = ask(&net.client, net.server.at(family, 53), PATIENCE).unwrap();
        assert_eq!(answer.unwrap(), b"which beer today?");
    }
    assert_eq!(responder.received(), 2);
    assert_eq!(ask(&net.client, net.server.at(Family::V4, 54), PATIENCE).unwrap(), None);
}

#[test]
fn books_balance_when_nothing_is_dropped() {
    let net = TwoHosts::new().unwrap();
    let _server = Server::start(&net.server, PORT, &Service::Echo).unwrap();
    let none = |_| Ok(Counters::default());
    let books = Books::open([&net.client, &net.server], INTERFACE, &none).unwrap();
    for family in Family::BOTH {
        drop(Interactive::open(&net.client, net.server.at(family, PORT)).unwrap());
        dial(&net.client, net.server.at(family, PORT + 1), SHORT).unwrap();
    }
    for account in books.close(&none).unwrap() {
        assert!(account.received_on_wire >= 10, "{account}");
        account.verify().unwrap();
    }
}

#[test]
fn books_balance_when_drops_are_counted() {
    let account = dropping_account(true);
    assert!(account.counted() >= 2, "{account}");
    account.verify().unwrap();
}

#[test]
fn books_with_a_broken_counter_do_not_balance() {
    let account = dropping_account(false);
    assert!(account.lost() >= 2, "{account}");
    account.verify().unwrap_err();
    dropping_account(true).without("nftables").verify().unwrap_err();
}

/// Books of a server whose nftables drops what arrives for a port before the stack sees it, with a counter
/// that counts, or that does not.
fn dropping_account(counting: bool) -> Account {
    let net = TwoHosts::new().unwrap();
    net.server
        .nft(&format!(
            "add table netdev f; add chain netdev f in {{ type filter hook ingress device {INTERFACE} priority 0; }}; \
             add rule netdev f in tcp dport {PORT} {} drop",
            if counting { "counter" } else { "" }
        ))
        .unwrap();
    let read = |side| {
        let mut counters = Counters::default();
        if side == 1 {
            counters.drops.insert("nftables".into(), nft_counter(&net.server));
        }
        Ok(counters)
    };
    let books = Books::open([&net.client, &net.server], INTERFACE, &read).unwrap();
    for family in Family::BOTH {
        dial(&net.client, net.server.at(family, PORT), SHORT).unwrap();
        dial(&net.client, net.server.at(family, PORT + 1), SHORT).unwrap();
    }
    let [client, server] = books.close(&read).unwrap();
    client.verify().unwrap();
    server
}

fn nft_counter(host: &Host) -> u64 {
    let mut list = host.command(enforcer_tests::need::tool("nft").unwrap());
    let text = enforcer_tests::need::run(list.args(["list", "table", "netdev", "f"])).unwrap();
    let mut words = text.split_whitespace().skip_while(|word| *word != "packets");
    words.nth(1).map_or(0, |count| count.parse().unwrap())
}

fn drop_arriving(host: &Host, port: u16) {
    host.nft(&format!(
        "add table inet f; add chain inet f in {{ type filter hook input priority 0; }}; \
         add rule inet f in tcp dport {port} drop"
    ))
    .unwrap();
}

#[test]
fn a_capture_of_a_wire_that_never_rests_can_be_looked_at() {
    let net = TwoHosts::new().unwrap();
    let capture = Capture::start(&net.server, INTERFACE).unwrap();
    let stop = AtomicBool::new(false);
    let (from, to) = (net.client.at(Family::V4, PORT), net.server.at(Family::V4, PORT));
    std::thread::scope(|scope| {
        let caller = scope.spawn(|| {
            let mut calls = 0;
            while !stop.load(Ordering::Acquire) {
                Forged::syn(from, to).send(&net.client).unwrap();
                calls += 1;
                std::thread::sleep(RESTLESS);
            }
            calls
        });
        let heard = capture.wait_for("call", PATIENCE, |s| s.flags == Flags::SYN);
        stop.store(true, Ordering::Release);
        let calls: usize = caller.join().unwrap();
        heard.unwrap();
        let syns = capture.segments().unwrap();
        assert_eq!(syns.iter().filter(|s| s.flags == Flags::SYN).count(), calls);
    });
}
