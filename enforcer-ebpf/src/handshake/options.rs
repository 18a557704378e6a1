//! Reading the options of a segment, and what of the handshake stands in them and behind them.

use aya_ebpf::bindings::__sk_buff;
use enforcer_common::{
    abi::DropReason,
    wire::{
        frame::TCP_BYTES,
        option::{self, OPTION_BYTES, OPTIONS_MAX},
        prefix::PREFIX_BYTES,
    },
};

use crate::{
    scratch::Scratch,
    skb::{load, load_slice},
};

/// Bit of [`scan_options`]: ours, well formed and last.
pub const OURS: u32 = 1;
/// Ours in number, but wrong in length or place, or twice.
pub const WRONG: u32 = 2;
/// An MPTCP join.
pub const JOIN: u32 = 4;
/// The options do not parse.
pub const MALFORMED: u32 = 8;

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
    scan_loaded(s, length)
}

/// Says what the first `length` bytes of the scratch's options hold.
#[inline(always)]
pub fn scan_loaded(s: &mut Scratch, length: usize) -> u32 {
    let Some(found) = option::scan(&s.options, length, &mut s.scan) else { return MALFORMED };
    u32::from(found.ours) * OURS + u32::from(found.wrong) * WRONG + u32::from(found.join) * JOIN
}

/// Whether the segment carries our option; refuses what only resembles it.
#[inline(always)]
pub(super) fn carries_hello(skb: *mut __sk_buff, s: &mut Scratch) -> Result<bool, DropReason> {
    let found = scan_options(skb, s);
    judge_hello(found)
}

/// The same of what [`scan_options`] found.
#[inline(always)]
pub fn judge_hello(found: u32) -> Result<bool, DropReason> {
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
pub(super) fn refuse_forged(skb: *mut __sk_buff, s: &mut Scratch) -> Result<(), DropReason> {
    match carries_hello(skb, s) {
        Ok(false) => Ok(()),
        Ok(true) | Err(DropReason::WrongVersion) => Err(DropReason::ForgedOption),
        Err(reason) => Err(reason),
    }
}

#[inline(always)]
pub(super) fn load_prefix(skb: *mut __sk_buff, s: &mut Scratch, at: u32) -> Result<(), DropReason> {
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
pub(super) fn option_offset(s: &Scratch) -> u32 {
    u32::from(s.packet.tcp_header) - OPTION_BYTES as u32
}
