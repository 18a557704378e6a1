//! Credentials that carry a true signature, or nearly, and must be refused all the same.

use proptest::prelude::*;

use super::*;
use crate::identity::credential::{Binding, Credential};
use crate::identity::envelope::{Envelope, KEY_ID_BYTES, Kind, open};
use crate::identity::payload::Payload;
use crate::identity::{Validity, VerifyError};

/// A credential with claims that no honest issuer would sign, under a true node signature.
pub(super) fn forged(pki: &Pki, change: impl FnOnce(&mut Credential)) -> Vec<u8> {
    let mut credential = Credential {
        identity: identity("/acme/prod/shop"),
        validity: Validity { not_before: NOW, not_after: NOW + 3600 },
        binding: Binding::Agreement(AgreementKey::from_bytes(&[5; 32]).public()),
    };
    change(&mut credential);
    sealed(pki, None, credential.payload())
}

fn sealed(pki: &Pki, key_id: Option<[u8; KEY_ID_BYTES]>, payload: Payload) -> Vec<u8> {
    let envelope = Envelope { kind: Kind::CredentialPki, key_id, payload };
    let mut bytes = envelope.sign(&SigningKey::from_seed(&pki.node_seed));
    bytes.extend_from_slice(pki.certificate.bytes());
    bytes
}

fn reason(pki: &Pki, bytes: &[u8]) -> &'static str {
    pki.verifier.verify(bytes, NOW).expect_err("a credential was accepted").reason()
}

#[test]
fn the_forge_itself_makes_good_credentials() {
    let pki = Pki::new();
    assert_eq!(forged(&pki, |_| ()), pki.issue([5; 32]).bytes());
    assert!(pki.verifier.verify(&forged(&pki, |_| ()), NOW).is_ok());
}

#[test]
fn a_node_signs_only_for_its_namespaces_by_segment() {
    let pki = Pki::new();
    let within = |path| forged(&pki, |credential| credential.identity = identity(path));
    assert!(pki.verifier.verify(&within("/acme/prod"), NOW).is_ok());
    for path in ["/acme/production", "/acme", "/", "/acme/pro", "/other/acme/prod"] {
        assert_eq!(reason(&pki, &within(path)), "namespace_outside", "{path}");
    }
}

#[test]
fn an_hour_is_the_longest_life() {
    let pki = Pki::new();
    let bytes = forged(&pki, |credential| credential.validity.not_after = NOW + 3601);
    assert_eq!(reason(&pki, &bytes), "lifetime_too_long");
    let bytes = forged(&pki, |credential| credential.validity.not_after = NOW);
    assert_eq!(reason(&pki, &bytes), "malformed");
}

#[test]
fn a_credential_counts_only_while_its_node_certificate_does() {
    let pki = Pki::new();
    let early = Validity { not_before: NOW - 1, not_after: NOW + 10 };
    let bytes = forged(&pki, |credential| credential.validity = early);
    assert_eq!(reason(&pki, &bytes), "validity_outside");
    let late = Validity { not_before: NOW + DAY - 10, not_after: NOW + DAY + 1 };
    let bytes = forged(&pki, |credential| credential.validity = late);
    let refused = pki.verifier.verify(&bytes, NOW + DAY - 5).unwrap_err();
    assert_eq!(refused.reason(), "validity_outside");
}

#[test]
fn claims_and_headers_beyond_those_of_a_credential_are_refused() {
    let pki = Pki::new();
    let payload = || open(Kind::CredentialPki, &forged(&pki, |_| ())).unwrap().envelope.payload;
    let namespaces = Payload { namespaces: vec![namespace("/acme")], ..payload() };
    assert_eq!(reason(&pki, &sealed(&pki, None, namespaces)), "malformed");
    assert_eq!(reason(&pki, &sealed(&pki, Some([1; 8]), payload())), "malformed");
    let id = Payload { key: None, id: Some([7; 8]), ..payload() };
    assert_eq!(reason(&pki, &sealed(&pki, None, id)), "malformed");
}

