//! How connections end: half close, calls given up, ports used again. And calls that cross.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::sync::{Arc, Barrier};
use std::time::Duration;

use anyhow::Result;
use enforcer_tests::both::{connect, exchange, listen, pass, wait_state};
use enforcer_tests::capture::{Capture, Direction, Flags, Segment};
use enforcer_tests::custom::{Custom, Protocol};
use enforcer_tests::enforcer::Enforcer;
use enforcer_tests::host::Family;
use enforcer_tests::policy;
use enforcer_tests::scenario::{PORT, Pair, Setup, client, server};
use enforcer_tests::topology::INTERFACE;
use enforcer_tests::twin::Enforcement;
use enforcer_tests::wire::{Fate, Rule, Wire};
use nix::sys::socket::{setsockopt, sockopt};

/// Longer than a flow is kept that is closed in both directions (5 s).
const LONG_SILENCE: Duration = Duration::from_secs(6);
const MUCH: usize = 1 << 19;

fn enforced() -> Pair {
    Setup::psk().unwrap().start_pair(Enforcement::Enforced).unwrap()
}

fn wired() -> (Pair, Wire) {
    let (net, wire) = Wire::new().unwrap();
    (Setup::psk().unwrap().start_on(net, Enforcement::Enforced).unwrap(), wire)
}

