//! The optional guard (XDP): drops what floods consist of before the kernel makes an skb of it.
//!
//! It drops only what `to_workload` would drop in this moment, and under the same reason; what needs more
//! than look-ups is left to it, and so is everything of a workload that is observed or not ready. It writes
//! nothing but counters and samples, which are those of `to_workload`.

use aya_ebpf::{
    bindings::{
        xdp_action::{XDP_DROP, XDP_PASS},
        xdp_md,
    },
    helpers::generated::bpf_xdp_load_bytes,
};
use core::hint::black_box;
use enforcer_common::{
    abi::{DropReason, direction, interface_flags, workload_flags},
    wire::{
        Cursor as _,
        frame::{
            self, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Frame, Packet, TCP_BYTES, protocol, tcp_flags,
        },
        option::{OPTION_BYTES, OPTIONS_MAX},
    },
};

use crate::{
    attempt, clock, counter,
    cursor::FrameCursor,
    entry::SLOW,
    flow, handshake, hold, interface,
    maps::{CONFIG, SCRATCH},
    network,
    outcome::Outcome,
    scratch::Scratch,
    verdict::{self, Verdict},
    workload,
};

/// Left to `to_workload`.
const PASS: u32 = 0;

/// Judges a frame that no skb was made of yet.
#[inline(always)]
pub fn run(xdp: *mut xdp_md) -> u32 {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return XDP_PASS };
    // SAFETY: per-CPU memory. The TC programs use it too, and neither interrupts the other: all run with
    // softirqs off.
    let s = unsafe { &mut *scratch };
    let mut number = read(xdp, s);
    if number == PASS {
        return XDP_PASS;
    }
    // Through memory, so that the verifier walks what follows once and not once for each outcome.
    s.outcome.set(number);
    number = judge(xdp, s);
    match Outcome::reason(number) {
        None => XDP_PASS,
        Some(reason) => {
            counter::drop_counted(s, reason, 0);
            XDP_DROP
        }
    }
}

/// Reads the frame; what has a flow passes, the rest is left in the scratch. What is not IP passes too:
/// it is no flood that this is made for, and link protocols have listeners in front of TC.
#[inline(never)]
fn read(xdp: *mut xdp_md, s: &mut Scratch) -> u32 {
    // SAFETY: a read of the program's context.
    s.ifindex = unsafe { (*xdp).ingress_ifindex };
    if !interface::find(s) || s.interface.flags & interface_flags::HOST_SIDE != 0 {
        return PASS;
    }
    let Some(cursor) = FrameCursor::of_xdp(xdp) else { return PASS };
    // A tagged frame is another to TC, which sees it without the tag.
    if !matches!(cursor.u16(12), Some(ETHERTYPE_IPV4 | ETHERTYPE_IPV6)) {
        return PASS;
    }
    let mut packet = Packet::default();
    match frame::parse(&cursor, &mut packet) {
        Ok(Frame::Ip) => {}
        Ok(Frame::Arp) => return PASS,
        Err(reason) => return flow::unread(s, reason),
    }
    if packet.ipv4_options() > 0 {
        return PASS;
    }
    s.key = flow::tuple::<false>(s.interface.workload, &packet);
    s.packet = packet;
    if !opens(s) && flow::find(&s.key, s.packet.family).is_some() {
        return PASS;
    }
    SLOW
}

/// Whether it is a SYN, for which it does not matter whether there is a flow.
#[inline(always)]
fn opens(s: &Scratch) -> bool {
    s.packet.protocol == protocol::TCP
        && s.packet.flags & (tcp_flags::SYN | tcp_flags::ACK) == tcp_flags::SYN
}

/// What becomes of a frame without a flow, whose reason stands in `s.outcome` if it was not read.
#[inline(never)]
fn judge(xdp: *mut xdp_md, s: &mut Scratch) -> u32 {
    let Ok(workload) = workload::find(s) else { return PASS };
    if workload.flags & workload_flags::OBSERVE != 0 {
        return PASS;
    }
    let Some(config) = CONFIG.get(0) else { return PASS };
    s.epoch = config.epoch;
    s.peer = 0;
    clock::read(s);
    let number = s.outcome.value();
    if number != SLOW {
        return number;
    }
    if s.packet.protocol != protocol::TCP {
        return datagram(s);
    }
    let flags = s.packet.flags;
    if flags & tcp_flags::SYN == 0 {
        // Connections older than the attachment may have to be taken over.
        return if s.now_ns < workload.value.adopt_until_ns { PASS } else { segment(xdp, s) };
    }
    if flags & (tcp_flags::FIN | tcp_flags::RST) != 0 {
        return DropReason::MalformedHeader as u32;
    }
    if flags & tcp_flags::ACK != 0 { syn_ack(s) } else { syn(xdp, s) }
}

