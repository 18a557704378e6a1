//! The verifier: bytes from the network and a time in, an identity or a reason out.
//!
//! Cheap refusals come first and signatures last, so that garbage costs little. It reads no clock
//! and does no I/O; it is `Send + Sync`, so signatures are checked off the thread that moves packets.

use std::sync::Arc;

use super::Identity;
use super::certificate::NodeCertificate;
use super::credential::{
    Binding, Credential, MAX_CREDENTIAL_BYTES, MAX_LIFETIME_SECONDS, handle, hash, identity_id,
};
use super::envelope::{Kind, MAC0_TAG, Opened, SIGN1_TAG, open};
use super::held_once::HeldOnce;
use super::node_cache::NodeCache;
use super::trust::Trust;
use super::validity::{Untimely, Validity};
pub use super::verify_error::{Part, VerifyError};

/// What stands behind a verified credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    /// A node's signature.
    Pki {
        /// The workload's X25519 public key (RFC 7748).
        x25519: [u8; 32],
        /// The certificate of the node that signed, with which the credential ends.
        node: Arc<NodeCertificate>,
    },
    /// The pre-shared key.
    Psk,
}

/// A credential whose every claim holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedCredential {
    /// Whom it speaks for.
    pub identity: Identity,
    /// The number of that identity, alike on every node, never 0.
    pub identity_id: u64,
    /// BLAKE3 over the bytes.
    pub hash: [u8; 32],
    /// The first 8 bytes of the hash.
    pub handle: [u8; 8],
    /// What stands behind it.
    pub proof: Proof,
    /// First second at which it counts, unix seconds.
    pub not_before: u64,
    /// First second at which it no longer counts, unix seconds: the earliest of credential, node and authority certificate.
    pub not_after: u64,
}

impl VerifiedCredential {
    /// The name of the node that signed, in PKI mode.
    #[must_use]
    pub fn node(&self) -> Option<&str> {
        match &self.proof {
            Proof::Pki { node, .. } => Some(node.node()),
            Proof::Psk => None,
        }
    }
}

/// Verifies credentials against one set of trust. A change of trust is a new verifier.
#[derive(Debug)]
pub struct Verifier {
    trust: Trust,
    nodes: NodeCache,
    held_once: HeldOnce,
}

impl Verifier {
    /// A verifier with an empty certificate cache.
    #[must_use]
    pub fn new(trust: Trust) -> Self {
        Self { trust, nodes: NodeCache::default(), held_once: HeldOnce::default() }
    }