#[test]
fn a_signature_counts_for_its_purpose_only() {
    let pki = Pki::new();
    let payload = open(Kind::CredentialPki, &forged(&pki, |_| ())).unwrap().envelope.payload;
    for kind in [Kind::NodeCertificate, Kind::NodeRequest, Kind::AuthorityCertificate] {
        let envelope = Envelope { kind, key_id: None, payload: payload.clone() };
        let mut bytes = envelope.sign(&SigningKey::from_seed(&pki.node_seed));
        bytes.extend_from_slice(pki.certificate.bytes());
        assert_eq!(reason(&pki, &bytes), "bad_signature", "{kind:?}");
    }
}

#[test]
fn a_node_certificate_signed_by_the_node_itself_is_refused() {
    let pki = Pki::new();
    let own = Authority::new(SigningKey::from_seed(&[1; 32]), pki.authority.certificate().clone())
        .unwrap();
    let good = certificate(&own, &pki.node_seed, ("/", &[]), DAY);
    let opened = open(Kind::NodeCertificate, good.bytes()).unwrap();
    let forged_certificate = opened.envelope.sign(&SigningKey::from_seed(&pki.node_seed));
    let credential = open(Kind::CredentialPki, &forged(&pki, |_| ())).unwrap();
    let mut bytes = credential.envelope.encode(&credential.seal);
    bytes.extend_from_slice(&forged_certificate);
    let refused = pki.verifier.verify(&bytes, NOW).unwrap_err();
    let expected = VerifyError::BadSignature(crate::identity::verify::Part::NodeCertificate);
    assert_eq!(refused, expected);
}

#[test]
fn every_changed_byte_is_refused_with_the_node_known_or_not() {
    let pki = Pki::new();
    let good = pki.issue([5; 32]);
    for warm in [false, true] {
        if warm {
            pki.verifier.verify(good.bytes(), NOW).unwrap();
        }
        for at in 0..good.bytes().len() {
            for flip in [0x01, 0x20, 0x80, 0xff] {
                let mut bad = good.bytes().to_vec();
                bad[at] ^= flip;
                let verified = pki.verifier.verify(&bad, NOW);
                assert!(verified.is_err(), "byte {at} ^ {flip:#x} was accepted, warm: {warm}");
            }
        }
    }
}

#[test]
fn every_changed_byte_of_a_psk_credential_is_refused() {
    let (issuer, verifier) = psk_pair();
    let good = psk_credential(&issuer, 7);
    for at in 0..good.bytes().len() {
        for flip in 1..=255 {
            let mut bad = good.bytes().to_vec();
            bad[at] ^= flip;
            assert!(verifier.verify(&bad, NOW).is_err(), "byte {at} ^ {flip:#x} was accepted");
        }
    }
}

#[test]
fn truncated_extended_and_doubled_bytes_are_refused() {
    let pki = Pki::new();
    let good = pki.issue([5; 32]);
    for len in 0..good.bytes().len() {
        assert!(pki.verifier.verify(&good.bytes()[..len], NOW).is_err(), "{len} bytes");
    }
    let extended = [good.bytes(), &[0]].concat();
    assert_eq!(reason(&pki, &extended), "not_canonical");
    assert!(pki.verifier.verify(&good.bytes().repeat(2), NOW).is_err());
    assert_eq!(reason(&pki, &vec![0xd2; 1121]), "too_large");
    let (issuer, verifier) = psk_pair();
    let extended = [psk_credential(&issuer, 7).bytes(), &[0]].concat();
    assert_eq!(verifier.verify(&extended, NOW).unwrap_err().reason(), "not_canonical");
}

