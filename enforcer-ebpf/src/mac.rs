//! MACs and nonces.

use aya_ebpf::helpers::generated::bpf_ktime_get_boot_ns;
use enforcer_common::{
    abi::Nonce,
    crypto::{KEY_WORDS, macs, nonce},
};

use crate::{atomic::fetch_increment, maps::NONCES, scratch::Scratch};

/// Makes both MACs of `s.mac` under `s.pair_key`, in `s.macs`. A subprogram of its own: its frame is the largest.
#[inline(never)]
pub fn make(s: &mut Scratch) -> u32 {
    s.macs = macs(&s.pair_key, &s.mac);
    0
}

/// Puts the key of the MACs into the scratch.
#[inline(always)]
pub fn use_key(s: &mut Scratch, key: &[u32; KEY_WORDS]) {
    let mut word = 0;
    while word < KEY_WORDS {
        // SAFETY: a field of the scratch. Volatile, since the compiler would call a function for the whole, which
        // copies byte by byte.
        unsafe { (&raw mut s.pair_key[word]).write_volatile(key[word]) };
        word += 1;
    }
}

/// A nonce of a counter that never repeats under its secret, with the time mixed in. None: there is no generator.
#[inline(always)]
pub fn fresh_nonce() -> Option<Nonce> {
    let state = NONCES.get_ptr_mut(0)?;
    // SAFETY: a live array value; the counter is only ever touched by this instruction.
    let counter = unsafe { fetch_increment(&raw mut (*state).counter) };
    // SAFETY: a helper without preconditions.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    // SAFETY: a live array value. A daemon that starts writes another secret: what is read of both is as secret as
    // either, and the counter is moved far on.
    Some(nonce(unsafe { (*state).secret }, counter, now))
}
