//! Open connections, and what is left of ended ones, in the hands of somebody on the same segment.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use enforcer_tests::capture::{Capture, Direction, Flags, Segment};
use enforcer_tests::config::{Config, Workload};
use enforcer_tests::custom::{Custom, Protocol};
use enforcer_tests::enforcer::Enforcer;
use enforcer_tests::host::{Family, Host};
use enforcer_tests::interactive::Interactive;
use enforcer_tests::policy;
use enforcer_tests::raw::Forged;
use enforcer_tests::scenario::{Daemons, NAMESPACE, PORT, Setup};
use enforcer_tests::tcp::{Got, PATIENCE, SILENCE, Server, Service, dial};
use enforcer_tests::topology::{INTERFACE, ThreeHosts};
use enforcer_tests::twin;
use enforcer_tests::twin::Enforcement;

/// The port that a client calls from where the tuple matters.
const CALLER: u16 = 41_000;
/// How long a forged segment has to do harm.
const GRACE: Duration = Duration::from_millis(300);

/// A client, a server, and somebody on their segment.
struct Scene {
    daemons: Daemons,
    listener: Server,
    net: ThreeHosts,
}

impl Scene {
    fn new(enforcement: Enforcement) -> Self {
        let net = ThreeHosts::new().unwrap();
        let setup = Setup::pki().unwrap();
        let daemons = setup.start(&net.client, &net.server, enforcement).unwrap();
        let listener = Server::start(&net.server, PORT, &Service::Echo).unwrap();
        Self { daemons, listener, net }
    }

    fn to(&self) -> SocketAddr {
        self.net.server.at(Family::V4, PORT)
    }

    fn open(&self) -> Interactive {
        Interactive::open(&self.net.client, self.to()).unwrap()
    }

    /// The client is gone from the segment, without a word, and the other has its address.
    fn other_takes_the_address(&self) {
        self.net.client.ip("link set eth0 down").unwrap();
        let address = self.net.client.address(Family::V4);
        self.net.other.ip("-4 addr flush dev eth0").unwrap();
        self.net.other.ip(&format!("addr add {address}/24 dev eth0")).unwrap();
        self.forget_neighbours();
    }

    fn client_is_back(&self) {
        self.net.other.ip("-4 addr flush dev eth0").unwrap();
        self.net.client.ip("link set eth0 up").unwrap();
        self.forget_neighbours();
    }

    fn forget_neighbours(&self) {
        for host in [&self.net.server, &self.net.other, &self.net.client] {
            host.ip("neigh flush dev eth0").unwrap();
        }
    }
}

twin!(who_takes_an_address_over_does_not_get_its_connections, address_taken,
    enforced: Got::Silence, Absent: Got::Connection);

/// What the new holder of the address gets; the connection of the old one is as it was.
fn address_taken(enforcement: Enforcement) -> Got {
    let scene = Scene::new(enforcement);
    let mut stream = scene.open();
    let from = stream.local().unwrap();
    scene.other_takes_the_address();
    let accepted = scene.listener.accepted();
    let got = dial(&scene.net.other, scene.to(), SILENCE).unwrap().got();
    if enforcement == Enforcement::Enforced {
        assert_eq!(scene.listener.accepted(), accepted);
    }
    // Segments of the open connection, by somebody who does not know its numbers, and whose stack does not betray that
    // it knows nothing of the connection: its resets would have the right numbers.
    scene.net.other.drop_arriving_tcp().unwrap();
    for flags in [Flags::ACK, Flags::SYN, Flags::RST, Flags::FIN, Flags::SYN_ACK, Flags::RST_ACK] {
        Forged::new(from, scene.to(), flags).payload(b"taken").send(&scene.net.other).unwrap();
    }
    std::thread::sleep(GRACE);
    scene.client_is_back();
    stream.exchange().unwrap();
    got
}

/// The last segment with data that the client of a connection sent, as the server sees it.
fn last_of(capture: &Capture, from: SocketAddr) -> Segment {
    let segments = capture.segments().unwrap();
    segments.into_iter().rfind(|s| s.source == from && s.payload_length > 0).unwrap()
}

/// The numbers are the only thing that protects an open connection: it is not encrypted, and SECURITY.md says so. What
/// is held here is that guesses do nothing, and that the test would see it if they did.
#[test]
fn guessed_numbers_do_nothing_to_an_open_connection_and_known_ones_are_as_good_as_without_enforcement()
 {
    for enforcement in [Enforcement::Enforced, Enforcement::Absent] {
        let scene = Scene::new(enforcement);
        // Or an old time stamp would betray it (RFC 7323 5).
        scene.net.client.sysctl("ipv4/tcp_timestamps", "0").unwrap();
        let capture = Capture::start(&scene.net.server, INTERFACE).unwrap();
        let mut stream = scene.open();
        stream.exchange().unwrap();
        let last = last_of(&capture, stream.local().unwrap());
        let next = last.sequence.wrapping_add(u32::try_from(last.payload_length).unwrap());
        let forged = |sequence: u32, acknowledgement: u32, flags| {
            let bare = Forged { options: Vec::new(), ..Forged::replay(&last) };
            Forged { sequence, acknowledgement, flags, ..bare }.payload(b"guessed!")
        };
        for off in [1 << 30, 1 << 31, 3 << 30] {
            for flags in [Flags::ACK, Flags::RST, Flags::FIN, Flags::RST_ACK] {
                let (s, a) = (next.wrapping_add(off), last.acknowledgement.wrapping_add(off));
                forged(s, a, flags).send(&scene.net.other).unwrap();
            }
        }
        std::thread::sleep(GRACE);
        for _ in 0..10 {
            stream.exchange().unwrap();
        }
        // The twin: with the right numbers the server hears it, and the client's stream is out of step.
        let last = last_of(&capture, stream.local().unwrap());
        let next = last.sequence.wrapping_add(u32::try_from(last.payload_length).unwrap());
        let said = Forged { sequence: next, ..Forged::replay(&last) };
        said.payload(b"injected").send(&scene.net.other).unwrap();
        capture
            .wait_for("the echo of what was injected", PATIENCE, |s| {
                s.direction == Direction::Out && s.payload == b"injected"
            })
            .unwrap();
    }
}

