//! The responder's half: S1 arrives (`accept`) and S2 leaves (`answer`).

use aya_ebpf::bindings::__sk_buff;
use enforcer_common::{
    abi::{AttemptValue, DropReason, Event, Handle, PeerValue, direction, flow_flags, role},
    crypto::{Transcript, mac_bytes, mac_input},
    datapath::attempt::CALL_LASTS_NS,
    wire::{
        option::{HandshakeOption, OPTION_BYTES},
        prefix::{AnswerPrefix, PREFIX_BYTES},
    },
};

use super::{
    CONTINUE, again, calls, check, check_peer, credential, current_credential, find_peer, number,
    options::{carries_hello, option_offset, refuse_forged},
    room,
};
use crate::{
    attempt, counter, flow, hold, mac, network,
    quota::{self, Asker},
    scratch::Scratch,
    segment,
    skb::load,
    verdict::{self, Verdict},
};

/// The first S1 of a tuple wins while its attempt is younger than this.
const ATTEMPT_WINS_NS: u64 = 3_000_000_000;
/// S2 and two retransmissions, for each S1 that arrives; those behind them are short.
const S2_MAX: u8 = 3;
/// The short ones among them. Linux sends six by default (`tcp_synack_retries`), and forgets the connection when one of
/// its retransmissions may not leave.
const SYN_ACKS_MAX: u8 = 8;

/// S1 arrives: a SYN towards the workload.
#[inline(never)]
pub fn accept(skb: *mut __sk_buff, s: &mut Scratch) -> u32 {
    match try_accept(skb, s) {
        Ok(number) => number,
        Err(reason) => reason as u32,
    }
}

#[inline(always)]
fn try_accept(skb: *mut __sk_buff, s: &mut Scratch) -> Result<u32, DropReason> {
    if !carries_hello(skb, s)? {
        return Ok(network::open_plain::<false>(skb, s));
    }
    let option_at = u32::from(s.packet.transport) + option_offset(s);
    load(skb, option_at, &mut s.option)?;
    let mut found = attempt::find(s);
    let known = match &found {
        Some(a) if is_repeated(a, s) => Some(a.local_handle),
        Some(a) if wins(a, s) => return Err(DropReason::AttemptConflict),
        Some(a) if crosses(a, s) => Some(a.local_handle),
        _ => None,
    };
    let local = match known {
        Some(handle) => handle,
        None => current_credential(s)?.0,
    };
    let Some(peer) = find_peer(local, s.option.handle()) else {
        return Ok(hold::segment(skb, s, direction::INGRESS, &local));
    };
    check_peer(s, peer, s.packet.payload())?;
    let asked = verdict::ask(s, peer.identity, s.key.local_port, direction::INGRESS);
    match asked {
        Verdict::Allow(_) => {}
        Verdict::Deny => return Err(DropReason::PolicyDenied),
        Verdict::Unknown => return Ok(hold::segment(skb, s, direction::INGRESS, &local)),
    }
    match &mut found {
        // A repeated S1 pays for further SYN-ACKs.
        Some(a) if is_repeated(a, s) => a.syn_acks = 0,
        Some(a) if crosses(a, s) => cross(a, s, peer),
        _ => check(begin_answer(s, &local, peer))?,
    }
    check(segment::strip(skb, s, u32::from(peer.sum), 0))?;
    counter::count(s, Event::S1Accepted);
    Ok(0)
}

/// Whether the workload's stack still repeats its SYN, so that the S1 at hand crosses it.
#[inline(always)]
fn crosses(a: &AttemptValue, s: &Scratch) -> bool {
    calls(a) && s.now_ns < a.created_ns + CALL_LASTS_NS
}

/// Whether the attempt is young, and of an S1 or S2 that came before: that one wins.
#[inline(always)]
fn wins(a: &AttemptValue, s: &Scratch) -> bool {
    let came = match a.role {
        role::SERVER | role::BOTH => true,
        role::CLIENT => a.answered != 0,
        role::PLAIN => a.flags & flow_flags::INITIATOR != 0,
        _ => false,
    };
    came && s.now_ns < a.created_ns + ATTEMPT_WINS_NS
}

#[inline(always)]
fn is_repeated(a: &AttemptValue, s: &Scratch) -> bool {
    (a.role == role::SERVER || a.role == role::BOTH)
        && a.remote_isn == s.packet.sequence
        && a.remote_handle == s.option.handle()
        && a.remote_nonce == s.option.nonce()
}

