//! The model of the handshake (`tests/model`) and the loaded programs, side by side: the same segments in, and behind each
//! the same outcome, counter, attempt and flow. So what the model checker finds true of the one holds for the other.

use enforcer_common::abi::{
    AttemptValue, Config, DropReason, FlowValue, NonceState, VerdictKey, VerdictValue, direction,
    flow_state, verdict_action,
};
use enforcer_model::{End, Node, Outcome, Peer, Prefix, Segment as Abstract, Tuple};
use enforcer_tests::program::kernel::{Action, Hook, Seen};
use enforcer_tests::program::mac::words;
use enforcer_tests::program::packet;
use enforcer_tests::program::segment::{
    ACK, FIN, LATER_OPTIONS, PSH, RST, SYN, Segment, is_intact,
};
use enforcer_tests::program::world::{
    Credential, EPOCH, Family, KEY_AS_INITIATOR, KEY_AS_RESPONDER, PEER, PEER_NONCE, SERVICE, Side,
    WORKLOAD, World,
};

const SEQUENCES: u64 = 400;
const STEPS: u64 = 14;
/// Bytes of a spliced credential: as long as the peer's, so that only the checksum tells.
const CREDENTIAL_BYTES: usize = 333;

/// What happens next; each is sensible in some states and wrong in others.
#[derive(Debug, Clone, Copy)]
enum Step {
    SynOut,
    OtherSynOut,
    SynIn,
    S1In,
    S1OtherNonce,
    S1OtherIsn,
    S1OtherCredential,
    S1UnknownHandle,
    SynAckOut,
    SynAckOutWrong,
    SynAckIn,
    S2In,
    S2WrongMac,
    S2WrongAck,
    S2Elsewhere,
    S2OtherNonce,
    S3In,
    S3WrongMac,
    S3Mirrored,
    S3WrongNumbers,
    S3WithData,
    AckOut,
    AckIn,
    KeepaliveOut,
    KeepaliveIn,
    DataOut,
    DataIn,
    FinOut,
    FinIn,
    ResetOut,
    ResetIn,
    ResetInBehind,
    ResetInBroken,
    Deny,
    Allow,
    Forget,
    NextEpoch,
    Evict,
}

use Step::{
    AckIn, AckOut, Allow, DataIn, DataOut, Deny, Evict, FinIn, FinOut, Forget, KeepaliveIn,
    KeepaliveOut, NextEpoch, OtherSynOut, ResetIn, ResetInBehind, ResetInBroken, ResetOut, S1In,
    S1OtherCredential, S1OtherIsn, S1OtherNonce, S1UnknownHandle, S2Elsewhere, S2In, S2OtherNonce,
    S2WrongAck, S2WrongMac, S3In, S3Mirrored, S3WithData, S3WrongMac, S3WrongNumbers, SynAckIn,
    SynAckOut, SynAckOutWrong, SynIn, SynOut,
};

const ALL: [Step; 38] = [
    SynOut,
    OtherSynOut,
    SynIn,
    S1In,
    S1OtherNonce,
    S1OtherIsn,
    S1OtherCredential,
    S1UnknownHandle,
    SynAckOut,
    SynAckOutWrong,
    SynAckIn,
    S2In,
    S2WrongMac,
    S2WrongAck,
    S2Elsewhere,
    S2OtherNonce,
    S3In,
    S3WrongMac,
    S3Mirrored,
    S3WrongNumbers,
    S3WithData,
    AckOut,
    AckIn,
    KeepaliveOut,
    KeepaliveIn,
    DataOut,
    DataIn,
    FinOut,
    FinIn,
    ResetOut,
    ResetIn,
    ResetInBehind,
    ResetInBroken,
    Deny,
    Allow,
    Forget,
    NextEpoch,
    Evict,
];

