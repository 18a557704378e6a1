//! Segments behind the SYNs: proof, flow, and what comes between (`enforcer-ebpf/src/{flow,proof,attempt}.rs`).

use enforcer_common::abi::{
    AttemptValue, DropReason, FlowValue, direction, flow_flags, flow_state, role,
};
use enforcer_common::crypto::{mac_words, same_mac};
use enforcer_common::datapath::flow;
use enforcer_common::wire::frame::tcp_flags;
use enforcer_common::wire::option::HandshakeOption;

use super::node::Verdict;
use super::{Node, Outcome, Segment, Tuple, Weakening};

type Judged = Result<Outcome, DropReason>;

const CUT_LASTS_NS: u64 = 2_000_000_000;
const CLONE_INTERVAL_NS: u64 = 10_000_000;
const PSH: u8 = 8;
const PURE: u8 = tcp_flags::ACK | 0x40 | 0x80;

impl Node {
    /// Anything but SYN and SYN-ACK.
    pub(super) fn segment(&mut self, tuple: Tuple, segment: Segment, from: bool) -> Judged {
        if self.is_established(tuple, &segment, from) {
            return Ok(Outcome::Passes(segment));
        }
        if segment.option.is_some() && from {
            return Err(DropReason::ForgedOption);
        }
        if segment.option.is_some() && self.is_awaited(tuple) {
            return self.accept_proof(tuple, segment);
        }
        let Some(mut flow) = self.flows.get(&tuple).copied() else {
            return self.half_open(tuple, segment, from);
        };
        let judged = self.of_flow(tuple, segment, from, &mut flow);
        let is_last = judged.is_ok() && !from && segment.option.is_none() && segment.is_intact;
        if is_last && flow::is_finished_by(&flow, &segment.packet()) {
            self.flows.remove(&tuple);
        } else {
            self.flows.insert(tuple, flow);
        }
        judged
    }

    fn is_established(&mut self, tuple: Tuple, segment: &Segment, from: bool) -> bool {
        let closes = tcp_flags::SYN | tcp_flags::FIN | tcp_flags::RST;
        if segment.flags & closes != 0 || segment.option.is_some() {
            return false;
        }
        let (epoch, now_ns) = (self.epoch, self.now_ns);
        let ignored = self.weakening == Weakening::EpochIgnored;
        let Some(flow) = self.flows.get_mut(&tuple) else { return false };
        let passes = flow.state == flow_state::ESTABLISHED
            && (flow.epoch == epoch || ignored)
            && flow.deadline_ns > now_ns;
        if passes {
            flow::record(flow, &segment.packet(), from, now_ns);
        }
        passes
    }

    fn is_awaited(&self, tuple: Tuple) -> bool {
        self.attempts
            .get(&tuple)
            .is_some_and(|a| (a.role == role::SERVER || a.role == role::BOTH) && a.answered != 0)
    }

    fn of_flow(
        &mut self,
        tuple: Tuple,
        segment: Segment,
        from: bool,
        flow: &mut FlowValue,
    ) -> Judged {
        self.refresh(flow)?;
        if flow.state == flow_state::UNCONFIRMED && !from {
            self.confirm(tuple, &segment, flow);
            if flow.state == flow_state::UNCONFIRMED && !segment.has(tcp_flags::RST) {
                return Err(DropReason::AwaitingProof);
            }
        }
        flow::on_segment(flow, &segment.packet(), from, self.now_ns)?;
        if flow::is_ended_by(flow, &segment.packet(), from) && (from || segment.is_intact) {
            flow::end(flow, self.now_ns);
        }
        if segment.option.is_some() {
            if segment.data > 0 {
                return Err(DropReason::ProofWithData);
            }
            return Ok(Outcome::Passes(segment.stripped(segment.credential)));
        }
        if from && flow.state == flow_state::UNCONFIRMED {
            return Ok(self.emit(tuple, segment, flow.remote_ack));
        }
        Ok(Outcome::Passes(segment))
    }

    fn confirm(&mut self, tuple: Tuple, segment: &Segment, flow: &mut FlowValue) {
        let (client, server) = (flow.remote_ack.wrapping_sub(1), flow.remote_next.wrapping_sub(1));
        if flow::confirms(&segment.packet(), client, flow.local_next, server) {
            flow.state = flow_state::ESTABLISHED;
            self.attempts.remove(&tuple);
        }
    }

