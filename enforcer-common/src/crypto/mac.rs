//! What each MAC of the handshake covers, and the labels that keep them apart.
//!
//! ```text
//! offset  S2 (mac_B)               S3 (mac_A)               nonce PRF
//!  0      "EN2" version(1)         "EN3" version(1)         "ENN" version(1)
//!  4      handle_A(8)              handle_A(8)              counter(8, little endian)
//! 12      handle_B(8)              handle_B(8)              time_ns(8, little endian)
//! 20      nonce_A(8)               nonce_A(8)
//! 28      nonce_B(8)               nonce_B(8)
//! 36      address_B(16)
//! 52      port_B(2, big endian)
//! length  54                       36                       20
//! ```
//! A is the initiator, B the responder. A's address and port and all sequence numbers are left
//! out: NAT and ISN rewriting must not break a handshake.

use super::blake3::BLOCK_WORDS;
use crate::abi::{Address, Handle, Nonce};

/// Version of the handshake; part of every label.
const VERSION: u8 = 1;

/// A block for [`super::keyed_block`] and its length in bytes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct MacInput {
    /// The block, as little-endian words.
    pub block: [u32; BLOCK_WORDS],
    /// Bytes of the block that count.
    pub length: u32,
}

/// The domain-separation labels: all that the handshake's MACs use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// `mac_B`, in S2.
    Answer,
    /// `mac_A`, in S3.
    Proof,
    /// The nonce PRF, keyed with the node's own secret.
    Nonce,
}

impl Step {
    #[inline(always)]
    const fn word(self) -> u32 {
        u32::from_le_bytes(match self {
            Self::Answer => [b'E', b'N', b'2', VERSION],
            Self::Proof if cfg!(feature = "mutate-step-label") => [b'E', b'N', b'2', VERSION],
            Self::Proof => [b'E', b'N', b'3', VERSION],
            Self::Nonce => [b'E', b'N', b'N', VERSION],
        })
    }
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

/// The input of `mac_B`: the responder speaks for its own address and port, as it sees them.
#[inline(always)]
pub fn answer_input(out: &mut MacInput, t: &Transcript, address_b: &Address, port_b: u16) {
    start(out, Step::Answer, t);
    put(&mut out.block, 9, [address_b[0], address_b[1], address_b[2], address_b[3]]);
    put(&mut out.block, 10, [address_b[4], address_b[5], address_b[6], address_b[7]]);
    put(&mut out.block, 11, [address_b[8], address_b[9], address_b[10], address_b[11]]);
    put(&mut out.block, 12, [address_b[12], address_b[13], address_b[14], address_b[15]]);
    let port = port_b.to_be_bytes();
    put(&mut out.block, 13, [port[0], port[1], 0, 0]);
    out.length = 54;
}

/// The input of `mac_A`.
#[inline(always)]
pub fn proof_input(out: &mut MacInput, t: &Transcript) {
    start(out, Step::Proof, t);
    out.block[9] = 0;
    out.block[10] = 0;
    out.block[11] = 0;
    out.block[12] = 0;
    out.block[13] = 0;
    out.length = 36;
}

/// The input of the nonce PRF.
#[inline(always)]
pub fn nonce_input(out: &mut MacInput, counter: u64, time_ns: u64) {
    let empty = Transcript {
        handle_a: counter.to_le_bytes(),
        handle_b: time_ns.to_le_bytes(),
        nonce_a: [0; 8],
        nonce_b: [0; 8],
    };
    proof_input(out, &empty);
    out.block[0] = Step::Nonce.word();
    out.length = 20;
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
fn start(out: &mut MacInput, step: Step, t: &Transcript) {
    out.block[0] = step.word();
    put8(&mut out.block, 1, &t.handle_a);
    put8(&mut out.block, 3, &t.handle_b);
    put8(&mut out.block, 5, &t.nonce_a);
    put8(&mut out.block, 7, &t.nonce_b);
    out.block[14] = 0;
    out.block[15] = 0;
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
    use crate::crypto::keyed_block;

    const T: Transcript =
        Transcript { handle_a: [1; 8], handle_b: [2; 8], nonce_a: [3; 8], nonce_b: [4; 8] };

    fn blank() -> MacInput {
        // Whatever an earlier use left behind must not matter.
        MacInput { block: [0xdead_beef; BLOCK_WORDS], length: 77 }
    }

    fn bytes(input: &MacInput) -> Vec<u8> {
        let all: Vec<u8> = input.block.iter().flat_map(|w| w.to_le_bytes()).collect();
        assert!(all[input.length as usize..].iter().all(|b| *b == 0), "zero behind the length");
        all[..input.length as usize].to_vec()
    }

    #[test]
    fn the_answer_covers_label_transcript_address_and_port() {
        let mut input = blank();
        answer_input(&mut input, &T, &[9; 16], 0x1234);
        let mut expected = b"EN2\x01".to_vec();
        for part in [1, 2, 3, 4] {
            expected.extend([part; 8]);
        }
        expected.extend([9; 16]);
        expected.extend([0x12, 0x34]);
        assert_eq!(bytes(&input), expected);
    }

    #[test]
    fn the_proof_covers_label_and_transcript() {
        let mut input = blank();
        proof_input(&mut input, &T);
        let mut expected = b"EN3\x01".to_vec();
        for part in [1, 2, 3, 4] {
            expected.extend([part; 8]);
        }
        assert_eq!(bytes(&input), expected);
    }

    #[test]
    fn the_nonce_covers_counter_and_time() {
        let mut input = blank();
        nonce_input(&mut input, 7, 8);
        let mut expected = b"ENN\x01".to_vec();
        expected.extend(7u64.to_le_bytes());
        expected.extend(8u64.to_le_bytes());
        assert_eq!(bytes(&input), expected);
    }

    #[test]
    fn steps_give_different_macs_for_one_transcript() {
        let (mut answer, mut proof) = (blank(), blank());
        answer_input(&mut answer, &T, &[0; 16], 0);
        proof_input(&mut proof, &T);
        let key = [5; 8];
        let a = keyed_block(&key, &answer.block, answer.length);
        let b = keyed_block(&key, &proof.block, proof.length);
        assert!(!same_mac(a, b));
        assert_eq!(mac_words(&mac_bytes(a)), a);
    }
}
