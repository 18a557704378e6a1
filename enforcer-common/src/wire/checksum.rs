//! The Internet checksum (RFC 1071), incremental (RFC 1624). Sums are of native 16-bit words in
//! memory order: one's complement addition does not care about byte order, as long as all agree.

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc1071_example() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(sum_bytes(&bytes).to_ne_bytes(), [0xdd, 0xf2]);
    }

    #[test]
    fn words_and_bytes_agree() {
        let bytes: Vec<u8> = (0..40u8).map(|b| b.wrapping_mul(73)).collect();
        let words: Vec<u32> = bytes.as_chunks().0.iter().map(|c| u32::from_ne_bytes(*c)).collect();
        assert_eq!(fold(sum_words(&words)), sum_bytes(&bytes));
    }
}
