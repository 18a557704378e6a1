//! The handshake's SYN and SYN-ACK (docs/PROTOCOL.md): S1 leaves (`open`) and arrives (`accept`),
//! S2 leaves (`answer`) and arrives (`answered`).

use aya_ebpf::bindings::__sk_buff;
use enforcer_common::{
    abi::{
        AttemptValue, CredentialValue, DropReason, Event, FlowValue, Handle, PeerKey, PeerValue,
        WorkloadValue, direction, flow_flags, flow_state, role,
    },
    crypto::{Transcript, answer_input, mac_bytes, mac_words, proof_input, same_mac},
    wire::{
        frame::TCP_BYTES,
        option::{self, HandshakeOption, OPTION_BYTES, OPTIONS_MAX},
        prefix::{AnswerPrefix, PREFIX_BYTES},
    },
};

use crate::{
    address, attempt, counter, flow, hold, mac,
    maps::{CREDENTIALS, PEERS, WORKLOADS},
    network, reset,
    scratch::Scratch,
    segment,
    skb::{load, load_slice},
    verdict::{self, Verdict},
};

/// Bit of [`scan_options`]: ours, well formed and last.
pub const OURS: u32 = 1;
/// Ours in number, but wrong in length or place, or twice.
pub const WRONG: u32 = 2;
/// An MPTCP join.
pub const JOIN: u32 = 4;
/// The options do not parse.
pub const MALFORMED: u32 = 8;

/// The first S1 of a tuple wins while its attempt is younger than this.
const ATTEMPT_WINS_NS: u64 = 3_000_000_000;
/// Linux gives up on an unanswered SYN after about two minutes (tcp_syn_retries = 6).
const CALL_LASTS_NS: u64 = 130_000_000_000;
/// A SYN-ACK and two retransmissions, for each S1 that arrives.
const SYN_ACKS_MAX: u8 = 3;

/// Reads the segment's options into the scratch and says what they hold.
#[inline(never)]
pub fn scan_options(skb: *mut __sk_buff, s: &mut Scratch) -> u32 {
    let length = s.packet.options();
    if length == 0 {
        return 0;
    }
    let at = u32::from(s.packet.transport) + TCP_BYTES as u32;
    if load_slice::<OPTIONS_MAX>(skb, at, &mut s.options, length as u32).is_err() {
        return MALFORMED;
    }
    let Some(found) = option::scan(&s.options, length, &mut s.scan) else { return MALFORMED };
    u32::from(found.ours) * OURS + u32::from(found.wrong) * WRONG + u32::from(found.join) * JOIN
}

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
    let handle = match attempt::find(s) {
        Some(a) if calls(a) && a.local_isn == s.packet.sequence => {
            s.option = HandshakeOption::hello(a.local_handle, a.local_nonce);
            a.local_handle
        }
        _ => begin(s)?,
    };
    check(segment::stamp(skb, s, &handle, 0))?;
    counter::count(s, Event::S1Sent);
    Ok(0)
}

/// Makes an attempt of the workload's current credential and a fresh nonce, and its option.
#[inline(always)]
fn begin(s: &mut Scratch) -> Result<Handle, DropReason> {
    let (handle, credential) = current_credential(s)?;
    let deadline_ns = credential.deadline_ns;
    if mac::nonce(s) != 0 {
        return Err(DropReason::Internal);
    }
    s.option = HandshakeOption::hello(handle, s.nonce);
    check(insert_client(s, &handle, deadline_ns))?;
    Ok(handle)
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
    number(attempt::insert(s))
}

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
    let known = match attempt::find(s) {
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
    match attempt::find(s) {
        // A repeated S1 pays for further SYN-ACKs.
        Some(a) if is_repeated(a, s) => a.syn_acks = 0,
        Some(a) if crosses(a, s) => cross(a, s, peer),
        _ => check(begin_answer(s, &local, peer))?,
    }
    check(segment::strip(skb, s, u32::from(peer.sum), 0))?;
    counter::count(s, Event::S1Accepted);
    Ok(0)
}

