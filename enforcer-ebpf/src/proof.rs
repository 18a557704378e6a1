//! S3: the client proves itself on its ACK, the server opens the flow.

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_INGRESS},
    helpers::generated::bpf_clone_redirect,
};
use enforcer_common::{
    abi::{
        AttemptValue, DropReason, Event, FlowValue, direction, flow_state, interface_flags, role,
    },
    crypto::{mac_words, same_mac},
    wire::{
        frame::tcp_flags,
        option::{HandshakeOption, OPTION_BYTES, OPTIONS_MAX},
    },
};

use crate::{
    attempt, counter, flow,
    handshake::check,
    hold,
    maps::CLONING,
    quota,
    scratch::Scratch,
    segment,
    skb::load,
    verdict::{self, Verdict},
};

/// A proof of its own goes ahead of data at most this often.
const CLONE_INTERVAL_NS: u64 = 10_000_000;
/// The same on a veth's host side: longer than a clone waits in the backlog, as it would be cloned once more, and shorter
/// than the least retransmission time-out of Linux (200 ms), which brings the next proof.
const CLONE_BEHIND_INTERVAL_NS: u64 = 100_000_000;

/// Puts the proof on a segment of an unconfirmed flow of the workload: on a pure ACK itself, ahead
/// of anything else as a segment of its own. `first` is the sequence number of the handshake's ACK.
#[inline(never)]
pub fn emit(skb: *mut __sk_buff, s: &mut Scratch, first: u32) -> u32 {
    match try_emit(skb, s, first) {
        Ok(()) => 0,
        Err(reason) => reason as u32,
    }
}

#[inline(always)]
fn try_emit(skb: *mut __sk_buff, s: &mut Scratch, first: u32) -> Result<(), DropReason> {
    // An evicted attempt took the proof with it. The server is verified and has the first proof,
    // unless that was lost too; it judges the segment either way.
    let Some(a) = attempt::find(s) else { return Ok(()) };
    if a.role != role::CLIENT || a.answered == 0 {
        return Ok(());
    }
    if is_clone() {
        return become_proof(skb, s, a, first);
    }
    let is_pure = s.packet.payload() == 0 && s.packet.flags & !(PURE | PSH) == 0;
    // A keepalive or window probe must stay one: what it stands at is why it is answered.
    let is_probe = s.packet.sequence == first.wrapping_sub(1);
    if is_pure && !is_probe && s.packet.options() + OPTION_BYTES <= OPTIONS_MAX {
        a.proof_ns = s.now_ns;
        counter::count(s, Event::ProofSent);
        return put(skb, s, a, first);
    }
    let is_behind = s.interface.flags & interface_flags::HOST_SIDE != 0;
    let interval_ns = if is_behind { CLONE_BEHIND_INTERVAL_NS } else { CLONE_INTERVAL_NS };
    if s.packet.has(tcp_flags::RST) || s.now_ns < a.proof_ns + interval_ns {
        return Ok(());
    }
    a.proof_ns = s.now_ns;
    counter::count(s, Event::ProofCloned);
    if is_behind {
        return send_behind(skb, s, a, first);
    }
    send_ahead(skb, s);
    Ok(())
}

const PURE: u8 = tcp_flags::ACK | 0x40 | 0x80;
const PSH: u8 = 8;

/// Makes the segment the ACK of the handshake, whatever the workload has sent behind it: a number further
/// on is none that the server's stack expects, and SYN cookies know no other.
#[inline(always)]
fn put(
    skb: *mut __sk_buff,
    s: &mut Scratch,
    a: &AttemptValue,
    first: u32,
) -> Result<(), DropReason> {
    s.option = HandshakeOption::proof(a.proof);
    check(segment::stamp_option(skb, s, first))
}

/// Cuts the segment down to a pure ACK with the proof. SACK blocks and the like go, timestamps
/// (12 bytes, which Linux puts first) stay.
#[inline(always)]
fn become_proof(
    skb: *mut __sk_buff,
    s: &mut Scratch,
    a: &AttemptValue,
    first: u32,
) -> Result<(), DropReason> {
    let header = u32::from(s.packet.tcp_header);
    let kept = if header > 40 { 20 } else { header };
    check(segment::shrink(skb, s, kept, u32::from(tcp_flags::ACK)))?;
    put(skb, s, a, first)
}

/// At an egress hook a clone to the same interface comes back here before this call returns: it
/// becomes the proof, and the segment itself follows it. Overwrites the scratch.
#[inline(always)]
fn send_ahead(skb: *mut __sk_buff, s: &Scratch) {
    let ifindex = s.ifindex;
    set_clone(1);
    // SAFETY: a helper on the program's context; packet pointers are not used after it. A failure
    // costs the proof, which the next retransmission tries again.
    unsafe { bpf_clone_redirect(skb, ifindex, 0) };
    set_clone(0);
}

/// At the ingress hook of a veth's host side a clone is queued and comes back later: it carries the
/// data, and this segment becomes the proof that precedes it. The clone finds the interval running
/// and passes as it is.
#[inline(always)]
fn send_behind(
    skb: *mut __sk_buff,
    s: &mut Scratch,
    a: &AttemptValue,
    first: u32,
) -> Result<(), DropReason> {
    // SAFETY: as above.
    let failed = unsafe { bpf_clone_redirect(skb, s.ifindex, u64::from(BPF_F_INGRESS)) };
    if failed != 0 {
        return Ok(());
    }
    become_proof(skb, s, a, first)
}

