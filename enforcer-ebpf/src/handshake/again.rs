//! A SYN-ACK that comes again behind the proof. A server's stack whose queue is full, or that waits for
//! data (TCP_DEFER_ACCEPT), drops the client's ACK, proof and all, and repeats its SYN-ACK until it
//! takes one. The attempt that would stamp it is gone; it says nothing new and passes as it is, with the
//! exact numbers of the flow, to a client's stack that acknowledges once more. A short S2, which a server sends while it
//! still waits for the proof, says the same to a client that has accepted S2.

use aya_ebpf::bindings::__sk_buff;
use enforcer_common::{
    abi::{DropReason, FlowValue, flow_flags, flow_state},
    datapath::flow::is_answered_again,
};

use super::{CONTINUE, options::carries_hello};
use crate::{attempt, flow, proof, scratch::Scratch};

/// A SYN-ACK of the workload's stack that answers no attempt.
#[inline(never)]
pub(super) fn leaves(s: &mut Scratch) -> u32 {
    let Some(flow) = find::<true>(s) else { return DropReason::NoAttempt as u32 };
    judge(s, flow)
}

/// A SYN-ACK towards the workload; [`CONTINUE`] if it is another.
#[inline(never)]
pub(super) fn arrives(skb: *mut __sk_buff, s: &mut Scratch) -> u32 {
    // S2 has payload, but for a short one. And while a call waits for its answer, the stack knows of no flow before it.
    if s.packet.payload() > 0 || attempt::find(s).is_some_and(|a| a.answered == 0) {
        return CONTINUE;
    }
    let Some(flow) = find::<false>(s) else { return CONTINUE };
    let step = judge(s, flow);
    if step != 0 || flow.flags & flow_flags::PLAIN != 0 {
        return step;
    }
    match carries_hello(skb, s) {
        Ok(true) => proof::strip_duplicate(skb, s),
        Ok(false) => 0,
        Err(reason) => reason as u32,
    }
}

/// The flow whose SYN-ACK comes again.
#[inline(always)]
fn find<const FROM: bool>(s: &Scratch) -> Option<&'static mut FlowValue> {
    flow::find(&s.key, s.packet.family).filter(|flow| is_answered_again(flow, &s.packet, FROM))
}

/// The flow is asked again like for any other segment.
#[inline(always)]
fn judge(s: &mut Scratch, flow: &mut FlowValue) -> u32 {
    if let Err(reason) = flow::refresh(s, flow) {
        return reason as u32;
    }
    if flow.state == flow_state::CUT { DropReason::FlowCut as u32 } else { 0 }
}