    /// The trust domain of everyone it accepts.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        self.trust.domain()
    }

    /// Verifies the bytes of a credential at `now` (unix seconds).
    pub fn verify(&self, bytes: &[u8], now: u64) -> Result<VerifiedCredential, VerifyError> {
        let part = Part::Credential;
        if bytes.len() > MAX_CREDENTIAL_BYTES {
            return Err(VerifyError::TooLarge { part, bytes: bytes.len() });
        }
        match bytes.first() {
            Some(&SIGN1_TAG) if self.trust.accepts_pki() => self.verify_pki(bytes, now),
            Some(&MAC0_TAG) if self.trust.preshared_key().is_some() => self.verify_psk(bytes, now),
            Some(&SIGN1_TAG) => Err(VerifyError::WrongMode("PKI")),
            Some(&MAC0_TAG) => Err(VerifyError::WrongMode("pre-shared key")),
            _ => Err(VerifyError::Malformed { part, what: "not a COSE_Sign1 or COSE_Mac0" }),
        }
    }

    /// Whether this verifier accepts what `before` accepted, times aside, without a look at signatures: these hold as
    /// long as the node's authority has the same key. `None` where they must be checked again.
    #[must_use]
    pub fn accepts_still(&self, before: &Self, verified: &VerifiedCredential) -> Option<bool> {
        let Proof::Pki { node, .. } = &verified.proof else { return None };
        let Some(authority) = self.trust.authority_of(node) else { return Some(false) };
        // Its id is only a part of its key's hash.
        let same = before.trust.authority_of(node)?.verifying_key() == authority.verifying_key();
        if !same {
            return None;
        }
        let domains = [verified.identity.trust_domain(), node.trust_domain()];
        let accepted = domains.iter().all(|domain| *domain == self.trust.domain())
            && node.validity().within(&authority.validity())
            && self.check_revoked(&verified.identity, &verified.hash, Some(&node.hash())).is_ok();
        if accepted {
            self.nodes.learn(node);
        }
        Some(accepted)
    }

    /// Judges a node certificate alone: this node's own, before it signs with it.
    pub fn verify_node_certificate(
        &self,
        certificate: &NodeCertificate,
        now: u64,
    ) -> Result<(), VerifyError> {
        self.node_certificate(certificate.bytes(), now)?.confirm().map(drop)
    }

    fn verify_pki(&self, bytes: &[u8], now: u64) -> Result<VerifiedCredential, VerifyError> {
        let (credential, opened) = read(Kind::CredentialPki, bytes)?;
        let Binding::Agreement(x25519) = credential.binding else {
            return Err(malformed("no X25519 key"));
        };
        let candidate = self.node_certificate(bytes.get(opened.len..).unwrap_or_default(), now)?;
        let node = &candidate.certificate;
        let hash = hash(bytes);
        check_under_node(&credential, node)?;
        self.check_claims(&credential, now)?;
        self.check_revoked(&credential.identity, &hash, Some(&node.hash()))?;
        let node = candidate.confirm()?;
        if !opened.signed_by(node.verifying_key()) && !cfg!(feature = "mutate-signature") {
            return Err(VerifyError::BadSignature(Part::Credential));
        }
        Ok(self.verified(credential, hash, Proof::Pki { x25519, node }))
    }

    fn verify_psk(&self, bytes: &[u8], now: u64) -> Result<VerifiedCredential, VerifyError> {
        let (credential, opened) = read(Kind::CredentialPsk, bytes)?;
        if opened.len != bytes.len() {
            let (part, what) = (Part::Credential, "bytes after the end");
            return Err(VerifyError::NotCanonical { part, what });
        }
        if !matches!(credential.binding, Binding::Id(_)) {
            return Err(malformed("no id"));
        }
        let hash = hash(bytes);
        self.check_claims(&credential, now)?;
        self.check_revoked(&credential.identity, &hash, None)?;
        let key = self.trust.preshared_key().ok_or(VerifyError::WrongMode("pre-shared key"))?;
        if !key.tag_matches(&opened.sealed, &opened.seal) {
            return Err(VerifyError::BadSignature(Part::Credential));
        }
        Ok(self.verified(credential, hash, Proof::Psk))
    }

    fn check_claims(&self, credential: &Credential, now: u64) -> Result<(), VerifyError> {
        let part = Part::Credential;
        self.check_trust_domain(part, credential.identity.trust_domain())?;
        let seconds = credential.validity.seconds();
        if seconds > MAX_LIFETIME_SECONDS {
            return Err(VerifyError::LifetimeTooLong(seconds));
        }
        timely(part, credential.validity, now)
    }

    fn check_trust_domain(&self, part: Part, found: &str) -> Result<(), VerifyError> {
        if found == self.trust.domain() {
            Ok(())
        } else {
            Err(VerifyError::TrustDomain { part, found: found.to_owned() })
        }
    }

    fn check_revoked(
        &self,
        identity: &Identity,
        credential: &[u8; 32],
        node: Option<&[u8; 32]>,
    ) -> Result<(), VerifyError> {
        let revoked = &self.trust.revocations;
        let by = if revoked.covers_credential(credential) {
            "its credential"
        } else if node.is_some_and(|node| revoked.node_certificates.contains(node)) {
            "its node's certificate"
        } else if revoked.covers_namespace(identity) {
            "its namespace"
        } else {
            return Ok(());
        };
        Err(VerifyError::Revoked { id: identity.spiffe_id(), by })
    }

    /// Everything about a node certificate but its signature, which a cached one has passed already.
    fn node_certificate(&self, bytes: &[u8], now: u64) -> Result<Candidate<'_>, VerifyError> {
        let hash = hash(bytes);
        let (certificate, unproven) = if let Some(known) = self.nodes.find(&hash) {
            (known, None)
        } else {
            let (certificate, opened) =
                NodeCertificate::open(bytes).map_err(VerifyError::certificate)?;
            (Arc::new(certificate), Some(opened))
        };
        self.check_trust_domain(Part::NodeCertificate, certificate.trust_domain())?;
        let authority = self
            .trust
            .authority_of(&certificate)
            .ok_or_else(|| VerifyError::WrongAuthority { node: certificate.node().to_owned() })?;
        // Lying within the authority's time and counting now, it needs no other check of that time.
        let validity = certificate.validity();
        if !validity.within(&authority.validity()) {
            return Err(VerifyError::ValidityOutside { part: Part::NodeCertificate, validity });
        }
        timely(Part::NodeCertificate, validity, now)?;
        let unproven = unproven.map(|opened| (opened, *authority.verifying_key()));
        Ok(Candidate { certificate, unproven, nodes: &self.nodes })
    }

    /// Each validity lies within the one above it, so the credential's own end is the earliest.
    fn verified(&self, credential: Credential, hash: [u8; 32], proof: Proof) -> VerifiedCredential {
        let mut identity = credential.identity;
        if let Proof::Pki { node, .. } = &proof {
            identity = identity.on_node(node.labels());
        }
        self.held_once.share(&mut identity);
        VerifiedCredential {
            identity_id: identity_id(&identity),
            handle: handle(&hash),
            hash,
            proof,
            not_before: credential.validity.not_before,
            not_after: credential.validity.not_after,
            identity,
        }
    }
}