#[inline(always)]
fn is_clone() -> bool {
    CLONING.get(0).is_some_and(|flag| *flag != 0)
}

#[inline(always)]
fn set_clone(value: u32) {
    if let Some(flag) = CLONING.get_ptr_mut(0) {
        // SAFETY: a per-CPU value that only this program on this CPU touches.
        unsafe { flag.write_volatile(value) };
    }
}

/// Not a verdict: no attempt of the tuple waits for a proof.
pub const NOT_AWAITED: u32 = 1 << 20;

/// Judges a segment towards a server whose attempt waits for the proof.
#[inline(never)]
pub fn accept(skb: *mut __sk_buff, s: &mut Scratch) -> u32 {
    match try_accept(skb, s) {
        Ok(number) => number,
        Err(reason) => reason as u32,
    }
}

#[inline(always)]
fn try_accept(skb: *mut __sk_buff, s: &mut Scratch) -> Result<u32, DropReason> {
    let Some(found) = attempt::find(s).filter(|a| is_awaiting(a)) else { return Ok(NOT_AWAITED) };
    // A copy: the entry may become another attempt's while it is judged.
    s.attempt = *found;
    s.peer = s.attempt.peer;
    let accepted = judge(skb, s)?;
    if accepted != 0 {
        return Ok(accepted);
    }
    let is_same = attempt::is_there(s, found)
        && found.created_ns == s.attempt.created_ns
        && found.proof == s.attempt.proof;
    if !is_same {
        return Err(DropReason::NoFlow);
    }
    check(open_flow(skb, s))?;
    counter::connected(s);
    attempt::remove(s);
    quota::peer_proved(s);
    check(segment::strip(skb, s, 0, 0))?;
    counter::count(s, Event::ProofAccepted);
    Ok(0)
}

#[inline(always)]
fn is_awaiting(a: &AttemptValue) -> bool {
    (a.role == role::SERVER || a.role == role::BOTH) && a.answered != 0
}

/// Judges the proof against `s.attempt`; leaves the verdict's deadline in the scratch. Not zero: it
/// is held.
#[inline(always)]
fn judge(skb: *mut __sk_buff, s: &mut Scratch) -> Result<u32, DropReason> {
    let a = &s.attempt;
    if a.deadline_ns <= s.now_ns {
        attempt::remove(s);
        return Err(DropReason::Expired);
    }
    if s.packet.options() < OPTION_BYTES {
        return Err(DropReason::AwaitingProof);
    }
    load(skb, option_at(s), &mut s.option)?;
    let a = &s.attempt;
    if !s.option.is_ours() {
        return Err(DropReason::AwaitingProof);
    }
    if s.packet.payload() > 0 || s.packet.flags & !(PURE | PSH) != 0 {
        return Err(DropReason::ProofWithData);
    }
    let verified = same_mac(mac_words(&s.option.body), mac_words(&a.proof));
    if !verified && !cfg!(feature = "mutate-proof") {
        return Err(DropReason::BadMac);
    }
    let answers_syn_ack = s.packet.sequence == a.remote_isn.wrapping_add(1)
        && s.packet.acknowledgement == a.local_isn.wrapping_add(1);
    if !answers_syn_ack && !cfg!(feature = "mutate-proof-numbers") {
        return Err(DropReason::AwaitingProof);
    }
    if cfg!(feature = "mutate-proof-verdict") {
        s.deadline_ns = a.deadline_ns;
        return Ok(0);
    }
    let (peer, port, handle) = (a.peer, a.port, a.local_handle);
    match verdict::ask(s, peer, port, direction::INGRESS) {
        Verdict::Allow(deadline_ns) => {
            s.deadline_ns = deadline_ns;
            Ok(0)
        }
        Verdict::Deny => Err(DropReason::PolicyDenied),
        Verdict::Unknown => Ok(hold::segment(skb, s, direction::INGRESS, &handle)),
    }
}

#[inline(never)]
fn open_flow(skb: *mut __sk_buff, s: &mut Scratch) -> u32 {
    let a = &s.attempt;
    let (local_next, remote_next) = (s.packet.acknowledgement, s.packet.sequence);
    s.flow = FlowValue {
        peer: a.peer,
        deadline_ns: s.deadline_ns,
        seen_ns: s.now_ns,
        epoch: s.epoch,
        local_next,
        local_ack: remote_next,
        remote_next,
        remote_ack: local_next,
        port: a.port,
        state: flow_state::ESTABLISHED,
        handle: a.remote_handle,
        ..FlowValue::default()
    };
    flow::insert::<false>(skb, s)
}

/// A proof on a flow that is open already: stripped, and passed if it carries no data.
#[inline(always)]
pub fn strip_duplicate(skb: *mut __sk_buff, s: &mut Scratch) -> u32 {
    if s.packet.payload() > 0 {
        return DropReason::ProofWithData as u32;
    }
    if let Err(reason) = load(skb, option_at(s), &mut s.option) {
        return reason as u32;
    }
    segment::strip(skb, s, 0, 0)
}

/// Where our option stands: last in the header.
#[inline(always)]
fn option_at(s: &Scratch) -> u32 {
    u32::from(s.packet.transport) + u32::from(s.packet.tcp_header) - OPTION_BYTES as u32
}
