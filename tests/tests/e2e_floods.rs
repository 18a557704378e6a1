//! Floods at full speed, of what anybody can send: known identities keep connecting, an established flow loses
//! nothing, and all is as before when the flood is over.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use enforcer_tests::capture::{Capture, Flags, Segment};
use enforcer_tests::config::{Config, NetworkRule, Workload};
use enforcer_tests::enforcer::{Counters, Enforcer};
use enforcer_tests::flood::{Flood, link_address, port, spoofed};
use enforcer_tests::handmade::{Call, Speaker};
use enforcer_tests::host::{Family, Host};
use enforcer_tests::interactive::Interactive;
use enforcer_tests::keys::NodeKeys;
use enforcer_tests::load::{Close, Load, prepare_client};
use enforcer_tests::policy;
use enforcer_tests::raw::{Forged, ipv4_sum};
use enforcer_tests::scenario::{Daemons, NAMESPACE, PORT, Setup};
use enforcer_tests::stats::Stats;
use enforcer_tests::tcp::{Got, PATIENCE, Server, Service, dial};
use enforcer_tests::topology::{INTERFACE, ThreeHosts};
use enforcer_tests::twin;
use enforcer_tests::twin::Enforcement;
use enforcer_tests::udp::Responder;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Where the flow stands that lasts through the flood.
const ECHO: u16 = 8081;
/// A port that a network rule opens to everybody.
const OPEN: u16 = 8082;
const DNS: u16 = 53;
/// Frames prepared for a flood, which repeats them.
const FRAMES: u32 = 20_000;
/// Frames on the wire before the first look.
const BEGUN: u64 = 50_000;
/// Connections that known identities make during a flood; each must succeed.
const CONNECTIONS: u64 = 300;
/// How much the daemon may grow, in bytes: its queues and caches are bounded.
const GROWTH: u64 = 128 << 20;
/// Half-open connections that the server's tables hold in these tests: few, so that a flood fills them.
const ATTEMPTS: u64 = 1024;
const FLOWS: u64 = 4096;
/// Valid identities of a flood: several times the peers that the server's table then holds.
const IDENTITIES: u32 = 400;

/// A client that is known, a server that is flooded, and a host from which the flood comes.
struct Scene {
    daemons: Daemons,
    net: ThreeHosts,
    /// Keys of a node whose workload nobody permits.
    stranger: NodeKeys,
    flow: Interactive,
    _servers: [Server; 2],
}

impl Scene {
    fn new() -> Self {
        Self::with_limits(&[])
    }

    /// With these limits of the server's besides.
    fn with_limits(limits: &[(&str, u64)]) -> Self {
        let net = ThreeHosts::new().unwrap();
        let mut setup = Setup::pki().unwrap();
        let everybody = NetworkRule::ingress("open", "tcp", "0.0.0.0/0", OPEN);
        let names = NetworkRule::ingress("names", "udp", "0.0.0.0/0", DNS);
        setup.server = setup.server.rule(everybody).rule(names);
        setup.server.limits.insert("attempts".into(), ATTEMPTS);
        setup.server.limits.insert("flows".into(), FLOWS);
        setup.server.limits.extend(limits.iter().map(|(name, limit)| ((*name).to_owned(), *limit)));
        let stranger = setup.keys.node("stranger-node", NAMESPACE).unwrap();
        let daemons = setup.start(&net.client, &net.server, Enforcement::Enforced).unwrap();
        // What is answered to spoofed sources has somewhere to go, and nobody answers it.
        net.server.ip(&format!("route add default via {}", net.other.address(Family::V4))).unwrap();
        net.other.drop_arriving_tcp().unwrap();
        prepare_client(&net.client).unwrap();
        let servers = [
            Server::start_threads(&net.server, PORT, &Service::OneByte, 2).unwrap(),
            Server::start(&net.server, ECHO, &Service::Echo).unwrap(),
        ];
        let flow = Interactive::open(&net.client, net.server.at(Family::V4, ECHO)).unwrap();
        Load::connections(net.server.at(Family::V4, PORT), 10).run(&net.client).unwrap();
        Self { daemons, net, stranger, flow, _servers: servers }
    }

    fn to(&self) -> SocketAddr {
        self.net.server.at(Family::V4, PORT)
    }

