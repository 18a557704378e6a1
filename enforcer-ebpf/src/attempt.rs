//! Half-open connections: look-ups, and the segments between SYN-ACK and proof.

use aya_ebpf::bindings::__sk_buff;
use enforcer_common::{
    abi::{AttemptValue, DropReason, Event, FlowValue, direction, flow_flags, flow_state, role},
    wire::frame::tcp_flags,
};

use crate::{
    counter, flow,
    maps::{ATTEMPTS, CROWD},
    network, quota, reset,
    scratch::Scratch,
    verdict::Verdict,
    workload,
};

/// The attempt of the packet's tuple.
#[inline(always)]
pub fn find(s: &Scratch) -> Option<&'static mut AttemptValue> {
    let found = ATTEMPTS.get_ptr_mut(&s.key).or_else(|| CROWD.get_ptr_mut(&s.key));
    // SAFETY: LRU entries are preallocated, so the memory stays. The entry may be evicted and given
    // to another attempt while it is read; what grants something reads a copy of it and then looks
    // the entry up again (`proof::accept`).
    found.map(|value| unsafe { &mut *value })
}

/// Whether the entry that [`find`] gave is in its table still.
#[inline(always)]
pub fn is_there(s: &Scratch, entry: &AttemptValue) -> bool {
    // Without the black box the comparison becomes the null check, which the verifier of Linux 6.1 does not
    // recognise.
    find(s).is_some_and(|found| core::ptr::eq(core::hint::black_box(found), entry))
}

/// Forgets the attempt of the packet's tuple.
#[inline(always)]
pub fn remove(s: &Scratch) {
    // It stands in one of the two. Absence is what is wanted; an error can only mean that.
    if ATTEMPTS.remove(&s.key).is_err() {
        let _ = CROWD.remove(&s.key);
    }
}

/// A segment other than SYN and SYN-ACK of a tuple that has no flow.
#[inline(never)]
pub fn segment<const FROM: bool>(skb: *mut __sk_buff, s: &mut Scratch) -> u32 {
    let Some(attempt) = find(s) else { return unknown::<FROM>(skb, s) };
    let is_reset = s.packet.has(tcp_flags::RST);
    match attempt.role {
        role::PLAIN if !is_reset && opens::<FROM>(attempt, s) => {
            open_plain::<FROM>(skb, s, attempt)
        }
        // A client's stack that resets its own attempt, a server's that refuses it.
        _ if FROM && is_reset => {
            remove(s);
            0
        }
        // A closed port's answer to a SYN must acknowledge exactly it; a reset of ours came from
        // this very program.
        role::CLIENT | role::BOTH | role::PLAIN if !FROM && is_reset => {
            if s.packet.acknowledgement == attempt.local_isn.wrapping_add(1) {
                remove(s);
                quota::call_answered(s);
                0
            } else {
                DropReason::SpoofedReset as u32
            }
        }
        role::REFUSED if !FROM && is_reset => {
            remove(s);
            0
        }
        role::SERVER | role::BOTH => DropReason::AwaitingProof as u32,
        _ => DropReason::NoFlow as u32,
    }
}

/// Whether the segment is what the opener sends behind the SYN-ACK. Anything less would let two
/// spoofed packets make a flow.
#[inline(always)]
fn opens<const FROM: bool>(attempt: &AttemptValue, s: &Scratch) -> bool {
    let by_workload = attempt.flags & flow_flags::INITIATOR != 0;
    let (own, other) = if FROM {
        (attempt.local_isn, attempt.remote_isn)
    } else {
        (attempt.remote_isn, attempt.local_isn)
    };
    attempt.answered != 0
        && by_workload == FROM
        && s.packet.sequence == own.wrapping_add(1)
        && s.packet.acknowledgement == other.wrapping_add(1)
}

/// The first segment behind the SYNs of a connection that a network rule allows: asks again, since
/// the rule may be gone.
#[inline(always)]
fn open_plain<const FROM: bool>(
    skb: *mut __sk_buff,
    s: &mut Scratch,
    attempt: &AttemptValue,
) -> u32 {
    let asked = if FROM { direction::EGRESS } else { direction::INGRESS };
    if network::ask(s, asked, attempt.port) == Verdict::Deny {
        remove(s);
        return DropReason::NetworkDenied as u32;
    }
    insert_plain::<FROM>(skb, s, attempt)
}

#[inline(always)]
fn insert_plain<const FROM: bool>(
    skb: *mut __sk_buff,
    s: &mut Scratch,
    attempt: &AttemptValue,
) -> u32 {
    let p = &s.packet;
    let (local_next, local_ack, remote_next, remote_ack) = if FROM {
        (p.sequence, p.acknowledgement, p.acknowledgement, p.sequence)
    } else {
        (p.acknowledgement, p.sequence, p.sequence, p.acknowledgement)
    };
    s.flow = FlowValue {
        deadline_ns: u64::MAX,
        seen_ns: s.now_ns,
        epoch: s.epoch,
        local_next,
        local_ack,
        remote_next,
        remote_ack,
        port: attempt.port,
        state: flow_state::ESTABLISHED,
        flags: attempt.flags | flow_flags::PLAIN,
        ..FlowValue::default()
    };
    let refused = flow::insert::<FROM>(skb, s);
    if refused != 0 {
        return refused;
    }
    remove(s);
    if FROM {
        quota::call_answered(s);
    } else {
        quota::stranger_opened(s);
    }
    counter::plain_opened(s)
}

/// A segment of a connection that nobody asked for here: older than the attachment, or a stray.
#[inline(always)]
fn unknown<const FROM: bool>(skb: *mut __sk_buff, s: &mut Scratch) -> u32 {
    let workload = match workload::find(s) {
        Ok(workload) => workload,
        Err(reason) => return reason as u32,
    };
    let in_window = s.now_ns < workload.value.adopt_until_ns;
    let resets = workload.flags & enforcer_common::abi::workload_flags::RESET_UNKNOWN != 0;
    if s.packet.has(tcp_flags::RST) {
        // The far side's enforcer resets what is older than its attachment; so does ours, so the
        // workload's stack may as well hear it.
        return if !FROM && resets && in_window { 0 } else { DropReason::NoFlow as u32 };
    }
    // Before anybody is reset: else a workload had its neighbours' connections reset in their name.
    if FROM && let Err(reason) = crate::address::check(s, &s.key.local) {
        return reason as u32;
    }
    if in_window && !resets {
        return adopt::<FROM>(skb, s);
    }
    // Only what the workload itself still speaks of: a stranger's segment is met with silence.
    if FROM && resets && in_window {
        return reset::both::<FROM>(skb, s);
    }
    if FROM { reset::refuse(skb, s, DropReason::NoFlow) } else { DropReason::NoFlow as u32 }
}

/// Takes over a connection that was open when the workload was attached.
#[inline(always)]
fn adopt<const FROM: bool>(skb: *mut __sk_buff, s: &mut Scratch) -> u32 {
    let plain = AttemptValue {
        port: s.key.local_port,
        flags: flow_flags::ADOPTED,
        ..AttemptValue::default()
    };
    let failed = insert_plain::<FROM>(skb, s, &plain);
    if failed == 0 {
        counter::count(s, Event::Adopted);
    }
    failed
}
