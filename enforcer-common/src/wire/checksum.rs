//! The Internet checksum (RFC 1071), incremental (RFC 1624). Sums are of native 16-bit words in
//! memory order: one's complement addition does not care about byte order, as long as all agree.

use super::frame::Packet;

/// Longest TCP segment whose checksum the kernel's programs verify, in bytes: one read of theirs.
pub const VERIFIED_BYTES_MAX: u32 = 511;

/// Adds two 16-bit words at a time with the carries kept; fold with [`fold`].
#[must_use]
#[inline(always)]
pub fn sum_words(words: &[u32]) -> u64 {
    let mut sum = 0u64;
    let mut i = 0;
    while i < words.len() {
        sum += u64::from(words[i]);
        i += 1;
    }
    sum
}

/// Folds a sum to 16 bits.
#[must_use]
#[inline(always)]
pub fn fold(mut sum: u64) -> u16 {
    sum = (sum & 0xffff_ffff) + (sum >> 32);
    sum = (sum & 0xffff_ffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// Sum of bytes that start at an even offset of the segment; an odd last byte is padded with zero.
#[must_use]
pub fn sum_bytes(bytes: &[u8]) -> u16 {
    let (pairs, rest) = bytes.as_chunks::<2>();
    let mut sum: u64 = pairs.iter().map(|pair| u64::from(u16::from_ne_bytes(*pair))).sum();
    if let [last] = rest {
        sum += u64::from(u16::from_ne_bytes([*last, 0]));
    }
    fold(sum)
}

/// The TCP or UDP checksum (as it stands in the header, network order in memory) of a segment
/// whose own checksum field is zero, with the pseudo header of RFC 9293 3.1 or RFC 8200 8.1.
#[must_use]
pub fn transport(source: &[u8], destination: &[u8], protocol: u8, segment: &[u8]) -> [u8; 2] {
    let length = (segment.len() as u64 & 0xffff) as u16;
    let sum = u64::from(sum_bytes(source))
        + u64::from(sum_bytes(destination))
        + u64::from(u16::from_ne_bytes([0, protocol]))
        + u64::from(u16::from_ne_bytes(length.to_be_bytes()))
        + u64::from(sum_bytes(segment));
    (!fold(sum)).to_ne_bytes()
}

/// Whether the checksum of a packet's transport segment is right, whose bytes, checksum included,
/// have the sum `segment`.
#[must_use]
#[inline(always)]
pub fn is_right(packet: &Packet, segment: u32) -> bool {
    let length = packet.end.saturating_sub(u32::from(packet.transport)) as u16;
    // The prefix of a mapped address adds 0xffff, which is zero.
    let sum = sum_words(&packet.source)
        + sum_words(&packet.destination)
        + u64::from(u16::from_ne_bytes([0, packet.protocol]))
        + u64::from(length.to_be())
        + u64::from(segment);
    fold(sum) == 0xffff
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::{mapped, words};
    use proptest::prelude::*;

    #[test]
    fn rfc1071_example() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(sum_bytes(&bytes).to_ne_bytes(), [0xdd, 0xf2]);
    }

    proptest! {
        #[test]
        fn a_checksum_is_right_until_a_bit_changes(
            ends: ([u8; 16], [u8; 16]), is_v4: bool, mut segment in proptest::collection::vec(any::<u8>(), 20..80),
            at: usize, bit in 0u8..8,
        ) {
            let address = |a: [u8; 16]| if is_v4 { mapped([a[0], a[1], a[2], a[3]]) } else { a };
            let shown = |a: &[u8; 16]| if is_v4 { a[12..].to_vec() } else { a.to_vec() };
            let (source, destination) = (address(ends.0), address(ends.1));
            segment[16..18].fill(0);
            let sum = transport(&shown(&source), &shown(&destination), 6, &segment);
            segment[16..18].copy_from_slice(&sum);
            let packet = Packet {
                source: words(source),
                destination: words(destination),
                protocol: 6,
                transport: 54,
                end: 54 + u32::try_from(segment.len()).unwrap(),
                ..Packet::default()
            };
            prop_assert!(is_right(&packet, sum_bytes(&segment).into()));
            let at = at % segment.len();
            segment[at] ^= 1 << bit;
            prop_assert!(!is_right(&packet, sum_bytes(&segment).into()));
        }
    }

    #[test]
    fn words_and_bytes_agree() {
        let bytes: Vec<u8> = (0..40u8).map(|b| b.wrapping_mul(73)).collect();
        let words: Vec<u32> = bytes.as_chunks().0.iter().map(|c| u32::from_ne_bytes(*c)).collect();
        assert_eq!(fold(sum_words(&words)), sum_bytes(&bytes));
    }
}