    /// Asks again for a flow of another epoch or whose verdict ran out.
    pub(super) fn refresh(&self, flow: &mut FlowValue) -> Result<(), DropReason> {
        if flow.state == flow_state::CUT {
            return Ok(());
        }
        let current = flow.epoch == self.epoch || self.weakening == Weakening::EpochIgnored;
        if current && flow.deadline_ns > self.now_ns {
            return Ok(());
        }
        let expired = flow.deadline_ns <= self.now_ns;
        let initiator = flow.flags & flow_flags::INITIATOR != 0;
        let answer = if flow.flags & flow_flags::PLAIN != 0 {
            self.ask_rules(initiator)
        } else {
            let asked = if initiator { direction::EGRESS } else { direction::INGRESS };
            self.ask(flow.peer, flow.port, asked)
        };
        match answer {
            Verdict::Allow(deadline_ns) => {
                flow.deadline_ns = deadline_ns;
                flow.epoch = self.epoch;
                Ok(())
            }
            Verdict::Unknown if expired => Err(DropReason::Expired),
            Verdict::Unknown => Err(DropReason::Unjudged),
            Verdict::Deny => {
                flow.state = flow_state::CUT;
                flow.deadline_ns = self.now_ns + CUT_LASTS_NS;
                Err(DropReason::FlowCut)
            }
        }
    }

    fn ask_rules(&self, outwards: bool) -> Verdict {
        let allowed = if outwards {
            self.plain_out || self.weakening == Weakening::PlainAnswerAllowed
        } else {
            self.plain_in || self.weakening == Weakening::PlainCallAllowed
        };
        if allowed { Verdict::Allow(u64::MAX) } else { Verdict::Deny }
    }

    /// S3 leaves.
    fn emit(&mut self, tuple: Tuple, segment: Segment, sequence: u32) -> Outcome {
        let now_ns = self.now_ns;
        let Some(a) = self.attempts.get_mut(&tuple) else { return Outcome::Passes(segment) };
        if a.role != role::CLIENT || a.answered == 0 {
            return Outcome::Passes(segment);
        }
        let option = Some(HandshakeOption::proof(a.proof).body);
        let is_probe = segment.sequence == sequence.wrapping_sub(1);
        if segment.data == 0 && !is_probe && segment.flags & !(PURE | PSH) == 0 {
            a.proof_ns = now_ns;
            return Outcome::Passes(Segment { sequence, option, ..segment });
        }
        if segment.has(tcp_flags::RST) || now_ns < a.proof_ns + CLONE_INTERVAL_NS {
            return Outcome::Passes(segment);
        }
        a.proof_ns = now_ns;
        let proof = Segment { flags: tcp_flags::ACK, sequence, option, data: 0, ..segment };
        Outcome::Led(proof, segment)
    }

    /// S3 arrives.
    fn accept_proof(&mut self, tuple: Tuple, segment: Segment) -> Judged {
        let a = *self.attempts.get(&tuple).ok_or(DropReason::NoFlow)?;
        let deadline_ns = self.judge_proof(tuple, &a, &segment)?;
        let (local_next, remote_next) = (segment.acknowledgement, segment.sequence);
        let flow = FlowValue {
            peer: a.peer,
            deadline_ns,
            seen_ns: self.now_ns,
            epoch: self.epoch,
            local_next,
            local_ack: remote_next,
            remote_next,
            remote_ack: local_next,
            port: a.port,
            state: flow_state::ESTABLISHED,
            handle: a.remote_handle,
            ..FlowValue::default()
        };
        self.flows.insert(tuple, flow);
        if self.weakening != Weakening::AttemptKept {
            self.attempts.remove(&tuple);
        }
        Ok(Outcome::Passes(segment.stripped(segment.credential)))
    }

