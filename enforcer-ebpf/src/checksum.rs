//! Whether the stack behind the hook will find a segment's checksum right. Asked only of what would end
//! a flow: everything else that a stack refuses leaves the flow as it is.

use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_l4_csum_replace};
use enforcer_common::wire::checksum::{self, VERIFIED_BYTES_MAX};

use crate::{
    scratch::Scratch,
    segment::TCP_CHECK,
    skb::{load, store, sum_tail},
};

/// 1 if it is right, or still to be completed and therefore not looked at by the stack. 0 if it is
/// wrong, or the segment longer than [`VERIFIED_BYTES_MAX`].
#[inline(never)]
pub fn is_right(skb: *mut __sk_buff, s: &mut Scratch) -> u32 {
    let (from, to) = (u32::from(s.packet.transport), s.packet.end);
    let length = to.wrapping_sub(from);
    if length == 0 || length > VERIFIED_BYTES_MAX {
        return 0;
    }
    let Ok(sum) = sum_tail(skb, s, from, length, 0) else { return 0 };
    let right = checksum::is_right(&s.packet, sum) || is_to_complete(skb, s);
    let right = right || cfg!(feature = "mutate-reset-checksum");
    u32::from(right)
}

/// Whether the checksum is left to hardware (CHECKSUM_PARTIAL), as that of a segment of this machine
/// is: then, and only then, a replacement outside the pseudo header leaves the field alone. No helper
/// tells it directly.
#[inline(always)]
fn is_to_complete(skb: *mut __sk_buff, s: &Scratch) -> bool {
    let at = u32::from(s.packet.transport) + TCP_CHECK;
    let (mut before, mut after) = ([0u8; 2], [0u8; 2]);
    if load(skb, at, &mut before).is_err() {
        return false;
    }
    // SAFETY: a helper on the program's context; packet pointers are not used after it.
    let failed = unsafe { bpf_l4_csum_replace(skb, at, 0, 1, 0) };
    if failed != 0 || load(skb, at, &mut after).is_err() {
        return false;
    }
    if before == after {
        return true;
    }
    // What was replaced had no counterpart in the segment. Should this fail, the stack refuses it.
    let _ = store(skb, at, &before, 0);
    false
}
