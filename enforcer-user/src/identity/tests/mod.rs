//! The whole way of a credential: issued, verified, paired; and every way it must be refused.

mod certificate;
mod issue;
mod pair;
mod refused;
mod refused_vectors;
mod secrets;
mod vectors;
mod verify;

use std::collections::BTreeMap;

use super::keys::AgreementKey;
use super::{
    Authority, Identity, Issuer, Limits, LocalCredential, Namespace, NodeCertificate, NodeGrant,
    NodeRequest, PresharedKey, SigningKey, Trust, Verifier,
};

pub(super) const NOW: u64 = 1_700_000_000;
pub(super) const DAY: u64 = 86_400;
pub(super) const TRUST_DOMAIN: &str = "example.org";
pub(super) const LIMITS: Limits = Limits { lifetime_seconds: 3600, max_bytes: 1120 };

pub(super) fn namespace(path: &str) -> Namespace {
    path.parse().unwrap()
}

pub(super) fn identity(path: &str) -> Identity {
    let labels = BTreeMap::from([("tier".to_owned(), "front".to_owned())]);
    Identity::new(TRUST_DOMAIN, namespace(path), "web", labels).unwrap()
}

/// An authority, a node of it that may sign for `/acme/prod`, and a verifier that trusts it.
pub(super) struct Pki {
    pub authority: Authority,
    pub node_seed: [u8; 32],
    pub certificate: NodeCertificate,
    pub issuer: Issuer,
    pub verifier: Verifier,
}

impl Pki {
    pub fn new() -> Self {
        Self::with_authority(authority(1))
    }

    pub fn with_authority(authority: Authority) -> Self {
        Self::with_labels(authority, &[])
    }

    /// The same with a node of these labels.
    pub fn with_labels(authority: Authority, labels: &[(&str, &str)]) -> Self {
        let node_seed = [2; 32];
        let certificate = certificate(&authority, &node_seed, ("/acme/prod", labels), DAY);
        let issuer = Issuer::node(SigningKey::from_seed(&node_seed), certificate.clone()).unwrap();
        let trust = Trust::pki(TRUST_DOMAIN, vec![authority.certificate().clone()]).unwrap();
        Self { authority, node_seed, certificate, issuer, verifier: Verifier::new(trust) }
    }

    pub fn issue(&self, agreement: [u8; 32]) -> LocalCredential {
        self.issuer.issue_with(&identity("/acme/prod/shop"), NOW, LIMITS, &agreement).unwrap()
    }
}

pub(super) fn authority(seed: u8) -> Authority {
    let key = SigningKey::from_seed(&[seed; 32]);
    Authority::init_with_key(key, TRUST_DOMAIN, NOW - DAY, 30 * DAY).unwrap()
}

pub(super) fn certificate(
    authority: &Authority,
    node_seed: &[u8; 32],
    (path, labels): (&str, &[(&str, &str)]),
    lifetime_seconds: u64,
) -> NodeCertificate {
    let request = NodeRequest::new("node-1", &SigningKey::from_seed(node_seed)).unwrap();
    let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    let granted = NodeGrant { namespaces: &[namespace(path)], labels: &labels.collect() };
    authority.issue_node_granted(&request, &granted, NOW, lifetime_seconds).unwrap()
}

pub(super) fn preshared_key(first: u8) -> PresharedKey {
    PresharedKey::from_bytes(&std::array::from_fn(|n| {
        first.wrapping_add(u8::try_from(n * n % 251).unwrap())
    }))
    .unwrap()
}

pub(super) fn psk_pair() -> (Issuer, Verifier) {
    let issuer = Issuer::psk(preshared_key(3), TRUST_DOMAIN).unwrap();
    (issuer, Verifier::new(Trust::psk(TRUST_DOMAIN, preshared_key(3)).unwrap()))
}

pub(super) fn psk_credential(issuer: &Issuer, id: u8) -> LocalCredential {
    issuer.issue_with(&identity("/acme"), NOW, LIMITS, &[id; 32]).unwrap()
}