/// Whether the workload's own S1 waits for an answer.
#[inline(always)]
fn calls(a: &AttemptValue) -> bool {
    a.role == role::BOTH || a.role == role::CLIENT && a.answered == 0
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
    number(attempt::insert(s))
}

/// S2 leaves: a SYN-ACK of the workload. Its steps are subprograms, so that the MAC, whose frame is
/// the largest, stands on as little stack as possible.
#[inline(never)]
pub fn answer(skb: *mut __sk_buff, s: &mut Scratch) -> u32 {
    let mut step = find_answer(skb, s);
    if step == FREEZE {
        if mac::nonce(s) != 0 {
            return DropReason::Internal as u32;
        }
        step = prepare_answer(s);
        if step != CONTINUE {
            return step;
        }
        mac::tag(s);
        keep_answer(s);
        mac::tag(s);
        keep_proof(s);
    }
    if step != CONTINUE {
        return step;
    }
    send_answer(skb, s)
}

/// Go on with the next step.
const CONTINUE: u32 = 1 << 18;
/// Go on with making nonce and MACs.
const FREEZE: u32 = 1 << 19;

/// What of a SYN-ACK is decided before it is stamped.
#[inline(never)]
fn find_answer(skb: *mut __sk_buff, s: &mut Scratch) -> u32 {
    if let Err(reason) = refuse_forged(skb, s) {
        return reason as u32;
    }
    let Some(a) = attempt::find(s) else { return DropReason::NoAttempt as u32 };
    s.peer = a.peer;
    if a.role == role::PLAIN {
        return answer_plain(s, a);
    }
    let answers = a.role == role::SERVER || a.role == role::BOTH;
    if !answers || s.packet.acknowledgement != a.remote_isn.wrapping_add(1) {
        return DropReason::NoAttempt as u32;
    }
    if s.packet.payload() > 0 {
        return DropReason::DataInHandshake as u32;
    }
    if a.syn_acks >= SYN_ACKS_MAX {
        return DropReason::SynAckLimit as u32;
    }
    if a.answered == 0 { FREEZE } else { CONTINUE }
}

/// A SYN-ACK of the workload to a peer that a network rule allows.
#[inline(always)]
fn answer_plain(s: &Scratch, a: &mut AttemptValue) -> u32 {
    if a.flags & flow_flags::INITIATOR != 0
        || s.packet.acknowledgement != a.remote_isn.wrapping_add(1)
    {
        return DropReason::NoAttempt as u32;
    }
    a.local_isn = s.packet.sequence;
    a.answered = 1;
    // The stack has accepted a new connection, so an old one of the tuple is gone.
    flow::remove(s);
    0
}

/// The pair key and the input of `mac_B`, with the nonce that was just made.
#[inline(never)]
fn prepare_answer(s: &mut Scratch) -> u32 {
    let Some(a) = attempt::find(s) else { return DropReason::NoAttempt as u32 };
    let Some(peer) = find_peer(a.local_handle, a.remote_handle) else {
        return DropReason::Expired as u32;
    };
    if a.deadline_ns <= s.now_ns {
        return DropReason::Expired as u32;
    }
    if a.role != role::BOTH {
        a.local_nonce = s.nonce;
    }
    s.pair_key = peer.as_responder;
    s.transcript = Transcript {
        handle_a: a.remote_handle,
        handle_b: a.local_handle,
        nonce_a: a.remote_nonce,
        nonce_b: a.local_nonce,
    };
    answer_input(&mut s.mac, &s.transcript, &s.key.local, s.key.local_port);
    CONTINUE
}

#[inline(never)]
fn keep_answer(s: &mut Scratch) -> u32 {
    if let Some(a) = attempt::find(s) {
        a.answer = mac_bytes(s.tag);
    }
    proof_input(&mut s.mac, &s.transcript);
    0
}

#[inline(never)]
fn keep_proof(s: &mut Scratch) -> u32 {
    if let Some(a) = attempt::find(s) {
        a.proof = mac_bytes(s.tag);
        a.answered = 1;
    }
    0
}

