//! The responder's half: S1 arrives and S2 leaves (`enforcer-ebpf/src/handshake/server.rs`), and a call without identity
//! (`network.rs`).

use enforcer_common::abi::{
    AttemptValue, DropReason, Handle, direction, flow_flags, flow_state, role,
};
use enforcer_common::crypto::Transcript;
use enforcer_common::datapath::flow::is_answered_again;
use enforcer_common::wire::option::HandshakeOption;

use super::node::Verdict;
use super::open::calls;
use super::{Node, Outcome, Peer, Prefix, Segment, Tuple, Weakening, mac};

type Judged = Result<Outcome, DropReason>;

const ATTEMPT_WINS_NS: u64 = 3_000_000_000;
const CALL_LASTS_NS: u64 = 130_000_000_000;
const S2_MAX: u8 = 3;
const SYN_ACKS_MAX: u8 = 8;

impl Node {
    /// S1 arrives.
    pub(super) fn accept(&mut self, tuple: Tuple, segment: Segment) -> Judged {
        let Some(body) = segment.option else { return self.open_plain(tuple, segment) };
        let option = HandshakeOption::proof(body);
        let now_ns = self.now_ns;
        let found = self.attempts.get(&tuple).copied();
        let known = match found {
            Some(a) if is_repeated(&a, &segment, &option) => Some(a.local_handle),
            Some(a) if wins(&a, now_ns) => return Err(DropReason::AttemptConflict),
            Some(a) if crosses(&a, now_ns) => Some(a.local_handle),
            _ => None,
        };
        if known.is_none() && self.deadline_ns <= now_ns {
            return Err(DropReason::NoCredential);
        }
        let local = known.unwrap_or(self.credential);
        let Some(peer) = self.find_peer(local, option.handle()) else {
            return Err(DropReason::Held);
        };
        self.check_peer(&peer, &segment)?;
        match self.ask(peer.identity, tuple.local.port, direction::INGRESS) {
            Verdict::Allow(_) => {}
            _ if self.weakening == Weakening::CallerUnjudged => {}
            Verdict::Deny => return Err(DropReason::PolicyDenied),
            Verdict::Unknown => return Err(DropReason::Held),
        }
        let attempt = match found {
            Some(a) if is_repeated(&a, &segment, &option) => AttemptValue { syn_acks: 0, ..a },
            Some(a) if crosses(&a, now_ns) => {
                let both = AttemptValue { role: role::BOTH, ..a };
                called(both, now_ns, &peer, &option, &segment)
            }
            _ => {
                let server = AttemptValue {
                    local_handle: local,
                    role: role::SERVER,
                    ..AttemptValue::default()
                };
                called(server, now_ns, &peer, &option, &segment)
            }
        };
        self.attempts.insert(tuple, attempt);
        Ok(Outcome::Passes(segment.stripped(Some(option.handle()))))
    }

    /// S2 leaves.
    pub(super) fn answer(&mut self, tuple: Tuple, mut segment: Segment) -> Judged {
        if segment.option.is_some() {
            return Err(DropReason::ForgedOption);
        }
        let found = self.attempts.get(&tuple).copied();
        let Some(mut a) = found.filter(|a| is_answered(a, &segment)) else {
            return self.again(tuple, segment, true).unwrap_or(Err(DropReason::NoAttempt));
        };
        if a.role == role::PLAIN {
            return Ok(self.answer_plain(tuple, a, segment));
        }
        if segment.data > 0 {
            return Err(DropReason::DataInHandshake);
        }
        if a.syn_acks >= SYN_ACKS_MAX {
            return Err(DropReason::SynAckLimit);
        }
        if a.answered == 0 {
            self.freeze(tuple, &mut a)?;
        } else if a.deadline_ns <= self.now_ns {
            return Err(DropReason::Expired);
        } else if let Verdict::Deny = self.ask(a.peer, a.port, direction::INGRESS) {
            return Err(DropReason::PolicyDenied);
        }
        a.syn_acks += 1;
        a.local_isn = segment.sequence;
        self.attempts.insert(tuple, a);
        segment.option = Some(HandshakeOption::hello(a.local_handle, a.local_nonce).body);
        // Behind the last S2 short ones, which have neither.
        if a.syn_acks <= S2_MAX || a.role == role::BOTH {
            segment.prefix = Some(Prefix { mac: a.answer, end: tuple.local });
            segment.credential = Some(a.local_handle);
        }
        Ok(Outcome::Passes(segment))
    }

