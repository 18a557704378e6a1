//! The initiator's half: S1 leaves (`open`) and S2 arrives (`answered`).

use aya_ebpf::bindings::__sk_buff;
use enforcer_common::{
    abi::{
        AttemptValue, CredentialValue, DropReason, Event, FlowValue, Handle, direction, flow_flags,
        flow_state, role,
    },
    crypto::{Transcript, mac_bytes, mac_input, mac_words, same_mac},
    datapath::flow::{contradicts, is_opened_again},
    wire::{
        option::{HandshakeOption, OPTION_BYTES},
        prefix::PREFIX_BYTES,
    },
};

use super::{
    CONTINUE, again, calls, check, check_peer, credential, current_credential, find_peer,
    options::{carries_hello, load_prefix, option_offset, refuse_forged},
    room,
};
use crate::{
    address, attempt, counter, flow, hold, mac, network,
    quota::{self, Asker},
    reset,
    scratch::Scratch,
    segment,
    skb::load,
    verdict::{self, Verdict},
};

/// S1 leaves: a SYN of the workload.
#[inline(never)]
pub fn open(skb: *mut __sk_buff, s: &mut Scratch) -> u32 {
    match try_open(skb, s) {
        Ok(number) => number,
        Err(reason) => reason as u32,
    }
}

#[inline(always)]
fn try_open(skb: *mut __sk_buff, s: &mut Scratch) -> Result<u32, DropReason> {
    refuse_forged(skb, s)?;
    address::check(s, &s.key.local)?;
    if s.packet.payload() > 0 && network::is_mesh(s) {
        // TFO data: cut, so that the stack sends it again behind the handshake.
        let (header, flags) = (u32::from(s.packet.tcp_header), u32::from(s.packet.flags));
        check(segment::shrink(skb, s, header, flags))?;
    }
    if !network::is_mesh(s) {
        return Ok(network::open_plain::<true>(skb, s));
    }
    room::ensure(skb, s)?;
    let own = match attempt::find(s) {
        // Also once S2 was accepted: the stack may have sent again before it read the answer. The flow's
        // proof stands on the nonce that S2 answered.
        Some(a) if (calls(a) || a.role == role::CLIENT) && a.local_isn == s.packet.sequence => {
            s.option = HandshakeOption::hello(a.local_handle, a.local_nonce);
            credential(&a.local_handle)?
        }
        _ => begin(s)?,
    };
    check(segment::stamp(skb, s, own, 0))?;
    counter::count(s, Event::S1Sent);
    Ok(0)
}

/// Makes an attempt of the workload's current credential and a fresh nonce, and its option.
#[inline(always)]
fn begin(s: &mut Scratch) -> Result<&'static CredentialValue, DropReason> {
    let (handle, own) = current_credential(s)?;
    let deadline_ns = own.deadline_ns;
    let nonce = mac::fresh_nonce().ok_or(DropReason::Internal)?;
    s.option = HandshakeOption::hello(handle, nonce);
    check(insert_client(s, &handle, deadline_ns))?;
    Ok(own)
}

#[inline(never)]
fn insert_client(s: &mut Scratch, handle: &Handle, deadline_ns: u64) -> u32 {
    s.attempt = AttemptValue {
        created_ns: s.now_ns,
        deadline_ns,
        local_handle: *handle,
        local_nonce: s.option.nonce(),
        local_isn: s.packet.sequence,
        port: s.key.remote_port,
        role: role::CLIENT,
        flags: flow_flags::INITIATOR,
        ..AttemptValue::default()
    };
    quota::insert_attempt(s, Asker::Workload)
}

/// S2 arrives: a SYN-ACK towards the workload. In steps, and with one look-up of the attempt, as
/// [`answer`](super::answer).
#[inline(never)]
pub fn answered(skb: *mut __sk_buff, s: &mut Scratch) -> u32 {
    let step = again::arrives(skb, s);
    if step != CONTINUE {
        return step;
    }
    let Some(a) = attempt::find(s) else { return DropReason::NoAttempt as u32 };
    let step = find_answered(skb, s, a);
    if step != CONTINUE {
        return step;
    }
    mac::make(s);
    let step = judge_answered(skb, s);
    if step != CONTINUE {
        return step;
    }
    open_answered(skb, s, a)
}

/// Finds what S2 answers and who speaks, and prepares the MACs.
#[inline(never)]
fn find_answered(skb: *mut __sk_buff, s: &mut Scratch, a: &mut AttemptValue) -> u32 {
    match try_find_answered(skb, s, a) {
        Ok(step) => step,
        Err(reason) => reason as u32,
    }
}

