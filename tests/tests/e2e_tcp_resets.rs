//! Resets: of either end in every state, which must be heard; and spoofed ones, which must kill no flow.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use enforcer_tests::both::{abort, connect, exchange, has_state, listen, wait_reset, wait_state};
use enforcer_tests::capture::{Capture, Flags, Frame, Packet, Segment};
use enforcer_tests::enforcer::Enforcer;
use enforcer_tests::frame::{self, Link};
use enforcer_tests::host::Family;
use enforcer_tests::interactive::Interactive;
use enforcer_tests::raw::Forged;
use enforcer_tests::scenario::{PORT, Pair, Setup};
use enforcer_tests::tcp::{PATIENCE, Server, Service};
use enforcer_tests::topology::INTERFACE;
use enforcer_tests::twin::Enforcement;
use enforcer_tests::wire::{Fate, Rule, Toward, Wire};

/// Longer than a flow is kept that was reset (2 s).
const LONG_SILENCE: Duration = Duration::from_secs(6);
const NEVER_SENT: &str = "what was never sent looks like a segment that was turned back";

fn enforced() -> Pair {
    Setup::psk().unwrap().start_pair(Enforcement::Enforced).unwrap()
}

fn wired() -> (Pair, Wire) {
    let (net, wire) = Wire::new().unwrap();
    (Setup::psk().unwrap().start_on(net, Enforcement::Enforced).unwrap(), wire)
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
    let listener = listen(&pair.net.server, PORT).unwrap();
    let mut port = 6000;
    for family in Family::BOTH {
        let to = pair.net.server.at(family, PORT);
        for state in STATES {
            for client_resets in [true, false] {
                let told = format!("{family:?}, {state:?}, by the client: {client_resets}");
                port += 1;
                let [near, far] = connect(&pair.net.client, port, to, &listener).unwrap();
                let [resetter, other] = if client_resets { [near, far] } else { [far, near] };
                reset(resetter, other, state).unwrap_or_else(|error| panic!("{told}: {error:#}"));
                let again = connect(&pair.net.client, port, to, &listener);
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
        State::Established => abort(resetter)?,
        State::ResetterHasClosed => {
            resetter.shutdown(Shutdown::Write)?;
            ensure!(other.read(&mut [0])? == 0, "the end of the direction is not heard");
            abort(resetter)?;
        }
        State::OtherHasClosed => {
            other.shutdown(Shutdown::Write)?;
            ensure!(resetter.read(&mut [0])? == 0, "the end of the direction is not heard");
            abort(resetter)?;
        }
        State::Unread => {
            other.write_all(b"unheard")?;
            resetter.peek(&mut [0])?;
            drop(resetter);
        }
    }
    wait_reset(&mut other)
}

/// A state of the end that hears the reset, whose own FIN does not arrive.
#[derive(Debug, Clone, Copy)]
enum Closing {
    FinWait1,
    /// CLOSING: both have closed at once.
    AtOnce,
    LastAck,
}

const CLOSING: [Closing; 3] = [Closing::FinWait1, Closing::AtOnce, Closing::LastAck];

impl Closing {
    /// As `ss` names it.
    const fn name(self) -> &'static str {
        match self {
            Self::FinWait1 => "fin-wait-1",
            Self::AtOnce => "closing",
            Self::LastAck => "last-ack",
        }
    }
}

#[test]
fn a_reset_is_heard_by_an_end_that_is_closing_and_the_port_calls_again_at_once() {
    let (pair, wire) = wired();
    let listener = listen(&pair.net.server, PORT).unwrap();
    let mut port = 6100;
    for family in Family::BOTH {
        for state in CLOSING {
            for client_resets in [true, false] {
                port += 1;
                under_loss_of_fin(&pair, &wire, &listener, family, port, state, client_resets)
                    .unwrap_or_else(|error| {
                        panic!("{family:?}, {state:?}, by the client: {client_resets}: {error:#}")
                    });
            }
        }
    }
}

fn under_loss_of_fin(
    pair: &Pair,
    wire: &Wire,
    listener: &TcpListener,
    family: Family,
    port: u16,
    state: Closing,
    client_resets: bool,
) -> Result<()> {
    let to = pair.net.server.at(family, PORT);
    let client = pair.net.client.at(family, port);
    let [near, far] = connect(&pair.net.client, port, to, listener)?;
    let (mut resetter, mut other, host, end) = if client_resets {
        (near, far, &pair.net.server, [to, client])
    } else {
        (far, near, &pair.net.client, [client, to])
    };
    exchange(&mut resetter, &mut other)?;
    let loses =
        wire_loses(wire, move |s| [s.source, s.destination] == end && s.flags.has(Flags::FIN));
    match state {
        Closing::FinWait1 => other.shutdown(Shutdown::Write)?,
        Closing::AtOnce => {
            other.shutdown(Shutdown::Write)?;
            resetter.shutdown(Shutdown::Write)?;
        }
        Closing::LastAck => {
            resetter.shutdown(Shutdown::Write)?;
            ensure!(other.read(&mut [0])? == 0, "the end of the direction is not heard");
            other.shutdown(Shutdown::Write)?;
        }
    }
    wait_state(host, state.name(), true)?;
    abort(resetter)?;
    wait_reset(&mut other)?;
    loses.store(false, Ordering::Release);
    let [mut near, mut far] = connect(&pair.net.client, port, to, listener)?;
    exchange(&mut near, &mut far)
}

/// Loses segments until told otherwise.
fn wire_loses(
    wire: &Wire,
    mut wanted: impl FnMut(&Segment) -> bool + Send + 'static,
) -> Arc<AtomicBool> {
    let loses = Arc::new(AtomicBool::new(true));
    let on = Arc::clone(&loses);
    wire.rule(Rule::every(Fate::Lose, move |s| on.load(Ordering::Acquire) && wanted(s)));
    loses
}

/// Of a connection that both ends have closed, the last ACK comes twice. A stack alone answers the second with a reset,
/// which ends the TIME_WAIT of the end that closed first (RFC 1337); here its flow is over, and nobody hears it. A
/// reset with the very number ends it, spoofed ones leave it alone.
#[test]
fn a_reset_in_time_wait_is_heard_and_the_port_calls_again_at_once() {
    let (pair, wire) = wired();
    let pair = pair.without_books(NEVER_SENT);
    let listener = listen(&pair.net.server, PORT).unwrap();
    let mut port = 6200;
    for family in Family::BOTH {
        for client_first in [true, false] {
            port += 1;
            in_time_wait(&pair, &wire, &listener, family, port, client_first).unwrap_or_else(
                |error| panic!("{family:?}, closed first by the client: {client_first}: {error:#}"),
            );
        }
    }
}

fn in_time_wait(
    pair: &Pair,
    wire: &Wire,
    listener: &TcpListener,
    family: Family,
    port: u16,
    client_first: bool,
) -> Result<()> {
    let (client, to) = (pair.net.client.at(family, port), pair.net.server.at(family, PORT));
    let [near, far] = connect(&pair.net.client, port, to, listener)?;
    let (mut first, mut second, host, end) = if client_first {
        (near, far, &pair.net.client, client)
    } else {
        (far, near, &pair.net.server, to)
    };
    exchange(&mut first, &mut second)?;
    let capture = Capture::start(host, INTERFACE)?;
    drop(first);
    ensure!(second.read(&mut [0])? == 0, "the end of the direction is not heard");
    drop(second);
    wait_state(host, "time-wait", true)?;
    let last = capture.segments()?.into_iter().rfind(|s| s.source == end && s.flags == Flags::ACK);
    let last = last.expect("the last ACK");
    let spoof = Spoof { pair, wire, client, server: to };
    for ahead in [1, 1000, 0x8000_0000] {
        let sequence = last.acknowledgement.wrapping_add(ahead);
        if client_first {
            spoof.towards_client(sequence, Some(last.sequence));
        } else {
            spoof.towards_server(sequence);
        }
    }
    std::thread::sleep(Duration::from_millis(50));
    ensure!(has_state(host, "time-wait")?, "a spoofed reset was taken");
    spoof.again(if client_first { Toward::Server } else { Toward::Client }, &last);
    std::thread::sleep(Duration::from_millis(50));
    ensure!(has_state(host, "time-wait")?, "the last ACK, come again, was answered");
    if client_first {
        spoof.towards_client(last.acknowledgement, Some(last.sequence));
    } else {
        spoof.towards_server(last.acknowledgement);
    }
    wait_state(host, "time-wait", false)?;
    let [mut near, mut far] = connect(&pair.net.client, port, to, listener)?;
    exchange(&mut near, &mut far)?;
    // Not by a close, which would leave the next case a TIME_WAIT.
    abort(near)?;
    wait_reset(&mut far)
}

/// Also where the checksum of the reset is left to hardware, which is never there.
#[test]
fn a_reset_ends_the_flow_at_both_ends() {
    let mut pair = enforced();
    let listener = listen(&pair.net.server, PORT).unwrap();
    let mut port = 6300;
    for family in Family::BOTH {
        let to = pair.net.server.at(family, PORT);
        for client_resets in [true, false] {
            port += 1;
            let [mut near, mut far] = connect(&pair.net.client, port, to, &listener).unwrap();
            exchange(&mut near, &mut far).unwrap();
            let (resetter, mut other, host) = if client_resets {
                (near, far, &pair.net.server)
            } else {
                (far, near, &pair.net.client)
            };
            let capture = Capture::start(host, INTERFACE).unwrap();
            abort(resetter).unwrap();
            wait_reset(&mut other).unwrap();
            assert!(
                capture.with_frames(|f| f.iter().any(is_pending_reset)).unwrap(),
                "a whole one"
            );
            wait_no_flow(pair.daemons.client().unwrap()).unwrap();
            wait_no_flow(pair.daemons.server().unwrap()).unwrap();
        }
    }
}

/// Whether it is a reset whose checksum nobody has completed.
fn is_pending_reset(frame: &Frame) -> bool {
    let segment = Packet::parse(frame).and_then(|packet| packet.tcp);
    frame.checksum_pending && segment.is_some_and(|s| s.flags.has(Flags::RST))
}

fn wait_no_flow(daemon: &Enforcer) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while daemon.status()?.flows > 0 {
        ensure!(Instant::now() < deadline, "the flow is still there");
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// Resets in the name of either end: before the proof none reaches the server's stack, however right, and the
/// client's only with the acknowledgement of its SYN; later those that are not exactly what the receiver waits for
/// leave connection and flow alone, also when it is silent for longer than a flow that was reset is kept.
#[test]
fn spoofed_resets_in_any_state_kill_no_flow() {
    let (pair, wire) = wired();
    let pair = pair.without_books(NEVER_SENT);
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
    let to = pair.net.server.at(family, PORT);
    let capture = Capture::start(&pair.net.client, INTERFACE).unwrap();
    let is_proof = |s: &Segment| s.flags == Flags::ACK && s.identity().is_some();
    // What would bring the next state is lost until this one was tried.
    let no_answer = wire_loses(wire, move |s| s.source == to && s.flags == Flags::SYN_ACK);
    let no_proof = wire_loses(wire, move |s| s.destination == to && s.flags.has(Flags::ACK));
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
    no_answer.store(false, Ordering::Release);
    // Established at the client, and not yet at the server.
    let proof =
        capture.wait_for("proof", PATIENCE, |s| s.destination == to && is_proof(s)).unwrap();
    for ahead in [1, 1000, 0x8000_0000] {
        spoof.towards_client(proof.acknowledgement.wrapping_add(ahead), None);
    }
    for sequence in [proof.sequence, proof.sequence.wrapping_add(1)] {
        spoof.towards_server(sequence);
    }
    no_proof.store(false, Ordering::Release);
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

/// Exactly the right number, and a wrong checksum, for which the receiver's stack refuses it.
#[test]
fn a_spoofed_reset_with_a_wrong_checksum_kills_no_idle_flow() {
    let (pair, wire) = wired();
    let pair = pair.without_books(NEVER_SENT);
    let _server = Server::start(&pair.net.server, PORT, &Service::Echo).unwrap();
    let mut streams = Vec::new();
    for family in Family::BOTH {
        let to = pair.net.server.at(family, PORT);
        let mut stream = Interactive::open(&pair.net.client, to).unwrap();
        let capture = Capture::start(&pair.net.client, INTERFACE).unwrap();
        stream.exchange().unwrap();
        let last = capture.segments().unwrap().into_iter().rfind(|s| s.destination == to).unwrap();
        let next = last.sequence.wrapping_add(u32::try_from(last.payload_length).unwrap());
        let spoof = Spoof { pair: &pair, wire: &wire, client: stream.local().unwrap(), server: to };
        let from_client = Forged::new(spoof.client, to, Flags::RST);
        spoof.broken(Toward::Server, &Forged { sequence: next, ..from_client });
        let from_server = Forged::new(to, spoof.client, Flags::RST);
        spoof.broken(Toward::Client, &Forged { sequence: last.acknowledgement, ..from_server });
        streams.push(stream);
    }
    std::thread::sleep(LONG_SILENCE);
    for stream in &mut streams {
        stream.exchange().unwrap();
    }
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
        self.put(Toward::Server, &frame::packet(&Forged { sequence, ..reset }).unwrap());
    }

    fn towards_client(&self, sequence: u32, acknowledgement: Option<u32>) {
        let flags = if acknowledgement.is_some() { Flags::RST_ACK } else { Flags::RST };
        let reset = Forged::new(self.server, self.client, flags);
        let acknowledgement = acknowledgement.unwrap_or(0);
        let reset = Forged { sequence, acknowledgement, ..reset };
        self.put(Toward::Client, &frame::packet(&reset).unwrap());
    }

    /// A segment that was on the wire before.
    fn again(&self, toward: Toward, segment: &Segment) {
        self.put(toward, &frame::packet(&Forged::replay(segment)).unwrap());
    }

    /// With a wrong checksum.
    fn broken(&self, toward: Toward, segment: &Forged) {
        let mut packet = frame::packet(segment).unwrap();
        *packet.last_mut().unwrap() ^= 1;
        self.put(toward, &packet);
    }

    fn put(&self, toward: Toward, packet: &[u8]) {
        let (client, server) = (&self.pair.net.client, &self.pair.net.server);
        let link = match toward {
            Toward::Client => Link::between(server, client),
            Toward::Server => Link::between(client, server),
        };
        self.wire.inject(toward, &link.unwrap().frame(&[], packet)).unwrap();
    }
}