#[inline(never)]
fn send_answer(skb: *mut __sk_buff, s: &mut Scratch) -> u32 {
    number(try_send_answer(skb, s))
}

#[inline(always)]
fn try_send_answer(skb: *mut __sk_buff, s: &mut Scratch) -> Result<(), DropReason> {
    let a = attempt::find(s).ok_or(DropReason::NoAttempt)?;
    a.syn_acks += 1;
    a.local_isn = s.packet.sequence;
    let handle = a.local_handle;
    // SAFETY: read only.
    let own = unsafe { CREDENTIALS.get(&handle) }.ok_or(DropReason::NoCredential)?;
    let added = OPTION_BYTES + PREFIX_BYTES + own.length as usize;
    if added > 2 * a.s1_bytes as usize && !cfg!(feature = "mutate-amplification") {
        return Err(DropReason::Amplification);
    }
    s.option = HandshakeOption::hello(handle, a.local_nonce);
    s.prefix = AnswerPrefix {
        mac: a.answer,
        address: s.key.local,
        port: s.key.local_port.to_be_bytes(),
        zero: [0; 2],
    };
    check(segment::stamp(skb, s, &handle, 1))?;
    counter::count(s, Event::S2Sent);
    Ok(())
}

/// S2 arrives: a SYN-ACK towards the workload. In steps for the same reason as [`answer`].
#[inline(never)]
pub fn answered(skb: *mut __sk_buff, s: &mut Scratch) -> u32 {
    let step = find_answered(skb, s);
    if step != CONTINUE {
        return step;
    }
    mac::tag(s);
    let step = judge_answered(skb, s);
    if step != CONTINUE {
        return step;
    }
    mac::tag(s);
    open_answered(skb, s)
}

/// Finds what S2 answers and who speaks, and prepares the check of `mac_B`.
#[inline(never)]
fn find_answered(skb: *mut __sk_buff, s: &mut Scratch) -> u32 {
    match try_find_answered(skb, s) {
        Ok(step) => step,
        Err(reason) => reason as u32,
    }
}

