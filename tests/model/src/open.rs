//! The initiator's half: S1 leaves and S2 arrives (`enforcer-ebpf/src/handshake/client.rs`).

use enforcer_common::abi::{
    AttemptValue, DropReason, FlowValue, direction, flow_flags, flow_state, role,
};
use enforcer_common::crypto::{Transcript, mac_words, same_mac};
use enforcer_common::datapath::flow::{contradicts, is_opened_again};
use enforcer_common::wire::option::HandshakeOption;

use super::node::Verdict;
use super::{Node, Outcome, Peer, Prefix, Segment, Tuple, Weakening, mac};

type Judged = Result<Outcome, DropReason>;

impl Node {
    /// S1 leaves.
    pub(super) fn open(&mut self, tuple: Tuple, mut segment: Segment) -> Judged {
        if segment.option.is_some() {
            return Err(DropReason::ForgedOption);
        }
        if segment.from.address != self.address {
            return Err(DropReason::SpoofedSource);
        }
        segment.data = 0;
        let (handle, nonce) = match self.attempts.get(&tuple) {
            // Also once S2 was accepted: the flow's proof stands on the nonce that S2 answered.
            Some(a)
                if matches!(a.role, role::BOTH | role::CLIENT)
                    && a.local_isn == segment.sequence =>
            {
                (a.local_handle, a.local_nonce)
            }
            _ => {
                if self.deadline_ns <= self.now_ns {
                    return Err(DropReason::NoCredential);
                }
                let (handle, nonce) = (self.credential, self.draw());
                self.attempts.insert(
                    tuple,
                    AttemptValue {
                        created_ns: self.now_ns,
                        deadline_ns: self.deadline_ns,
                        local_handle: handle,
                        local_nonce: nonce,
                        local_isn: segment.sequence,
                        port: tuple.remote.port,
                        role: role::CLIENT,
                        flags: flow_flags::INITIATOR,
                        ..AttemptValue::default()
                    },
                );
                (handle, nonce)
            }
        };
        segment.option = Some(HandshakeOption::hello(handle, nonce).body);
        segment.credential = Some(handle);
        Ok(Outcome::Passes(segment))
    }

    /// S2 arrives.
    pub(super) fn answered(&mut self, tuple: Tuple, segment: Segment) -> Judged {
        let found = self.attempts.get(&tuple).copied();
        if found.is_none_or(|a| a.answered != 0)
            && let Some(judged) = self.again(tuple, segment, false)
        {
            return judged;
        }
        let a = found.ok_or(DropReason::NoAttempt)?;
        if segment.acknowledgement != a.local_isn.wrapping_add(1) {
            return Err(DropReason::NoAttempt);
        }
        if a.answered != 0
            && self.flows.get(&tuple).is_some_and(|flow| contradicts(flow, &segment.packet()))
        {
            return Err(DropReason::NoAttempt);
        }
        match a.role {
            role::PLAIN if a.flags & flow_flags::INITIATOR != 0 => {
                return Ok(self.note_answer(tuple, a, segment));
            }
            role::CLIENT | role::BOTH => {}
            role::REFUSED => return Err(DropReason::Refused),
            _ => return Err(DropReason::NoAttempt),
        }
        let Some(body) = segment.option else {
            return Ok(self.answered_plain(tuple, a, segment));
        };
        let option = HandshakeOption::proof(body);
        let (Some(prefix), true) = (segment.prefix, segment.credential.is_some()) else {
            return Err(DropReason::CredentialLength);
        };
        let Some(peer) = self.find_peer(a.local_handle, option.handle()) else {
            return Err(DropReason::Held);
        };
        self.check_peer(&peer, &segment)?;
        let transcript = Transcript {
            handle_a: a.local_handle,
            handle_b: option.handle(),
            nonce_a: a.local_nonce,
            nonce_b: option.nonce(),
        };
        self.judge_answered(tuple, segment, &peer, prefix, &transcript)
    }

    fn judge_answered(
        &mut self,
        tuple: Tuple,
        segment: Segment,
        peer: &Peer,
        prefix: Prefix,
        transcript: &Transcript,
    ) -> Judged {
        let weakening = self.weakening;
        let right = mac::both(weakening, &peer.as_initiator, transcript, prefix.end);
        if !same_mac(mac_words(&right.answer), mac_words(&prefix.mac))
            && weakening != Weakening::AnswerUnchecked
        {
            return Err(DropReason::BadMac);
        }
        let compared = weakening != Weakening::AddressNotCompared && !self.is_virtual;
        if compared && prefix.end != tuple.remote {
            return Ok(self.refuse_in_place(tuple, DropReason::Relayed));
        }
        let deadline_ns = match self.ask(peer.identity, prefix.end.port, direction::EGRESS) {
            Verdict::Allow(deadline_ns) => deadline_ns,
            _ if weakening == Weakening::AnswererUnjudged => u64::MAX,
            Verdict::Deny => return Ok(self.refuse_in_place(tuple, DropReason::PolicyDenied)),
            Verdict::Unknown => return Err(DropReason::Held),
        };
        let a = self.attempts.get_mut(&tuple).ok_or(DropReason::NoAttempt)?;
        let is_first = a.answered == 0;
        a.proof = right.proof;
        a.remote_handle = transcript.handle_b;
        a.remote_nonce = transcript.nonce_b;
        a.remote_isn = segment.sequence;
        a.peer = peer.identity;
        a.role = role::CLIENT;
        a.answered = 1;
        let (ack, next) = (segment.acknowledgement, segment.sequence.wrapping_add(1));
        let flow = FlowValue {
            peer: peer.identity,
            deadline_ns,
            seen_ns: self.now_ns,
            epoch: self.epoch,
            local_next: ack,
            local_ack: next,
            remote_next: next,
            remote_ack: ack,
            port: prefix.end.port,
            state: flow_state::UNCONFIRMED,
            flags: flow_flags::INITIATOR,
            handle: transcript.handle_b,
            ..FlowValue::default()
        };
        let opened = self.flows.get(&tuple);
        let is_open =
            opened.is_some_and(|flow| is_opened_again(flow, peer.identity, &segment.packet()));
        if is_first || !is_open {
            self.flows.insert(tuple, flow);
        }
        Ok(Outcome::Passes(segment.stripped(Some(transcript.handle_b))))
    }

    fn refuse_in_place(&mut self, tuple: Tuple, reason: DropReason) -> Outcome {
        self.attempts.remove(&tuple);
        Outcome::Refused(reason)
    }

    fn answered_plain(&mut self, tuple: Tuple, mut a: AttemptValue, segment: Segment) -> Outcome {
        if self.plain_out || self.weakening == Weakening::PlainAnswerAllowed {
            a.role = role::PLAIN;
            return self.note_answer(tuple, a, segment);
        }
        a.role = role::REFUSED;
        self.attempts.insert(tuple, a);
        Outcome::BothReset(DropReason::PeerWithoutIdentity)
    }

    fn note_answer(&mut self, tuple: Tuple, mut a: AttemptValue, segment: Segment) -> Outcome {
        a.remote_isn = segment.sequence;
        a.answered = 1;
        self.attempts.insert(tuple, a);
        self.flows.remove(&tuple);
        Outcome::Passes(segment)
    }
}

/// Whether the workload's own S1 waits for an answer.
pub(super) fn calls(a: &AttemptValue) -> bool {
    a.role == role::BOTH || a.role == role::CLIENT && a.answered == 0
}
