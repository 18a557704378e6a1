//! Credentials, as they come from the network and as a dishonest node may sign them.

use std::collections::BTreeMap;

use enforcer_user::identity::envelope::{Envelope, Kind, open};
use enforcer_user::identity::payload::{Payload, PublicKey};
use enforcer_user::identity::{
    Attribute, CLOCK_SKEW_SECONDS, Identity, MAX_CREDENTIAL_BYTES, MAX_LIFETIME_SECONDS, Namespace,
    VerifiedCredential, Verifier,
};

use super::envelope::{accepted, payload};
use super::feed::Feed;
use super::pki::{NAMESPACE, NOW, PKI, TRUST_DOMAIN};

/// `data` is a credential as it comes, and claims that the node signs whatever they say.
pub fn run(data: &[u8]) {
    verified(&PKI.verifier, Kind::CredentialPki, data);
    verified(&PKI.psk_verifier, Kind::CredentialPsk, data);
    assert!(PKI.psk_verifier.verify(data, NOW).is_err() || PKI.verifier.verify(data, NOW).is_err());
    let mut feed = Feed::new(data);
    let claims = if feed.flag() { payload(&mut feed) } else { nearly_honest(&mut feed) };
    signed(&claims, feed);
}

/// What must hold of anything that is accepted.
fn verified(verifier: &Verifier, kind: Kind, bytes: &[u8]) -> Option<VerifiedCredential> {
    let found = verifier.verify(bytes, NOW).ok()?;
    assert!(bytes.len() <= MAX_CREDENTIAL_BYTES);
    assert_eq!(found.hash, *blake3::hash(bytes).as_bytes());
    assert_eq!(found.handle, found.hash[..8]);
    assert_ne!(found.identity_id, 0);
    assert_eq!(found.identity.trust_domain(), TRUST_DOMAIN);
    assert!(found.not_before <= NOW + CLOCK_SKEW_SECONDS && NOW < found.not_after);
    assert!(found.not_after - found.not_before <= MAX_LIFETIME_SECONDS);
    assert!(verifier.verify(bytes, found.not_after).is_err(), "it outlives its end");
    let id = found.identity.spiffe_id();
    let read = Identity::from_spiffe_id(&id, found.identity.labels().clone())
        .and_then(|identity| identity.described(&found.identity.description()));
    assert_eq!(read.as_ref(), Ok(&found.identity));
    accepted(kind, bytes);
    assert_eq!(verifier.verify(bytes, NOW).as_ref(), Ok(&found), "judged twice, two answers");
    Some(found)
}

/// Claims near those of a credential, so that each single one is tried alone.
fn nearly_honest(feed: &mut Feed<'_>) -> Payload {
    let namespace =
        feed.choose(&["/acme/prod", "/acme/prod/shop", "/acme", "/acme/production", "/"]);
    let domain = feed.choose(&[TRUST_DOMAIN, TRUST_DOMAIN, TRUST_DOMAIN, "example.net"]);
    let name = feed.text(40);
    let separator = if namespace == "/" { "" } else { "/" };
    let not_before = (NOW - 100).saturating_add_signed(i64::from(feed.u16().cast_signed()) % 200);
    let lifetime = u64::from(feed.u16()) % (MAX_LIFETIME_SECONDS + 100);
    Payload {
        subject: Some(format!("spiffe://{domain}{namespace}{separator}{name}")),
        not_before: Some(not_before),
        expires: Some(not_before + lifetime),
        key: Some(PublicKey::X25519(feed.array())),
        labels: feed.labels(),
        attributes: attributes(feed),
        ..Payload::default()
    }
}

/// Mostly what can be one.
fn attributes(feed: &mut Feed<'_>) -> BTreeMap<String, String> {
    let mut attributes = BTreeMap::new();
    for name in ["image", "user", "executable", "colour"] {
        if feed.byte().is_multiple_of(4) {
            let value =
                if feed.flag() { format!("sha256:{}", "0a".repeat(32)) } else { feed.text(32) };
            attributes.insert(name.to_owned(), value);
        }
    }
    attributes
}

/// A node's signature under any claims: accepted are those that the node may make, and no byte of
/// them can be changed.
fn signed(claims: &Payload, mut feed: Feed<'_>) {
    let envelope = Envelope { kind: Kind::CredentialPki, key_id: None, payload: claims.clone() };
    let mut bytes = envelope.sign(&PKI.node_key);
    bytes.extend(PKI.node.bytes());
    let found = verified(&PKI.verifier, Kind::CredentialPki, &bytes);
    assert_eq!(found.is_some(), may_be_accepted(claims, bytes.len()), "{claims:?}");
    let Some(found) = found else { return };
    assert_eq!(Some(found.identity.spiffe_id()), claims.subject);
    assert_eq!(found.identity.labels(), &claims.labels);
    assert_eq!(found.identity.description(), claims.attributes);
    let damaged = feed.damaged(&bytes).expect("it has bytes");
    assert!(PKI.verifier.verify(&damaged, NOW).is_err(), "damaged and accepted");
    let opened = open(Kind::CredentialPki, &bytes).expect("it was verified");
    assert!(PKI.verifier.verify(&bytes[..opened.len], NOW).is_err(), "without the node");
}

/// The rules of docs/PROTOCOL.md, written down once more.
fn may_be_accepted(claims: &Payload, bytes: usize) -> bool {
    let expected = Payload {
        subject: claims.subject.clone(),
        not_before: claims.not_before,
        expires: claims.expires,
        key: claims.key,
        labels: claims.labels.clone(),
        attributes: claims.attributes.clone(),
        ..Payload::default()
    };
    let (Some(subject), Some(start), Some(end)) =
        (claims.subject.as_deref(), claims.not_before, claims.expires)
    else {
        return false;
    };
    let Ok(identity) = Identity::from_spiffe_id(subject, claims.labels.clone()) else {
        return false;
    };
    if !claims.attributes.iter().all(|(name, value)| is_attribute(name, value)) {
        return false;
    }
    let allowed: Namespace = NAMESPACE.parse().expect("a namespace");
    let node = PKI.node.validity();
    *claims == expected
        && matches!(claims.key, Some(PublicKey::X25519(_)))
        && bytes <= MAX_CREDENTIAL_BYTES
        && identity.trust_domain() == TRUST_DOMAIN
        && allowed.contains(identity.namespace())
        && start < end
        && end - start <= MAX_LIFETIME_SECONDS
        && node.not_before <= start
        && end <= node.not_after
        && start <= NOW + CLOCK_SKEW_SECONDS
        && NOW < end
}

fn is_attribute(name: &str, value: &str) -> bool {
    Attribute::named(name).is_some_and(|attribute| attribute.check(value).is_ok())
}
