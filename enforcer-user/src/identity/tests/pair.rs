use super::*;
use crate::identity::{PairError, Proof, VerifiedCredential, pair_keys};

fn verified(verifier: &Verifier, local: &LocalCredential) -> VerifiedCredential {
    verifier.verify(local.bytes(), NOW).unwrap()
}

#[test]
fn both_ends_compute_the_same_keys() {
    let pki = Pki::new();
    let (psk_issuer, psk_verifier) = psk_pair();
    for (a, b, verifier) in [
        (pki.issue([5; 32]), pki.issue([6; 32]), &pki.verifier),
        (psk_credential(&psk_issuer, 5), psk_credential(&psk_issuer, 6), &psk_verifier),
    ] {
        let at_a = pair_keys(&a, &verified(verifier, &b)).unwrap();
        let at_b = pair_keys(&b, &verified(verifier, &a)).unwrap();
        assert_eq!(at_a.as_initiator, at_b.as_responder);
        assert_eq!(at_a.as_responder, at_b.as_initiator);
        assert_ne!(at_a.as_initiator, at_a.as_responder);
    }
}

#[test]
fn a_key_belongs_to_exactly_two_credentials() {
    let pki = Pki::new();
    let (a, b, c) = (pki.issue([5; 32]), pki.issue([6; 32]), pki.issue([7; 32]));
    let with_b = pair_keys(&a, &verified(&pki.verifier, &b)).unwrap();
    let with_c = pair_keys(&a, &verified(&pki.verifier, &c)).unwrap();
    assert_ne!(with_b.as_initiator, with_c.as_initiator);
    let mut renamed = verified(&pki.verifier, &b);
    renamed.hash[31] ^= 1;
    assert_ne!(pair_keys(&a, &renamed).unwrap().as_initiator, with_b.as_initiator);
}

#[test]
fn low_order_points_give_no_key() {
    let pki = Pki::new();
    let a = pki.issue([5; 32]);
    // u = 0, 1, p - 1, p, p + 1 and the two points of order 8 (RFC 7748 4.1, p = 2^255 - 19).
    for point in [
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    ] {
        let x: Vec<u8> =
            (0..64).step_by(2).map(|n| u8::from_str_radix(&point[n..n + 2], 16).unwrap()).collect();
        let mut peer = verified(&pki.verifier, &pki.issue([6; 32]));
        let Proof::Pki { x25519, .. } = &mut peer.proof else { panic!("not PKI") };
        *x25519 = x.try_into().unwrap();
        assert_eq!(pair_keys(&a, &peer).unwrap_err(), PairError::LowOrder, "{point}");
    }
}

#[test]
fn modes_do_not_mix() {
    let pki = Pki::new();
    let (psk_issuer, psk_verifier) = psk_pair();
    let (signed, keyed) = (pki.issue([5; 32]), psk_credential(&psk_issuer, 7));
    let (signed_peer, keyed_peer) =
        (verified(&pki.verifier, &signed), verified(&psk_verifier, &keyed));
    assert_eq!(pair_keys(&signed, &keyed_peer).unwrap_err(), PairError::Mode);
    assert_eq!(pair_keys(&keyed, &signed_peer).unwrap_err(), PairError::Mode);
}

#[test]
fn debug_shows_no_pair_key() {
    let (issuer, verifier) = psk_pair();
    let (a, b) = (psk_credential(&issuer, 5), psk_credential(&issuer, 6));
    let keys = pair_keys(&a, &verified(&verifier, &b)).unwrap();
    let text = format!("{keys:?}");
    assert_eq!(text.matches("redacted").count(), 2);
    assert!(!text.contains(&format!("{}", keys.as_initiator.as_bytes()[0])));
    assert!(format!("{a:?}").contains("PresharedKey(redacted)"));
}
