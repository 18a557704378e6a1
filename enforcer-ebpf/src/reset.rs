//! Resets: a workload whose own side refuses a connection learns it at once.

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_INGRESS},
    helpers::generated::{bpf_clone_redirect, bpf_redirect},
};
use core::mem::offset_of;
use enforcer_common::{
    abi::{AttemptValue, DropReason, Event, interface_flags, role},
    wire::frame::{ETHERNET_BYTES, TCP_BYTES, tcp_flags},
};
use network_types::tcp::TcpHdr;

use crate::{
    attempt, counter,
    handshake::check,
    outcome::Outcome,
    quota::{self, Asker},
    scratch::Scratch,
    segment,
    skb::{load, store},
};

const SEQUENCE: u32 = offset_of!(TcpHdr, seq) as u32;

/// Answers a segment of the workload with a reset and counts `reason`; the segment goes nowhere.
#[inline(never)]
pub fn refuse(skb: *mut __sk_buff, s: &mut Scratch, reason: DropReason) -> u32 {
    counter::add(s.interface.workload, reason as u16);
    match try_refuse(skb, s) {
        Ok(()) => Outcome::Redirect.to_number(),
        Err(reason) => reason as u32,
    }
}

#[inline(always)]
fn try_refuse(skb: *mut __sk_buff, s: &mut Scratch) -> Result<(), DropReason> {
    admit_reset(s)?;
    turn_back(skb, s)?;
    counter::count(s, Event::ResetLocal);
    // SAFETY: a helper without preconditions; its result is what `Outcome::Redirect` stands for.
    unsafe { bpf_redirect(s.ifindex, back(s, true)) };
    Ok(())
}

/// Turns the SYN-ACK at hand into a reset for the client that it was meant for.
#[inline(never)]
pub fn refuse_in_place(skb: *mut __sk_buff, s: &mut Scratch, reason: DropReason) -> u32 {
    counter::add(s.interface.workload, reason as u16);
    attempt::remove(s);
    let flags = u32::from(tcp_flags::RST | tcp_flags::ACK);
    let failed = segment::shrink(skb, s, TCP_BYTES as u32, flags);
    if failed == 0 {
        counter::count(s, Event::ResetLocal);
    }
    failed
}

/// A SYN-ACK without identity: resets the server that sent it and the client it was meant for.
#[inline(always)]
pub fn both_answered(skb: *mut __sk_buff, s: &mut Scratch, a: &mut AttemptValue) -> u32 {
    a.role = role::REFUSED;
    counter::add(s.interface.workload, DropReason::PeerWithoutIdentity as u16);
    match try_both::<false>(skb, s) {
        Ok(()) => 0,
        Err(reason) => reason as u32,
    }
}

/// A segment of a connection older than the attachment: resets both ends.
#[inline(never)]
pub fn both<const FROM: bool>(skb: *mut __sk_buff, s: &mut Scratch) -> u32 {
    counter::add(s.interface.workload, DropReason::NotAdopted as u16);
    if admit_reset(s).is_err() {
        return DropReason::NotAdopted as u32;
    }
    match try_both::<FROM>(skb, s) {
        Ok(()) => 0,
        Err(reason) => reason as u32,
    }
}

/// The sender is reset by a clone that goes back, the receiver by the segment itself.
///
/// The clone may re-enter the other program on this CPU and overwrite the scratch; but it is of the
/// same tuple, with the same header lengths, so all that is used below is as it was.
#[inline(always)]
fn try_both<const FROM: bool>(skb: *mut __sk_buff, s: &mut Scratch) -> Result<(), DropReason> {
    let flags = u32::from(tcp_flags::RST | tcp_flags::ACK);
    let (sequence, acknowledgement) = (s.packet.sequence, s.packet.acknowledgement);
    check(segment::shrink(skb, s, TCP_BYTES as u32, flags))?;
    check(swap_ends(skb, s))?;
    check(set_numbers(skb, s, acknowledgement, sequence))?;
    let (ifindex, towards) = (s.ifindex, back(s, FROM));
    // SAFETY: a helper on the program's context; packet pointers are not used after it.
    let failed = unsafe { bpf_clone_redirect(skb, ifindex, towards) };
    check(swap_ends(skb, s))?;
    check(set_numbers(skb, s, sequence, acknowledgement))?;
    counter::count(s, Event::ResetLocal);
    if failed == 0 {
        counter::count(s, Event::ResetRemote);
    }
    Ok(())
}