/// What is written into one end while the other direction is closed arrives, also after a long silence.
#[test]
fn a_half_closed_connection_carries_the_other_direction() {
    let pair = enforced();
    let listener = listen(&pair.net.server, PORT).unwrap();
    let mut half_closed = Vec::new();
    for (index, family) in Family::BOTH.into_iter().enumerate() {
        for client_closes in [true, false] {
            let port = 5000 + u16::try_from(index).unwrap() * 2 + u16::from(client_closes);
            let to = pair.net.server.at(family, PORT);
            let [mut near, mut far] = connect(&pair.net.client, port, to, &listener).unwrap();
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

/// The flow of the end that closed second is over with the last ACK, that of the other stays for a while: the last ACK
/// may be lost, and then the FIN comes again and is acknowledged again.
#[test]
fn a_lost_last_acknowledgement_comes_again_and_ends_the_flow_of_who_closed_second() {
    let (mut pair, wire) = wired();
    let listener = listen(&pair.net.server, PORT).unwrap();
    let mut port = 5100;
    for family in Family::BOTH {
        for client_first in [true, false] {
            for is_lost in [false, true] {
                port += 1;
                let to = pair.net.server.at(family, PORT);
                let client = pair.net.client.at(family, port);
                let [mut near, mut far] = connect(&pair.net.client, port, to, &listener).unwrap();
                exchange(&mut near, &mut far).unwrap();
                let (first, mut second, end, host) = if client_first {
                    (near, far, client, &pair.net.server)
                } else {
                    (far, near, to, &pair.net.client)
                };
                drop(first);
                assert_eq!(second.read(&mut [0]).unwrap(), 0, "the end of the other direction");
                let lost = wire.applied().len();
                if is_lost {
                    let last = move |s: &Segment| s.source == end && s.flags == Flags::ACK;
                    wire.rule(Rule::first(Fate::Lose, last));
                }
                drop(second);
                wait_state(host, "last-ack", false).unwrap();
                let applied: u32 = wire.applied()[lost..].iter().sum();
                assert_eq!(applied, u32::from(is_lost), "{family:?}, {client_first}");
                let flows: Vec<_> =
                    pair.daemons.each().map(|daemon| closing(daemon, port)).collect();
                let expected = if client_first { [1, 0] } else { [0, 1] };
                assert_eq!(
                    flows, expected,
                    "{family:?}, closed first by the client: {client_first}"
                );
            }
        }
    }
}

/// Flows of the client's port that a daemon lists; all are closing.
fn closing(daemon: &Enforcer, port: u16) -> usize {
    let list: serde_json::Value = daemon.ask(&["flows"]).unwrap();
    let flows = list["flows"].as_array().unwrap().iter();
    let end = format!(":{port}");
    let of_port: Vec<_> = flows
        .filter(|f| ["local", "remote"].iter().any(|e| f[e].as_str().unwrap().ends_with(&end)))
        .collect();
    assert!(of_port.iter().all(|flow| flow["state"] == "closing"), "{of_port:?}");
    of_port.len()
}

/// A caller that gives up while its SYN is answered, and calls again from the same port.
#[test]
fn a_call_given_up_before_its_answer_does_not_bar_the_next_from_its_port() {
    const LOCAL: u16 = 7000;
    let (pair, wire) = wired();
    let listener = listen(&pair.net.server, PORT).unwrap();
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
        let [mut near, mut far] = connect(&pair.net.client, LOCAL, to, &listener).unwrap();
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
    let listener = listen(&pair.net.server, PORT).unwrap();
    let to = pair.net.server.at(Family::V4, PORT);
    for _ in 0..ROUNDS {
        let [mut near, mut far] = connect(&pair.net.client, LOCAL, to, &listener).unwrap();
        exchange(&mut near, &mut far).unwrap();
        drop(far);
        assert_eq!(near.read(&mut [0]).unwrap(), 0);
        drop(near);
        wait_state(&pair.net.server, "time-wait", true).unwrap();
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
    let listener = listen(&pair.net.server, PORT).unwrap();
    let to = pair.net.server.at(Family::V4, PORT);
    for round in 0..2 {
        if round > 0 {
            std::thread::sleep(Duration::from_millis(1500));
        }
        let [mut near, mut far] = connect(&pair.net.client, LOCAL, to, &listener).unwrap();
        exchange(&mut near, &mut far).unwrap();
        drop(near);
        assert_eq!(far.read(&mut [0]).unwrap(), 0);
        drop(far);
        wait_state(&pair.net.client, "time-wait", true).unwrap();
    }
}

/// Two SYNs that cross on the wire, in both families, undisturbed and with a SYN-ACK of one side lost.
#[test]
fn calls_that_cross_on_the_wire_meet() {
    const WHOLE: u16 = 5000;
    const LOSSY: u16 = 5002;
    let both =
        [policy::allow(&client(), &server()), policy::allow(&server(), &client())].join("\n");
    let (net, wire) = Wire::new().unwrap();
    let setup = Setup::psk().unwrap().client_policy(&both).server_policy(&both);
    let pair = setup.start_on(net, Enforcement::Enforced).unwrap();
    let capture = Capture::start(&pair.net.server, INTERFACE).unwrap();
    for family in Family::BOTH {
        let from = pair.net.server.at(family, LOSSY + 1);
        wire.rule(Rule::first(Fate::Lose, move |s| s.source == from && s.flags == Flags::SYN_ACK));
    }
    // As long on the wire as both ends need to call; and no answer overtakes the SYN of its sender.
    wire.rule(Rule::every(Fate::Late(Duration::from_millis(400)), |s| s.flags == Flags::SYN));
    wire.rule(Rule::every(Fate::Late(Duration::from_millis(300)), |s| s.flags == Flags::SYN_ACK));
    for family in Family::BOTH {
        for port in [WHOLE, LOSSY] {
            meet(&pair, family, port)
                .unwrap_or_else(|error| panic!("{family:?}, port {port}: {error:#}"));
        }
    }
    let answers = capture.segments().unwrap();
    for direction in [Direction::Out, Direction::In] {
        let is_answer = |s: &Segment| s.flags == Flags::SYN_ACK && s.direction == direction;
        assert!(answers.iter().any(is_answer), "the calls did not cross: none {direction:?}");
    }
}

/// Both ends call each other, client's `port` and server's next.
fn meet(pair: &Pair, family: Family, port: u16) -> Result<()> {
    let (client, server) = (&pair.net.client, &pair.net.server);
    let calls = [(client, server, port, port + 1), (server, client, port + 1, port)];
    let calls = calls.map(|(from, to, local, remote)| {
        let to = to.at(family, remote);
        let custom = Custom::new(from, family, Protocol::Tcp).and_then(|c| c.bound_to(local));
        (custom, to)
    });
    // Both are ready before one calls: a SYN that finds nobody calling is refused.
    let together = Arc::new(Barrier::new(calls.len()));
    let calls = calls.map(|(custom, to)| {
        let together = Arc::clone(&together);
        std::thread::spawn(move || {
            together.wait();
            custom?.connect(to)
        })
    });
    let [near, far] = calls.map(|call| call.join().expect("a call panicked"));
    exchange(&mut near?, &mut far?)
}
