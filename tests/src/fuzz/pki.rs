//! One authority, one node and one pre-shared key from seeds that everybody may know, so that the
//! fuzzer's inputs can be sealed, and the same input always gives the same bytes.

use std::sync::LazyLock;

use enforcer_user::identity::envelope::{Envelope, Kind};
use enforcer_user::identity::payload::{Payload, PublicKey};
use enforcer_user::identity::{
    Authority, AuthorityCertificate, NodeCertificate, NodeRequest, PresharedKey, SigningKey, Trust,
    Verifier,
};

/// When everything here counts, unix seconds.
pub const NOW: u64 = 1_700_000_000;
/// Seconds of a day.
pub const DAY: u64 = 86_400;
/// The authority's trust domain.
pub const TRUST_DOMAIN: &str = "example.org";
/// The node may sign for it and what is below.
pub const NAMESPACE: &str = "/acme/prod";

/// The parties.
#[derive(Debug)]
pub struct Pki {
    /// Signs for nodes.
    pub authority: Authority,
    /// The node's key.
    pub node_key: SigningKey,
    /// The node's certificate.
    pub node: NodeCertificate,
    /// Trusts the authority.
    pub verifier: Verifier,
    /// Trusts the pre-shared key.
    pub psk_verifier: Verifier,
}

/// The parties, made once.
pub static PKI: LazyLock<Pki> = LazyLock::new(Pki::new);

impl Pki {
    fn new() -> Self {
        let authority = authority();
        let node_key = SigningKey::from_seed(&[2; 32]);
        let request = NodeRequest::new("node-1", &node_key).expect("a plain name");
        let namespaces = [NAMESPACE.parse().expect("a namespace")];
        let node = authority.issue_node(&request, &namespaces, NOW, DAY).expect("within its time");
        let certificates = vec![authority.certificate().clone()];
        let trust = Trust::pki(TRUST_DOMAIN, certificates).expect("one authority");
        let psk_trust = Trust::psk(TRUST_DOMAIN, preshared_key()).expect("one key");
        let (verifier, psk_verifier) = (Verifier::new(trust), Verifier::new(psk_trust));
        Self { authority, node_key, node, verifier, psk_verifier }
    }
}

/// The key of the test vectors.
#[must_use]
pub fn preshared_key() -> PresharedKey {
    let bytes =
        std::array::from_fn(|n| 3_u8.wrapping_add(u8::try_from(n * n % 251).expect("< 251")));
    PresharedKey::from_bytes(&bytes).expect("not patterned")
}

/// An authority's certificate with these claims, signed by its own key.
#[must_use]
pub fn authority_certificate(seed: &[u8; 32], trust_domain: &str, times: (u64, u64)) -> Vec<u8> {
    let key = SigningKey::from_seed(seed);
    let name = format!("spiffe://{trust_domain}");
    let hash = blake3::derive_key("enforcer 1 authority key id", &key.public());
    let envelope = Envelope {
        kind: Kind::AuthorityCertificate,
        key_id: hash.first_chunk().copied(),
        payload: Payload {
            issuer: Some(name.clone()),
            subject: Some(name),
            key: Some(PublicKey::Ed25519(key.public())),
            not_before: Some(times.0),
            expires: Some(times.1),
            ..Payload::default()
        },
    };
    envelope.sign(&key)
}

fn authority() -> Authority {
    let seed = [1; 32];
    let bytes = authority_certificate(&seed, TRUST_DOMAIN, (NOW - DAY, NOW + 29 * DAY));
    let certificate = AuthorityCertificate::parse(&bytes).expect("an authority's certificate");
    Authority::new(SigningKey::from_seed(&seed), certificate).expect("its own key")
}