    fn judge_proof(
        &mut self,
        tuple: Tuple,
        a: &AttemptValue,
        segment: &Segment,
    ) -> Result<u64, DropReason> {
        if a.deadline_ns <= self.now_ns {
            self.attempts.remove(&tuple);
            return Err(DropReason::Expired);
        }
        let (Some(body), true) = (segment.option, a.answered != 0) else {
            return Err(DropReason::AwaitingProof);
        };
        if segment.data > 0 || segment.flags & !(PURE | PSH) != 0 {
            return Err(DropReason::ProofWithData);
        }
        if !same_mac(mac_words(&body), mac_words(&a.proof))
            && self.weakening != Weakening::ProofUnchecked
        {
            return Err(DropReason::BadMac);
        }
        if segment.sequence != a.remote_isn.wrapping_add(1)
            || segment.acknowledgement != a.local_isn.wrapping_add(1)
        {
            return Err(DropReason::AwaitingProof);
        }
        if self.weakening == Weakening::ProofUnjudged {
            return Ok(a.deadline_ns);
        }
        match self.ask(a.peer, a.port, direction::INGRESS) {
            Verdict::Allow(deadline_ns) => Ok(deadline_ns),
            Verdict::Deny => Err(DropReason::PolicyDenied),
            Verdict::Unknown => Err(DropReason::Held),
        }
    }

    /// A segment of a tuple that has no flow.
    fn half_open(&mut self, tuple: Tuple, segment: Segment, from: bool) -> Judged {
        let Some(a) = self.attempts.get(&tuple).copied() else {
            return self.unknown(tuple, &segment, from);
        };
        let is_reset = segment.has(tcp_flags::RST);
        match a.role {
            role::PLAIN if !is_reset && opens(&a, &segment, from) => {
                self.open_plain_flow(tuple, &a, segment, from)
            }
            role::SERVER if !from => self.accept_proof(tuple, segment),
            role::BOTH if !from && !is_reset => self.accept_proof(tuple, segment),
            role::CLIENT | role::BOTH | role::PLAIN if !from && is_reset => {
                if segment.acknowledgement != a.local_isn.wrapping_add(1) {
                    return Err(DropReason::SpoofedReset);
                }
                self.attempts.remove(&tuple);
                Ok(Outcome::Passes(segment))
            }
            _ if is_reset && (from || a.role == role::REFUSED) => {
                self.attempts.remove(&tuple);
                Ok(Outcome::Passes(segment))
            }
            role::SERVER | role::BOTH => Err(DropReason::AwaitingProof),
            _ => Err(DropReason::NoFlow),
        }
    }

    fn unknown(&mut self, tuple: Tuple, segment: &Segment, from: bool) -> Judged {
        if !from || segment.has(tcp_flags::RST) {
            return Err(DropReason::NoFlow);
        }
        let refused = AttemptValue {
            created_ns: self.now_ns,
            role: role::REFUSED,
            ..AttemptValue::default()
        };
        self.attempts.insert(tuple, refused);
        Ok(Outcome::Refused(DropReason::NoFlow))
    }

    fn open_plain_flow(
        &mut self,
        tuple: Tuple,
        a: &AttemptValue,
        segment: Segment,
        from: bool,
    ) -> Judged {
        self.attempts.remove(&tuple);
        if matches!(self.ask_rules(from), Verdict::Deny) {
            return Err(DropReason::NetworkDenied);
        }
        let (s, k) = (segment.sequence, segment.acknowledgement);
        let (local_next, local_ack) = if from { (s, k) } else { (k, s) };
        let flow = FlowValue {
            deadline_ns: u64::MAX,
            seen_ns: self.now_ns,
            epoch: self.epoch,
            local_next,
            local_ack,
            remote_next: local_ack,
            remote_ack: local_next,
            port: a.port,
            state: flow_state::ESTABLISHED,
            flags: a.flags | flow_flags::PLAIN,
            ..FlowValue::default()
        };
        self.flows.insert(tuple, flow);
        Ok(Outcome::Passes(segment))
    }
}

fn opens(a: &AttemptValue, segment: &Segment, from: bool) -> bool {
    let by_workload = a.flags & flow_flags::INITIATOR != 0;
    let (own, other) = if from { (a.local_isn, a.remote_isn) } else { (a.remote_isn, a.local_isn) };
    a.answered != 0
        && by_workload == from
        && segment.sequence == own.wrapping_add(1)
        && segment.acknowledgement == other.wrapping_add(1)
}