    fn freeze(&mut self, tuple: Tuple, a: &mut AttemptValue) -> Result<(), DropReason> {
        let nonce = self.draw();
        let peer = self.find_peer(a.local_handle, a.remote_handle).ok_or(DropReason::Expired)?;
        if a.deadline_ns <= self.now_ns {
            return Err(DropReason::Expired);
        }
        if a.role != role::BOTH {
            a.local_nonce = nonce;
        }
        let transcript = Transcript {
            handle_a: a.remote_handle,
            handle_b: a.local_handle,
            nonce_a: a.remote_nonce,
            nonce_b: a.local_nonce,
        };
        let made = mac::both(self.weakening, &peer.as_responder, &transcript, tuple.local);
        a.answer = made.answer;
        a.proof = made.proof;
        a.answered = 1;
        self.flows.remove(&tuple);
        Ok(())
    }

    /// A SYN-ACK that comes again behind the proof; nothing if it is another.
    pub(super) fn again(&mut self, tuple: Tuple, segment: Segment, from: bool) -> Option<Judged> {
        let mut flow = self.flows.get(&tuple).copied()?;
        if !is_answered_again(&flow, &segment.packet(), from) || segment.credential.is_some() {
            return None;
        }
        let judged = self.refresh(&mut flow);
        self.flows.insert(tuple, flow);
        let is_cut = flow.state == flow_state::CUT;
        Some(judged.and(if is_cut {
            Err(DropReason::FlowCut)
        } else {
            Ok(Outcome::Passes(segment.stripped(None)))
        }))
    }

    fn answer_plain(&mut self, tuple: Tuple, mut a: AttemptValue, segment: Segment) -> Outcome {
        a.local_isn = segment.sequence;
        a.answered = 1;
        self.attempts.insert(tuple, a);
        self.flows.remove(&tuple);
        Outcome::Passes(segment)
    }

    /// A SYN without identity towards the workload.
    fn open_plain(&mut self, tuple: Tuple, segment: Segment) -> Judged {
        if !self.plain_in && self.weakening != Weakening::PlainCallAllowed {
            return Err(DropReason::PeerWithoutIdentity);
        }
        if let Some(a) = self.attempts.get(&tuple) {
            let opened_here = a.flags & flow_flags::INITIATOR != 0;
            if a.role == role::PLAIN && !opened_here && a.remote_isn == segment.sequence {
                return Ok(Outcome::Passes(segment));
            }
            if opened_here && self.now_ns < a.created_ns + ATTEMPT_WINS_NS {
                return Err(DropReason::AttemptConflict);
            }
        }
        let attempt = AttemptValue {
            created_ns: self.now_ns,
            remote_isn: segment.sequence,
            port: tuple.local.port,
            role: role::PLAIN,
            ..AttemptValue::default()
        };
        self.attempts.insert(tuple, attempt);
        Ok(Outcome::Passes(segment))
    }
}

/// The attempt behind an S1 that was accepted.
fn called(
    before: AttemptValue,
    now_ns: u64,
    peer: &Peer,
    option: &HandshakeOption,
    segment: &Segment,
) -> AttemptValue {
    AttemptValue {
        created_ns: now_ns,
        peer: peer.identity,
        deadline_ns: peer.deadline_ns,
        remote_handle: option.handle(),
        remote_nonce: option.nonce(),
        remote_isn: segment.sequence,
        port: segment.to.port,
        syn_acks: 0,
        answered: 0,
        ..before
    }
}

/// Whether the attempt is one of the far side, whose SYN the SYN-ACK acknowledges.
fn is_answered(a: &AttemptValue, segment: &Segment) -> bool {
    let called = match a.role {
        role::SERVER | role::BOTH => true,
        role::PLAIN => a.flags & flow_flags::INITIATOR == 0,
        _ => false,
    };
    called && segment.acknowledgement == a.remote_isn.wrapping_add(1)
}

fn crosses(a: &AttemptValue, now_ns: u64) -> bool {
    calls(a) && now_ns < a.created_ns + CALL_LASTS_NS
}

fn wins(a: &AttemptValue, now_ns: u64) -> bool {
    let came = match a.role {
        role::SERVER | role::BOTH => true,
        role::CLIENT => a.answered != 0,
        role::PLAIN => a.flags & flow_flags::INITIATOR != 0,
        _ => false,
    };
    came && now_ns < a.created_ns + ATTEMPT_WINS_NS
}

fn is_repeated(a: &AttemptValue, segment: &Segment, option: &HandshakeOption) -> bool {
    let (handle, nonce): (Handle, _) = (option.handle(), option.nonce());
    (a.role == role::SERVER || a.role == role::BOTH)
        && a.remote_isn == segment.sequence
        && a.remote_handle == handle
        && a.remote_nonce == nonce
}