/// The S1 at hand crosses the workload's own (RFC 9293 3.5, figure 7). What the workload said in its
/// S1 stays: the far side's S2 answers it.
#[inline(always)]
fn cross(a: &mut AttemptValue, s: &Scratch, peer: &PeerValue) {
    a.created_ns = s.now_ns;
    a.peer = peer.identity;
    a.deadline_ns = peer.deadline_ns;
    a.remote_handle = s.option.handle();
    a.remote_nonce = s.option.nonce();
    a.remote_isn = s.packet.sequence;
    a.s1_bytes = added_bytes(s);
    a.port = s.key.local_port;
    a.role = role::BOTH;
    a.syn_acks = 0;
    a.answered = 0;
}

/// What S1 added to its segment.
#[inline(always)]
fn added_bytes(s: &Scratch) -> u16 {
    (s.packet.payload() + OPTION_BYTES as u32) as u16
}

#[inline(never)]
fn begin_answer(s: &mut Scratch, local: &Handle, peer: &PeerValue) -> u32 {
    s.attempt = AttemptValue {
        created_ns: s.now_ns,
        peer: peer.identity,
        deadline_ns: peer.deadline_ns,
        local_handle: *local,
        remote_handle: s.option.handle(),
        remote_nonce: s.option.nonce(),
        remote_isn: s.packet.sequence,
        s1_bytes: added_bytes(s),
        port: s.key.local_port,
        role: role::SERVER,
        ..AttemptValue::default()
    };
    quota::insert_attempt(s, Asker::Peer)
}

/// S2 leaves: a SYN-ACK of the workload. Its steps are subprograms, so that the MAC, whose frame is
/// the largest, stands on as little stack as possible.
///
/// The attempt is looked up once. Its entry may become another's meanwhile, so before something is written to it, it
/// must be what it was: the one that the segment's acknowledgement answers, with the handles and nonce that MACs were
/// made of.
#[inline(never)]
pub fn answer(skb: *mut __sk_buff, s: &mut Scratch) -> u32 {
    if let Err(reason) = refuse_forged(skb, s) {
        return reason as u32;
    }
    let Some(a) = attempt::find(s).filter(|a| is_answered(a, s)) else { return again::leaves(s) };
    let mut step = judge_answer(s, a);
    if step == FREEZE {
        step = freeze_answer(s, a);
    }
    if step != CONTINUE {
        return step;
    }
    send_answer(skb, s, a)
}

/// Go on with making nonce and MACs.
const FREEZE: u32 = 1 << 19;

/// Makes nonce and MACs of the attempt, which every repetition of the SYN-ACK shows again.
#[inline(always)]
fn freeze_answer(s: &mut Scratch, a: &mut AttemptValue) -> u32 {
    let step = prepare_answer(s, a);
    if step != CONTINUE {
        return step;
    }
    mac::make(s);
    let step = keep_answer(s, a);
    // The stack has forgotten the old connection of the tuple, or it would not answer. What is left of its flow
    // must not carry the acknowledgement that this answer asks for: that would be a connection without a proof.
    if step == CONTINUE && !cfg!(feature = "mutate-old-flow") {
        flow::remove(s);
    }
    step
}

/// What of a SYN-ACK is decided before it is stamped.
#[inline(always)]
fn judge_answer(s: &mut Scratch, a: &mut AttemptValue) -> u32 {
    s.peer = a.peer;
    if a.role == role::PLAIN {
        return answer_plain(s, a);
    }
    if s.packet.payload() > 0 {
        return DropReason::DataInHandshake as u32;
    }
    if a.syn_acks >= SYN_ACKS_MAX {
        return DropReason::SynAckLimit as u32;
    }
    if a.answered == 0 { FREEZE } else { judge_again(s, a) }
}

/// Whether S2 may come again, which the stack repeats for a minute. What has no verdict yet is asked for
/// with the proof.
#[inline(never)]
fn judge_again(s: &Scratch, a: &AttemptValue) -> u32 {
    if a.deadline_ns <= s.now_ns {
        return DropReason::Expired as u32;
    }
    if verdict::is_denied(s, a.peer, a.port, direction::INGRESS) {
        return DropReason::PolicyDenied as u32;
    }
    CONTINUE
}

