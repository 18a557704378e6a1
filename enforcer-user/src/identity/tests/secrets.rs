//! Secrets show themselves nowhere, and are erased where they lie.

use std::fmt::Debug;

use zeroize::ZeroizeOnDrop;

use super::*;
use crate::identity::{PairKey, pair_keys};

/// Any run of four bytes of a secret, as `Debug` would print bytes, or in hexadecimal.
fn shows(text: &str, secret: &[u8]) -> bool {
    let text = text.to_lowercase();
    secret.windows(4).any(|run| {
        let decimal: Vec<String> = run.iter().map(u8::to_string).collect();
        let hexadecimal: Vec<String> = run.iter().map(|byte| format!("{byte:02x}")).collect();
        let dense = text.replace([' ', '\n'], "");
        [decimal.join(","), hexadecimal.join(","), hexadecimal.concat()]
            .iter()
            .any(|shown| dense.contains(shown))
    })
}

fn assert_hidden(name: &str, value: &impl Debug, secret: &[u8]) {
    for text in [format!("{value:?}"), format!("{value:#?}")] {
        assert!(!shows(&text, secret), "{name} shows its secret");
    }
}

#[test]
fn what_would_show_a_secret_is_noticed() {
    let secret: [u8; 32] = std::array::from_fn(|n| u8::try_from(n + 200).unwrap());
    for text in [format!("{secret:?}"), format!("{secret:#?}"), format!("{secret:02x?}")] {
        assert!(shows(&text, &secret), "{text}");
    }
}

#[test]
fn debug_never_shows_a_key_however_deep_it_lies() {
    let seed: [u8; 32] = std::array::from_fn(|n| u8::try_from(n * 7 % 251).unwrap());
    let pki = Pki::with_authority(authority(1));
    let certificate = certificate(&pki.authority, &seed, ("/acme/prod", &[]), DAY);
    let node = SigningKey::from_seed(&seed);
    assert_hidden("SigningKey", &node, &seed);
    assert_hidden("Issuer", &Issuer::node(node, certificate).unwrap(), &seed);
    assert_hidden("AgreementKey", &AgreementKey::from_bytes(&seed), &seed);
    let local = pki.issue(seed);
    assert_hidden("LocalCredential", &local, &seed);
    assert_hidden("Authority", &pki.authority, &[1; 32]);

    let peer = pki.verifier.verify(pki.issue([9; 32]).bytes(), NOW).unwrap();
    let keys = pair_keys(&local, &peer).unwrap();
    assert_hidden("PairKeys", &keys, keys.as_initiator.as_bytes());
    assert_hidden("PairKeys", &keys, keys.as_responder.as_bytes());

    let psk = preshared_key(3);
    let trust = Trust::psk(TRUST_DOMAIN, psk.clone()).unwrap();
    assert_hidden("PresharedKey", &psk, psk.secret());
    assert_hidden("Trust", &trust, psk.secret());
    assert_hidden("Verifier", &Verifier::new(trust), psk.secret());
    let issuer = Issuer::psk(psk.clone(), TRUST_DOMAIN).unwrap();
    assert_hidden("Issuer", &issuer, psk.secret());
    assert_hidden("LocalCredential", &psk_credential(&issuer, 7), psk.secret());
}

/// It does not compile for a type that leaves its bytes behind.
#[test]
fn keys_are_erased_when_dropped() {
    fn erased<T: ZeroizeOnDrop>() {}
    erased::<PairKey>();
    erased::<SigningKey>();
    erased::<AgreementKey>();
    erased::<PresharedKey>();
}
