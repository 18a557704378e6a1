//! The corners of TCP: what a stack may do, it may still do between enforced hosts.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use anyhow::Result;
use enforcer_tests::capture::{Capture, Direction, Flags, Segment};
use enforcer_tests::custom::{Custom, Protocol};
use enforcer_tests::host::{Family, Host};
use enforcer_tests::interactive::Interactive;
use enforcer_tests::policy::{self, ALLOW_ALL};
use enforcer_tests::scenario::{Contact, PORT, Pair, Setup, client, contact, server};
use enforcer_tests::stats::Stats;
use enforcer_tests::tcp::{Outcome, PATIENCE, Server, Service, dial};
use enforcer_tests::topology::INTERFACE;
use enforcer_tests::twin::Enforcement;
use nix::sys::socket::{MsgFlags, send, setsockopt, sockopt};

/// The flags of a SYN that offers ECN (RFC 3168 6.1.1).
const ECE_AND_CWR: Flags = Flags(0xC0);

fn enforced() -> Pair {
    Setup::psk().unwrap().start_pair(Enforcement::Enforced).unwrap()
}

fn echo(stream: &mut TcpStream, text: &[u8]) -> Result<()> {
    stream.write_all(text)?;
    let mut answer = vec![0; text.len()];
    stream.read_exact(&mut answer)?;
    anyhow::ensure!(answer == text, "the echo is not what was written");
    Ok(())
}

#[test]
fn hosts_without_time_stamps_connect() {
    without("tcp_timestamps");
}

#[test]
fn hosts_without_selective_acknowledgement_connect() {
    without("tcp_sack");
}

#[test]
fn hosts_without_window_scaling_connect() {
    without("tcp_window_scaling");
}

fn without(option: &str) {
    let pair = enforced();
    for host in [&pair.net.client, &pair.net.server] {
        host.sysctl(&format!("ipv4/{option}"), "0").unwrap();
    }
    let _server = Server::start(&pair.net.server, PORT, &Service::Echo).unwrap();
    for family in Family::BOTH {
        Interactive::open(&pair.net.client, pair.net.server.at(family, PORT)).unwrap();
    }
}

#[test]
fn hosts_with_explicit_congestion_notification_connect() {
    let pair = enforced();
    for host in [&pair.net.client, &pair.net.server] {
        host.sysctl("ipv4/tcp_ecn", "1").unwrap();
    }
    let _server = Server::start(&pair.net.server, PORT, &Service::Echo).unwrap();
    let capture = Capture::start(&pair.net.server, INTERFACE).unwrap();
    for family in Family::BOTH {
        Interactive::open(&pair.net.client, pair.net.server.at(family, PORT)).unwrap();
    }
    let negotiated = |s: &Segment| s.flags.has(Flags::SYN) && s.flags.has(ECE_AND_CWR);
    capture.wait_for("SYN that offers ECN", PATIENCE, negotiated).unwrap();
}

#[test]
fn urgent_data_arrives() {
    let pair = enforced();
    let _server = Server::start(&pair.net.server, PORT, &Service::Echo).unwrap();
    let to = pair.net.server.at(Family::V4, PORT);
    let mut stream = dial(&pair.net.client, to, PATIENCE).unwrap().stream().unwrap();
    echo(&mut stream, b"before").unwrap();
    send(stream.as_raw_fd(), b"!", MsgFlags::MSG_OOB).unwrap();
    echo(&mut stream, b"after").unwrap();
}

#[test]
fn an_idle_connection_stays_open_by_keepalive() {
    let pair = enforced();
    let server = Server::start(&pair.net.server, PORT, &Service::Echo).unwrap();
    let custom = Custom::new(&pair.net.client, Family::V4, Protocol::Tcp).unwrap();
    setsockopt(&custom.as_fd(), sockopt::KeepAlive, &true).unwrap();
    setsockopt(&custom.as_fd(), sockopt::TcpKeepIdle, &1).unwrap();
    setsockopt(&custom.as_fd(), sockopt::TcpKeepInterval, &1).unwrap();
    setsockopt(&custom.as_fd(), sockopt::TcpKeepCount, &2).unwrap();
    let mut stream = custom.connect(pair.net.server.at(Family::V4, PORT)).unwrap();
    echo(&mut stream, b"before").unwrap();
    let capture = Capture::start(&pair.net.server, INTERFACE).unwrap();
    std::thread::sleep(Duration::from_secs(5));
    assert!(!capture.segments().unwrap().is_empty(), "no keepalive was sent");
    echo(&mut stream, b"after").unwrap();
    assert!(server.ends().is_empty());
}

#[test]
fn a_port_is_used_again_at_once() {
    const LOCAL: u16 = 40_000;
    let mut pair = enforced();
    let server = Server::start(&pair.net.server, PORT, &Service::Echo).unwrap();
    let to = pair.net.server.at(Family::V4, PORT);
    for round in 1..=20u64 {
        let custom = Custom::new(&pair.net.client, Family::V4, Protocol::Tcp)
            .unwrap()
            .bound_to(LOCAL)
            .unwrap();
        let mut stream = custom.connect(to).unwrap();
        echo(&mut stream, b"again").unwrap();
        // The server is the one that stays in TIME_WAIT on even rounds, nobody on odd ones.
        let linger = libc::linger { l_onoff: i32::from(round % 2 == 1), l_linger: 0 };
        setsockopt(&stream, sockopt::Linger, &linger).unwrap();
        drop(stream);
        server.wait_ends(usize::try_from(round).unwrap(), PATIENCE).unwrap();
        if round % 2 == 0 {
            forget_time_wait(&pair.net.client);
        }
    }
    let counters = pair.daemons.server().unwrap().counters().unwrap();
    assert_eq!(counters.event("proof_accepted"), 20, "{counters:?}");
}