/// Whether the attempt is one of the far side, whose SYN the SYN-ACK at hand acknowledges.
#[inline(always)]
fn is_answered(a: &AttemptValue, s: &Scratch) -> bool {
    let called = match a.role {
        role::SERVER | role::BOTH => true,
        role::PLAIN => a.flags & flow_flags::INITIATOR == 0,
        _ => false,
    };
    called && s.packet.acknowledgement == a.remote_isn.wrapping_add(1)
}

/// A SYN-ACK of the workload to a peer that a network rule allows.
#[inline(always)]
fn answer_plain(s: &mut Scratch, a: &mut AttemptValue) -> u32 {
    a.local_isn = s.packet.sequence;
    a.answered = 1;
    // The stack has accepted a new connection, so an old one of the tuple is gone.
    flow::remove(s);
    0
}

/// The pair key and the input of the MACs, with a fresh nonce.
#[inline(never)]
fn prepare_answer(s: &mut Scratch, a: &AttemptValue) -> u32 {
    let Some(peer) = find_peer(a.local_handle, a.remote_handle) else {
        return DropReason::Expired as u32;
    };
    if a.deadline_ns <= s.now_ns {
        return DropReason::Expired as u32;
    }
    let Some(nonce) = mac::fresh_nonce() else { return DropReason::Internal as u32 };
    mac::use_key(s, &peer.as_responder);
    s.transcript = Transcript {
        handle_a: a.remote_handle,
        handle_b: a.local_handle,
        nonce_a: a.remote_nonce,
        nonce_b: if a.role == role::BOTH { a.local_nonce } else { nonce },
    };
    mac_input(&mut s.mac, &s.transcript, &s.key.local, s.key.local_port);
    CONTINUE
}

/// Keeps what was made; the attempt may be another's by now.
#[inline(never)]
fn keep_answer(s: &mut Scratch, a: &mut AttemptValue) -> u32 {
    let t = &s.transcript;
    let is_same = is_answered(a, s)
        && a.remote_nonce == t.nonce_a
        && a.remote_handle == t.handle_a
        && a.local_handle == t.handle_b;
    if !is_same {
        return DropReason::NoAttempt as u32;
    }
    a.local_nonce = s.transcript.nonce_b;
    a.answer = mac_bytes(s.macs.answer);
    a.proof = mac_bytes(s.macs.proof);
    a.answered = 1;
    CONTINUE
}

#[inline(never)]
fn send_answer(skb: *mut __sk_buff, s: &mut Scratch, a: &mut AttemptValue) -> u32 {
    number(try_send_answer(skb, s, a))
}

#[inline(always)]
fn try_send_answer(
    skb: *mut __sk_buff,
    s: &mut Scratch,
    a: &mut AttemptValue,
) -> Result<(), DropReason> {
    room::ensure(skb, s)?;
    // A short S2 costs little and tells nothing new: it asks a client that has accepted S2, and whose proof was lost, to
    // acknowledge once more. One that has accepted none repeats S1, but where both call: there its stack repeats its own
    // SYN-ACK, and waits for a whole S2.
    if a.syn_acks >= S2_MAX && a.role == role::SERVER {
        begin_sending(s, a)?;
        let sequence = s.packet.sequence;
        check(segment::stamp_option(skb, s, sequence))?;
        counter::count(s, Event::S2Short);
        return Ok(());
    }
    let own = credential(&a.local_handle)?;
    let added = OPTION_BYTES + PREFIX_BYTES + own.length as usize;
    if added > 2 * a.s1_bytes as usize && !cfg!(feature = "mutate-amplification") {
        return Err(DropReason::Amplification);
    }
    begin_sending(s, a)?;
    s.prefix = AnswerPrefix {
        mac: a.answer,
        address: s.key.local,
        port: s.key.local_port.to_be_bytes(),
        zero: [0; 2],
    };
    check(segment::stamp(skb, s, own, 1))?;
    counter::count(s, Event::S2Sent);
    Ok(())
}

/// Notes that a SYN-ACK leaves, unless the entry is another's by now, and makes its option.
#[inline(always)]
fn begin_sending(s: &mut Scratch, a: &mut AttemptValue) -> Result<(), DropReason> {
    if !is_answered(a, s) {
        return Err(DropReason::NoAttempt);
    }
    a.syn_acks += 1;
    a.local_isn = s.packet.sequence;
    s.option = HandshakeOption::hello(a.local_handle, a.local_nonce);
    Ok(())
}
