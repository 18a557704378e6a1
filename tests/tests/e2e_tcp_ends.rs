//! How connections end, and how they do not: half close, resets in every state, spoofed resets, ports used again.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use enforcer_tests::capture::{Capture, Direction, Flags, Segment};
use enforcer_tests::custom::{Custom, Protocol};
use enforcer_tests::frame::{self, Link};
use enforcer_tests::host::{Family, Host};
use enforcer_tests::interactive::Interactive;
use enforcer_tests::policy;
use enforcer_tests::raw::Forged;
use enforcer_tests::scenario::{PORT, Pair, Setup, client, server};
use enforcer_tests::tcp::{PATIENCE, Server, Service};
use enforcer_tests::topology::INTERFACE;
use enforcer_tests::twin::Enforcement;
use enforcer_tests::wire::{Fate, Rule, Toward, Wire};
use nix::sys::socket::{setsockopt, sockopt};

/// Longer than a flow is kept that is closed in both directions (5 s) or was reset (2 s).
const LONG_SILENCE: Duration = Duration::from_secs(6);
const MUCH: usize = 1 << 19;

fn enforced() -> Pair {
    Setup::psk().unwrap().start_pair(Enforcement::Enforced).unwrap()
}

fn wired() -> (Pair, Wire) {
    let (net, wire) = Wire::new().unwrap();
    (Setup::psk().unwrap().start_on(net, Enforcement::Enforced).unwrap(), wire)
}

fn listen(host: &Host) -> TcpListener {
    host.run(|| Ok(TcpListener::bind(("::", PORT))?)).unwrap()
}

/// Both ends of a new connection from a port of the caller's choice.
fn connect(
    pair: &Pair,
    listener: &TcpListener,
    to: SocketAddr,
    port: u16,
) -> Result<[TcpStream; 2]> {
    let family = if to.is_ipv4() { Family::V4 } else { Family::V6 };
    let custom = Custom::new(&pair.net.client, family, Protocol::Tcp)?.bound_to(port)?;
    let near = custom.connect(to)?;
    let (far, _) = listener.accept()?;
    for stream in [&near, &far] {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
    }
    Ok([near, far])
}

/// A line in each direction.
fn exchange(near: &mut TcpStream, far: &mut TcpStream) -> Result<()> {
    pass(near, far, b"a pint").context("to the server")?;
    pass(far, near, b"cheers").context("to the client")
}

fn pass(from: &mut TcpStream, to: &mut TcpStream, text: &[u8]) -> Result<()> {
    from.write_all(text)?;
    let mut heard = vec![0; text.len()];
    to.read_exact(&mut heard)?;
    ensure!(heard == text, "heard {heard:?}");
    Ok(())
}

/// Closes with a reset.
fn abort(stream: TcpStream) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    setsockopt(&stream, sockopt::Linger, &linger).unwrap();
    drop(stream);
}

/// What is written into one end while the other direction is closed arrives, also after a long silence.
#[test]
fn a_half_closed_connection_carries_the_other_direction() {
    let pair = enforced();
    let listener = listen(&pair.net.server);
    let mut half_closed = Vec::new();
    for (index, family) in Family::BOTH.into_iter().enumerate() {
        for client_closes in [true, false] {
            let port = 5000 + u16::try_from(index).unwrap() * 2 + u16::from(client_closes);
            let to = pair.net.server.at(family, PORT);
            let [mut near, mut far] = connect(&pair, &listener, to, port).unwrap();
            exchange(&mut near, &mut far).unwrap();
            half_closed.push(if client_closes { [near, far] } else { [far, near] });
        }
    }
    for [closing, open] in &mut half_closed {
        closing.shutdown(Shutdown::Write).unwrap();
        assert_eq!(open.read(&mut [0]).unwrap(), 0, "the end of the other direction");
        pass(open, closing, b"one moment").unwrap();
    }
    std::thread::sleep(LONG_SILENCE);
    let much: Vec<u8> = (0..MUCH as u64).map(enforcer_tests::bulk::pattern).collect();
    for [mut closing, mut open] in half_closed {
        let writing = {
            let much = much.clone();
            std::thread::spawn(move || open.write_all(&much))
        };
        let mut heard = Vec::new();
        closing.read_to_end(&mut heard).unwrap();
        writing.join().unwrap().unwrap();
        assert!(heard == much, "{} of {} bytes, or changed", heard.len(), much.len());
    }
}

