//! Connections whose SYN or SYN-ACK offers TCP Fast Open or MPTCP: they go on as plain TCP at once, on the first
//! SYN, with every byte.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use anyhow::Result;
use enforcer_tests::capture::{Capture, Flags};
use enforcer_tests::custom::{Custom, Protocol};
use enforcer_tests::host::{Family, Host};
use enforcer_tests::need::kernel_version;
use enforcer_tests::scenario::{Contact, PORT, Pair, Setup, contact};
use enforcer_tests::stats::Stats;
use enforcer_tests::tcp::{PATIENCE, Server, Service};
use enforcer_tests::topology::{INTERFACE, TwoHosts};
use enforcer_tests::twin::Enforcement;

/// Option kind of MPTCP (RFC 8684 3).
const MULTIPATH: u8 = 30;
/// Option kinds of Fast Open (RFC 7413 4.1.1) and of the experiment that it was.
const FAST_OPEN: [u8; 2] = [34, 254];
/// Client and server ask for and give cookies (`tcp_fastopen` of ip-sysctl), for every listener.
const FAST_OPEN_ON: &str = "1027";
/// Bytes that a connection echoes at first: with Fast Open, they are in the SYN.
const FIRST: usize = 100;
/// And then: many segments both ways.
const MUCH: usize = 1 << 20;

fn enforced() -> Pair {
    Setup::psk().unwrap().start_pair(Enforcement::Enforced).unwrap()
}

fn bytes(count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    blake3::Hasher::new().update(b"a barrel").finalize_xof().fill(&mut bytes);
    bytes
}

/// Reads `expected`, and nothing else, from an echo.
fn hear(stream: &mut TcpStream, expected: &[u8]) -> Result<()> {
    let mut heard = vec![0; expected.len()];
    stream.read_exact(&mut heard)?;
    anyhow::ensure!(heard == expected, "the echo is not what was written");
    Ok(())
}

/// Both directions, more than once.
fn talk(mut stream: &TcpStream) {
    let first = bytes(FIRST);
    stream.write_all(&first).unwrap();
    hear(&mut stream.try_clone().unwrap(), &first).unwrap();
    talk_much(stream);
}

fn talk_much(stream: &TcpStream) {
    let much = bytes(MUCH);
    let mut back = stream.try_clone().unwrap();
    std::thread::scope(|scope| {
        let hearing = scope.spawn(|| hear(&mut back, &much));
        let mut stream = stream;
        stream.write_all(&much).unwrap();
        hearing.join().unwrap().unwrap();
    });
}

/// Makes both ends known to each other, so that nothing below waits for a daemon.
fn warm(pair: &Pair, server: &Server) {
    for family in Family::BOTH {
        let to = pair.net.server.at(family, PORT);
        assert_eq!(contact(&pair.net.client, to, server).unwrap(), Contact::MADE);
    }
}

/// What a stretch of connections left on the client's wire and in its stack.
struct Watch<'a> {
    host: &'a Host,
    capture: Capture,
    before: Stats,
}

impl<'a> Watch<'a> {
    fn start(host: &'a Host) -> Self {
        let capture = Capture::start(host, INTERFACE).unwrap();
        Self { host, capture, before: Stats::read(host).unwrap() }
    }

    fn rose(&self, counter: &str) -> i64 {
        Stats::read(self.host).unwrap().since(&self.before, counter).unwrap()
    }

    /// One SYN and one SYN-ACK for each connection, with our option and none of `kinds`. Data that a busy machine is late
    /// with may be repeated.
    fn assert_one_syn_each(&self, connections: usize, kinds: &[u8]) {
        let segments = self.capture.segments().unwrap();
        let (mut syns, mut syn_acks) = (0, 0);
        for segment in segments.iter().filter(|s| s.flags.has(Flags::SYN)) {
            let count = if segment.flags.has(Flags::ACK) { &mut syn_acks } else { &mut syns };
            *count += 1;
            assert!(segment.identity().is_some(), "without identity: {segment:?}");
            let told = segment.options.iter().find(|option| kinds.contains(&option.kind));
            assert_eq!(told, None, "{segment:?}");
        }
        assert_eq!((syns, syn_acks), (connections, connections), "SYNs and SYN-ACKs on the wire");
        assert_eq!(self.rose("TcpExt.TCPSynRetrans"), 0, "repeated SYNs");
    }
}

#[test]
fn a_multipath_socket_goes_on_as_plain_tcp_with_its_first_syn() {
    let pair = enforced();
    let server = Server::start(&pair.net.server, PORT, &Service::Echo).unwrap();
    warm(&pair, &server);
    let watch = Watch::start(&pair.net.client);
    for family in Family::BOTH {
        let custom = Custom::new(&pair.net.client, family, Protocol::Multipath).unwrap();
        talk(&custom.connect(pair.net.server.at(family, PORT)).unwrap());
    }
    assert_eq!(watch.rose("MPTcpExt.MPCapableSYNTX"), 2, "both sockets offered MPTCP");
    watch.assert_one_syn_each(2, &[MULTIPATH]);
    assert_eq!(watch.rose("MPTcpExt.MPTCPRetrans"), 0);
}