/// Steps that lead on, so that sequences come far.
const CLIENT: [Step; 6] = [SynOut, S2In, AckOut, DataOut, AckIn, DataIn];
const SERVER: [Step; 6] = [S1In, SynAckOut, S3In, DataIn, AckOut, DataOut];
const CROSSING: [Step; 6] = [SynOut, S1In, SynAckOut, S2In, S3In, AckOut];

/// The programs and the model, in the same state.
struct Pair {
    world: World,
    node: Node,
    other: Credential,
    trace: Vec<Step>,
}

impl Pair {
    fn new(family: Family, side: Side) -> Self {
        let mut world = World::new(family, side);
        world.set_config(|config: &mut Config| config.cold_per_second = 1_000_000);
        world.set_config(|config: &mut Config| config.cold_per_source = 1_000_000);
        world.theirs = Credential::new("the peer's", CREDENTIAL_BYTES);
        world.set_peer(|_| {});
        let mut node = Node::new(world.local.mapped(), world.own.handle, world.now_ns);
        node.epoch = EPOCH;
        node.deadline_ns = world.later();
        let peer = Peer {
            as_initiator: words(&KEY_AS_INITIATOR),
            as_responder: words(&KEY_AS_RESPONDER),
            identity: PEER,
            deadline_ns: world.later(),
        };
        node.peers.insert((world.own.handle, world.theirs.handle), peer);
        let other = Credential::new("another's", CREDENTIAL_BYTES);
        let mut pair = Self { world, node, other, trace: Vec::new() };
        pair.judge(Some(verdict_action::ALLOW));
        pair
    }

    fn tuple(&self) -> Tuple {
        let end = |end: &packet::End| End { address: end.mapped(), port: end.port };
        Tuple { local: end(&self.world.local), remote: end(&self.world.remote) }
    }

    /// Writes both verdicts under the current epoch, or takes them away.
    fn judge(&mut self, action: Option<u8>) {
        let (epoch, later) = (self.node.epoch, self.world.later());
        for asked in [direction::EGRESS, direction::INGRESS] {
            // Without a verdict, one that has ended: absent and ended are the same to the programs.
            let (said, deadline_ns) = action.map_or((verdict_action::DENY, 1), |a| (a, later));
            // Also of the workload's own port, when it calls and is called at once.
            for port in [SERVICE, 0] {
                let key = VerdictKey { port, ..World::verdict_key(asked, epoch) };
                let value = VerdictValue {
                    deadline_ns,
                    rule: 1,
                    action: said,
                    obligations: 0,
                    zero: [0; 2],
                };
                self.world.kernel.put("VERDICTS", key, value);
                self.node.verdicts.insert((PEER, epoch, port, asked), (said, deadline_ns));
            }
        }
    }

    fn take(&mut self, step: Step) {
        self.trace.push(step);
        match step {
            Deny => self.judge(Some(verdict_action::DENY)),
            Allow => self.judge(Some(verdict_action::ALLOW)),
            Forget => self.judge(None),
            NextEpoch => {
                self.node.epoch += 2;
                let epoch = self.node.epoch;
                self.world.set_config(|config| config.epoch = epoch);
                self.judge(Some(verdict_action::ALLOW));
            }
            Evict => {
                self.world.evict_attempt();
                let tuple = self.tuple();
                self.node.attempts.remove(&tuple);
            }
            _ => {
                let (hook, segment) = self.segment(step);
                self.send(hook, &segment, !matches!(step, ResetInBroken));
            }
        }
    }