/// A state of an established connection in which one end may be given up.
#[derive(Debug, Clone, Copy)]
enum State {
    Established,
    /// Whoever resets has closed its direction: FIN_WAIT_2.
    ResetterHasClosed,
    /// The other end has closed its direction: whoever resets is in CLOSE_WAIT.
    OtherHasClosed,
    /// Data waits that nobody has read: the close itself is a reset.
    Unread,
}

const STATES: [State; 4] =
    [State::Established, State::ResetterHasClosed, State::OtherHasClosed, State::Unread];

#[test]
fn a_reset_of_either_end_in_any_state_is_heard_and_the_port_calls_again_at_once() {
    let mut pair = enforced();
    let listener = listen(&pair.net.server);
    let mut port = 6000;
    for family in Family::BOTH {
        let to = pair.net.server.at(family, PORT);
        for state in STATES {
            for client_resets in [true, false] {
                let told = format!("{family:?}, {state:?}, by the client: {client_resets}");
                port += 1;
                let [near, far] = connect(&pair, &listener, to, port).unwrap();
                let [resetter, other] = if client_resets { [near, far] } else { [far, near] };
                reset(resetter, other, state).unwrap_or_else(|error| panic!("{told}: {error:#}"));
                let again = connect(&pair, &listener, to, port);
                let [mut near, mut far] = again.unwrap_or_else(|error| panic!("{told}: {error:#}"));
                exchange(&mut near, &mut far).unwrap_or_else(|error| panic!("{told}: {error:#}"));
            }
        }
    }
    let counters = pair.daemons.server().unwrap().counters().unwrap();
    assert_eq!(counters.event("proof_accepted"), u64::from(port - 6000) * 2);
}

/// Brings a connection to a state, gives one end up, and fails unless the other hears of it.
fn reset(mut resetter: TcpStream, mut other: TcpStream, state: State) -> Result<()> {
    exchange(&mut resetter, &mut other)?;
    match state {
        State::Established => abort(resetter),
        State::ResetterHasClosed => {
            resetter.shutdown(Shutdown::Write)?;
            ensure!(other.read(&mut [0])? == 0, "the end of the direction is not heard");
            abort(resetter);
        }
        State::OtherHasClosed => {
            other.shutdown(Shutdown::Write)?;
            ensure!(resetter.read(&mut [0])? == 0, "the end of the direction is not heard");
            abort(resetter);
        }
        State::Unread => {
            other.write_all(b"unheard")?;
            resetter.peek(&mut [0])?;
            drop(resetter);
        }
    }
    wait_reset(&mut other)
}

fn wait_reset(stream: &mut TcpStream) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    // Where the direction towards this end is closed already, only its error tells.
    loop {
        if let Some(error) = stream.take_error()? {
            return expect_reset(&error);
        }
        match stream.read(&mut [0]) {
            Err(error) => return expect_reset(&error),
            Ok(count) => ensure!(count == 0, "data instead of a reset"),
        }
        ensure!(Instant::now() < deadline, "no reset was heard");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn expect_reset(error: &std::io::Error) -> Result<()> {
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset};
    ensure!(matches!(error.kind(), ConnectionReset | BrokenPipe), "not a reset: {error}");
    Ok(())
}

/// A caller that gives up while its SYN is answered, and calls again from the same port.
#[test]
fn a_call_given_up_before_its_answer_does_not_bar_the_next_from_its_port() {
    const LOCAL: u16 = 7000;
    let (pair, wire) = wired();
    let listener = listen(&pair.net.server);
    for family in Family::BOTH {
        let to = pair.net.server.at(family, PORT);
        wire.rule(Rule::first(Fate::Late(Duration::from_millis(500)), move |s: &Segment| {
            s.source == to && s.flags == Flags::SYN_ACK
        }));
        let given_up = Custom::new(&pair.net.client, family, Protocol::Tcp).unwrap();
        let given_up = given_up.bound_to(LOCAL).unwrap();
        setsockopt(
            &given_up.as_fd(),
            sockopt::SendTimeout,
            &nix::sys::time::TimeVal::new(0, 200_000),
        )
        .unwrap();
        given_up.connect(to).unwrap_err();
        let [mut near, mut far] = connect(&pair, &listener, to, LOCAL).unwrap();
        exchange(&mut near, &mut far).unwrap();
    }
    assert_eq!(wire.applied(), [1, 1]);
}