    /// The S1 of a host's call, as the server sees it.
    fn s1_of(&self, host: &Host) -> Segment {
        let capture = Capture::start(&self.net.server, INTERFACE).unwrap();
        let from = host.address(Family::V4);
        drop(dial(host, self.to(), Duration::from_secs(1)).unwrap());
        let is_s1 =
            |s: &Segment| s.flags == Flags::SYN && s.identity().is_some() && s.source.ip() == from;
        capture.wait_for("S1", PATIENCE, is_s1).unwrap()
    }

    /// Frames made of a segment for each number.
    fn frames(&self, make: impl Fn(u32) -> Forged) -> Vec<Vec<u8>> {
        let server = link_address(&self.net.server, INTERFACE).unwrap();
        (0..FRAMES).map(|n| make(n).frame(server).unwrap()).collect()
    }

    /// Floods the server, and fails unless known identities and the flow go on during it and after it, and it is
    /// counted under the reason.
    fn survives(self, frames: Vec<Vec<u8>>, reason: &str) {
        self.survives_by(Daemon::Works, frames, reason);
    }

    fn survives_by(mut self, daemon: Daemon, frames: Vec<Vec<u8>>, reason: &str) {
        let before = self.counters();
        let memory = self.memory();
        if daemon == Daemon::Hangs {
            self.signal(Signal::SIGSTOP);
        }
        let flood = Flood::start(&self.net.other, INTERFACE, frames);
        wait_for(&flood, BEGUN);
        let load = Load::connections(self.to(), CONNECTIONS).clients(2);
        let running = load.start(&self.net.client).unwrap();
        for _ in 0..200 {
            self.flow.exchange().unwrap();
        }
        let report = running.finish().unwrap();
        let sent = flood.finish().unwrap();
        if daemon == Daemon::Hangs {
            self.signal(Signal::SIGCONT);
        }
        assert!(sent > BEGUN, "{sent} frames");
        assert_eq!(report.failed, 0, "during {sent} frames: {:?}", report.first_failure);
        assert_eq!(report.completed, CONNECTIONS);
        let moved = self.counters().since(&before);
        assert!(moved.drop(reason) + moved.event(reason) > 0, "no {reason}: {moved:?}");
        self.is_as_before(memory);
    }

    fn is_as_before(&mut self, memory: u64) {
        let report = Load::connections(self.to(), 20).run(&self.net.client).unwrap();
        assert_eq!(report.failed, 0, "after the flood: {:?}", report.first_failure);
        self.flow.exchange().unwrap();
        let grown = self.memory().saturating_sub(memory);
        assert!(grown < GROWTH, "the daemon grew by {grown} bytes");
        let status = self.daemons.server().unwrap().status().unwrap();
        assert!(status.ready && status.flows <= 2 * FLOWS, "{status:?}");
    }

    fn counters(&mut self) -> Counters {
        self.daemons.server().unwrap().counters().unwrap()
    }

    fn signal(&mut self, signal: Signal) {
        let pid = self.daemons.server().unwrap().pid().unwrap();
        kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
    }

    /// Resident bytes of the server's daemon.
    fn memory(&mut self) -> u64 {
        let pid = self.daemons.server().unwrap().pid().unwrap();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.split_whitespace().next().unwrap().parse::<u64>().unwrap() << 10
    }
}

