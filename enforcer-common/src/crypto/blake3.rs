//! BLAKE3's keyed hash of one block of at most 64 bytes (BLAKE3 paper, sections 2.2 and 2.3): a
//! single compression, which yields both MACs of a handshake.

/// Words of a key.
pub const KEY_WORDS: usize = 8;
/// Words of a block.
pub const BLOCK_WORDS: usize = 16;

const IV: [u32; 4] = [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a];
const CHUNK_START: u32 = 1;
const CHUNK_END: u32 = 2;
const ROOT: u32 = 8;
const KEYED_HASH: u32 = 16;

/// The 32 bytes (as little-endian words) of `keyed_hash(key, block[..length])`.
///
/// `key` and `block` are little-endian words; the block is zero behind `length`, which is at most
/// 64 bytes.
#[inline(always)]
#[must_use]
pub fn keyed_block(key: &[u32; KEY_WORDS], block: &[u32; BLOCK_WORDS], length: u32) -> [u32; 8] {
    let mut v = [
        key[0],
        key[1],
        key[2],
        key[3],
        key[4],
        key[5],
        key[6],
        key[7],
        IV[0],
        IV[1],
        IV[2],
        IV[3],
        0,
        0,
        length,
        CHUNK_START | CHUNK_END | ROOT | KEYED_HASH,
    ];
    round(&mut v, block, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
    round(&mut v, block, [2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8]);
    round(&mut v, block, [3, 4, 10, 12, 13, 2, 7, 14, 6, 5, 9, 0, 11, 15, 8, 1]);
    round(&mut v, block, [10, 7, 12, 9, 14, 3, 13, 15, 4, 0, 11, 2, 5, 8, 1, 6]);
    round(&mut v, block, [12, 13, 9, 11, 15, 10, 14, 8, 7, 2, 5, 3, 0, 1, 6, 4]);
    round(&mut v, block, [9, 14, 11, 5, 8, 12, 15, 1, 13, 3, 0, 10, 2, 6, 4, 7]);
    round(&mut v, block, [11, 15, 5, 0, 1, 9, 8, 6, 14, 10, 2, 12, 3, 4, 7, 13]);
    [
        v[0] ^ v[8],
        v[1] ^ v[9],
        v[2] ^ v[10],
        v[3] ^ v[11],
        v[4] ^ v[12],
        v[5] ^ v[13],
        v[6] ^ v[14],
        v[7] ^ v[15],
    ]
}

/// One round; `s` is the message schedule of that round (the permutation applied repeatedly).
#[inline(always)]
fn round(v: &mut [u32; 16], m: &[u32; BLOCK_WORDS], s: [usize; 16]) {
    mix(v, [0, 4, 8, 12], m[s[0]], m[s[1]]);
    mix(v, [1, 5, 9, 13], m[s[2]], m[s[3]]);
    mix(v, [2, 6, 10, 14], m[s[4]], m[s[5]]);
    mix(v, [3, 7, 11, 15], m[s[6]], m[s[7]]);
    mix(v, [0, 5, 10, 15], m[s[8]], m[s[9]]);
    mix(v, [1, 6, 11, 12], m[s[10]], m[s[11]]);
    mix(v, [2, 7, 8, 13], m[s[12]], m[s[13]]);
    mix(v, [3, 4, 9, 14], m[s[14]], m[s[15]]);
}

// The names of the paper.
#[allow(clippy::many_single_char_names)]
#[inline(always)]
fn mix(v: &mut [u32; 16], [a, b, c, d]: [usize; 4], x: u32, y: u32) {
    v[a] = v[a].wrapping_add(v[b]).wrapping_add(x);
    v[d] = (v[d] ^ v[a]).rotate_right(16);
    v[c] = v[c].wrapping_add(v[d]);
    v[b] = (v[b] ^ v[c]).rotate_right(12);
    v[a] = v[a].wrapping_add(v[b]).wrapping_add(y);
    v[d] = (v[d] ^ v[a]).rotate_right(8);
    v[c] = v[c].wrapping_add(v[d]);
    v[b] = (v[b] ^ v[c]).rotate_right(7);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn equals_the_blake3_crate(key: [u8; 32], data in proptest::collection::vec(any::<u8>(), 0..=64)) {
            let mut words = [0u32; BLOCK_WORDS];
            let mut padded = [0u8; 64];
            padded[..data.len()].copy_from_slice(&data);
            for (word, bytes) in words.iter_mut().zip(padded.as_chunks().0) {
                *word = u32::from_le_bytes(*bytes);
            }
            let mut key_words = [0u32; KEY_WORDS];
            for (word, bytes) in key_words.iter_mut().zip(key.as_chunks().0) {
                *word = u32::from_le_bytes(*bytes);
            }
            let ours = keyed_block(&key_words, &words, u32::try_from(data.len()).unwrap());
            let theirs = blake3::keyed_hash(&key, &data);
            let ours: Vec<u8> = ours.iter().flat_map(|w| w.to_le_bytes()).collect();
            prop_assert_eq!(&ours[..], &theirs.as_bytes()[..]);
        }
    }
}
