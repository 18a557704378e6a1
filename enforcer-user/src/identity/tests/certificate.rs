//! Certificates and requests that carry a true signature and must be refused all the same.

use proptest::prelude::*;

use super::*;
use crate::identity::certificate::{AuthorityCertificate, MAX_CERTIFICATE_BYTES};
use crate::identity::envelope::{Envelope, Kind, open};
use crate::identity::payload::{Payload, PublicKey};
use crate::identity::{Validity, armor};

const AUTHORITY_SEED: [u8; 32] = [1; 32];

/// The node certificate of `pki` with a change, under the authority's true signature.
fn changed(pki: &Pki, change: impl FnOnce(&mut Envelope)) -> Vec<u8> {
    let mut envelope = open(Kind::NodeCertificate, pki.certificate.bytes()).unwrap().envelope;
    change(&mut envelope);
    envelope.sign(&SigningKey::from_seed(&AUTHORITY_SEED))
}

#[test]
fn the_forge_itself_makes_the_good_certificate() {
    let pki = Pki::new();
    assert_eq!(changed(&pki, |_| ()), pki.certificate.bytes());
}

#[test]
fn a_node_certificate_has_its_claims_and_no_others() {
    let pki = Pki::new();
    let refused = |name, change: fn(&mut Payload)| {
        let bytes = changed(&pki, |envelope| change(&mut envelope.payload));
        assert!(NodeCertificate::parse(&bytes).is_err(), "{name} was accepted");
    };
    refused("an id", |payload| payload.id = Some([0; 8]));
    refused("a label with a space", |payload| {
        payload.labels = [("a b".to_owned(), String::new())].into();
    });
    refused("an attribute", |payload| {
        payload.attributes = [("user".to_owned(), "root".to_owned())].into();
    });
    refused("no name", |payload| payload.subject = None);
    refused("a path as name", |payload| payload.subject = Some("a/b".to_owned()));
    refused("no trust domain", |payload| payload.issuer = None);
    refused("a bare trust domain", |payload| payload.issuer = Some(TRUST_DOMAIN.to_owned()));
    refused("no end", |payload| payload.expires = None);
    refused("no key", |payload| payload.key = None);
    refused("an X25519 key", |payload| payload.key = Some(PublicKey::X25519([9; 32])));
    refused("no namespace", |payload| payload.namespaces = vec![]);
    refused("descending namespaces", |payload| {
        payload.namespaces = vec![namespace("/b"), namespace("/a")];
    });
    refused("one namespace twice", |payload| payload.namespaces = vec![namespace("/a"); 2]);
    let anonymous = changed(&pki, |envelope| envelope.key_id = None);
    assert!(NodeCertificate::parse(&anonymous).is_err(), "no key id was accepted");
}

/// With such a key, one signature is good for many messages.
#[test]
fn signing_keys_of_small_order_are_refused() {
    let pki = Pki::new();
    let mut neutral = [0; 32];
    neutral[0] = 1;
    for key in [neutral, [0; 32]] {
        let weak = |envelope: &mut Envelope| envelope.payload.key = Some(PublicKey::Ed25519(key));
        assert!(NodeCertificate::parse(&changed(&pki, weak)).is_err(), "{key:?}");
    }
}

#[test]
fn a_node_certificate_lies_within_its_authoritys_time() {
    let pki = Pki::new();
    let outer = pki.authority.certificate().validity();
    for (not_before, not_after) in
        [(outer.not_before - 1, outer.not_after), (outer.not_before, outer.not_after + 1)]
    {
        let validity = Validity { not_before, not_after };
        let bytes = changed(&pki, |envelope| {
            envelope.payload = validity.fill(envelope.payload.clone());
        });
        let certificate = NodeCertificate::parse(&bytes).unwrap();
        let refused = pki.verifier.verify_node_certificate(&certificate, NOW).unwrap_err();
        assert_eq!(refused.reason(), "validity_outside", "{validity}");
    }
}

#[test]
fn self_signed_forms_have_their_claims_and_no_others() {
    let pki = Pki::new();
    let key = SigningKey::from_seed(&AUTHORITY_SEED);
    let own = pki.authority.certificate().bytes();
    let mut envelope = open(Kind::AuthorityCertificate, own).unwrap().envelope;
    envelope.payload.subject = Some("spiffe://example.net".to_owned());
    assert!(AuthorityCertificate::parse(&envelope.sign(&key)).is_err());
    let mut envelope = open(Kind::AuthorityCertificate, own).unwrap().envelope;
    envelope.key_id = Some([0; 8]);
    assert!(AuthorityCertificate::parse(&envelope.sign(&key)).is_err());
    let request = NodeRequest::new("node-1", &key).unwrap();
    let mut envelope = open(Kind::NodeRequest, request.bytes()).unwrap().envelope;
    envelope.payload.namespaces = vec![namespace("/")];
    assert!(NodeRequest::parse(&envelope.sign(&key)).is_err());
}

proptest! {
    #[test]
    fn arbitrary_files_neither_panic_nor_parse(
        bytes in prop::collection::vec(any::<u8>(), 0..MAX_CERTIFICATE_BYTES + 8), text in any::<String>(),
    ) {
        prop_assert!(AuthorityCertificate::parse(&bytes).is_err());
        prop_assert!(NodeCertificate::parse(&bytes).is_err());
        prop_assert!(NodeRequest::parse(&bytes).is_err());
        prop_assert!(armor::decode(armor::Label::NodeRequest, &text).is_err());
    }
}