fn wait_for(flood: &Flood, frames: u64) {
    let deadline = Instant::now() + Duration::from_mins(1);
    while flood.sent() < frames {
        assert!(Instant::now() < deadline, "{} of {frames} frames in a minute", flood.sent());
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn noise(n: u32) -> blake3::Hash {
    blake3::hash(&n.to_be_bytes())
}

fn garbage(n: u32, to: SocketAddr) -> Forged {
    let junk = noise(n);
    Forged::syn(spoofed(n), to)
        .identity(&junk.as_bytes()[..16])
        .payload(&junk.as_bytes().repeat(20))
}

/// What the server's daemon does during a flood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Daemon {
    Works,
    /// It is stopped, and reads nothing.
    Hangs,
}

#[test]
fn plain_syns_to_an_enforced_port() {
    let scene = Scene::new();
    let to = scene.to();
    let frames = scene.frames(|n| Forged::syn(spoofed(n), to));
    scene.survives(frames, "peer_without_identity");
}

#[test]
fn plain_syns_to_a_port_that_is_open_to_everybody() {
    let scene = Scene::new();
    let _server = Server::start(&scene.net.server, OPEN, &Service::Echo).unwrap();
    let to = scene.net.server.at(Family::V4, OPEN);
    let frames = scene.frames(|n| Forged { sequence: n, ..Forged::syn(spoofed(n / 100), to) });
    scene.survives(frames, "attempt_rate_limited");
}

#[test]
fn garbage_instead_of_credentials_fills_the_rings() {
    let scene = Scene::new();
    let to = scene.to();
    let frames = scene.frames(|n| garbage(n, to));
    scene.survives(frames, "cold_rate_limited");
}

/// More than the rings bear, and nobody who empties them.
#[test]
fn garbage_instead_of_credentials_while_the_daemon_hangs() {
    let scene = Scene::with_limits(&[("cold_per_second", 1_000_000)]);
    let to = scene.to();
    let frames = scene.frames(|n| garbage(n, to));
    scene.survives_by(Daemon::Hangs, frames, "ring_full");
}

/// All of them valid, of one node: it displaces its own.
#[test]
fn more_valid_identities_of_one_node_than_the_table_of_peers_holds() {
    let scene = Scene::with_limits(&[("peers", 64)]);
    let speaker = Speaker::new(&scene.stranger).unwrap();
    let credentials: Vec<Vec<u8>> = (0..IDENTITIES)
        .map(|n| {
            let id = format!("spiffe://example.org{NAMESPACE}/stranger-{n}");
            speaker.issue(&id).unwrap().bytes().to_vec()
        })
        .collect();
    let to = scene.to();
    let frames = scene.frames(|n| {
        let credential = &credentials[n as usize % credentials.len()];
        Call::new(spoofed(n), to).hello(credential)
    });
    scene.survives(frames, "engine_peers_displaced");
}

/// Whom a network rule lets in can fill their share of the table of flows, and no more.
#[test]
fn connections_that_fill_a_share_of_the_flow_table_bar_no_identity() {
    let mut scene = Scene::with_limits(&[("flows", 1024)]);
    let _server = Server::start_threads(&scene.net.server, OPEN, &Service::OneByte, 8).unwrap();
    scene.net.other.nft("delete table inet mute").unwrap();
    prepare_client(&scene.net.other).unwrap();
    let memory = scene.memory();
    let to = scene.net.server.at(Family::V4, OPEN);
    // Flows of connections that were reset stay for a moment; those that a client closed in order do not.
    let timeout = Duration::from_millis(300);
    let load = Load { timeout, close: Close::Abort, ..Load::connections(to, u64::MAX) };
    let flood = load.clients(4).start(&scene.net.other).unwrap();
    let deadline = Instant::now() + Duration::from_mins(1);
    while scene.counters().drop("flow_share_full") == 0 {
        assert!(Instant::now() < deadline, "{} connections fill no share", flood.completed());
        scene.flow.exchange().unwrap();
    }
    for call in 0..100 {
        scene.flow.exchange().unwrap();
        let got = dial(&scene.net.client, scene.to(), PATIENCE).unwrap().got();
        assert_eq!(got, Got::Connection, "call {call} of a known identity");
    }
    let counters = scene.counters();
    assert_eq!(counters.drop("flow_table_full"), 0, "{counters:?}");
    flood.stop().unwrap();
    scene.is_as_before(memory);
}

twin!(what_a_flood_sends_reaches_no_stack, reaches_the_stack, enforced: false, Absent: true);

/// Whether the server's stack has to deal with floods of plain SYNs, garbage and segments of no connection.
fn reaches_the_stack(enforcement: Enforcement) -> bool {
    let net = ThreeHosts::new().unwrap();
    let setup = Setup::pki().unwrap();
    let _daemons = setup.start(&net.client, &net.server, enforcement).unwrap();
    let _server = Server::start(&net.server, PORT, &Service::OneByte).unwrap();
    net.other.drop_arriving_tcp().unwrap();
    let (to, link) =
        (net.server.at(Family::V4, PORT), link_address(&net.server, INTERFACE).unwrap());
    let frames = (0..FRAMES).map(|n| {
        let source = net.other.at(Family::V4, port(n));
        let forged = match n % 3 {
            0 => Forged::syn(source, to),
            1 => Forged::syn(source, to).identity(&noise(n).as_bytes()[..16]).payload(&[7; 600]),
            _ => Forged { sequence: n, ..Forged::new(source, to, Flags::ACK) }.payload(b"x"),
        };
        forged.frame(link).unwrap()
    });
    let frames = frames.collect();
    let before = Stats::read(&net.server).unwrap();
    let flood = Flood::start(&net.other, INTERFACE, frames);
    wait_for(&flood, BEGUN);
    let sent = flood.finish().unwrap();
    let heard = Stats::read(&net.server).unwrap().since(&before, "Tcp.InSegs").unwrap();
    let reached = u64::try_from(heard).unwrap() > sent / 10;
    if enforcement == Enforcement::Enforced {
        assert!(heard < 100, "{heard} of {sent} segments reached the stack");
    }
    reached
}

#[test]
fn a_credential_that_is_valid_and_denied() {
    let scene = Scene::new();
    let stranger = Workload::own(NAMESPACE, "stranger");
    let config = Config::new(scene.stranger.clone(), stranger, policy::ALLOW_ALL);
    let enforcer = Enforcer::start(&scene.net.other, &config).unwrap();
    let s1 = scene.s1_of(&scene.net.other);
    drop(enforcer);
    let frames =
        scene.frames(|n| Forged { source: spoofed(n), sequence: n, ..Forged::replay(&s1) });
    scene.survives(frames, "policy_denied");
}

#[test]
fn the_credential_of_a_known_identity_replayed_from_everywhere() {
    let scene = Scene::new();
    let s1 = scene.s1_of(&scene.net.client);
    let frames = scene.frames(|n| {
        let source =
            if n.is_multiple_of(2) { spoofed(n) } else { scene.net.other.at(Family::V4, port(n)) };
        Forged { source, sequence: n, ..Forged::replay(&s1) }
    });
    scene.survives(frames, "attempt_rate_limited");
}

#[test]
fn half_open_proofs_that_are_wrong() {
    let scene = Scene::new();
    let s1 = scene.s1_of(&scene.net.client);
    let frames = scene.frames(|n| {
        let source = spoofed(n / 2 % 500);
        let call = Forged { source, sequence: 7, ..Forged::replay(&s1) };
        if n.is_multiple_of(2) {
            return call;
        }
        Forged { sequence: 8, acknowledgement: n, ..Forged::new(source, scene.to(), Flags::ACK) }
            .identity(&noise(n).as_bytes()[..16])
    });
    scene.survives(frames, "bad_mac");
}

#[test]
fn segments_of_no_connection() {
    let scene = Scene::new();
    let to = scene.to();
    let frames = scene.frames(|n| {
        let flags = [Flags::ACK, Flags::SYN_ACK, Flags::RST, Flags::FIN][n as usize % 4];
        Forged { sequence: n, ..Forged::new(spoofed(n), to, flags) }.payload(b"x")
    });
    scene.survives(frames, "no_flow");
}

#[test]
fn datagrams_to_an_open_port_leave_the_workload_its_own() {
    let scene = Scene::new();
    let server = link_address(&scene.net.server, INTERFACE).unwrap();
    let to = scene.net.server.at(Family::V4, DNS);
    let _responder = Responder::start(&scene.net.server, DNS).unwrap();
    // A UDP header is 8 bytes; a checksum of zero means none (RFC 768).
    let frames = (0..FRAMES)
        .map(|n| {
            let mut frame = Forged::new(spoofed(n), to, Flags(0)).frame(server).unwrap();
            as_datagram(&mut frame);
            frame
        })
        .collect();
    scene.survives(frames, "datagram_share_full");
}

/// Makes a UDP datagram of a TCP segment over IPv4 without options or payload: ports stay where they are.
fn as_datagram(frame: &mut Vec<u8>) {
    frame.truncate(14 + 20 + 8);
    frame[16..18].copy_from_slice(&28u16.to_be_bytes());
    frame[14 + 9] = 17;
    frame[14 + 20 + 4..].copy_from_slice(&[0, 8, 0, 0]);
    let header: [u8; 20] = frame[14..34].try_into().unwrap();
    let sum = ipv4_sum(&header);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
}
