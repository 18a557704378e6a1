//! The helpers that touch packet bytes, with errors as drop reasons.

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::{
        bpf_csum_diff, bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_store_bytes,
    },
};
use core::hint::black_box;
use enforcer_common::abi::DropReason;

use crate::scratch::Scratch;

/// Most bytes that `bpf_csum_diff` takes on every supported kernel.
const SUM_CHUNK: u32 = 512;
/// Chunks that are summed at most: 10 KiB, more than a jumbo frame. Only a GSO skb is longer, and
/// its checksum is always left to be completed (CHECKSUM_PARTIAL), so the sum does not matter.
const SUM_CHUNKS_MAX: u32 = 20;

/// Copies packet bytes at `offset` into `to`.
#[inline(always)]
pub fn load<T>(skb: *mut __sk_buff, offset: u32, to: &mut T) -> Result<(), DropReason> {
    let to = core::ptr::from_mut(to).cast();
    // SAFETY: `to` is valid for its size; T is a plain-bytes type at every call.
    let failed = unsafe { bpf_skb_load_bytes(skb.cast(), offset, to, size_of::<T>() as u32) };
    if failed == 0 { Ok(()) } else { Err(DropReason::Truncated) }
}

/// Writes `from` to the packet at `offset`; checksums are the caller's.
#[inline(always)]
pub fn store<T>(skb: *mut __sk_buff, offset: u32, from: &T, flags: u64) -> Result<(), DropReason> {
    let from = core::ptr::from_ref(from).cast();
    // SAFETY: `from` is valid for its size.
    let failed = unsafe { bpf_skb_store_bytes(skb, offset, from, size_of::<T>() as u32, flags) };
    if failed == 0 { Ok(()) } else { Err(DropReason::Rewrite) }
}

/// Writes the first `length` bytes (1 to `N`) of `from`; `N` is at most 2,048.
#[inline(always)]
pub fn store_slice<const N: usize>(
    skb: *mut __sk_buff,
    offset: u32,
    from: &[u8; N],
    length: u32,
) -> Result<(), DropReason> {
    if length == 0 || length as usize > N {
        return Err(DropReason::Internal);
    }
    // The masked form gives the verifier of 6.1 both bounds; the check above makes it exact.
    let bounded = ((black_box(length) - 1) & 2047) + 1;
    if bounded as usize > N {
        return Err(DropReason::Internal);
    }
    // SAFETY: at most N bytes of `from`.
    let failed = unsafe { bpf_skb_store_bytes(skb, offset, from.as_ptr().cast(), bounded, 0) };
    if failed == 0 { Ok(()) } else { Err(DropReason::Rewrite) }
}

/// Copies the first `length` bytes (1 to `N`) of the frame to `to`; `N` is at most 2,048.
#[inline(always)]
pub fn load_slice<const N: usize>(
    skb: *mut __sk_buff,
    offset: u32,
    to: &mut [u8; N],
    length: u32,
) -> Result<(), DropReason> {
    if length == 0 || length as usize > N {
        return Err(DropReason::Oversized);
    }
    let bounded = ((black_box(length) - 1) & 2047) + 1;
    if bounded as usize > N {
        return Err(DropReason::Oversized);
    }
    // SAFETY: at most N bytes of `to`.
    let failed = unsafe { bpf_skb_load_bytes(skb.cast(), offset, to.as_mut_ptr().cast(), bounded) };
    if failed == 0 { Ok(()) } else { Err(DropReason::Truncated) }
}

/// Cuts or extends the frame to `length` bytes.
#[inline(always)]
pub fn change_tail(skb: *mut __sk_buff, length: u32) -> Result<(), DropReason> {
    // SAFETY: a helper on the program's context; packet pointers are not used after it.
    if unsafe { bpf_skb_change_tail(skb, length, 0) } == 0 {
        Ok(())
    } else {
        Err(DropReason::Rewrite)
    }
}

/// Adds the sum of frame bytes `[from, to)` to `s.sum`, negated: they are about to be cut off.
/// `from` is at an even offset of the transport segment. Uses the held frame as a buffer.
#[inline(never)]
pub fn subtract_range(skb: *mut __sk_buff, s: &mut Scratch, from: u32, to: u32) -> u32 {
    let mut seed = 0u32;
    s.position.set(from);
    let mut chunk = 0;
    while chunk < SUM_CHUNKS_MAX {
        chunk += 1;
        let at = s.position.value();
        if at + SUM_CHUNK > to {
            break;
        }
        match sum_chunk(skb, s, at, SUM_CHUNK, SUM_CHUNK, seed) {
            Ok(sum) => seed = sum,
            Err(reason) => return reason as u32,
        }
        s.position.set(at + SUM_CHUNK);
    }
    let at = s.position.value();
    let left = to.wrapping_sub(at);
    if left > 0 && left < SUM_CHUNK {
        match sum_tail(skb, s, at, left, seed) {
            Ok(sum) => seed = sum,
            Err(reason) => return reason as u32,
        }
    }
    s.sum += u64::from(!seed);
    s.cut = seed;
    0
}

/// Sum of `length` (1 to 511) frame bytes at `at`, added to `seed`. Uses the held frame as a buffer.
#[inline(always)]
pub fn sum_tail(
    skb: *mut __sk_buff,
    s: &mut Scratch,
    at: u32,
    length: u32,
    seed: u32,
) -> Result<u32, DropReason> {
    // The masked forms give the verifier its bounds.
    let padded = (black_box(length) + 3) & 0x3fc;
    let length = ((black_box(length) - 1) & 511) + 1;
    if !(4..=SUM_CHUNK).contains(&padded) {
        return Err(DropReason::Internal);
    }
    // SAFETY: inside the frame buffer: `padded` is at most 512.
    unsafe {
        let last = s.held.frame.as_mut_ptr().add(padded as usize - 4);
        last.write(0);
        last.add(1).write(0);
        last.add(2).write(0);
        last.add(3).write(0);
    }
    sum_chunk(skb, s, at, length, padded, seed)
}

/// Sum of `length` (1 to 512) frame bytes at `at`, padded with what the buffer holds to `padded`
/// (a multiple of four), added to `seed`.
#[inline(always)]
fn sum_chunk(
    skb: *mut __sk_buff,
    s: &mut Scratch,
    at: u32,
    length: u32,
    padded: u32,
    seed: u32,
) -> Result<u32, DropReason> {
    let buffer = s.held.frame.as_mut_ptr();
    // SAFETY: at most 512 bytes into a larger buffer.
    if unsafe { bpf_skb_load_bytes(skb.cast(), at, buffer.cast(), length) } != 0 {
        return Err(DropReason::Truncated);
    }
    // SAFETY: reads `padded` bytes, at most 512, of the buffer.
    let sum = unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, buffer.cast(), padded, seed) };
    if sum < 0 { Err(DropReason::Internal) } else { Ok(sum as u32) }
}
