//! Both MACs of a handshake, and what they cover.
//!
//! ```text
//! offset  input                       output, 32 bytes
//!  0      "ENM" version(1)            mac_B(16), in S2
//!  4      handle_A(8)                 mac_A(16), in S3
//! 12      handle_B(8)
//! 20      nonce_A(8)
//! 28      nonce_B(8)
//! 36      address_B(16)
//! 52      port_B(2, big endian)
//! length  54
//! ```
//! A is the initiator, B the responder. A keyed BLAKE3 is a pseudo-random function, so its halves are
//! independent of each other: who has seen `mac_B` knows nothing of `mac_A`. A's address and port and
//! all sequence numbers are left out: NAT and ISN rewriting must not break a handshake.

use super::blake3::{BLOCK_WORDS, KEY_WORDS, keyed_block};
use crate::abi::{Address, Handle, Nonce};

/// What tells these MACs from any other use of a pair key; its last byte is the protocol's version.
const LABEL: [u8; 4] = *b"ENM\x02";
/// Bytes of the input.
const LENGTH: u32 = 54;

/// A block of BLAKE3.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct MacInput {
    /// The block, as little-endian words.
    pub block: [u32; BLOCK_WORDS],
}

/// Both MACs of a handshake, as little-endian words.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Macs {
    /// `mac_B`, in S2.
    pub answer: [u32; 4],
    /// `mac_A`, in S3.
    pub proof: [u32; 4],
}

/// Handles and nonces of both sides, in the order initiator, responder.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transcript {
    /// Initiator's handle.
    pub handle_a: Handle,
    /// Responder's handle.
    pub handle_b: Handle,
    /// Initiator's nonce.
    pub nonce_a: Nonce,
    /// Responder's nonce.
    pub nonce_b: Nonce,
}

/// Writes the input. The responder speaks for its own address and port, as it sees them.
#[inline(always)]
pub fn mac_input(out: &mut MacInput, t: &Transcript, address_b: &Address, port_b: u16) {
    put(&mut out.block, 0, LABEL);
    put8(&mut out.block, 1, &t.handle_a);
    put8(&mut out.block, 3, &t.handle_b);
    put8(&mut out.block, 5, &t.nonce_a);
    put8(&mut out.block, 7, &t.nonce_b);
    put(&mut out.block, 9, [address_b[0], address_b[1], address_b[2], address_b[3]]);
    put(&mut out.block, 10, [address_b[4], address_b[5], address_b[6], address_b[7]]);
    put(&mut out.block, 11, [address_b[8], address_b[9], address_b[10], address_b[11]]);
    put(&mut out.block, 12, [address_b[12], address_b[13], address_b[14], address_b[15]]);
    let port = port_b.to_be_bytes();
    put(&mut out.block, 13, [port[0], port[1], 0, 0]);
    out.block[14] = 0;
    out.block[15] = 0;
}

/// The MACs of the input under the pair key for *A initiates, B responds*.
#[inline(always)]
#[must_use]
pub fn macs(key: &[u32; KEY_WORDS], input: &MacInput) -> Macs {
    let out = keyed_block(key, &input.block, LENGTH);
    let answer = [out[0], out[1], out[2], out[3]];
    let proof =
        if cfg!(feature = "mutate-step") { answer } else { [out[4], out[5], out[6], out[7]] };
    Macs { answer, proof }
}

/// Compares without a data-dependent branch.
#[must_use]
#[inline(always)]
pub fn same_mac(a: [u32; 4], b: [u32; 4]) -> bool {
    ((a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3])) == 0
}

/// A MAC as bytes.
#[must_use]
#[inline(always)]
pub fn mac_bytes(words: [u32; 4]) -> [u8; 16] {
    let mut out = [0u8; 16];
    let mut i = 0;
    while i < 4 {
        let bytes = words[i].to_le_bytes();
        out[4 * i] = bytes[0];
        out[4 * i + 1] = bytes[1];
        out[4 * i + 2] = bytes[2];
        out[4 * i + 3] = bytes[3];
        i += 1;
    }
    out
}

/// A MAC as words.
#[must_use]
#[inline(always)]
pub fn mac_words(b: &[u8; 16]) -> [u32; 4] {
    [
        u32::from_le_bytes([b[0], b[1], b[2], b[3]]),
        u32::from_le_bytes([b[4], b[5], b[6], b[7]]),
        u32::from_le_bytes([b[8], b[9], b[10], b[11]]),
        u32::from_le_bytes([b[12], b[13], b[14], b[15]]),
    ]
}

#[inline(always)]
fn put8(block: &mut [u32; BLOCK_WORDS], at: usize, b: &[u8; 8]) {
    put(block, at, [b[0], b[1], b[2], b[3]]);
    put(block, at + 1, [b[4], b[5], b[6], b[7]]);
}

#[inline(always)]
fn put(block: &mut [u32; BLOCK_WORDS], at: usize, bytes: [u8; 4]) {
    block[at] = u32::from_le_bytes(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: Transcript =
        Transcript { handle_a: [1; 8], handle_b: [2; 8], nonce_a: [3; 8], nonce_b: [4; 8] };

    fn input() -> MacInput {
        // Whatever an earlier use left behind must not matter.
        let mut input = MacInput { block: [0xdead_beef; BLOCK_WORDS] };
        mac_input(&mut input, &T, &[9; 16], 0x1234);
        input
    }

    fn expected_input() -> Vec<u8> {
        let mut expected = b"ENM\x02".to_vec();
        for part in [1, 2, 3, 4] {
            expected.extend([part; 8]);
        }
        expected.extend([9; 16]);
        expected.extend([0x12, 0x34]);
        expected
    }

    #[test]
    fn the_input_is_label_transcript_address_and_port() {
        let all: Vec<u8> = input().block.iter().flat_map(|w| w.to_le_bytes()).collect();
        let (counted, rest) = all.split_at(LENGTH as usize);
        assert_eq!(counted, expected_input());
        assert!(rest.iter().all(|b| *b == 0), "zero behind the length");
    }

    #[test]
    fn the_macs_are_the_halves_of_the_hash() {
        let hash = blake3::keyed_hash(&[5; 32], &expected_input());
        let made = macs(&[0x0505_0505; KEY_WORDS], &input());
        let both = [mac_bytes(made.answer), mac_bytes(made.proof)].concat();
        assert_eq!(both, hash.as_bytes());
        assert!(!same_mac(made.answer, made.proof));
        assert_eq!(mac_words(&mac_bytes(made.answer)), made.answer);
    }
}