/// Without time stamps the SYN has room for MPTCP's offer and ours; the SYN-ACK, which takes the offer up, has not.
#[test]
fn a_multipath_listener_goes_on_as_plain_tcp_with_its_first_syn_ack() {
    const OTHER: u16 = 8081;
    let pair = enforced();
    let server = Server::start(&pair.net.server, PORT, &Service::Echo).unwrap();
    warm(&pair, &server);
    for host in [&pair.net.client, &pair.net.server] {
        host.sysctl("ipv4/tcp_timestamps", "0").unwrap();
    }
    let listening = Custom::new(&pair.net.server, Family::V6, Protocol::Multipath).unwrap();
    let listener = listening.bound_to(OTHER).unwrap().listen().unwrap();
    let echo = std::thread::spawn(move || echo_twice(&listener));
    let told = Capture::start(&pair.net.server, INTERFACE).unwrap();
    let of_server = Stats::read(&pair.net.server).unwrap();
    for family in Family::BOTH {
        let custom = Custom::new(&pair.net.client, family, Protocol::Multipath).unwrap();
        talk(&custom.connect(pair.net.server.at(family, OTHER)).unwrap());
    }
    echo.join().unwrap().unwrap();
    let capable = |wanted: Flags, absent: Flags| {
        let segments = told.segments().unwrap();
        let mut of_kind: Vec<_> = segments.into_iter().filter(|s| s.flags.has(wanted)).collect();
        of_kind.retain(|s| absent.0 == 0 || !s.flags.has(absent));
        let offers = of_kind.iter().filter(|s| s.options.iter().any(|o| o.kind == MULTIPATH));
        (of_kind.len(), offers.count())
    };
    assert_eq!(capable(Flags::SYN, Flags::ACK), (2, 2), "SYNs, and those that offer MPTCP");
    let both = Flags(Flags::SYN.0 | Flags::ACK.0);
    assert_eq!(capable(both, Flags(0)), (2, 0), "SYN-ACKs, and those that offer MPTCP");
    let after = Stats::read(&pair.net.server).unwrap();
    assert_eq!(after.since(&of_server, "MPTcpExt.MPCapableSYNRX").unwrap(), 2);
    assert_eq!(after.since(&of_server, "TcpExt.TCPSynRetrans").unwrap(), 0);
}

/// Echoes two connections to their ends.
fn echo_twice(listener: &TcpListener) -> Result<()> {
    for _ in 0..2 {
        let (stream, _) = listener.accept()?;
        stream.set_read_timeout(Some(PATIENCE))?;
        std::io::copy(&mut &stream, &mut &stream)?;
    }
    Ok(())
}

#[test]
fn a_fast_open_client_with_a_cookie_connects_with_its_first_syn() {
    let net = TwoHosts::new().unwrap();
    let server = fast_open_server(&net);
    // Two without enforcement: one that gets the cookie, and one that shows that it is used.
    let before = Stats::read(&net.client).unwrap();
    for connections in 1..=2 {
        open_fast(&net, Family::V4, Protocol::Tcp);
        server.wait_ends(connections, PATIENCE).unwrap();
    }
    let opened = Stats::read(&net.client).unwrap();
    assert_eq!(opened.since(&before, "TcpExt.TCPFastOpenActive").unwrap(), 1);
    let pair = start(net);
    let books = pair.open_books().unwrap();
    warm(&pair, &server);
    let watch = Watch::start(&pair.net.client);
    open_fast(&pair.net, Family::V4, Protocol::Tcp);
    open_fast(&pair.net, Family::V4, Protocol::Tcp);
    // Before Linux 6.2 (merge 7f0c940be5c5) no Multipath TCP socket sends with its SYN.
    let multipath = kernel_version() >= (6, 2);
    if multipath {
        open_fast(&pair.net, Family::V4, Protocol::Multipath);
    }
    let connections = 2 + usize::from(multipath);
    let failed = watch.rose("TcpExt.TCPFastOpenActiveFail");
    assert_eq!(usize::try_from(failed).unwrap(), connections, "each put data into its SYN");
    watch.assert_one_syn_each(connections, &[FAST_OPEN[0], FAST_OPEN[1], MULTIPATH]);
    for account in pair.close_books(&books).unwrap() {
        account.verify().unwrap();
    }
}

#[test]
fn a_fast_open_client_that_asks_for_a_cookie_connects_with_its_first_syn() {
    const ROUNDS: usize = 3;
    let net = TwoHosts::new().unwrap();
    let server = fast_open_server(&net);
    let pair = start(net);
    warm(&pair, &server);
    let watch = Watch::start(&pair.net.client);
    for _ in 0..ROUNDS {
        for family in Family::BOTH {
            open_fast(&pair.net, family, Protocol::Tcp);
        }
    }
    // Linux turns to the experimental option after a request that nobody answered, and back.
    watch.assert_one_syn_each(2 * ROUNDS, &FAST_OPEN);
}

fn fast_open_server(net: &TwoHosts) -> Server {
    for host in [&net.client, &net.server] {
        host.sysctl("ipv4/tcp_fastopen", FAST_OPEN_ON).unwrap();
    }
    Server::start(&net.server, PORT, &Service::Echo).unwrap()
}

fn start(net: TwoHosts) -> Pair {
    let setup = Setup::psk().unwrap();
    let daemons = setup.start(&net.client, &net.server, Enforcement::Enforced).unwrap();
    Pair::new(daemons, net)
}

/// Connects by sending (MSG_FASTOPEN): with a cookie, the data is in the SYN.
fn open_fast(net: &TwoHosts, family: Family, protocol: Protocol) {
    let custom = Custom::new(&net.client, family, protocol).unwrap();
    let first = bytes(FIRST);
    let mut stream = custom.connect_sending(net.server.at(family, PORT), &first).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    hear(&mut stream, &first).unwrap();
    talk_much(&stream);
}
