//! Making credentials for this node's own workloads.

use std::collections::BTreeMap;
use std::fmt::Write;

use thiserror::Error;
use zeroize::Zeroizing;

use super::certificate::NodeCertificate;
use super::claims::{NameError, is_trust_domain};
use super::credential::{
    Binding, Credential, MAX_CREDENTIAL_BYTES, MAX_LIFETIME_SECONDS, first_eight, handle, hash,
    identity_id,
};
use super::envelope::{Envelope, Kind};
use super::keys::{AgreementKey, NoRandomness, PresharedKey, SigningKey, random};
use super::payload::MAX_LABELS;
use super::validity::Validity;
use super::{Identity, Namespace};

/// Why a workload got no credential.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum IssueError {
    /// The node key is not the certificate's.
    #[error(
        "the node key does not belong to the certificate of node {node:?}: the certificate must be issued from a request made with this key"
    )]
    ForeignKey {
        /// The certificate's node.
        node: String,
    },
    /// The trust domain is not one.
    #[error(transparent)]
    Name(#[from] NameError),
    /// No key could be made.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
    /// The identity belongs to another trust domain than this node.
    #[error("workload {id}: this node signs for trust domain {expected:?} only")]
    TrustDomain {
        /// The workload's SPIFFE ID.
        id: String,
        /// The node's trust domain.
        expected: String,
    },
    /// The identity's namespace is not among those of the node certificate.
    #[error(
        "workload {id}: the certificate of node {node:?} allows {allowed} only; ask for one with --namespace {namespace}"
    )]
    NamespaceOutside {
        /// The workload's SPIFFE ID.
        id: String,
        /// The workload's namespace.
        namespace: Namespace,
        /// The node's name.
        node: String,
        /// The namespaces it may sign for, comma separated.
        allowed: String,
    },
    /// The credential would be too large for one handshake segment.
    #[error(
        "workload {id}: its credential has {bytes} bytes, {limit} are allowed; shorten or drop labels or attributes: {labels}"
    )]
    TooLarge {
        /// The workload's SPIFFE ID.
        id: String,
        /// The size it would have.
        bytes: usize,
        /// The size that is allowed.
        limit: usize,
        /// Each label with the bytes it takes, the largest first.
        labels: String,
    },
    /// The workload is thought to be on another node than the one whose certificate this is.
    #[error(
        "workload {id}: it is known with its node's labels {known:?}, and the certificate of node {node:?} has {certified:?}; restart the daemon"
    )]
    NodeLabels {
        /// The workload's SPIFFE ID.
        id: String,
        /// The node's name.
        node: String,
        /// The labels that the identity has for its node.
        known: BTreeMap<String, String>,
        /// The labels that the authority signed.
        certified: BTreeMap<String, String>,
    },
    /// More labels than any verifier reads.
    #[error("workload {id}: {count} labels; at most {MAX_LABELS} travel in a credential")]
    TooManyLabels {
        /// The workload's SPIFFE ID.
        id: String,
        /// How many it has.
        count: usize,
    },
    /// No lifetime, or one that every verifier refuses.
    #[error("credential lifetime {0} s: expected 1 to {MAX_LIFETIME_SECONDS}")]
    Lifetime(u64),
    /// The node certificate does not count now.
    #[error(
        "the certificate of node {node:?} counts from {validity}, now is {now}: renew it with `enforcer ca issue-node`"
    )]
    NodeUntimely {
        /// The node's name.
        node: String,
        /// When its certificate counts.
        validity: Validity,
        /// The time asked for, unix seconds.
        now: u64,
    },
}

/// How long and how large a credential may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Life in seconds, at most [`MAX_LIFETIME_SECONDS`].
    pub lifetime_seconds: u64,
    /// Size in bytes with the node certificate, at most [`MAX_CREDENTIAL_BYTES`].
    pub max_bytes: usize,
}

/// The secret behind a local credential.
#[derive(Debug)]
pub(super) enum LocalSecret {
    Pki(AgreementKey),
    Psk(PresharedKey),
}

/// A credential of a workload on this node, with the secret that goes with it.
#[derive(Debug)]
pub struct LocalCredential {
    bytes: Vec<u8>,
    hash: [u8; 32],
    identity: Identity,
    identity_id: u64,
    validity: Validity,
    pub(super) secret: LocalSecret,
}