/// Kills what the client's stack keeps of ended connections, so that the same port can call again while the
/// server still remembers the last call.
fn forget_time_wait(host: &Host) {
    let mut kill = host.command("ss");
    enforcer_tests::need::run(kill.args(["-K", "-t", "state", "time-wait"])).unwrap();
}

#[test]
fn two_ends_that_call_each_other_meet() {
    let both =
        [policy::allow(&client(), &server()), policy::allow(&server(), &client())].join("\n");
    let setup = Setup::psk().unwrap().client_policy(&both).server_policy(&both);
    let pair = setup.start_pair(Enforcement::Enforced).unwrap();
    let (left, right) = (&pair.net.client, &pair.net.server);
    // A SYN that comes before the other end calls is answered by a reset, which must not end the call.
    for host in [left, right] {
        host.nft(
            "add table inet mute; add chain inet mute in { type filter hook input priority 0; }; \
             add rule inet mute in tcp flags & rst == rst drop",
        )
        .unwrap();
    }
    let calls = [(left, right, 5001u16, 5002u16), (right, left, 5002, 5001)];
    let streams: Vec<_> = calls
        .map(|(from, to, local, remote)| {
            let custom =
                Custom::new(from, Family::V4, Protocol::Tcp).unwrap().bound_to(local).unwrap();
            let to = to.at(Family::V4, remote);
            std::thread::spawn(move || custom.connect(to))
        })
        .into_iter()
        .map(|call| call.join().unwrap().unwrap())
        .collect();
    let [mut one, mut other] = <[TcpStream; 2]>::try_from(streams).unwrap();
    one.write_all(b"cheers").unwrap();
    let mut heard = [0; 6];
    other.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"cheers");
}

#[test]
fn a_server_that_accepts_late_is_reached() {
    let pair = enforced();
    let listener = pair
        .net
        .server
        .run(|| Ok(std::net::TcpListener::bind(pair.net.server.at(Family::V4, PORT))?))
        .unwrap();
    let to = pair.net.server.at(Family::V4, PORT);
    let mut stream = dial(&pair.net.client, to, PATIENCE).unwrap().stream().unwrap();
    stream.write_all(b"early").unwrap();
    std::thread::sleep(Duration::from_secs(1));
    let (mut accepted, _) = listener.accept().unwrap();
    let mut heard = [0; 5];
    accepted.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"early");
}

#[test]
fn a_full_backlog_loses_no_connection() {
    let pair = enforced();
    pair.net.server.sysctl("core/somaxconn", "2").unwrap();
    let server = Server::start(&pair.net.server, PORT, &Service::Line("ale".into())).unwrap();
    let to = pair.net.server.at(Family::V4, PORT);
    let dials: Vec<_> = (0..16)
        .map(|_| pair.net.client.spawn(move || enforcer_tests::tcp::dial_here(to, PATIENCE)))
        .collect();
    for dial in dials {
        let dialled = dial.join().unwrap().unwrap();
        assert!(matches!(dialled.outcome, Outcome::Connected(_)), "{:?}", dialled.outcome);
    }
    server.wait_ends(16, PATIENCE).unwrap();
}

#[test]
fn a_closed_port_refuses_a_permitted_caller_at_once() {
    let pair = Setup::psk().unwrap().client_policy(ALLOW_ALL).server_policy(ALLOW_ALL);
    let pair = pair.start_pair(Enforcement::Enforced).unwrap();
    let server = Server::start(&pair.net.server, PORT, &Service::Echo).unwrap();
    let (open, closed) = (pair.net.server.at(Family::V4, PORT), pair.net.server.at(Family::V4, 9));
    assert_eq!(contact(&pair.net.client, open, &server).unwrap(), Contact::MADE);
    let before = Stats::read(&pair.net.client).unwrap();
    assert_eq!(contact(&pair.net.client, closed, &server).unwrap(), Contact::REFUSED);
    let after = Stats::read(&pair.net.client).unwrap();
    assert_eq!(after.retransmissions_since(&before).unwrap(), 0);
}

#[test]
fn segments_are_never_longer_than_the_path_allows() {
    const MTU: usize = 1280;
    let pair = enforced().without_books("a stack counts a long segment once, the wire its pieces");
    for host in [&pair.net.client, &pair.net.server] {
        host.ip(&format!("link set {INTERFACE} mtu {MTU}")).unwrap();
        host.set_offloads(INTERFACE, false).unwrap();
    }
    let _server = Server::start(&pair.net.server, PORT, &Service::Digest).unwrap();
    let capture = Capture::start(&pair.net.server, INTERFACE).unwrap();
    for family in Family::BOTH {
        enforcer_tests::bulk::upload(&pair.net.client, pair.net.server.at(family, PORT), 1 << 20)
            .unwrap();
    }
    let longest = capture.frames().unwrap().iter().map(|frame| frame.length).max().unwrap();
    assert!(longest <= MTU + 14, "a frame of {longest} bytes");
    let arrived = capture.segments().unwrap().iter().any(|s| s.direction == Direction::In);
    assert!(arrived);
}