/// Other byte forms of the same claims, each under a true signature over exactly those bytes.
#[test]
fn other_encodings_are_refused_even_when_truly_signed() {
    let pki = Pki::new();
    let good = open(Kind::CredentialPki, &forged(&pki, |_| ())).unwrap().envelope;
    let payload = good.payload.encode();
    let after_map = |count: u8| [&[0xa0 | count][..], &payload[1..]].concat();
    let exp = payload.windows(2).position(|pair| pair == [0x04, 0x1a]).unwrap();
    let long_exp = [&payload[..=exp], &[0x1b, 0, 0, 0, 0], &payload[exp + 2..]].concat();
    let swapped = {
        let mut swapped = payload.clone();
        swapped[exp..exp + 12].rotate_left(6);
        swapped
    };
    let indefinite = [&[0xbf][..], &payload[1..], &[0xff]].concat();
    let repeated =
        [&after_map((payload[0] & 0x1f) + 1)[..], &payload[payload.len() - 1..]].concat();
    for (name, payload) in [
        ("time in eight bytes", long_exp),
        ("exp after nbf", swapped),
        ("map of indefinite length", indefinite),
        ("one entry too many", repeated),
        ("a byte after the claims", [&payload[..], &[0x00]].concat()),
    ] {
        let bytes = signed_as_is(&pki, &[0xa1, 0x01, 0x27], &[0xa0], &payload);
        let reason = reason(&pki, &bytes);
        assert!(["not_canonical", "malformed"].contains(&reason), "{name}: {reason}");
    }
    let bytes = signed_as_is(&pki, &[0xa1, 0x01, 0x38, 0x07], &[0xa0], &payload);
    assert_eq!(reason(&pki, &bytes), "not_canonical");
    let bytes = signed_as_is(&pki, &[0xa1, 0x01, 0x27], &[0xa1, 0x04, 0x41, 0x00], &payload);
    assert_eq!(reason(&pki, &bytes), "not_canonical");
    let plain = signed_as_is(&pki, &[0xa1, 0x01, 0x27], &[0xa0], &payload);
    assert!(pki.verifier.verify(&plain, NOW).is_ok(), "the forge of this test is broken");
}

/// COSE_Sign1 by hand: the signature is true for whatever bytes are given.
pub(super) fn signed_as_is(
    pki: &Pki,
    protected: &[u8],
    unprotected: &[u8],
    payload: &[u8],
) -> Vec<u8> {
    let string = |bytes: &[u8]| {
        let len = u8::try_from(bytes.len()).unwrap();
        let head = if len < 24 { vec![0x40 | len] } else { vec![0x58, len] };
        [&head[..], bytes].concat()
    };
    let aad = b"enforcer 1 credential pki";
    let signed =
        [&b"\x84\x6aSignature1"[..], &string(protected), &string(aad), &string(payload)].concat();
    let signature = SigningKey::from_seed(&pki.node_seed).sign(&signed);
    [
        &[0xd2, 0x84][..],
        &string(protected),
        unprotected,
        &string(payload),
        &string(&signature),
        pki.certificate.bytes(),
    ]
    .concat()
}

proptest! {
    #[test]
    fn arbitrary_bytes_neither_panic_nor_verify(bytes in prop::collection::vec(any::<u8>(), 0..1200)) {
        let (pki, (_, psk)) = (Pki::new(), psk_pair());
        prop_assert!(pki.verifier.verify(&bytes, NOW).is_err());
        prop_assert!(psk.verify(&bytes, NOW).is_err());
    }

    #[test]
    fn spliced_credentials_neither_panic_nor_verify(
        at in 0usize..400, drop in 0usize..8, insert in prop::collection::vec(any::<u8>(), 0..8),
    ) {
        let pki = Pki::new();
        let good = pki.issue([5; 32]);
        let mut bytes = good.bytes().to_vec();
        let at = at % bytes.len();
        let end = (at + drop).min(bytes.len());
        bytes.splice(at..end, insert);
        prop_assert_eq!(pki.verifier.verify(&bytes, NOW).is_ok(), bytes == good.bytes());
    }
}
