//! Each segment of a handshake and the first data lost, repeated and late, one at a time and together: the stacks'
//! own retransmissions carry every connection through, whoever speaks first.

use std::net::SocketAddr;
use std::time::Duration;

use enforcer_tests::bulk::{download, upload};
use enforcer_tests::capture::{Capture, Flags, Segment};
use enforcer_tests::host::Family;
use enforcer_tests::interactive::Interactive;
use enforcer_tests::scenario::{Contact, PORT, Pair, Setup, contact};
use enforcer_tests::tcp::{End, PATIENCE, Server, Service, dial, read_line};
use enforcer_tests::topology::INTERFACE;
use enforcer_tests::twin::Enforcement;
use enforcer_tests::wire::{Fate, Rule, Wire};

/// Past the first retransmission of a SYN or SYN-ACK (1 s), and of data.
const LATE: Duration = Duration::from_millis(1300);
const LINE: &str = "a pale ale";

/// A segment of the start of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Syn,
    SynAck,
    Proof,
    /// Of the client.
    Request,
    /// Of the server.
    Response,
}

impl Step {
    const ALL: [Self; 5] = [Self::Syn, Self::SynAck, Self::Proof, Self::Request, Self::Response];

    /// Whether the segment is this one, of a connection to `port`.
    fn is(self, segment: &Segment, port: u16) -> bool {
        let from_server = segment.source.port() == port;
        let from_client = segment.destination.port() == port;
        let data = segment.payload_length > 0 && !segment.flags.has(Flags::SYN);
        match self {
            Self::Syn => from_client && segment.flags == Flags::SYN,
            Self::SynAck => from_server && segment.flags == Flags::SYN_ACK,
            Self::Proof => from_client && !data && is_proof(segment),
            Self::Request => from_client && data,
            Self::Response => from_server && data,
        }
    }
}

fn is_proof(segment: &Segment) -> bool {
    !segment.flags.has(Flags::SYN) && segment.identity().is_some()
}

/// A connection to a server of its own, and what happens to it on the way.
struct Case {
    family: Family,
    server: Server,
    /// Speaks first, then closes; otherwise it echoes.
    speaks_first: bool,
}

/// Two enforced hosts that know each other, and servers for every step, of both kinds, in both families.
struct Trial {
    pair: Pair,
    wire: Wire,
    cases: Vec<(Step, Case)>,
}

impl Trial {
    fn new(steps: &[Step]) -> Self {
        let (net, wire) = Wire::new().unwrap();
        let pair = Setup::psk().unwrap().start_on(net, Enforcement::Enforced).unwrap();
        let warm = Server::start(&pair.net.server, PORT, &Service::Echo).unwrap();
        for family in Family::BOTH {
            let to = pair.net.server.at(family, PORT);
            assert_eq!(contact(&pair.net.client, to, &warm).unwrap(), Contact::MADE);
        }
        let mut ports = PORT + 1..;
        let mut cases = Vec::new();
        for &step in steps {
            for family in Family::BOTH {
                for speaks_first in [false, true] {
                    // Who hears the server first has nothing to request.
                    if speaks_first && step == Step::Request {
                        continue;
                    }
                    let service =
                        if speaks_first { Service::Line(LINE.into()) } else { Service::Echo };
                    let port = ports.next().unwrap();
                    let server = Server::start(&pair.net.server, port, &service).unwrap();
                    cases.push((step, Case { family, server, speaks_first }));
                }
            }
        }
        Self { pair, wire, cases }
    }

    /// The first segment of its step in each case meets this fate.
    fn first(&self, fate: &Fate) {
        for (step, case) in &self.cases {
            let (step, port) = (*step, case.server.port());
            self.wire.rule(Rule::first(fate.clone(), move |s| step.is(s, port)));
        }
    }

    /// All cases at once; each connection must be made and carry what it has to carry.
    fn run(&mut self) {
        let accepted = self.proofs();
        let capture = Capture::start(&self.pair.net.server, INTERFACE).unwrap();
        std::thread::scope(|scope| {
            for (step, case) in &self.cases {
                let to = self.pair.net.server.at(case.family, case.server.port());
                let pair = &self.pair;
                scope.spawn(move || {
                    let told = format!("{step:?} to {to}, server first: {}", case.speaks_first);
                    converse(pair, to, case.speaks_first)
                        .unwrap_or_else(|error| panic!("{told}: {error:#}"));
                });
            }
        });
        for (step, case) in &self.cases {
            let accepted = case.server.accepted();
            assert_eq!(accepted, 1, "connections accepted on {}, {step:?}", case.server.port());
        }
        let proofs = self.proofs() - accepted;
        assert_eq!(proofs, self.cases.len() as u64, "each connection is proven once");
        assert_no_early_reset(&capture.segments().unwrap());
    }

