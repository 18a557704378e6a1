//! The claims of a workload's credential, and the names derived from its bytes.
//!
//! A credential travels as one COSE message, or two back to back (an RFC 8742 sequence):
//!
//! ```text
//! PKI: COSE_Sign1(credential, by the node key) || COSE_Sign1(node certificate, by the authority)
//! PSK: COSE_Mac0(credential, under the key derived from the pre-shared key)
//! ```
//!
//! Namespace and name have no claims of their own: the SPIFFE ID in `sub` holds both, and a second
//! copy could only disagree.

use std::collections::BTreeMap;

pub use enforcer_common::abi::MAX_CREDENTIAL_BYTES;

use super::Identity;
use super::cbor::EncodingError::{self, Malformed};
use super::cbor::{write_head, write_text};
use super::contexts;
use super::payload::{Payload, PublicKey};
use super::provenance::{Attribute, Attributes};
use super::validity::Validity;

/// The longest life of a credential, and so of its X25519 key, in seconds.
pub const MAX_LIFETIME_SECONDS: u64 = 3600;

/// What makes a credential its own: a key in PKI mode, a random id under a pre-shared key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binding {
    /// The workload's X25519 public key (`cnf`).
    Agreement([u8; 32]),
    /// 8 random bytes (`cti`): without them two replicas could share one credential.
    Id([u8; 8]),
}

/// What a credential says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// Who it speaks for.
    pub identity: Identity,
    /// When it counts.
    pub validity: Validity,
    /// The key or id it is bound to.
    pub binding: Binding,
}

impl Credential {
    pub(super) fn payload(&self) -> Payload {
        let (key, id) = match self.binding {
            Binding::Agreement(x) => (Some(PublicKey::X25519(x)), None),
            Binding::Id(id) => (None, Some(id)),
        };
        self.validity.fill(Payload {
            subject: Some(self.identity.spiffe_id()),
            labels: self.identity.labels().clone(),
            attributes: named(self.identity.attributes()),
            key,
            id,
            ..Payload::default()
        })
    }

    /// Every claim must have its use: one that the credential does not carry on is refused.
    pub(super) fn from_payload(payload: &Payload) -> Result<Self, EncodingError> {
        let subject = payload.subject.as_deref().ok_or(Malformed("sub is missing"))?;
        let identity = Identity::from_spiffe_id(subject, payload.labels.clone())
            .map_err(|_| Malformed("sub is not a workload's SPIFFE ID, or a label is not plain"))?;
        let identity = identity
            .with_attributes(attributes(&payload.attributes)?)
            .map_err(|_| Malformed("an attribute has a value that it cannot have"))?;
        let binding = match (payload.key, payload.id) {
            (Some(PublicKey::X25519(x)), None) => Binding::Agreement(x),
            (None, Some(id)) => Binding::Id(id),
            _ => return Err(Malformed("neither one X25519 key nor one id")),
        };
        let credential = Self { identity, validity: Validity::from_payload(payload)?, binding };
        if credential.payload() == *payload {
            Ok(credential)
        } else {
            Err(Malformed("claims that a credential does not have"))
        }
    }
}

/// Attributes by the names that they travel under.
fn named(attributes: &Attributes) -> BTreeMap<String, String> {
    attributes.iter().map(|(name, value)| (name.to_string(), value.clone())).collect()
}

fn attributes(named: &BTreeMap<String, String>) -> Result<Attributes, EncodingError> {
    let known = |name: &String| Attribute::named(name).ok_or(Malformed("an unknown attribute"));
    named.iter().map(|(name, value)| Ok((known(name)?, value.clone()))).collect()
}

/// BLAKE3 over all bytes of a credential, node certificate included.
#[must_use]
pub fn hash(bytes: &[u8]) -> [u8; 32] {
    blake3::hash(bytes).into()
}

/// The handle of a credential: the first 8 bytes of its hash.
#[must_use]
pub fn handle(hash: &[u8; 32]) -> [u8; 8] {
    first_eight(hash)
}

/// A number for an identity that every node computes alike: the first 8 bytes, little endian, of
/// BLAKE3 derive_key over the deterministic CBOR array `[trust domain, namespace, name, labels]`, or where anything is
/// known of what it runs or of its node, `[trust domain, namespace, name, labels, attributes, node's labels]`.
/// Never 0, which stands for "nobody".
#[must_use]
pub fn identity_id(identity: &Identity) -> u64 {
    let mut claims = Vec::with_capacity(256);
    let known = identity.provenance.as_deref();
    write_head(&mut claims, 4, if known.is_some() { 6 } else { 4 });
    for text in [identity.trust_domain(), identity.namespace().as_str(), identity.name()] {
        write_text(&mut claims, text);
    }
    write_texts(&mut claims, identity.labels());
    if let Some(known) = known {
        write_texts(&mut claims, &named(&known.attributes));
        write_texts(&mut claims, &known.node);
    }
    let digest = blake3::derive_key(contexts::IDENTITY_ID, &claims);
    u64::from_le_bytes(first_eight(&digest)).max(1)
}