    fn segment(&self, step: Step) -> (Hook, Segment) {
        let w = &self.world;
        let (plain_in, plain_out) = (self.ack(false), self.ack(true));
        let mac = self.node.attempts.get(&self.tuple()).map_or([0; 16], |a| a.proof);
        let answer = self.node.attempts.get(&self.tuple()).map_or([0; 16], |a| a.answer);
        match step {
            SynOut => (Hook::From, w.syn_out()),
            OtherSynOut => (Hook::From, Segment { sequence: 5, ..w.syn_out() }),
            SynIn => (Hook::To, w.syn_in()),
            S1In => (Hook::To, w.s1_in()),
            S1OtherNonce => {
                let s1 = w.syn_in().hello(w.theirs.handle, [6; 8]).payload(&w.theirs.bytes);
                (Hook::To, s1)
            }
            S1OtherIsn => (Hook::To, Segment { sequence: 5, ..w.s1_in() }),
            S1OtherCredential => (Hook::To, w.s1_in().payload(&self.other.bytes)),
            S1UnknownHandle => {
                let handle = self.other.handle;
                (Hook::To, w.syn_in().hello(handle, PEER_NONCE).payload(&self.other.bytes))
            }
            SynAckOut => (Hook::From, self.answering(w.syn_ack_out(), true)),
            SynAckOutWrong => (Hook::From, Segment { acknowledgement: 9, ..w.syn_ack_out() }),
            SynAckIn => (Hook::To, self.answering(w.syn_ack_in(), false)),
            S2In => (Hook::To, self.s2(PEER_NONCE, w.remote.mapped())),
            S2OtherNonce => (Hook::To, self.s2([6; 8], w.remote.mapped())),
            S2Elsewhere => (Hook::To, self.s2(PEER_NONCE, w.outside.mapped())),
            S2WrongMac => {
                let mut s2 = self.s2(PEER_NONCE, w.remote.mapped());
                s2.payload[3] ^= 1;
                (Hook::To, s2)
            }
            S2WrongAck => {
                let s2 = self.s2(PEER_NONCE, w.remote.mapped());
                (Hook::To, Segment { acknowledgement: 77, ..s2 })
            }
            S3In => (Hook::To, plain_in.proof(mac)),
            S3WrongMac => (Hook::To, plain_in.proof([7; 16])),
            S3Mirrored => (Hook::To, plain_in.proof(answer)),
            S3WrongNumbers => {
                let sequence = plain_in.sequence.wrapping_add(1);
                (Hook::To, Segment { sequence, ..plain_in }.proof(mac))
            }
            S3WithData => (Hook::To, plain_in.proof(mac).payload(b"x")),
            AckOut => (Hook::From, plain_out),
            AckIn => (Hook::To, plain_in),
            KeepaliveOut => (Hook::From, behind(plain_out)),
            KeepaliveIn => (Hook::To, behind(plain_in)),
            DataOut => (Hook::From, plain_out.flags(ACK | PSH).payload(b"abc")),
            DataIn => (Hook::To, plain_in.flags(ACK | PSH).payload(b"abc")),
            FinOut => (Hook::From, plain_out.flags(FIN | ACK)),
            FinIn => (Hook::To, plain_in.flags(FIN | ACK)),
            ResetOut => (Hook::From, plain_out.flags(RST)),
            ResetIn | ResetInBroken => (Hook::To, plain_in.flags(RST | ACK)),
            ResetInBehind => {
                let sequence = plain_in.sequence.wrapping_add(3 << 29);
                (Hook::To, Segment { sequence, ..plain_in }.flags(RST))
            }
            Deny | Allow | Forget | NextEpoch | Evict => unreachable!("no segment"),
        }
    }

    /// A pure ACK in sequence with the attempt, or with the flow.
    fn ack(&self, out: bool) -> Segment {
        let w = &self.world;
        let mut ack = if out { w.ack_out() } else { w.ack_in() };
        if let Some(a) = self.node.attempts.get(&self.tuple()).filter(|a| a.answered != 0) {
            let (own, other) =
                if out { (a.local_isn, a.remote_isn) } else { (a.remote_isn, a.local_isn) };
            (ack.sequence, ack.acknowledgement) = (own.wrapping_add(1), other.wrapping_add(1));
        }
        ack.options(&LATER_OPTIONS)
    }

    /// A SYN-ACK that acknowledges the SYN of the attempt.
    fn answering(&self, segment: Segment, out: bool) -> Segment {
        let Some(a) = self.node.attempts.get(&self.tuple()) else { return segment };
        let isn = if out { a.remote_isn } else { a.local_isn };
        Segment { acknowledgement: isn.wrapping_add(1), ..segment }
    }