#[inline(never)]
fn datagram(s: &mut Scratch) -> u32 {
    if network::is_neighbour_discovery(s) || network::is_icmp_error(s) {
        return PASS;
    }
    unless_allowed(s, DropReason::NetworkDenied)
}

/// The reason, if no network rule lets the far side in.
#[inline(never)]
fn unless_allowed(s: &Scratch, reason: DropReason) -> u32 {
    match network::ask(s, direction::INGRESS, s.key.local_port) {
        Verdict::Deny => reason as u32,
        Verdict::Allow(_) | Verdict::Unknown => PASS,
    }
}

#[inline(never)]
fn syn(xdp: *mut xdp_md, s: &mut Scratch) -> u32 {
    let found = scan_options(xdp, s);
    match handshake::judge_hello(found) {
        Err(reason) => reason as u32,
        Ok(false) => unless_allowed(s, DropReason::PeerWithoutIdentity),
        Ok(true) => hello(xdp, s),
    }
}

/// S1 of who is not known, or not let in.
#[inline(always)]
fn hello(xdp: *mut xdp_md, s: &mut Scratch) -> u32 {
    let at = u32::from(s.packet.transport) + u32::from(s.packet.tcp_header) - OPTION_BYTES as u32;
    if attempt::find(s).is_some() || !load(xdp, at, &mut s.option) {
        return PASS;
    }
    let Ok((local, _)) = handshake::current_credential(s) else { return PASS };
    let Some(peer) = handshake::find_peer(local, s.option.handle()) else {
        let refused = hold::is_beyond_limits(s);
        return if refused { DropReason::ColdRateLimited as u32 } else { PASS };
    };
    let payload = s.packet.payload();
    if let Err(reason) = handshake::check_peer(s, peer, payload) {
        return reason as u32;
    }
    let denied = verdict::is_denied(s, peer.identity, s.key.local_port, direction::INGRESS);
    if denied { DropReason::PolicyDenied as u32 } else { PASS }
}

/// A SYN-ACK that answers nothing, and is none of a flow either.
#[inline(never)]
fn syn_ack(s: &mut Scratch) -> u32 {
    let answers =
        attempt::find(s).is_some_and(|a| s.packet.acknowledgement == a.local_isn.wrapping_add(1));
    if answers { PASS } else { DropReason::NoAttempt as u32 }
}

/// A segment of no connection.
#[inline(never)]
fn segment(xdp: *mut xdp_md, s: &mut Scratch) -> u32 {
    if attempt::find(s).is_some() {
        return PASS;
    }
    if s.packet.options() >= OPTION_BYTES {
        let found = scan_options(xdp, s);
        if found & handshake::MALFORMED != 0 {
            return DropReason::MalformedOption as u32;
        }
        if found & handshake::WRONG != 0 {
            return DropReason::WrongVersion as u32;
        }
    }
    DropReason::NoFlow as u32
}

/// As `handshake::scan_options`.
#[inline(never)]
fn scan_options(xdp: *mut xdp_md, s: &mut Scratch) -> u32 {
    let length = s.packet.options();
    if length == 0 {
        return 0;
    }
    if length > OPTIONS_MAX {
        return handshake::MALFORMED;
    }
    // The masked form gives the verifier of 6.1 both bounds; the checks above make it exact.
    let bounded = ((black_box(length as u32) - 1) & 63) + 1;
    if bounded as usize > OPTIONS_MAX {
        return handshake::MALFORMED;
    }
    let at = u32::from(s.packet.transport) + TCP_BYTES as u32;
    let to = s.options.as_mut_ptr().cast();
    // SAFETY: at most as many bytes as the buffer has.
    if unsafe { bpf_xdp_load_bytes(xdp, at, to, bounded) } != 0 {
        return handshake::MALFORMED;
    }
    handshake::scan_loaded(s, length)
}

/// Copies frame bytes at `offset` into `to`.
#[inline(always)]
fn load<T>(xdp: *mut xdp_md, offset: u32, to: &mut T) -> bool {
    let to = core::ptr::from_mut(to).cast();
    // SAFETY: `to` is valid for its size; T is a plain-bytes type at every call.
    unsafe { bpf_xdp_load_bytes(xdp, offset, to, size_of::<T>() as u32) == 0 }
}
