//! MACs and nonces.

use aya_ebpf::helpers::generated::bpf_ktime_get_boot_ns;
use enforcer_common::crypto::{KEY_WORDS, keyed_block, nonce_input};

use crate::{atomic::fetch_increment, maps::NONCES, scratch::Scratch};

/// Hashes `s.mac` under `s.pair_key` into `s.tag`. A subprogram of its own: its frame is the largest.
#[inline(never)]
pub fn tag(s: &mut Scratch) -> u32 {
    s.tag = keyed_block(&s.pair_key, &s.mac.block, s.mac.length);
    0
}

/// Puts the key of the next MAC into the scratch.
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

/// A fresh nonce in `s.nonce`: PRF of a counter that never repeats under its secret, with the time
/// mixed in. Not zero: there is no generator.
#[inline(always)]
pub fn nonce(s: &mut Scratch) -> u32 {
    let Some(state) = NONCES.get_ptr_mut(0) else { return 1 };
    // SAFETY: a live array value; the counter is only ever touched by this instruction.
    let counter = unsafe { fetch_increment(&raw mut (*state).counter) };
    // SAFETY: a helper without preconditions.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    nonce_input(&mut s.mac, counter, now);
    // SAFETY: the secret is written by the daemon before any program is attached.
    use_key(s, unsafe { &(*state).secret });
    tag(s);
    let (a, b) = (s.tag[0].to_le_bytes(), s.tag[1].to_le_bytes());
    s.nonce = [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3]];
    0
}