    /// S2 as the peer makes it, that answers the attempt there is.
    fn s2(&self, nonce: [u8; 8], address: [u8; 16]) -> Segment {
        let w = &self.world;
        let local_nonce = self.node.attempts.get(&self.tuple()).map_or([0; 8], |a| a.local_nonce);
        let covered = enforcer_tests::program::mac::Covered {
            handles: [w.own.handle, w.theirs.handle],
            nonces: [local_nonce, nonce],
            address,
            port: w.remote.port,
        };
        let (mac, port) = (covered.answer(&KEY_AS_INITIATOR), covered.port);
        let payload = [&mac[..], &address, &port.to_be_bytes(), &w.theirs.bytes].concat();
        let syn_ack = self.answering(w.syn_ack_in(), false);
        syn_ack.hello(w.theirs.handle, nonce).payload(&payload)
    }

    fn send(&mut self, hook: Hook, segment: &Segment, is_intact: bool) {
        let drawn = self.drawn();
        let mut frame = segment.frame();
        if !is_intact {
            *frame.last_mut().expect("a frame") ^= 1;
        }
        let seen = self.world.run(hook, &frame);
        if self.drawn() != drawn {
            // The one thing that the model cannot know.
            self.node.nonce = self.world.attempt().map_or([0; 8], |a| a.local_nonce);
        }
        let given = Abstract { is_intact, ..self.abstracted(segment) };
        let outcome = match hook {
            Hook::From => self.node.from_workload(given),
            Hook::To | Hook::Guard => self.node.to_workload(given),
        };
        assert_eq!(u64::from(self.node.drawn), self.drawn(), "nonces drawn: {:?}", self.trace);
        self.compare_outcome(hook, &seen, &outcome);
        self.compare_tables();
    }

    fn drawn(&self) -> u64 {
        self.world.kernel.single::<NonceState>("NONCES").counter
    }

    /// A segment as the model reads it.
    fn abstracted(&self, segment: &Segment) -> Abstract {
        let end = |end: &packet::End| End { address: end.mapped(), port: end.port };
        let mut out = Abstract::new(
            [end(&segment.from), end(&segment.to)],
            segment.flags,
            segment.sequence,
            segment.acknowledgement,
        );
        let ours = segment.options.last_chunk::<20>();
        out.option = ours
            .filter(|o| o[..4] == [253, 20, 0x45, 0x4e])
            .map(|o| *o.last_chunk::<16>().expect("20 bytes"));
        let credentials = [&self.world.own, &self.world.theirs, &self.other];
        let credential = credentials.iter().find(|c| segment.payload.ends_with(&c.bytes));
        let Some(credential) = credential.filter(|_| segment.flags & SYN != 0) else {
            out.data = u16::try_from(segment.payload.len()).expect("a payload");
            return out;
        };
        out.credential = Some(credential.handle);
        let front = &segment.payload[..segment.payload.len() - credential.bytes.len()];
        if let Some((mac, rest)) = front.split_first_chunk::<16>() {
            let (address, port) = rest.split_first_chunk::<16>().expect("a prefix");
            let end = End { address: *address, port: u16::from_be_bytes([port[0], port[1]]) };
            out.prefix = Some(Prefix { mac: *mac, end });
        }
        out
    }

