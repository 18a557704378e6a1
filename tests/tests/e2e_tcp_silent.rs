//! Connections on which the client is silent from the start: what the server's stack sends by itself is all there is.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use enforcer_tests::both::{connect, exchange, listen};
use enforcer_tests::capture::{Flags, Segment};
use enforcer_tests::host::Family;
use enforcer_tests::scenario::{PORT, Setup};
use enforcer_tests::stats::Stats;
use enforcer_tests::tcp::{PATIENCE, dial_here};
use enforcer_tests::twin::Enforcement;
use enforcer_tests::wire::{Fate, Rule, Wire};
use nix::sys::socket::{Backlog, setsockopt, sockopt};
use nix::sys::time::TimeVal;

const GREETING: &[u8] = b"ale";

/// Its stack's probes, one below the first octet, are the first that the client hears behind the SYN-ACK.
#[test]
fn a_server_keeps_connections_alive_that_nobody_has_used() {
    stay_alive(Probing::Server);
}

/// The client's own, of which the first finds the flow unconfirmed. The server's stack answers what stands one below
/// the first octet and nothing else.
#[test]
fn a_client_keeps_connections_alive_that_nobody_has_used() {
    stay_alive(Probing::Client);
}

/// Whose stack sends keepalives; the end in what [`connect`] gives.
#[derive(Debug, Clone, Copy)]
enum Probing {
    Client = 0,
    Server = 1,
}

fn stay_alive(probing: Probing) {
    let mut pair = Setup::psk().unwrap().start_pair(Enforcement::Enforced).unwrap();
    let listener = listen(&pair.net.server, PORT).unwrap();
    let mut unused = Vec::new();
    for (family, port) in Family::BOTH.into_iter().zip(6400..) {
        let to = pair.net.server.at(family, PORT);
        let both = connect(&pair.net.client, port, to, &listener).unwrap();
        keep_alive(&both[probing as usize]);
        unused.push(both);
    }
    // Long enough for who probes to give up, were nothing answered.
    std::thread::sleep(Duration::from_secs(5));
    for [near, far] in &mut unused {
        exchange(near, far).unwrap();
    }
    let counters = pair.daemons.client().unwrap().counters().unwrap();
    assert_eq!((counters.event("confirmed"), counters.drop("awaiting_proof")), (2, 0));
}

/// A probe a second behind a second's silence; the second one without an answer is the last.
fn keep_alive(stream: &TcpStream) {
    setsockopt(stream, sockopt::KeepAlive, &true).unwrap();
    setsockopt(stream, sockopt::TcpKeepIdle, &1).unwrap();
    setsockopt(stream, sockopt::TcpKeepInterval, &1).unwrap();
    setsockopt(stream, sockopt::TcpKeepCount, &2).unwrap();
}

/// A server that speaks first, behind a queue that was full when the proofs came: its stack dropped them, and repeats
/// its SYN-ACKs until there is room.
#[test]
fn a_server_that_speaks_first_serves_all_once_its_queue_has_room() {
    const CALLS: usize = 6;
    let (net, wire) = Wire::new().unwrap();
    let mut pair = Setup::psk().unwrap().start_on(net, Enforcement::Enforced).unwrap();
    let listener = listen(&pair.net.server, PORT).unwrap();
    let to = pair.net.server.at(Family::V4, PORT);
    // So that all are half open before the first completes, and know each other.
    drop(connect(&pair.net.client, 6500, to, &listener).unwrap());
    wire.rule(Rule::every(Fate::Late(Duration::from_millis(700)), move |s: &Segment| {
        s.destination == to && s.flags == Flags::ACK
    }));
    let before = Stats::read(&pair.net.server).unwrap();
    let calls: Vec<_> = (0..CALLS)
        .map(|_| {
            pair.net.client.spawn(move || {
                let mut stream = dial_here(to, PATIENCE)?.stream()?;
                // The stack repeats a SYN-ACK after 1, 2, 4 s.
                stream.set_read_timeout(Some(2 * PATIENCE))?;
                let mut heard = Vec::new();
                stream.read_to_end(&mut heard)?;
                Ok(heard)
            })
        })
        .collect();
    std::thread::sleep(Duration::from_millis(400));
    nix::sys::socket::listen(&listener, Backlog::new(1).unwrap()).unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    let serving = std::thread::spawn(move || serve(&listener, CALLS));
    for call in calls {
        assert_eq!(call.join().unwrap().unwrap(), GREETING);
    }
    serving.join().unwrap();
    let after = Stats::read(&pair.net.server).unwrap();
    assert!(after.since(&before, "TcpExt.ListenOverflows").unwrap() > 0, "no queue was full");
    let counters = pair.daemons.server().unwrap().counters().unwrap();
    assert_eq!((counters.event("proof_accepted"), counters.drop("no_attempt")), (7, 0));
}

fn serve(listener: &TcpListener, calls: usize) {
    setsockopt(listener, sockopt::ReceiveTimeout, &TimeVal::new(15, 0)).unwrap();
    for _ in 0..calls {
        let (mut far, _) = listener.accept().unwrap();
        far.write_all(GREETING).unwrap();
    }
}

/// `TCP_DEFER_ACCEPT` (tcp(7)): the stack takes no bare ACK, for a second; then it asks for one more by its SYN-ACK.
#[test]
fn a_server_that_defers_accepting_gets_a_silent_client() {
    let pair = Setup::psk().unwrap().start_pair(Enforcement::Enforced).unwrap();
    let listener = listen(&pair.net.server, PORT).unwrap();
    defer_accept(&listener);
    setsockopt(&listener, sockopt::ReceiveTimeout, &TimeVal::new(12, 0)).unwrap();
    for (family, port) in Family::BOTH.into_iter().zip(6600..) {
        let to = pair.net.server.at(family, PORT);
        let [mut near, mut far] = connect(&pair.net.client, port, to, &listener).unwrap();
        far.write_all(GREETING).unwrap();
        near.read_exact(&mut [0; GREETING.len()]).unwrap();
    }
}

fn defer_accept(listener: &TcpListener) {
    let seconds: libc::c_int = 1;
    // SAFETY: the pointer and the length describe `seconds`, which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            (&raw const seconds).cast(),
            libc::socklen_t::try_from(size_of_val(&seconds)).unwrap(),
        )
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}
