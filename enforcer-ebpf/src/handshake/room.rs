//! Room for our option in a segment that leaves, where the stack's own options leave none.

use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_csum_diff};
use enforcer_common::{
    abi::DropReason,
    wire::{
        frame::TCP_BYTES,
        option::{OPTION_BYTES, OPTIONS_MAX},
        room,
    },
};

use super::{check, number};
use crate::{scratch::Scratch, segment, skb::store_slice};

/// Leaves room for our option in a segment without payload whose options were just read, or says
/// that there is none. Behind an end of options nobody would read it, so that one goes too.
#[inline(always)]
pub(super) fn ensure(skb: *mut __sk_buff, s: &mut Scratch) -> Result<(), DropReason> {
    let length = s.packet.options();
    if length + OPTION_BYTES <= OPTIONS_MAX && s.scan.end() >= length {
        return Ok(());
    }
    check(make(skb, s))
}

#[inline(never)]
fn make(skb: *mut __sk_buff, s: &mut Scratch) -> u32 {
    number(try_make(skb, s))
}

#[inline(always)]
fn try_make(skb: *mut __sk_buff, s: &mut Scratch) -> Result<(), DropReason> {
    let length = s.packet.options();
    let before = add_options(s, 0, true)?;
    let kept = room::make(&mut s.options, length, &mut s.room).ok_or(DropReason::NoOptionRoom)?;
    if kept + OPTION_BYTES > OPTIONS_MAX {
        return Err(DropReason::NoOptionRoom);
    }
    s.sum = u64::from(add_options(s, before, false)?);
    let at = u32::from(s.packet.transport) + TCP_BYTES as u32;
    store_slice::<OPTIONS_MAX>(skb, at, &s.options, length as u32)?;
    segment::apply_sum(skb, s)?;
    let (header, flags) = ((TCP_BYTES + kept) as u32, u32::from(s.packet.flags));
    check(segment::shrink(skb, s, header, flags))
}

/// Adds the one's complement sum of `s.options`, what stands behind the segment's included, to
/// `seed`, or takes it off.
#[inline(always)]
fn add_options(s: &mut Scratch, seed: u32, take_off: bool) -> Result<u32, DropReason> {
    let (options, size) = (s.options.as_mut_ptr().cast(), OPTIONS_MAX as u32);
    let none = core::ptr::null_mut();
    // SAFETY: reads all of the options.
    let sum = unsafe {
        if take_off {
            bpf_csum_diff(options, size, none, 0, seed)
        } else {
            bpf_csum_diff(none, 0, options, size, seed)
        }
    };
    if sum < 0 { Err(DropReason::Internal) } else { Ok(sum as u32) }
}