    fn compare_outcome(&self, hook: Hook, seen: &Seen, outcome: &Outcome) {
        let trace = &self.trace;
        match outcome {
            Outcome::Passes(segment) | Outcome::Led(_, segment) => {
                assert_eq!(seen.action, Action::Pass, "{trace:?}: {:?}", seen.counters);
                let ends = match hook {
                    Hook::From => (self.world.local, self.world.remote),
                    Hook::To | Hook::Guard => (self.world.remote, self.world.local),
                };
                let intact = is_intact(&seen.frame, &ends.0, &ends.1);
                assert_eq!(intact, segment.is_intact, "checksum: {trace:?}");
                let at = if self.world.family == Family::V4 { 14 + 20 } else { 14 + 40 };
                let header = usize::from(seen.frame[at + 12] >> 4) * 4;
                let options = &seen.frame[at + 20..at + header];
                let ours = options.last_chunk::<20>().filter(|o| o[..4] == [253, 20, 0x45, 0x4e]);
                let option = ours.map(|o| *o.last_chunk::<16>().expect("20 bytes"));
                assert_eq!(option, segment.option, "option: {trace:?}");
            }
            Outcome::Dropped(reason) => {
                assert_eq!(seen.action, Action::Drop, "{trace:?}: {:?}", seen.counters);
                self.counted(seen, *reason);
            }
            Outcome::Refused(reason) | Outcome::BothReset(reason) => {
                assert_ne!(seen.action, Action::Drop, "{trace:?}: {:?}", seen.counters);
                self.counted(seen, *reason);
            }
        }
    }

    fn counted(&self, seen: &Seen, reason: DropReason) {
        let name = format!("{WORKLOAD}:{}", reason.name());
        assert!(seen.counters.contains_key(&name), "{:?}: {:?}", self.trace, seen.counters);
    }

    fn compare_tables(&self) {
        let tuple = self.tuple();
        let attempt = self.node.attempts.get(&tuple).map(timeless);
        assert_eq!(self.world.attempt().as_ref().map(timeless), attempt, "{:?}", self.trace);
        let flow = self.node.flows.get(&tuple).map(uncounted);
        assert_eq!(self.world.flow().as_ref().map(uncounted), flow, "{:?}", self.trace);
    }
}

/// One below the next number, as a keepalive stands (RFC 9293 3.8.4).
fn behind(ack: Segment) -> Segment {
    Segment { sequence: ack.sequence.wrapping_sub(1), ..ack }
}

/// What the model does not know: the clock, and sizes.
fn timeless(a: &AttemptValue) -> AttemptValue {
    AttemptValue { created_ns: 0, proof_ns: 0, s1_bytes: 0, ..*a }
}

/// The same of a flow; one that was cut ends by the clock.
fn uncounted(f: &FlowValue) -> FlowValue {
    FlowValue {
        seen_ns: 0,
        deadline_ns: if f.state == flow_state::CUT { 0 } else { f.deadline_ns },
        packets_in: 0,
        packets_out: 0,
        bytes_in: 0,
        bytes_out: 0,
        local_mac: [0; 6],
        remote_mac: [0; 6],
        ..*f
    }
}

/// A repeatable choice (xorshift, Marsaglia 2003).
struct Choice(u64);

impl Choice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit as u64).expect("below a usize")
    }
}

/// Random walks: two of three steps lead on, the third is any.
fn walk(seed: u64, family: Family, side: Side, on: &[Step]) {
    let mut choice = Choice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut pair = Pair::new(family, side);
    let mut next = 0;
    for _ in 0..STEPS {
        let step = if choice.below(3) < 2 {
            next += 1;
            on[(next - 1) % on.len()]
        } else {
            ALL[choice.below(ALL.len())]
        };
        pair.take(step);
    }
}

#[test]
fn the_programs_do_as_the_model_as_a_client() {
    for seed in 1..=SEQUENCES {
        walk(seed, family(seed), Side::Client, &CLIENT);
    }
}

#[test]
fn the_programs_do_as_the_model_as_a_server() {
    for seed in 1..=SEQUENCES {
        walk(seed, family(seed), Side::Server, &SERVER);
    }
}

#[test]
fn the_programs_do_as_the_model_when_calls_cross() {
    for seed in 1..=SEQUENCES {
        walk(seed, family(seed), Side::Client, &CROSSING);
    }
}

fn family(seed: u64) -> Family {
    Family::BOTH[usize::from(seed.is_multiple_of(2))]
}