impl LocalCredential {
    /// What travels in S1 and S2.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// BLAKE3 over the bytes.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        self.hash
    }

    /// The first 8 bytes of the hash.
    #[must_use]
    pub fn handle(&self) -> [u8; 8] {
        handle(&self.hash)
    }

    /// Whom it speaks for.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The number of that identity.
    #[must_use]
    pub fn identity_id(&self) -> u64 {
        self.identity_id
    }

    /// First second at which it counts, unix seconds.
    #[must_use]
    pub fn not_before(&self) -> u64 {
        self.validity.not_before
    }

    /// First second at which it no longer counts, unix seconds; also the end of its X25519 key.
    #[must_use]
    pub fn not_after(&self) -> u64 {
        self.validity.not_after
    }
}

#[derive(Debug)]
struct NodeSigner {
    key: SigningKey,
    certificate: NodeCertificate,
}

/// Signs for the workloads of this node.
#[derive(Debug)]
pub struct Issuer(Signer);

#[derive(Debug)]
enum Signer {
    Node(Box<NodeSigner>),
    Psk { key: PresharedKey, trust_domain: String },
}

impl Issuer {
    /// PKI mode: with the node key and its certificate.
    pub fn node(key: SigningKey, certificate: NodeCertificate) -> Result<Self, IssueError> {
        if key.public() == certificate.public_key() {
            Ok(Self(Signer::Node(Box::new(NodeSigner { key, certificate }))))
        } else {
            Err(IssueError::ForeignKey { node: certificate.node().to_owned() })
        }
    }

    /// Pre-shared key mode, for any namespace of one trust domain.
    pub fn psk(key: PresharedKey, trust_domain: &str) -> Result<Self, IssueError> {
        if is_trust_domain(trust_domain) {
            Ok(Self(Signer::Psk { key, trust_domain: trust_domain.to_owned() }))
        } else {
            Err(NameError::TrustDomain(trust_domain.to_owned()).into())
        }
    }

    /// Makes a credential for `identity` that counts from `now` (unix seconds), with a fresh key. It ends with
    /// the node certificate if that is sooner than its lifetime.
    pub fn issue(
        &self,
        identity: &Identity,
        now: u64,
        limits: Limits,
    ) -> Result<LocalCredential, IssueError> {
        self.issue_with(identity, now, limits, &Zeroizing::new(random()?))
    }

    /// As [`Self::issue`], with the 32 random bytes given: the X25519 secret, or the id in the first 8 of them.
    pub(super) fn issue_with(
        &self,
        identity: &Identity,
        now: u64,
        limits: Limits,
        fresh: &[u8; 32],
    ) -> Result<LocalCredential, IssueError> {
        self.check_identity(identity)?;
        let validity = self.validity(now, limits.lifetime_seconds)?;
        let (bytes, secret) = self.seal(identity, validity, fresh);
        check_size(identity, bytes.len(), limits.max_bytes)?;
        Ok(LocalCredential {
            hash: hash(&bytes),
            identity: identity.clone(),
            identity_id: identity_id(identity),
            validity,
            secret,
            bytes,
        })
    }

    fn check_identity(&self, identity: &Identity) -> Result<(), IssueError> {
        let id = identity.spiffe_id();
        if identity.trust_domain() != self.trust_domain() {
            return Err(IssueError::TrustDomain { id, expected: self.trust_domain().to_owned() });
        }
        if identity.labels().len() > MAX_LABELS {
            return Err(IssueError::TooManyLabels { id, count: identity.labels().len() });
        }
        self.check_node(identity)?;
        match &self.0 {
            Signer::Node(node)
                if !node.certificate.allows(identity.namespace())
                    && !cfg!(feature = "mutate-issued-namespace") =>
            {
                let certificate = &node.certificate;
                let allowed: Vec<&str> =
                    certificate.namespaces().iter().map(Namespace::as_str).collect();
                Err(IssueError::NamespaceOutside {
                    id,
                    namespace: identity.namespace().clone(),
                    node: certificate.node().to_owned(),
                    allowed: allowed.join(", "),
                })
            }
            _ => Ok(()),
        }
    }

    /// What a policy reads here of the node must be what peers read in its certificate.
    fn check_node(&self, identity: &Identity) -> Result<(), IssueError> {
        if identity.node_labels() == self.node_labels() {
            return Ok(());
        }
        Err(IssueError::NodeLabels {
            id: identity.spiffe_id(),
            node: self.certificate().map_or("", NodeCertificate::node).to_owned(),
            known: identity.node_labels().clone(),
            certified: self.node_labels().clone(),
        })
    }