/// A CBOR map in deterministic key order.
fn write_texts(out: &mut Vec<u8>, texts: &BTreeMap<String, String>) {
    let mut texts: Vec<(&String, &String)> = texts.iter().collect();
    texts.sort_unstable_by_key(|(key, _)| (key.len(), *key));
    write_head(out, 5, texts.len() as u64);
    for (key, value) in texts {
        write_text(out, key);
        write_text(out, value);
    }
}

pub(super) fn first_eight(digest: &[u8; 32]) -> [u8; 8] {
    digest.first_chunk().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::payload::{encode, texts_value};
    use super::*;

    fn identity(namespace: &str, name: &str, label: &str) -> Identity {
        let labels = BTreeMap::from([("app".to_owned(), label.to_owned())]);
        Identity::new("example.org", namespace.parse().unwrap(), name, labels).unwrap()
    }

    fn one(name: &str, value: &str) -> BTreeMap<String, String> {
        BTreeMap::from([(name.to_owned(), value.to_owned())])
    }

    fn credential(binding: Binding) -> Credential {
        let validity = Validity { not_before: 1000, not_after: 2000 };
        let attributes = Attributes::from([(Attribute::User, "shop".to_owned())]);
        let identity = identity("/acme", "web", "shop").with_attributes(attributes).unwrap();
        Credential { identity, validity, binding }
    }

    #[test]
    fn claims_survive_the_round_trip() {
        for binding in [Binding::Agreement([9; 32]), Binding::Id([7; 8])] {
            let credential = credential(binding);
            assert_eq!(Credential::from_payload(&credential.payload()), Ok(credential));
        }
    }

    #[test]
    fn missing_and_superfluous_claims_are_refused() {
        let good = credential(Binding::Agreement([9; 32])).payload();
        for (name, payload) in [
            ("no subject", Payload { subject: None, ..good.clone() }),
            ("no end", Payload { expires: None, ..good.clone() }),
            ("no start", Payload { not_before: None, ..good.clone() }),
            ("ends before it starts", Payload { expires: Some(1000), ..good.clone() }),
            ("no key", Payload { key: None, ..good.clone() }),
            ("key and id", Payload { id: Some([0; 8]), ..good.clone() }),
            ("a signing key", Payload { key: Some(PublicKey::Ed25519([9; 32])), ..good.clone() }),
            ("an issuer", Payload { issuer: Some("spiffe://example.org".into()), ..good.clone() }),
            ("namespaces", Payload { namespaces: vec!["/acme".parse().unwrap()], ..good.clone() }),
            ("an unknown attribute", Payload { attributes: one("colour", "red"), ..good.clone() }),
            ("an empty image", Payload { attributes: one("image", ""), ..good.clone() }),
            ("no workload", Payload { subject: Some("spiffe://example.org".into()), ..good }),
        ] {
            assert!(Credential::from_payload(&payload).is_err(), "{name} was accepted");
        }
    }

    proptest! {
        #[test]
        fn ids_hash_the_deterministic_form(
            labels in prop::collection::btree_map("[a-z]{1,30}", "[ -~]{0,255}", 0..30),
            image in prop::option::of("[!-~]{1,255}"),
            user in prop::option::of("[!-~]{1,20}"),
            node in prop::collection::btree_map("[a-z]{1,30}", "[ -~]{0,255}", 0..3),
        ) {
            let known = [(Attribute::Image, image), (Attribute::User, user)];
            let attributes: Attributes =
                known.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
            let identity = Identity::new("example.org", "/acme".parse().unwrap(), "web", labels).unwrap();
            let identity = identity.with_attributes(attributes).unwrap().on_node(&node);
            let mut claims = vec![
                "example.org".into(),
                "/acme".into(),
                "web".into(),
                texts_value(identity.labels()),
            ];
            if !identity.attributes().is_empty() || !node.is_empty() {
                claims.extend([texts_value(&named(identity.attributes())), texts_value(&node)]);
            }
            let claims = ciborium::Value::Array(claims);
            let digest = blake3::derive_key(contexts::IDENTITY_ID, &encode(&claims));
            prop_assert_eq!(identity_id(&identity), u64::from_le_bytes(first_eight(&digest)));
        }
    }

    #[test]
    fn equal_claims_have_equal_ids_and_others_do_not() {
        let id = identity_id(&identity("/acme", "web", "shop"));
        assert_eq!(id, identity_id(&identity("/acme", "web", "shop")));
        assert_ne!(id, identity_id(&identity("/acme", "web", "other")));
        assert_ne!(id, identity_id(&identity("/acme/web", "web", "shop")));
    }
}
