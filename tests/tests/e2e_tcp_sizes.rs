//! What a stack puts into its headers, and how long its segments are: signatures, IP options, small and large
//! segments, a path that becomes narrower.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::time::Duration;

use enforcer_tests::bulk::{download, upload};
use enforcer_tests::capture::{Capture, Direction, Segment};
use enforcer_tests::custom::{Custom, Protocol};
use enforcer_tests::frame;
use enforcer_tests::host::Family;
use enforcer_tests::interactive::Interactive;
use enforcer_tests::scenario::{PORT, Pair, Setup};
use enforcer_tests::stats::Stats;
use enforcer_tests::tcp::{PATIENCE, Server, Service, dial};
use enforcer_tests::topology::{INTERFACE, Routed, TwoHosts};
use enforcer_tests::twin;
use enforcer_tests::twin::Enforcement;
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;

const BULK: u64 = 2 << 20;
const LONGER_COUNTED: &str = "a stack counts a long segment once, the wire its pieces";

fn enforced() -> Pair {
    Setup::psk().unwrap().start_pair(Enforcement::Enforced).unwrap()
}

twin!(a_caller_that_signs_with_tcp_md5_does_not_get_through, signed, enforced: false, Absent: true);

/// Whether a call succeeds whose every segment is signed with a key that the server has too.
fn signed(enforcement: Enforcement) -> bool {
    const KEY: &[u8] = b"the key of the cellar";
    let mut pair = Setup::psk().unwrap().start_pair(enforcement).unwrap();
    let (from, to) = (pair.net.client.at(Family::V4, 0), pair.net.server.at(Family::V4, PORT));
    let listening = Custom::new(&pair.net.server, Family::V4, Protocol::Tcp).unwrap();
    let listening = listening.bound_to(PORT).unwrap().signed(from, KEY).unwrap();
    let _listener = listening.listen().unwrap();
    let calling = Custom::new(&pair.net.client, Family::V4, Protocol::Tcp).unwrap();
    let calling = calling.signed(to, KEY).unwrap();
    setsockopt(&calling.as_fd(), sockopt::SendTimeout, &TimeVal::new(2, 0)).unwrap();
    let connected = calling.connect(to).is_ok();
    if enforcement == Enforcement::Enforced {
        let counters = pair.daemons.client().unwrap().counters().unwrap();
        assert!(counters.drop("no_option_room") > 0, "the reason is another: {counters:?}");
    }
    connected
}

/// The stack records the route and echoes options in its SYN-ACK; the handshake counts behind them.
#[test]
fn sockets_with_ipv4_options_connect() {
    let pair = enforced();
    let _server = Server::start(&pair.net.server, PORT, &Service::Echo).unwrap();
    let to = pair.net.server.at(Family::V4, PORT);
    let mut record_route = vec![7, 39, 4];
    record_route.resize(40, 0);
    let mut unknown = vec![222, 40];
    unknown.resize(40, 0);
    for options in [&[1, 1, 1, 1][..], &[148, 4, 0, 0], &record_route, &unknown] {
        let custom = Custom::new(&pair.net.client, Family::V4, Protocol::Tcp).unwrap();
        let mut stream = custom.ipv4_options(options).unwrap().connect(to).unwrap();
        echo_much(&mut stream);
    }
}

/// More than one segment both ways.
fn echo_much(stream: &mut TcpStream) {
    let much: Vec<u8> = (0..1 << 16).map(enforcer_tests::bulk::pattern).collect();
    let mut back = stream.try_clone().unwrap();
    let hearing = std::thread::spawn(move || {
        let mut heard = vec![0; 1 << 16];
        back.read_exact(&mut heard).map(|()| heard)
    });
    stream.write_all(&much).unwrap();
    assert!(hearing.join().unwrap().unwrap() == much, "the echo is not what was written");
}

twin!(a_socket_with_destination_options_does_not_get_through, behind_extension,
    enforced: false, Absent: true);

/// Whether a call succeeds whose every packet has an extension header.
fn behind_extension(enforcement: Enforcement) -> bool {
    let mut pair = Setup::psk().unwrap().start_pair(enforcement).unwrap();
    let _server = Server::start(&pair.net.server, PORT, &Service::Echo).unwrap();
    let calling = Custom::new(&pair.net.client, Family::V6, Protocol::Tcp).unwrap();
    let calling = calling.destination_options(&frame::extension(1)).unwrap();
    setsockopt(&calling.as_fd(), sockopt::SendTimeout, &TimeVal::new(2, 0)).unwrap();
    let connected = calling.connect(pair.net.server.at(Family::V6, PORT)).is_ok();
    if enforcement == Enforcement::Enforced {
        let counters = pair.daemons.client().unwrap().counters().unwrap();
        assert!(counters.drop("extension_header") > 0, "the reason is another: {counters:?}");
    }
    connected
}

/// The smallest segments that IPv4 promises to carry (RFC 9293 3.7.1). The credential is longer, and is no data.
#[test]
fn segments_of_536_bytes_carry_bulk() {
    const SMALL: usize = 536;
    let pair = enforced().without_books(LONGER_COUNTED);
    for (host, to) in [(&pair.net.client, 2), (&pair.net.server, 1)] {
        host.set_offloads(INTERFACE, false).unwrap();
        host.ip(&format!("route add 192.0.2.{to}/32 dev {INTERFACE} advmss {SMALL}")).unwrap();
        host.ip(&format!("-6 route add 2001:db8::{to}/128 dev {INTERFACE} advmss {SMALL}"))
            .unwrap();
    }
    let longest = bulk_both_ways(&pair, BULK / 4);
    assert!(longest <= SMALL, "a segment of {longest} bytes");
}