#[inline(always)]
fn try_find_answered(
    skb: *mut __sk_buff,
    s: &mut Scratch,
    a: &mut AttemptValue,
) -> Result<u32, DropReason> {
    if s.packet.acknowledgement != a.local_isn.wrapping_add(1) {
        return Err(DropReason::NoAttempt);
    }
    let other = |flow: &mut FlowValue| contradicts(flow, &s.packet);
    if a.answered != 0 && flow::find(&s.key, s.packet.family).is_some_and(other) {
        return Err(DropReason::NoAttempt);
    }
    match a.role {
        // Not of an attempt that the far side opened: its answer leaves here.
        role::PLAIN if a.flags & flow_flags::INITIATOR != 0 => {
            return Ok(network::note_answer(s, a));
        }
        role::CLIENT | role::BOTH => {}
        role::REFUSED => return Err(DropReason::Refused),
        _ => return Err(DropReason::NoAttempt),
    }
    if !carries_hello(skb, s)? {
        return Ok(network::answered_plain(skb, s, a));
    }
    let option_at = u32::from(s.packet.transport) + option_offset(s);
    load(skb, option_at, &mut s.option)?;
    load_prefix(skb, s, option_at + OPTION_BYTES as u32)?;
    let Some(peer) = find_peer(a.local_handle, s.option.handle()) else {
        return Ok(hold::segment(skb, s, direction::EGRESS, &a.local_handle));
    };
    check_peer(s, peer, s.packet.payload() - PREFIX_BYTES as u32)?;
    mac::use_key(s, &peer.as_initiator);
    s.credential_sum = u32::from(peer.sum);
    s.transcript = Transcript {
        handle_a: a.local_handle,
        handle_b: s.option.handle(),
        nonce_a: a.local_nonce,
        nonce_b: s.option.nonce(),
    };
    mac_input(&mut s.mac, &s.transcript, &s.prefix.address, u16::from_be_bytes(s.prefix.port));
    Ok(CONTINUE)
}

/// Verifies `mac_B`, and asks who may be called.
#[inline(never)]
fn judge_answered(skb: *mut __sk_buff, s: &mut Scratch) -> u32 {
    let verified = same_mac(s.macs.answer, mac_words(&s.prefix.mac));
    if !verified && !cfg!(feature = "mutate-mac") {
        return DropReason::BadMac as u32;
    }
    if !network::may_answer(s) {
        return reset::refuse_in_place(skb, s, DropReason::Relayed);
    }
    let port = u16::from_be_bytes(s.prefix.port);
    match verdict::ask(s, s.peer, port, direction::EGRESS) {
        Verdict::Allow(deadline_ns) => s.deadline_ns = deadline_ns,
        Verdict::Deny => return reset::refuse_in_place(skb, s, DropReason::PolicyDenied),
        Verdict::Unknown => {
            let handle = s.transcript.handle_a;
            return hold::segment(skb, s, direction::EGRESS, &handle);
        }
    }
    CONTINUE
}

/// Keeps `mac_A` for the ACK, opens the client's flow, lets the SYN-ACK pass.
#[inline(never)]
fn open_answered(skb: *mut __sk_buff, s: &mut Scratch, a: &mut AttemptValue) -> u32 {
    // The entry may be another's by now.
    let is_same = s.packet.acknowledgement == a.local_isn.wrapping_add(1)
        && a.local_nonce == s.transcript.nonce_a
        && a.local_handle == s.transcript.handle_a;
    if !is_same {
        return DropReason::NoAttempt as u32;
    }
    let is_first = a.answered == 0;
    // Where S2 comes again, the server's next segment may have confirmed the flow meanwhile, which ends the attempt.
    if !is_first && !attempt::is_there(s, a) {
        return DropReason::NoAttempt as u32;
    }
    if is_first {
        quota::call_answered(s);
    }
    a.proof = mac_bytes(s.macs.proof);
    a.remote_handle = s.transcript.handle_b;
    a.remote_nonce = s.transcript.nonce_b;
    a.remote_isn = s.packet.sequence;
    a.peer = s.peer;
    a.role = role::CLIENT;
    a.answered = 1;
    let is_open = flow::find(&s.key, s.packet.family)
        .is_some_and(|flow| is_opened_again(flow, s.peer, &s.packet));
    if is_first || !is_open {
        let opened = open_flow(skb, s);
        if opened != 0 {
            return opened;
        }
    }
    if is_first {
        counter::connected(s);
    }
    let stripped = segment::strip(skb, s, s.credential_sum, 1);
    if stripped == 0 {
        counter::count(s, Event::S2Accepted);
    }
    stripped
}

/// The client's flow: its proof has not been seen to arrive.
#[inline(never)]
fn open_flow(skb: *mut __sk_buff, s: &mut Scratch) -> u32 {
    let ack = s.packet.acknowledgement;
    let next = s.packet.sequence.wrapping_add(1);
    s.flow = FlowValue {
        peer: s.peer,
        deadline_ns: s.deadline_ns,
        seen_ns: s.now_ns,
        epoch: s.epoch,
        local_next: ack,
        local_ack: next,
        remote_next: next,
        remote_ack: ack,
        port: u16::from_be_bytes(s.prefix.port),
        state: flow_state::UNCONFIRMED,
        flags: flow_flags::INITIATOR,
        handle: s.option.handle(),
        ..FlowValue::default()
    };
    flow::insert::<false>(skb, s)
}