    fn proofs(&mut self) -> u64 {
        self.pair.daemons.server().unwrap().counters().unwrap().event("proof_accepted")
    }

    /// How often each rule must have been applied.
    fn assert_applied(&self, times: u32) {
        let applied = self.wire.applied();
        assert!(applied.iter().all(|&count| count == times), "rules applied: {applied:?}");
    }
}

/// A stack may answer a repeated last acknowledgement with a reset, since it has forgotten the connection; before the
/// FINs of both ends there is none.
fn assert_no_early_reset(segments: &[Segment]) {
    for (index, reset) in segments.iter().enumerate().filter(|(_, s)| s.flags.has(Flags::RST)) {
        let ended = |from: SocketAddr, to: SocketAddr| {
            let mut before = segments[..index].iter();
            before.any(|s| s.flags.has(Flags::FIN) && (s.source, s.destination) == (from, to))
        };
        let (one, other) = (reset.source, reset.destination);
        assert!(ended(one, other) && ended(other, one), "an open connection is reset: {reset:#?}");
    }
}

fn converse(pair: &Pair, to: SocketAddr, speaks_first: bool) -> anyhow::Result<()> {
    if speaks_first {
        let line = read_line(&pair.net.client, to, PATIENCE)?;
        anyhow::ensure!(line == LINE, "heard {line:?}");
        return Ok(());
    }
    let mut stream = Interactive::open(&pair.net.client, to)?;
    stream.exchange().map(drop)
}

#[test]
fn one_lost_segment_of_any_step_is_sent_again_by_the_stack() {
    let mut trial = Trial::new(&Step::ALL);
    trial.first(&Fate::Lose);
    trial.run();
    trial.assert_applied(1);
}

#[test]
fn one_repeated_segment_of_any_step_changes_nothing() {
    let mut trial = Trial::new(&Step::ALL);
    trial.first(&Fate::Repeat);
    trial.run();
    trial.assert_applied(1);
}

#[test]
fn one_segment_of_any_step_that_comes_behind_its_own_retransmission_changes_nothing() {
    let mut trial = Trial::new(&Step::ALL);
    trial.first(&Fate::Late(LATE));
    trial.run();
    trial.assert_applied(1);
}

#[test]
fn one_segment_of_any_step_that_is_overtaken_by_the_next_loses_no_connection() {
    let mut trial = Trial::new(&Step::ALL);
    trial.first(&Fate::Behind);
    trial.run();
    trial.assert_applied(1);
}

/// Every first segment of the whole start, one after the other.
#[test]
fn the_loss_of_every_first_segment_of_one_connection_is_survived() {
    let mut trial = Trial::new(&[Step::Response]);
    for (_, case) in &trial.cases {
        for step in [Step::Syn, Step::SynAck, Step::Proof, Step::Request, Step::Response] {
            if case.speaks_first && step == Step::Request {
                continue;
            }
            let port = case.server.port();
            trial.wire.rule(Rule::first(Fate::Lose, move |s| step.is(s, port)));
        }
    }
    trial.run();
    trial.assert_applied(1);
}

/// S2 comes three times. The SYN-ACKs that the server's stack sends behind them ask for the proof as well: a client that
/// waits for the server to speak sends nothing by itself.
#[test]
fn a_proof_that_is_lost_as_often_as_s2_comes_is_sent_once_more() {
    let mut trial = Trial::new(&[Step::Proof]);
    for (step, case) in &trial.cases {
        let (step, port) = (*step, case.server.port());
        trial.wire.rule(Rule::first_of(3, Fate::Lose, move |s| step.is(s, port)));
    }
    trial.run();
    trial.assert_applied(3);
}