#[inline(always)]
fn try_find_answered(skb: *mut __sk_buff, s: &mut Scratch) -> Result<u32, DropReason> {
    let Some(a) = attempt::find(s) else { return network::answered_again(s) };
    if s.packet.acknowledgement != a.local_isn.wrapping_add(1) {
        return Err(DropReason::NoAttempt);
    }
    match a.role {
        role::PLAIN => return Ok(network::note_answer(s, a)),
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
    s.pair_key = peer.as_initiator;
    s.credential_sum = u32::from(peer.sum);
    s.transcript = Transcript {
        handle_a: a.local_handle,
        handle_b: s.option.handle(),
        nonce_a: a.local_nonce,
        nonce_b: s.option.nonce(),
    };
    answer_input(&mut s.mac, &s.transcript, &s.prefix.address, u16::from_be_bytes(s.prefix.port));
    Ok(CONTINUE)
}

/// `mac_B` is in `s.tag`: verifies it, and asks who may be called.
#[inline(never)]
fn judge_answered(skb: *mut __sk_buff, s: &mut Scratch) -> u32 {
    let verified = same_mac(s.tag, mac_words(&s.prefix.mac));
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
    proof_input(&mut s.mac, &s.transcript);
    CONTINUE
}

/// `mac_A` is in `s.tag`: keeps it for the ACK, opens the client's flow, lets the SYN-ACK pass.
#[inline(never)]
fn open_answered(skb: *mut __sk_buff, s: &mut Scratch) -> u32 {
    let Some(a) = attempt::find(s) else { return DropReason::NoAttempt as u32 };
    a.proof = mac_bytes(s.tag);
    a.remote_handle = s.transcript.handle_b;
    a.remote_nonce = s.transcript.nonce_b;
    a.remote_isn = s.packet.sequence;
    a.peer = s.peer;
    a.role = role::CLIENT;
    a.answered = 1;
    let opened = open_flow(skb, s);
    if opened != 0 {
        return opened;
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
    number(flow::insert::<false>(skb, s))
}

/// Whether the segment carries our option; refuses what only resembles it.
#[inline(always)]
fn carries_hello(skb: *mut __sk_buff, s: &mut Scratch) -> Result<bool, DropReason> {
    let found = scan_options(skb, s);
    if found & MALFORMED != 0 {
        return Err(DropReason::MalformedOption);
    }
    if found & WRONG != 0 {
        return Err(DropReason::WrongVersion);
    }
    if found & JOIN != 0 {
        return Err(DropReason::MultipathJoin);
    }
    Ok(found & OURS != 0)
}

/// Only the hook stamps: a workload whose segment carries our option already has forged it.
#[inline(always)]
fn refuse_forged(skb: *mut __sk_buff, s: &mut Scratch) -> Result<(), DropReason> {
    match carries_hello(skb, s) {
        Ok(false) => Ok(()),
        Ok(true) | Err(DropReason::WrongVersion) => Err(DropReason::ForgedOption),
        Err(reason) => Err(reason),
    }
}

#[inline(always)]
fn load_prefix(skb: *mut __sk_buff, s: &mut Scratch, at: u32) -> Result<(), DropReason> {
    if s.packet.payload() <= PREFIX_BYTES as u32 {
        return Err(DropReason::CredentialLength);
    }
    s.prefix.zero = [0; 2];
    // SAFETY: the first 34 bytes of the prefix are what travels.
    let bytes: &mut [u8; PREFIX_BYTES] = unsafe { &mut *(&raw mut s.prefix).cast() };
    load(skb, at, bytes)
}

/// Offset of our option from the start of the TCP header: it is the last one.
#[inline(always)]
fn option_offset(s: &Scratch) -> u32 {
    u32::from(s.packet.tcp_header) - OPTION_BYTES as u32
}

#[inline(always)]
fn find_peer(local: Handle, remote: Handle) -> Option<&'static PeerValue> {
    // SAFETY: read only; the daemon replaces a value whole and never reuses a live handle.
    unsafe { PEERS.get(&PeerKey { local, remote }) }
}

/// The handle is known: credential whole and not expired.
#[inline(always)]
fn check_peer(s: &mut Scratch, peer: &PeerValue, length: u32) -> Result<(), DropReason> {
    s.peer = peer.identity;
    if peer.deadline_ns <= s.now_ns && !cfg!(feature = "mutate-expiry") {
        return Err(DropReason::Expired);
    }
    if length != u32::from(peer.length) && !cfg!(feature = "mutate-credential-length") {
        return Err(DropReason::CredentialLength);
    }
    Ok(())
}

#[inline(always)]
fn current_credential(s: &Scratch) -> Result<(Handle, &'static CredentialValue), DropReason> {
    let handle = workload(s)?.credential;
    // SAFETY: read only; credentials are never changed in place.
    let credential = unsafe { CREDENTIALS.get(&handle) }.ok_or(DropReason::NoCredential)?;
    if credential.deadline_ns <= s.now_ns {
        return Err(DropReason::NoCredential);
    }
    Ok((handle, credential))
}

#[inline(always)]
fn workload(s: &Scratch) -> Result<&'static WorkloadValue, DropReason> {
    let id = u32::from(s.interface.workload);
    // SAFETY: read only; the daemon replaces the value whole.
    unsafe { WORKLOADS.get(&id) }.ok_or(DropReason::NoWorkload)
}

/// A result as a subprogram's number.
#[inline(always)]
fn number(result: Result<(), DropReason>) -> u32 {
    match result {
        Ok(()) => 0,
        Err(reason) => reason as u32,
    }
}

/// A subprogram's number as a result.
#[inline(always)]
pub fn check(number: u32) -> Result<(), DropReason> {
    if number == 0 {
        return Ok(());
    }
    Err(DropReason::from_number(number as u16).unwrap_or(DropReason::Internal))
}
