//! The cold path: a segment of an unknown peer goes whole to the daemon and is dropped; the daemon
//! verifies, installs, and re-injects it byte-identical through its helper interface. So does an answer of a
//! name server, from which the daemon learns what a name in a network rule stands for.

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_INGRESS, BPF_RB_AVAIL_DATA, BPF_RB_CONS_POS, TC_ACT_SHOT},
    helpers::generated::{bpf_redirect, bpf_ringbuf_output, bpf_ringbuf_query},
};
use core::{ffi::c_void, hint::black_box};
use enforcer_common::{
    abi::{
        DropReason, Event, HELD_FRAME_MAX, Handle, HeldSegment, READ_MARK, ReaderState,
        ReinjectTrailer, direction, interface_flags, record_kind,
    },
    wire::frame::tcp_flags,
};

use crate::{
    counter::{self, Limit},
    maps::{CONFIG, HELD_0, HELD_1, HELD_2, HELD_3, NAMES, READER},
    scratch::Scratch,
    skb::{change_tail, load, load_slice},
};

const RINGS: u8 = 4;
const TRAILER_BYTES: u32 = size_of::<ReinjectTrailer>() as u32;

/// Hands the segment to the daemon within the limits; it is dropped in any case.
#[inline(never)]
pub fn segment(skb: *mut __sk_buff, s: &mut Scratch, asked: u8, local_handle: &Handle) -> u32 {
    match try_segment(skb, s, asked, local_handle) {
        Ok(()) => {
            counter::count(s, Event::ColdSegments);
            DropReason::Held as u32
        }
        Err(reason) => reason as u32,
    }
}

#[inline(always)]
fn try_segment(
    skb: *mut __sk_buff,
    s: &mut Scratch,
    asked: u8,
    local_handle: &Handle,
) -> Result<(), DropReason> {
    within_limits(s)?;
    // The egress policy uses the server's port as the server sees it.
    let is_answer = asked == direction::EGRESS && s.packet.flags & tcp_flags::SYN != 0;
    let port = if is_answer { u16::from_be_bytes(s.prefix.port) } else { s.key.local_port };
    s.held.kind = record_kind::HELD;
    s.held.local_handle = *local_handle;
    s.held.peer = s.peer;
    s.held.port = port;
    s.held.direction = asked;
    let size = fill(skb, s)?;
    output(s, held_ring(s), size)
}

/// Fills in the frame and what is the same for all records; the bytes of the record, or an error.
#[inline(always)]
fn fill(skb: *mut __sk_buff, s: &mut Scratch) -> Result<u32, DropReason> {
    let length = s.packet.end;
    load_slice::<HELD_FRAME_MAX>(skb, 0, &mut s.held.frame, length)?;
    let host_side = s.interface.flags & interface_flags::HOST_SIDE != 0;
    s.held.ifindex = s.ifindex;
    s.held.time_ns = s.now_ns;
    s.held.key = s.key;
    s.held.host_side = u8::from(host_side);
    s.held.transport_offset = s.packet.transport;
    s.held.frame_length = length as u16;
    s.held.epoch = s.epoch;
    s.held.zero = 0;
    let size = black_box(HeldSegment::HEADER_BYTES as u32 + length);
    if size as usize > size_of::<HeldSegment>() {
        return Err(DropReason::Oversized);
    }
    Ok(size)
}

type Ring = *mut c_void;

/// The source network's low bits choose the ring, so that one flood leaves the others.
#[inline(always)]
fn held_ring(s: &Scratch) -> Ring {
    let source = source_network(s);
    let shard = (source[7] ^ source[5] ^ source[6]) & (RINGS - 1);
    match shard {
        0 => (&raw const HELD_0).cast_mut().cast(),
        1 => (&raw const HELD_1).cast_mut().cast(),
        2 => (&raw const HELD_2).cast_mut().cast(),
        _ => (&raw const HELD_3).cast_mut().cast(),
    }
}

#[inline(always)]
fn output(s: &mut Scratch, ring: Ring, size: u32) -> Result<(), DropReason> {
    // SAFETY: `size` bytes of the record, checked by the caller; a map and its size are what the
    // helper asks for.
    let failed = unsafe { bpf_ringbuf_output(ring, (&raw mut s.held).cast(), u64::from(size), 0) };
    if failed == 0 { Ok(()) } else { Err(DropReason::RingFull) }
}

/// Hands an answer of a name server to the daemon, and drops it: it comes back once it was read. Where the daemon
/// does not read, it passes: names must go on to resolve, and what was not read opens nothing.
#[inline(always)]
pub fn answer(skb: *mut __sk_buff, s: &mut Scratch) -> u32 {
    if was_read(skb) {
        return 0;
    }
    if tell_names(skb, s) == 0 {
        counter::count(s, Event::AnswerHeld);
        return DropReason::Held as u32;
    }
    counter::count(s, Event::AnswerUnread);
    0
}

/// Tells the daemon what a name server is asked: an answer to anything else is not believed. The question passes.
#[inline(always)]
pub fn question(skb: *mut __sk_buff, s: &mut Scratch) {
    // Where it cannot be told, its answer is none to anything.
    let _ = tell_names(skb, s);
}