    fn validity(&self, now: u64, lifetime_seconds: u64) -> Result<Validity, IssueError> {
        if lifetime_seconds == 0 || lifetime_seconds > MAX_LIFETIME_SECONDS {
            return Err(IssueError::Lifetime(lifetime_seconds));
        }
        let wanted = Validity { not_before: now, not_after: now.saturating_add(lifetime_seconds) };
        let Signer::Node(node) = &self.0 else { return Ok(wanted) };
        let certificate = &node.certificate;
        let outer = certificate.validity();
        let validity = Validity {
            not_before: wanted.not_before.max(outer.not_before),
            not_after: wanted.not_after.min(outer.not_after),
        };
        if outer.check(now).is_err() || validity.seconds() == 0 {
            let node = certificate.node().to_owned();
            return Err(IssueError::NodeUntimely { node, validity: outer, now });
        }
        Ok(validity)
    }

    fn seal(
        &self,
        identity: &Identity,
        validity: Validity,
        fresh: &[u8; 32],
    ) -> (Vec<u8>, LocalSecret) {
        let envelope = |kind, binding| {
            let payload = Credential { identity: identity.clone(), validity, binding }.payload();
            Envelope { kind, key_id: None, payload }
        };
        match &self.0 {
            Signer::Node(node) => {
                let agreement = AgreementKey::from_bytes(fresh);
                let binding = Binding::Agreement(agreement.public());
                let mut bytes = envelope(Kind::CredentialPki, binding).sign(&node.key);
                bytes.extend_from_slice(node.certificate.bytes());
                (bytes, LocalSecret::Pki(agreement))
            }
            Signer::Psk { key, .. } => {
                let binding = Binding::Id(first_eight(fresh));
                let envelope = envelope(Kind::CredentialPsk, binding);
                let bytes = envelope.encode(&key.tag(&envelope.to_be_sealed()));
                (bytes, LocalSecret::Psk(key.clone()))
            }
        }
    }

    /// The trust domain it signs for.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        match &self.0 {
            Signer::Node(node) => node.certificate.trust_domain(),
            Signer::Psk { trust_domain, .. } => trust_domain,
        }
    }

    /// The labels of this node, as its authority signed them; none under a pre-shared key.
    #[must_use]
    pub fn node_labels(&self) -> &BTreeMap<String, String> {
        static NONE: BTreeMap<String, String> = BTreeMap::new();
        self.certificate().map_or(&NONE, NodeCertificate::labels)
    }

    /// The node certificate, in PKI mode.
    #[must_use]
    pub fn certificate(&self) -> Option<&NodeCertificate> {
        match &self.0 {
            Signer::Node(node) => Some(&node.certificate),
            Signer::Psk { .. } => None,
        }
    }
}

fn check_size(identity: &Identity, bytes: usize, limit: usize) -> Result<(), IssueError> {
    let limit = limit.min(MAX_CREDENTIAL_BYTES);
    if bytes <= limit {
        return Ok(());
    }
    let id = identity.spiffe_id();
    Err(IssueError::TooLarge { id, bytes, limit, labels: label_sizes(identity) })
}

/// `key=value (bytes)`, the largest first: what to shorten.
fn label_sizes(identity: &Identity) -> String {
    let attributes =
        identity.attributes().iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let labels = identity.labels().iter().map(|(key, value)| (key.as_str(), value.as_str()));
    let mut labels: Vec<(usize, &str, &str)> = labels
        .chain(attributes)
        .map(|(key, value)| (text_size(key) + text_size(value), key, value))
        .collect();
    labels.sort_by(|a, b| b.cmp(a));
    let mut text = String::new();
    for (bytes, key, value) in labels {
        let separator = if text.is_empty() { "" } else { ", " };
        // Writing to a String cannot fail.
        let _ = write!(text, "{separator}{key}={value} ({bytes} bytes)");
    }
    if text.is_empty() { "it has none, so its names are too long".to_owned() } else { text }
}

/// A CBOR text string's head is one byte, or two from 24 bytes on; none is longer than 255.
fn text_size(text: &str) -> usize {
    text.len() + if text.len() < 24 { 1 } else { 2 }
}