/// The end that closes first stays in TIME_WAIT; the other may call it again from the same port at once.
#[test]
fn a_server_in_time_wait_is_called_again_from_the_same_port() {
    const LOCAL: u16 = 7100;
    const ROUNDS: u64 = 5;
    let mut pair = enforced();
    let listener = listen(&pair.net.server);
    let to = pair.net.server.at(Family::V4, PORT);
    for _ in 0..ROUNDS {
        let [mut near, mut far] = connect(&pair, &listener, to, LOCAL).unwrap();
        exchange(&mut near, &mut far).unwrap();
        drop(far);
        assert_eq!(near.read(&mut [0]).unwrap(), 0);
        drop(near);
        wait_time_wait(&pair.net.server).unwrap();
    }
    let counters = pair.daemons.server().unwrap().counters().unwrap();
    assert_eq!(counters.event("proof_accepted"), ROUNDS);
}

/// With time stamps a stack may call again from a port that it keeps in TIME_WAIT itself, after a second
/// (`tcp_tw_reuse` of ip-sysctl).
#[test]
fn a_client_in_time_wait_calls_again_from_the_same_port() {
    const LOCAL: u16 = 7200;
    let pair = enforced();
    pair.net.client.sysctl("ipv4/tcp_tw_reuse", "1").unwrap();
    let listener = listen(&pair.net.server);
    let to = pair.net.server.at(Family::V4, PORT);
    for round in 0..2 {
        if round > 0 {
            std::thread::sleep(Duration::from_millis(1500));
        }
        let [mut near, mut far] = connect(&pair, &listener, to, LOCAL).unwrap();
        exchange(&mut near, &mut far).unwrap();
        drop(near);
        assert_eq!(far.read(&mut [0]).unwrap(), 0);
        drop(far);
        wait_time_wait(&pair.net.client).unwrap();
    }
}

fn wait_time_wait(host: &Host) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut list = host.command("ss");
        let found = enforcer_tests::need::run(list.args(["-Htn", "state", "time-wait"]))?;
        if !found.trim().is_empty() {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "host {} keeps nothing in TIME_WAIT", host.label());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Resets in the name of either end: before the proof none reaches the server's stack, however right, and the
/// client's only with the acknowledgement of its SYN; later those that are not exactly what the receiver waits for
/// leave connection and flow alone, also when it is silent for longer than a flow that was reset is kept.
#[test]
fn spoofed_resets_in_any_state_kill_no_flow() {
    let (pair, wire) = wired();
    let pair = pair.without_books("what was never sent looks like a segment that was turned back");
    let _server = Server::start(&pair.net.server, PORT, &Service::Echo).unwrap();
    let mut streams: Vec<_> =
        Family::BOTH.into_iter().map(|family| under_spoofed_resets(&pair, &wire, family)).collect();
    std::thread::sleep(LONG_SILENCE);
    for stream in &mut streams {
        stream.exchange().unwrap();
    }
}

/// A new connection in each of whose states resets were spoofed at both ends.
fn under_spoofed_resets(pair: &Pair, wire: &Wire, family: Family) -> Interactive {
    const SLOW: Fate = Fate::Late(Duration::from_millis(500));
    let to = pair.net.server.at(family, PORT);
    let capture = Capture::start(&pair.net.client, INTERFACE).unwrap();
    let is_proof = |s: &Segment| s.flags == Flags::ACK && s.identity().is_some();
    wire.rule(Rule::first(SLOW, move |s| s.source == to && s.flags == Flags::SYN_ACK));
    wire.rule(Rule::first(SLOW, move |s| s.destination == to && is_proof(s)));
    let calling = pair.net.client.clone();
    let calling = std::thread::spawn(move || Interactive::open(&calling, to));

    // SYN_SENT, and half open at the server.
    let syn = |s: &Segment| s.destination == to && s.flags == Flags::SYN;
    let syn = capture.wait_for("SYN", PATIENCE, syn).unwrap();
    let spoof = Spoof { pair, wire, client: syn.source, server: to };
    std::thread::sleep(Duration::from_millis(100));
    for acknowledgement in [syn.sequence, syn.sequence.wrapping_add(2), 0] {
        spoof.towards_client(0, Some(acknowledgement));
    }
    for sequence in [0, 1, 1000, 0x8000_0000] {
        spoof.towards_server(syn.sequence.wrapping_add(sequence));
    }
    // Established at the client, and not yet at the server.
    let proof =
        capture.wait_for("proof", PATIENCE, |s| s.destination == to && is_proof(s)).unwrap();
    for ahead in [1, 1000, 0x8000_0000] {
        spoof.towards_client(proof.acknowledgement.wrapping_add(ahead), None);
    }
    for sequence in [proof.sequence, proof.sequence.wrapping_add(1)] {
        spoof.towards_server(sequence);
    }
    // Established at both ends, and at rest.
    let mut stream = calling.join().unwrap().unwrap();
    stream.exchange().unwrap();
    let last = capture.segments().unwrap().into_iter().rfind(|s| s.destination == to).unwrap();
    let next = last.sequence.wrapping_add(u32::try_from(last.payload_length).unwrap());
    for ahead in [1, 1000, 50_000, 0x4000_0000, 0x8000_0000, 0xC000_0000] {
        spoof.towards_server(next.wrapping_add(ahead));
        spoof.towards_client(last.acknowledgement.wrapping_add(ahead), Some(next));
    }
    stream
}