/// With what a client acknowledges a repeated SYN-ACK stands behind the data that it has sent, and proves it no less.
#[test]
fn the_acknowledgement_of_a_repeated_syn_ack_is_a_proof_behind_data_too() {
    let mut trial = Trial::new(&[Step::Request]);
    for (_, case) in &trial.cases {
        let (port, mut syn_acks) = (case.server.port(), 0);
        trial.wire.rule(Rule::every(Fate::Lose, move |s| {
            syn_acks += u32::from(Step::SynAck.is(s, port));
            syn_acks < 2 && (Step::Proof.is(s, port) || Step::Request.is(s, port))
        }));
    }
    trial.run();
    let refused = trial.pair.daemons.server().unwrap().counters().unwrap().drop("awaiting_proof");
    assert_eq!(refused, 0, "the first proof that arrives is accepted");
}

#[test]
fn every_segment_of_a_connection_twice_changes_nothing() {
    let mut trial = Trial::new(&[Step::Response]);
    // The books take a reset that was never sent for a segment that was turned back.
    trial.wire.rule(Rule::every(Fate::Repeat, |s| !s.flags.has(Flags::RST)));
    trial.run();
}

#[test]
fn bulk_arrives_unchanged_over_a_wire_that_loses_repeats_and_swaps_both_ways() {
    const BULK: u64 = 1 << 20;
    let (net, wire) = Wire::new().unwrap();
    let pair = Setup::psk().unwrap().start_on(net, Enforcement::Enforced).unwrap();
    let pair = pair.without_books("a stack counts a long segment once, the wire its pieces");
    for host in [&pair.net.client, &pair.net.server] {
        // More and smaller segments: more of them meet a fate.
        host.set_offloads(INTERFACE, false).unwrap();
    }
    let (client, server) = (&pair.net.client, &pair.net.server);
    let _digest = Server::start(server, PORT, &Service::Digest).unwrap();
    let _source = Server::start(server, PORT + 1, &Service::Source(BULK)).unwrap();
    wire.rule(one_in(41, Fate::Lose));
    wire.rule(one_in(37, Fate::Repeat));
    wire.rule(one_in(23, Fate::Behind));
    wire.rule(one_in(43, Fate::Late(Duration::from_millis(5))));
    for family in Family::BOTH {
        upload(client, server.at(family, PORT), BULK).unwrap();
        download(client, server.at(family, PORT + 1), BULK).unwrap();
    }
    assert!(wire.applied().iter().all(|&count| count > 5), "{:?}", wire.applied());
}

/// Every so manieth segment, both directions counted together.
fn one_in(count: u32, fate: Fate) -> Rule {
    let mut seen = 0;
    Rule::every(fate, move |_| {
        seen += 1;
        seen % count == 0
    })
}

/// The server remembers nothing of a connection behind a SYN cookie, so the proof has to come with what the
/// client's stack sends again: its data.
#[test]
fn a_lost_proof_and_syn_cookies_together_are_survived_when_the_client_speaks() {
    let (net, wire) = Wire::new().unwrap();
    net.server.sysctl("ipv4/tcp_syncookies", "2").unwrap();
    let pair = Setup::psk().unwrap().start_on(net, Enforcement::Enforced).unwrap();
    let _server = Server::start(&pair.net.server, PORT, &Service::Echo).unwrap();
    for family in Family::BOTH {
        let to = pair.net.server.at(family, PORT);
        wire.rule(Rule::first(Fate::Lose, move |s| {
            s.destination == to && Step::Proof.is(s, to.port())
        }));
        let mut stream = Interactive::open(&pair.net.client, to).unwrap();
        stream.exchange().unwrap();
    }
    assert_eq!(wire.applied(), [1, 1]);
}

/// All that the client's stack sends behind the proof is a FIN.
#[test]
fn a_lost_proof_of_a_client_that_closes_at_once_is_sent_again() {
    let (net, wire) = Wire::new().unwrap();
    let pair = Setup::psk().unwrap().start_on(net, Enforcement::Enforced).unwrap();
    let server = Server::start(&pair.net.server, PORT, &Service::Echo).unwrap();
    let to = pair.net.server.at(Family::V4, PORT);
    for closed in 1..=2 {
        wire.rule(Rule::first(Fate::Lose, |s| Step::Proof.is(s, PORT)));
        drop(dial(&pair.net.client, to, PATIENCE).unwrap().stream().unwrap());
        let ends = server.wait_ends(closed, PATIENCE).unwrap();
        assert!(ends.iter().all(|end| *end == End::Closed), "{ends:?}");
    }
    assert_eq!(wire.applied(), [1, 1]);
}
