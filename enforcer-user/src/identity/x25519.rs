//! X25519 (RFC 7748) by the quickest means the processor has: verified assembly (s2n-bignum, through
//! `graviola`) where its instructions are there, else portable code. Both give the same bytes for every
//! input, so which one ran is no property of a key.

use graviola::key_agreement::x25519;
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

/// The shared secret, or `None` when it is all zero: `peer` is a point of low order (RFC 7748 6.1).
/// Both are 32 bytes, little endian.
pub(super) fn agree(secret: &StaticSecret, peer: &[u8; 32]) -> Option<Zeroizing<[u8; 32]>> {
    // The library ends the process where an instruction that it needs is missing.
    if graviola::util::is_cpu_supported() {
        by_assembly(secret, peer)
    } else {
        portably(secret, peer)
    }
}

/// Keys and secrets erase themselves when dropped.
fn by_assembly(secret: &StaticSecret, peer: &[u8; 32]) -> Option<Zeroizing<[u8; 32]>> {
    let secret = x25519::StaticPrivateKey::from_array(secret.as_bytes());
    // Its only error is the secret that is all zero.
    let shared = secret.diffie_hellman(&x25519::PublicKey::from_array(peer)).ok()?;
    Some(Zeroizing::new(shared.0))
}

fn portably(secret: &StaticSecret, peer: &[u8; 32]) -> Option<Zeroizing<[u8; 32]>> {
    let shared = secret.diffie_hellman(&PublicKey::from(*peer));
    shared.was_contributory().then(|| Zeroizing::new(shared.to_bytes()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn same(secret: [u8; 32], peer: [u8; 32]) -> Option<[u8; 32]> {
        let secret = StaticSecret::from(secret);
        let portable = portably(&secret, &peer).map(|shared| *shared);
        assert_eq!(agree(&secret, &peer).map(|shared| *shared), portable, "{peer:02x?}");
        portable
    }

    fn bytes(hex: &str) -> [u8; 32] {
        let byte = |n: usize| u8::from_str_radix(&hex[2 * n..2 * n + 2], 16).unwrap();
        std::array::from_fn(byte)
    }

    #[test]
    fn the_vectors_of_the_standard_hold() {
        // RFC 7748 5.2.
        for (secret, peer, shared) in [
            (
                "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
                "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
                "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
            ),
            (
                "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
                "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
                "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
            ),
        ] {
            assert_eq!(same(bytes(secret), bytes(peer)), Some(bytes(shared)));
        }
    }

    /// What the field's edges and the masked bit make of a coordinate.
    #[test]
    fn both_ways_agree_at_the_edges() {
        let p_low = 0xed_u8;
        for secret in [[0; 32], [0xff; 32], [0x55; 32], [1; 32]] {
            for low in 0..=u8::MAX {
                // Around 0, around p = 2^255 - 19, around 2^255 and around 2^256.
                for (fill, high) in [(0, 0), (0xff, 0x7f), (0, 0x80), (0xff, 0xff)] {
                    let mut peer = [fill; 32];
                    (peer[0], peer[31]) = (low, high);
                    let shared = same(secret, peer);
                    let u = (fill, low);
                    let least = u == (0, 0) || u == (0, 1);
                    let around = u.0 == 0xff && (p_low - 1..=p_low + 1).contains(&low);
                    assert_eq!(shared.is_none(), least || around, "{peer:02x?}");
                }
            }
        }
    }

    #[test]
    fn both_ways_refuse_points_of_order_eight() {
        for point in [
            "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
            "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
            "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b880",
            "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f11d7",
        ] {
            assert_eq!(same([7; 32], bytes(point)), None, "{point}");
        }
    }

    proptest! {
        #[test]
        fn both_ways_agree(secret: [u8; 32], peer: [u8; 32]) {
            prop_assert!(same(secret, peer).is_some());
        }
    }
}