#[test]
fn jumbo_segments_carry_bulk() {
    const MTU: usize = 9000;
    let pair = enforced().without_books(LONGER_COUNTED);
    for host in [&pair.net.client, &pair.net.server] {
        host.ip(&format!("link set {INTERFACE} mtu {MTU}")).unwrap();
        host.set_offloads(INTERFACE, false).unwrap();
    }
    let longest = bulk_both_ways(&pair, BULK);
    assert!((8000..=MTU).contains(&longest), "the longest segment has {longest} bytes");
}

/// Returns the longest payload on the wire; no segment has a wrong checksum.
fn bulk_both_ways(pair: &Pair, bytes: u64) -> usize {
    let server = &pair.net.server;
    let _digest = Server::start(server, PORT, &Service::Digest).unwrap();
    let _source = Server::start(server, PORT + 1, &Service::Source(bytes)).unwrap();
    let capture = Capture::start(server, INTERFACE).unwrap();
    for family in Family::BOTH {
        upload(&pair.net.client, server.at(family, PORT), bytes).unwrap();
        download(&pair.net.client, server.at(family, PORT + 1), bytes).unwrap();
    }
    let segments = capture.segments().unwrap();
    let wrong = segments.iter().find(|s| s.checksum_right == Some(false));
    assert!(wrong.is_none(), "a wrong checksum: {wrong:#?}");
    // What the handshake carries is not the stacks' data.
    let data = segments.iter().filter(|s| s.identity().is_none());
    data.map(|s| s.payload_length).max().unwrap()
}

/// A router's next link becomes narrow in the middle of connections: its ICMP errors reach the stacks, which send
/// shorter segments from then on.
#[test]
fn a_path_that_becomes_narrow_is_noticed_and_used() {
    const NARROW: usize = 1280;
    let net = Routed::new().unwrap();
    let setup = Setup::psk().unwrap();
    let _daemons = setup.start(&net.client, &net.server, Enforcement::Enforced).unwrap();
    let _echo = Server::start(&net.server, PORT, &Service::Echo).unwrap();
    let mut streams: Vec<TcpStream> = Family::BOTH
        .map(|family| dial(&net.client, net.server.at(family, PORT), PATIENCE).unwrap())
        .map(|dialled| dialled.stream().unwrap())
        .into();
    streams.iter_mut().for_each(echo_much);
    net.router.ip(&format!("link set {} mtu {NARROW}", Routed::FAR)).unwrap();
    let before = Stats::read(&net.client).unwrap();
    let capture = Capture::start(&net.server, INTERFACE).unwrap();
    streams.iter_mut().for_each(echo_much);
    let rose = |name| Stats::read(&net.client).unwrap().since(&before, name).unwrap();
    assert!(rose("Icmp.InDestUnreachs") > 0, "no error of IPv4 reached the client");
    assert!(rose("Icmp6InPktTooBigs") > 0, "no error of IPv6 reached the client");
    let much = |s: &Segment| s.direction == Direction::In && s.payload_length > 1000;
    assert!(capture.segments().unwrap().iter().any(much), "nothing much arrived");
    // A new connection begins on the narrow path: its handshake fits.
    for family in Family::BOTH {
        Interactive::open(&net.client, net.server.at(family, PORT)).unwrap();
    }
}

/// A keepalive is one byte before the window. It is answered also when the connection was silent for longer than a
/// flow that is closed or was reset is kept.
#[test]
fn a_server_keeps_an_idle_connection_alive() {
    let pair = enforced();
    let listener = pair
        .net
        .server
        .run(|| Ok(std::net::TcpListener::bind(pair.net.server.at(Family::V6, PORT))?))
        .unwrap();
    let to = pair.net.server.at(Family::V6, PORT);
    let mut near = dial(&pair.net.client, to, PATIENCE).unwrap().stream().unwrap();
    let (mut far, _) = listener.accept().unwrap();
    far.write_all(b"hello").unwrap();
    near.read_exact(&mut [0; 5]).unwrap();
    setsockopt(&far, sockopt::KeepAlive, &true).unwrap();
    setsockopt(&far, sockopt::TcpKeepIdle, &1).unwrap();
    setsockopt(&far, sockopt::TcpKeepInterval, &1).unwrap();
    setsockopt(&far, sockopt::TcpKeepCount, &2).unwrap();
    let capture = Capture::start(&pair.net.server, INTERFACE).unwrap();
    std::thread::sleep(Duration::from_secs(6));
    let asked =
        capture.segments().unwrap().iter().filter(|s| s.direction == Direction::Out).count();
    assert!(asked > 2, "{asked} keepalives were sent");
    far.write_all(b"still here").unwrap();
    let mut heard = [0; 10];
    near.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"still here");
}

/// A start in which the stack offers nothing at all, and one in which it offers everything.
#[test]
fn stacks_that_offer_all_or_nothing_connect() {
    let net = TwoHosts::new().unwrap();
    let setup = Setup::psk().unwrap();
    let _daemons = setup.start(&net.client, &net.server, Enforcement::Enforced).unwrap();
    let _server = Server::start(&net.server, PORT, &Service::Echo).unwrap();
    for (of_client, of_server) in [("0", "0"), ("0", "1"), ("1", "0"), ("1", "1")] {
        for (host, value) in [(&net.client, of_client), (&net.server, of_server)] {
            for name in ["tcp_timestamps", "tcp_sack", "tcp_window_scaling", "tcp_ecn"] {
                host.sysctl(&format!("ipv4/{name}"), value).unwrap();
            }
        }
        for family in Family::BOTH {
            let to = net.server.at(family, PORT);
            let mut stream = dial(&net.client, to, PATIENCE).unwrap().stream().unwrap();
            echo_much(&mut stream);
        }
    }
}