/// Somebody on the wire who speaks in the name of both ends of a connection.
struct Spoof<'a> {
    pair: &'a Pair,
    wire: &'a Wire,
    client: SocketAddr,
    server: SocketAddr,
}

impl Spoof<'_> {
    fn towards_server(&self, sequence: u32) {
        let reset = Forged::new(self.client, self.server, Flags::RST);
        let link = Link::between(&self.pair.net.client, &self.pair.net.server).unwrap();
        self.inject(Toward::Server, &link, &Forged { sequence, ..reset });
    }

    fn towards_client(&self, sequence: u32, acknowledgement: Option<u32>) {
        let flags = if acknowledgement.is_some() { Flags::RST_ACK } else { Flags::RST };
        let reset = Forged::new(self.server, self.client, flags);
        let acknowledgement = acknowledgement.unwrap_or(0);
        let link = Link::between(&self.pair.net.server, &self.pair.net.client).unwrap();
        self.inject(Toward::Client, &link, &Forged { sequence, acknowledgement, ..reset });
    }

    fn inject(&self, toward: Toward, link: &Link, segment: &Forged) {
        self.wire.inject(toward, &link.frame(&[], &frame::packet(segment).unwrap())).unwrap();
    }
}

/// Two SYNs that cross on the wire, in both families, undisturbed and with a SYN-ACK of one side lost.
#[test]
fn calls_that_cross_on_the_wire_meet() {
    let both =
        [policy::allow(&client(), &server()), policy::allow(&server(), &client())].join("\n");
    let (net, wire) = Wire::new().unwrap();
    let setup = Setup::psk().unwrap().client_policy(&both).server_policy(&both);
    let pair = setup.start_on(net, Enforcement::Enforced).unwrap();
    let capture = Capture::start(&pair.net.server, INTERFACE).unwrap();
    // As long on the wire as both ends need to call.
    wire.rule(Rule::every(Fate::Late(Duration::from_millis(400)), |s| s.flags == Flags::SYN));
    let mut port = 5000;
    for family in Family::BOTH {
        for loses in [false, true] {
            port += 2;
            if loses {
                let from = pair.net.server.at(family, port + 1);
                wire.rule(Rule::first(Fate::Lose, move |s| {
                    s.source == from && s.flags == Flags::SYN_ACK
                }));
            }
            meet(&pair, family, port).unwrap_or_else(|error| {
                panic!("{family:?}, one SYN-ACK lost: {loses}: {error:#}");
            });
        }
    }
    let answers = capture.segments().unwrap();
    let mut answers = answers.iter().filter(|s| s.flags == Flags::SYN_ACK).map(|s| s.direction);
    assert!(answers.any(|direction| direction == Direction::Out), "the calls did not cross");
    assert!(answers.any(|direction| direction == Direction::In), "the calls did not cross");
}

/// Both ends call each other, client's `port` and server's next.
fn meet(pair: &Pair, family: Family, port: u16) -> Result<()> {
    let (client, server) = (&pair.net.client, &pair.net.server);
    let calls = [(client, server, port, port + 1), (server, client, port + 1, port)];
    let calls = calls.map(|(from, to, local, remote)| {
        let to = to.at(family, remote);
        let custom = Custom::new(from, family, Protocol::Tcp).and_then(|c| c.bound_to(local));
        std::thread::spawn(move || custom?.connect(to))
    });
    let [near, far] = calls.map(|call| call.join().expect("a call panicked"));
    exchange(&mut near?, &mut far?)
}