/// Whether the daemon sent it; the mark is for nobody behind us.
#[inline(always)]
fn was_read(skb: *mut __sk_buff) -> bool {
    // SAFETY: reads and writes of a field of the program's context.
    unsafe {
        let marked = (*skb).mark == READ_MARK;
        if marked {
            (*skb).mark = 0;
        }
        marked
    }
}

/// Not zero: the reason why the daemon was not told.
#[inline(never)]
fn tell_names(skb: *mut __sk_buff, s: &mut Scratch) -> u32 {
    match try_tell_names(skb, s) {
        Ok(()) => 0,
        Err(reason) => reason as u32,
    }
}

#[inline(always)]
fn try_tell_names(skb: *mut __sk_buff, s: &mut Scratch) -> Result<(), DropReason> {
    let ring: Ring = (&raw const NAMES).cast_mut().cast();
    if !is_reading(s, ring) {
        return Err(DropReason::RingFull);
    }
    let workload = s.interface.workload;
    if !counter::take(workload, [0; 8], Limit::Names, s.now_ns, NAMES_PER_SECOND) {
        return Err(DropReason::ColdRateLimited);
    }
    s.held.kind = record_kind::NAMES;
    s.held.local_handle = Handle::default();
    s.held.peer = 0;
    s.held.port = s.key.remote_port;
    s.held.direction = direction::EGRESS;
    let size = fill(skb, s)?;
    output(s, ring, size)
}

/// Whether the daemon still reads them: it has moved on, or has nothing to read, within this time.
const READS_WITHIN_NS: u64 = 1_000_000_000;
/// Questions of one workload and answers to it that are handed over a second.
const NAMES_PER_SECOND: u32 = 1000;

#[inline(always)]
fn is_reading(s: &Scratch, ring: Ring) -> bool {
    let Some(reader) = READER.get_ptr_mut(0) else { return false };
    // SAFETY: a live map value; two CPUs that race write the same or a younger state.
    let reader = unsafe { &mut *reader };
    // SAFETY: a helper that reads the ring's positions.
    let (consumed, unread) = unsafe {
        (
            bpf_ringbuf_query(ring, u64::from(BPF_RB_CONS_POS)),
            bpf_ringbuf_query(ring, u64::from(BPF_RB_AVAIL_DATA)),
        )
    };
    if unread == 0 || reader.consumed != consumed {
        *reader = ReaderState { consumed, since_ns: s.now_ns };
        return true;
    }
    s.now_ns.saturating_sub(reader.since_ns) < READS_WITHIN_NS
}

#[inline(always)]
fn within_limits(s: &Scratch) -> Result<(), DropReason> {
    let config = CONFIG.get(0).ok_or(DropReason::Internal)?;
    let (all, each) = (config.cold_per_second, config.cold_per_source);
    let granted = counter::take(0, source_network(s), Limit::Cold, s.now_ns, each)
        && counter::take(s.interface.workload, [0; 8], Limit::Cold, s.now_ns, all / 2 + 1)
        && counter::take(0, [0; 8], Limit::Cold, s.now_ns, all);
    if granted { Ok(()) } else { Err(DropReason::ColdRateLimited) }
}

/// Whether a segment would be beyond the limits; counts it against none.
#[inline(always)]
pub fn is_beyond_limits(s: &Scratch) -> bool {
    let Some(config) = CONFIG.get(0) else { return false };
    let (all, each) = (config.cold_per_second, config.cold_per_source);
    counter::is_dry(0, source_network(s), Limit::Cold, s.now_ns, each)
        || counter::is_dry(s.interface.workload, [0; 8], Limit::Cold, s.now_ns, all / 2 + 1)
        || counter::is_dry(0, [0; 8], Limit::Cold, s.now_ns, all)
}

/// The /24 of an IPv4 source, the /64 of an IPv6 one; never all zero.
#[inline(always)]
fn source_network(s: &Scratch) -> [u8; 8] {
    let a = &s.key.remote;
    if s.packet.family == 4 {
        [0xff, 0xff, 0, 0, 0, a[12], a[13], a[14]]
    } else {
        [a[0] | 1, a[1], a[2], a[3], a[4], a[5], a[6], a[7]]
    }
}

/// The helper interface: cuts the trailer and sends the frame to where it says. Only the daemon can
/// make frames arrive here (it alone holds the tap), and nothing is granted: the target's own hook
/// judges the frame.
#[inline(always)]
pub fn reinject(skb: *mut __sk_buff) -> i32 {
    match try_reinject(skb) {
        Ok(action) => action,
        Err(reason) => {
            counter::add(0, reason as u16);
            TC_ACT_SHOT
        }
    }
}

#[inline(always)]
fn try_reinject(skb: *mut __sk_buff) -> Result<i32, DropReason> {
    // SAFETY: a read of the program's context.
    let length = unsafe { (*skb).len };
    if length <= TRAILER_BYTES {
        return Err(DropReason::Truncated);
    }
    let mut trailer = ReinjectTrailer::default();
    load(skb, length - TRAILER_BYTES, &mut trailer)?;
    change_tail(skb, length - TRAILER_BYTES)?;
    // SAFETY: a write to a field of the program's context.
    unsafe { (*skb).mark = trailer.mark };
    let flags = if trailer.ingress == 1 { u64::from(BPF_F_INGRESS) } else { 0 };
    // SAFETY: a helper without preconditions.
    Ok(unsafe { bpf_redirect(trailer.ifindex, flags) } as i32)
}
