//! `tests/vectors/refused.json`: one credential for each reason of refusal, by the authority of `credential_pki.json`.

use serde_json::{Value, json};

use super::refused::{forged, signed_as_is};
use super::vectors::{bytes, compare, hex, read};
use super::*;
use crate::identity::Validity;
use crate::identity::certificate::AuthorityCertificate;
use crate::identity::envelope::{Kind, open};

struct Case {
    name: &'static str,
    reason: &'static str,
    now: u64,
    credential: Vec<u8>,
}

fn case(name: &'static str, reason: &'static str, credential: Vec<u8>) -> Case {
    Case { name, reason, now: NOW, credential }
}

fn cases(pki: &Pki) -> Vec<Case> {
    let good = forged(pki, |_| ());
    let mut cases = untrusted(pki, &good);
    cases.extend(claimed(pki));
    cases.extend(encoded(pki, &good));
    cases.push(Case { now: NOW + 3600, ..case("at its end", "expired", good.clone()) });
    cases.push(Case { now: NOW - 31, ..case("31 s early", "not_yet_valid", good) });
    cases
}

/// Not signed by whom it should be.
fn untrusted(pki: &Pki, good: &[u8]) -> Vec<Case> {
    let other = Pki::with_authority(authority(9));
    let foreign = SigningKey::from_seed(&[1; 32]);
    let foreign = Authority::init_with_key(foreign, "example.net", NOW - DAY, 30 * DAY).unwrap();
    let at = |n: usize| {
        let mut bad = good.to_vec();
        bad[n] ^= 1;
        bad
    };
    let split = good.len() - pki.certificate.bytes().len();
    let foreign = certificate(&foreign, &pki.node_seed, ("/acme/prod", &[]), DAY);
    vec![
        case("another authority", "wrong_authority", forged(&other, |_| ())),
        case("credential's signature changed", "bad_signature", at(split - 1)),
        case("node certificate's signature changed", "bad_signature", at(good.len() - 1)),
        case(
            "node of another trust domain",
            "trust_domain",
            [&good[..split], foreign.bytes()].concat(),
        ),
        case(
            "pre-shared key mode",
            "wrong_mode",
            psk_credential(&psk_pair().0, 0x11).bytes().to_vec(),
        ),
    ]
}

/// Truly signed by the node, which may not say so.
fn claimed(pki: &Pki) -> Vec<Case> {
    let valid = |not_before, not_after| {
        forged(pki, |claims| claims.validity = Validity { not_before, not_after })
    };
    let outside = forged(pki, |claims| claims.identity = identity("/acme/production"));
    vec![
        case("namespace with the same beginning", "namespace_outside", outside),
        case("3601 s", "lifetime_too_long", valid(NOW, NOW + 3601)),
        case("before its node certificate", "validity_outside", valid(NOW - 1, NOW + 60)),
        case("ends when it starts", "malformed", valid(NOW, NOW)),
    ]
}

/// Truly signed, but in another byte form.
fn encoded(pki: &Pki, good: &[u8]) -> Vec<Case> {
    const PROTECTED: &[u8] = &[0xa1, 0x01, 0x27];
    let payload = open(Kind::CredentialPki, good).unwrap().envelope.payload.encode();
    let exp = payload.windows(2).position(|pair| pair == [0x04, 0x1a]).unwrap();
    let long = [&payload[..=exp], &[0x1b, 0, 0, 0, 0], &payload[exp + 2..]].concat();
    let mut swapped = payload.clone();
    swapped[exp..exp + 12].rotate_left(6);
    let indefinite = [&[0xbf][..], &payload[1..], &[0xff]].concat();
    let as_is = |payload: &[u8]| signed_as_is(pki, PROTECTED, &[0xa0], payload);
    let unprotected = signed_as_is(pki, PROTECTED, &[0xa1, 0x04, 0x41, 0x00], &payload);
    vec![
        case("exp in eight bytes", "not_canonical", as_is(&long)),
        case("exp after nbf", "not_canonical", as_is(&swapped)),
        case("map of indefinite length", "not_canonical", as_is(&indefinite)),
        case("unprotected header", "not_canonical", unprotected),
        case("a byte behind", "not_canonical", [good, &[0]].concat()),
        case(
            "no node certificate",
            "malformed",
            good[..good.len() - pki.certificate.bytes().len()].to_vec(),
        ),
        case("1121 bytes", "too_large", [good, &vec![0; 1121 - good.len()]].concat()),
    ]
}

#[test]
fn refused_vectors_are_what_the_code_makes() {
    let cases = cases(&Pki::new());
    let cases: Vec<Value> = cases
        .iter()
        .map(|case| {
            json!({
                "name": case.name,
                "reason": case.reason,
                "now": case.now,
                "credential": hex(&case.credential),
            })
        })
        .collect();
    let made = json!({
        "description": "Credentials that a verifier which trusts the authority of credential_pki.json refuses at time now, with the reason.",
        "refused": cases,
    });
    compare("refused.json", &made);
}

#[test]
fn refused_vectors_are_refused_for_their_reason() {
    let authority = bytes(&read("credential_pki.json")["authority"]["certificate"]);
    let authority = AuthorityCertificate::parse(&authority).unwrap();
    let verifier = Verifier::new(Trust::pki(TRUST_DOMAIN, vec![authority]).unwrap());
    let vectors = read("refused.json");
    let vectors = vectors["refused"].as_array().unwrap();
    assert!(vectors.len() >= 18, "only {} vectors", vectors.len());
    for vector in vectors {
        let refused =
            verifier.verify(&bytes(&vector["credential"]), vector["now"].as_u64().unwrap());
        let reason = refused.expect_err("a vector was accepted").reason();
        assert_eq!(reason, vector["reason"], "{}", vector["name"]);
    }
}
