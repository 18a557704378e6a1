//! Nonces: SipHash-2-4 of a counter and the time, keyed with a secret that the daemon draws at each
//! start (Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012).
//!
//! A nonce must not come again for a credential, and nobody must be able to tell one before it is
//! sent: who could would let the far side answer it in advance. A MAC it is not.

/// Words of a key.
pub const NONCE_KEY_WORDS: usize = 2;

/// `SipHash-2-4(key, counter ‖ time_ns)`, each 8 bytes, little endian.
#[inline(always)]
#[must_use]
pub fn nonce(key: [u64; NONCE_KEY_WORDS], counter: u64, time_ns: u64) -> [u8; 8] {
    // The constants of the paper, section 2.1: "somepseudorandomlygeneratedbytes".
    let mut v = [
        key[0] ^ 0x736f_6d65_7073_6575,
        key[1] ^ 0x646f_7261_6e64_6f6d,
        key[0] ^ 0x6c79_6765_6e65_7261,
        key[1] ^ 0x7465_6462_7974_6573,
    ];
    absorb(&mut v, counter);
    absorb(&mut v, time_ns);
    // The last word: no bytes that are left over, and the length in the highest.
    absorb(&mut v, 16 << 56);
    v[2] ^= 0xff;
    round(&mut v);
    round(&mut v);
    round(&mut v);
    round(&mut v);
    (v[0] ^ v[1] ^ v[2] ^ v[3]).to_le_bytes()
}

#[inline(always)]
fn absorb(v: &mut [u64; 4], word: u64) {
    v[3] ^= word;
    round(v);
    round(v);
    v[0] ^= word;
}

#[inline(always)]
fn round(v: &mut [u64; 4]) {
    v[0] = v[0].wrapping_add(v[1]);
    v[2] = v[2].wrapping_add(v[3]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].rotate_left(32);
    v[2] = v[2].wrapping_add(v[1]);
    v[0] = v[0].wrapping_add(v[3]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].rotate_left(32);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::hash::Hasher as _;

    /// The paper, appendix A, has 15 bytes; these are of its reference code's `vectors_sip64`, 16 bytes.
    #[test]
    fn equals_the_reference() {
        let key = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];
        let expected = [0xdb, 0x9b, 0xc2, 0x57, 0x7f, 0xcc, 0x2a, 0x3f];
        assert_eq!(nonce(key, key[0], key[1]), expected);
    }

    proptest! {
        #[test]
        // The standard library has no other name for SipHash-2-4.
        #[allow(deprecated)]
        fn equals_the_standard_library(key: [u64; 2], counter: u64, time_ns: u64) {
            let mut theirs = std::hash::SipHasher::new_with_keys(key[0], key[1]);
            theirs.write(&counter.to_le_bytes());
            theirs.write(&time_ns.to_le_bytes());
            prop_assert_eq!(nonce(key, counter, time_ns), theirs.finish().to_le_bytes());
        }
    }
}
