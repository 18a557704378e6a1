//! The COSE envelope and the claims in it.

use enforcer_user::identity::Namespace;
use enforcer_user::identity::cbor::deterministic_item;
use enforcer_user::identity::envelope::{Envelope, Kind, open};
use enforcer_user::identity::payload::{Payload, PublicKey};

use super::feed::Feed;

/// `data` is an envelope, claims, and fields of an envelope that reads back.
pub fn run(data: &[u8]) {
    for kind in Kind::ALL {
        accepted(kind, data);
    }
    if let Ok(payload) = Payload::decode(data) {
        assert_eq!(Payload::decode(&payload.encode()), Ok(payload));
    }
    reads_back(Feed::new(data));
}

/// What is opened has one byte form: the one that came.
pub fn accepted(kind: Kind, data: &[u8]) {
    let Ok(opened) = open(kind, data) else { return };
    let bytes = &data[..opened.len];
    assert_eq!(opened.envelope.encode(&opened.seal), bytes);
    assert_eq!(deterministic_item(&bytes[1..]), Ok(bytes.len() - 1));
    let again = open(kind, bytes).expect("what follows was not looked at");
    assert_eq!((again.envelope, again.seal), (opened.envelope, opened.seal));
    assert!(open(kind, &bytes[..bytes.len() - 1]).is_err());
    let others = Kind::ALL.into_iter().filter(|other| is_mac(*other) != is_mac(kind));
    for other in others {
        assert!(open(other, bytes).is_err(), "{other:?} taken for {kind:?}");
    }
}

fn is_mac(kind: Kind) -> bool {
    kind == Kind::CredentialPsk
}

fn reads_back(mut feed: Feed<'_>) {
    let kind = feed.choose(&Kind::ALL);
    let key_id = feed.flag().then(|| feed.array());
    let envelope = Envelope { kind, key_id, payload: payload(&mut feed) };
    let seal = feed.bytes(70).to_vec();
    let mut bytes = envelope.encode(&seal);
    let length = bytes.len();
    bytes.extend(feed.rest());
    let opened = open(kind, &bytes).unwrap_or_else(|error| panic!("{envelope:?}: {error}"));
    assert_eq!((opened.envelope, opened.seal, opened.len), (envelope, seal, length));
}

/// Any claims that the form can say.
pub fn payload(feed: &mut Feed<'_>) -> Payload {
    let present = feed.byte();
    let has = |bit: u8| present & bit != 0;
    let mut namespaces: Vec<Namespace> =
        (0..feed.byte() % 4).filter_map(|_| feed.text(24).parse().ok()).collect();
    namespaces.sort();
    namespaces.dedup();
    Payload {
        issuer: has(1).then(|| feed.text(64)),
        subject: has(2).then(|| feed.text(64)),
        expires: has(4).then(|| feed.u64()),
        not_before: has(8).then(|| feed.u64()),
        id: has(16).then(|| feed.array()),
        key: has(32).then(|| key(feed)),
        labels: feed.labels(),
        namespaces,
        attributes: feed.labels(),
    }
}

fn key(feed: &mut Feed<'_>) -> PublicKey {
    if feed.flag() { PublicKey::Ed25519(feed.array()) } else { PublicKey::X25519(feed.array()) }
}