/// Lets a reset for the tuple through the hook that it is about to meet.
#[inline(always)]
fn admit_reset(s: &mut Scratch) -> Result<(), DropReason> {
    s.attempt =
        AttemptValue { created_ns: s.now_ns, role: role::REFUSED, ..AttemptValue::default() };
    check(quota::insert_attempt(s, Asker::Refused))
}

/// Makes the segment the reset that answers it (RFC 9293 3.5.2).
#[inline(always)]
fn turn_back(skb: *mut __sk_buff, s: &mut Scratch) -> Result<(), DropReason> {
    let acknowledges = s.packet.has(tcp_flags::ACK);
    let (sequence, acknowledgement, flags) = if acknowledges {
        (s.packet.acknowledgement, 0, tcp_flags::RST)
    } else {
        (0, s.packet.sequence.wrapping_add(1), tcp_flags::RST | tcp_flags::ACK)
    };
    check(segment::shrink(skb, s, TCP_BYTES as u32, u32::from(flags)))?;
    check(swap_ends(skb, s))?;
    check(set_numbers(skb, s, sequence, acknowledgement))
}

/// Flags of a redirect to the packet's own interface, back to where it came from: the workload's
/// segments go out of the host side of a veth, or into the stack that sent them.
#[inline(always)]
fn back(s: &Scratch, from_workload: bool) -> u64 {
    let host_side = s.interface.flags & interface_flags::HOST_SIDE != 0;
    if from_workload == host_side { 0 } else { u64::from(BPF_F_INGRESS) }
}

/// Exchanges source and destination of all three headers. The checksums are sums over both, so
/// they stay right.
#[inline(never)]
fn swap_ends(skb: *mut __sk_buff, s: &mut Scratch) -> u32 {
    let transport = u32::from(s.packet.transport);
    let swapped = if s.packet.family == 4 {
        swap::<4>(skb, ETHERNET_BYTES as u32 + 12)
    } else {
        swap::<16>(skb, ETHERNET_BYTES as u32 + 8)
    };
    match swapped.and_then(|()| swap::<6>(skb, 0)).and_then(|()| swap::<2>(skb, transport)) {
        Ok(()) => 0,
        Err(reason) => reason as u32,
    }
}

/// Exchanges the `N` bytes at `at` with the `N` bytes behind them.
#[inline(always)]
fn swap<const N: usize>(skb: *mut __sk_buff, at: u32) -> Result<(), DropReason> {
    let mut both = [[0u8; N]; 2];
    load(skb, at, &mut both)?;
    let [first, second] = both;
    store(skb, at, &[second, first], 0)
}

/// Sets sequence and acknowledgement number.
#[inline(never)]
fn set_numbers(skb: *mut __sk_buff, s: &mut Scratch, sequence: u32, acknowledgement: u32) -> u32 {
    let at = u32::from(s.packet.transport) + SEQUENCE;
    let mut old = [0u32; 2];
    if let Err(reason) = load(skb, at, &mut old) {
        return reason as u32;
    }
    let new = [sequence.to_be(), acknowledgement.to_be()];
    s.sum = u64::from(new[0]) + u64::from(new[1]) + u64::from(!old[0]) + u64::from(!old[1]);
    match store(skb, at, &new, 0).and_then(|()| segment::apply_sum(skb, s)) {
        Ok(()) => 0,
        Err(reason) => reason as u32,
    }
}