/// A node certificate whose claims hold; its signature is checked only once the credential's claims hold too.
struct Candidate<'a> {
    certificate: Arc<NodeCertificate>,
    unproven: Option<(Opened, ed25519_dalek::VerifyingKey)>,
    nodes: &'a NodeCache,
}

impl Candidate<'_> {
    fn confirm(self) -> Result<Arc<NodeCertificate>, VerifyError> {
        if let Some((opened, authority)) = self.unproven {
            if !opened.signed_by(&authority) {
                return Err(VerifyError::BadSignature(Part::NodeCertificate));
            }
            self.nodes.insert(Arc::clone(&self.certificate));
        }
        Ok(self.certificate)
    }
}

fn read(kind: Kind, bytes: &[u8]) -> Result<(Credential, Opened), VerifyError> {
    let refused = |error| VerifyError::encoding(Part::Credential, error);
    let opened = open(kind, bytes).map_err(refused)?;
    if opened.envelope.key_id.is_some() {
        return Err(malformed("a key id, which a credential does not have"));
    }
    let credential = Credential::from_payload(&opened.envelope.payload).map_err(refused)?;
    Ok((credential, opened))
}

fn check_under_node(credential: &Credential, node: &NodeCertificate) -> Result<(), VerifyError> {
    let validity = credential.validity;
    if !node.allows(credential.identity.namespace()) && !cfg!(feature = "mutate-namespace") {
        let (node, id) = (node.node().to_owned(), credential.identity.spiffe_id());
        return Err(VerifyError::NamespaceOutside { node, id });
    }
    if !validity.within(&node.validity()) {
        return Err(VerifyError::ValidityOutside { part: Part::Credential, validity });
    }
    Ok(())
}

fn timely(part: Part, validity: Validity, now: u64) -> Result<(), VerifyError> {
    validity.check(now).map_err(|untimely| match untimely {
        Untimely::Expired => VerifyError::Expired { part, validity, now },
        Untimely::NotYet => VerifyError::NotYetValid { part, validity, now },
    })
}

fn malformed(what: &'static str) -> VerifyError {
    VerifyError::Malformed { part: Part::Credential, what }
}