twin!(the_tuple_of_an_ended_connection_opens_nothing, ended_tuple, enforced: false, Absent: true);

/// Whether anything is heard by somebody who speaks from the tuple of a connection that ended, at once and when
/// nothing is left of its flow.
fn ended_tuple(enforcement: Enforcement) -> bool {
    let mut scene = Scene::new(enforcement);
    let socket = Custom::new(&scene.net.client, Family::V4, Protocol::Tcp).unwrap();
    let stream = socket.bound_to(CALLER).unwrap();
    let to = scene.to();
    drop(scene.net.client.run(|| stream.connect(to)).unwrap());
    scene.listener.wait_ends(1, PATIENCE).unwrap();
    scene.net.client.drop_arriving_tcp().unwrap();
    let source = scene.net.client.at(Family::V4, CALLER);
    let at_once = Capture::start(&scene.net.server, INTERFACE).unwrap();
    speak(&scene.net.other, source, to);
    let answered = is_answered(&at_once, source);
    if enforcement == Enforcement::Absent {
        return answered;
    }
    assert!(!answered, "what is left of an ended flow lets a SYN without identity in");
    let deadline = Instant::now() + PATIENCE + PATIENCE;
    while scene.daemons.server().unwrap().status().unwrap().flows > 0 {
        assert!(Instant::now() < deadline, "the flow of an ended connection stays");
        std::thread::sleep(Duration::from_millis(100));
    }
    let later = Capture::start(&scene.net.server, INTERFACE).unwrap();
    speak(&scene.net.other, source, to);
    later.assert_silent_towards(source.ip()).unwrap();
    assert_eq!(scene.listener.accepted(), 1);
    is_answered(&later, source)
}

/// A SYN without identity and everything that could come of a connection.
fn speak(from: &Host, source: SocketAddr, to: SocketAddr) {
    Forged::syn(source, to).send(from).unwrap();
    std::thread::sleep(GRACE);
    for flags in [Flags::ACK, Flags::FIN, Flags::RST_ACK, Flags::SYN_ACK] {
        let forged =
            Forged { sequence: 0x1000_0001, acknowledgement: 1, ..Forged::new(source, to, flags) };
        forged.payload(b"anybody there?").send(from).unwrap();
    }
    std::thread::sleep(GRACE);
}

/// Whether a SYN of that source was answered.
fn is_answered(capture: &Capture, source: SocketAddr) -> bool {
    let segments = capture.segments().unwrap();
    segments.iter().any(|s| s.destination == source && s.flags == Flags::SYN_ACK)
}

twin!(an_address_that_another_workload_was_given_means_nothing, address_given,
    enforced: Got::Silence, Absent: Got::Connection);

/// What a workload gets that nobody permits and that has the address, and calls from the port, of one that is permitted
/// and has a connection open: that host went away without a word.
fn address_given(enforcement: Enforcement) -> Got {
    let net = ThreeHosts::new().unwrap();
    let setup = Setup::pki().unwrap();
    let stranger = setup.keys.node("stranger-node", NAMESPACE).unwrap();
    let stranger = Config::new(stranger, Workload::own(NAMESPACE, "stranger"), policy::ALLOW_ALL);
    let daemons = setup.start(&net.client, &net.server, enforcement).unwrap();
    let listener = Server::start(&net.server, PORT, &Service::Echo).unwrap();
    let mut scene = Scene { daemons, listener, net };
    let to = scene.to();
    let socket = Custom::new(&scene.net.client, Family::V4, Protocol::Tcp).unwrap();
    let socket = socket.bound_to(CALLER).unwrap();
    let stream = scene.net.client.run(|| socket.connect(to)).unwrap();
    scene.other_takes_the_address();
    let _enforcer = (enforcement == Enforcement::Enforced)
        .then(|| Enforcer::start(&scene.net.other, &stranger).unwrap());
    let second = Custom::new(&scene.net.other, Family::V4, Protocol::Tcp).unwrap();
    let second = second.bound_to(CALLER).unwrap();
    let connected = scene.net.other.run(|| second.connect(to));
    if enforcement == Enforcement::Enforced {
        assert_eq!(scene.listener.accepted(), 1, "the stranger is in");
        let counters = scene.daemons.server().unwrap().counters().unwrap();
        assert!(counters.drop("policy_denied") > 0, "the stranger was not judged: {counters:?}");
    }
    drop(stream);
    if connected.is_ok() { Got::Connection } else { Got::Silence }
}
