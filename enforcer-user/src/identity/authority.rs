//! What an authority does: begin one, and sign nodes' requests.

use std::collections::BTreeMap;

use thiserror::Error;
use zeroize::Zeroizing;

use super::Namespace;
use super::certificate::{
    AuthorityCertificate, CertificateError, MAX_CERTIFICATE_BYTES, NodeCertificate, NodeClaims,
    NodeRequest,
};
use super::claims::{NameError, check_label, is_trust_domain};
use super::keys::{NoRandomness, SigningKey};
use super::payload::{MAX_LABELS, MAX_NAMESPACES};
use super::validity::{Untimely, Validity};

/// Why an authority did not begin or did not sign.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AuthorityError {
    /// The trust domain is not one.
    #[error(transparent)]
    Name(#[from] NameError),
    /// No key could be made.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
    /// A certificate that the authority itself would not accept.
    #[error("certificate: {0}")]
    Certificate(#[from] CertificateError),
    /// The key is not the certificate's.
    #[error(
        "the authority key does not belong to the authority certificate of spiffe://{trust_domain}; both must come from one `enforcer ca init`"
    )]
    ForeignKey {
        /// The certificate's trust domain.
        trust_domain: String,
    },
    /// A lifetime of nothing.
    #[error("lifetime 0 s: a certificate must count for at least one second")]
    NoLifetime,
    /// The authority certificate does not count now.
    #[error(
        "the authority certificate counts from {0}, now is {1}: begin a new authority with `enforcer ca init`"
    )]
    Untimely(Validity, u64),
    /// None, or too many namespaces.
    #[error(
        "{0} namespaces: a node certificate names 1 to {MAX_NAMESPACES}; use --namespace, / for all"
    )]
    Namespaces(usize),
    /// Too many labels.
    #[error("{0} labels: a node certificate has at most {MAX_LABELS}")]
    Labels(usize),
    /// The claims do not fit.
    #[error(
        "the certificate of node {node:?} would have {bytes} bytes; at most {MAX_CERTIFICATE_BYTES} are allowed: name fewer namespaces, or one above them, and fewer labels"
    )]
    TooLarge {
        /// The node's name.
        node: String,
        /// The size it would have.
        bytes: usize,
    },
}

/// What an authority lets a node be.
#[derive(Debug, Clone, Copy)]
pub struct NodeGrant<'a> {
    /// It may sign for these, and for all below them.
    pub namespaces: &'a [Namespace],
    /// What policies may read of it: its zone, for example.
    pub labels: &'a BTreeMap<String, String>,
}

/// An authority: its key with its certificate.
#[derive(Debug)]
pub struct Authority {
    key: SigningKey,
    certificate: AuthorityCertificate,
}

impl Authority {
    /// Begins an authority for `trust_domain` with a fresh key, valid for `lifetime_seconds` from `now` (unix seconds).
    pub fn init(
        trust_domain: &str,
        now: u64,
        lifetime_seconds: u64,
    ) -> Result<Self, AuthorityError> {
        Self::init_with_key(SigningKey::generate()?, trust_domain, now, lifetime_seconds)
    }

    pub(super) fn init_with_key(
        key: SigningKey,
        trust_domain: &str,
        now: u64,
        lifetime_seconds: u64,
    ) -> Result<Self, AuthorityError> {
        if !is_trust_domain(trust_domain) {
            return Err(NameError::TrustDomain(trust_domain.to_owned()).into());
        }
        let validity = starting_at(now, lifetime_seconds)?;
        let bytes = AuthorityCertificate::issue(&key, trust_domain, validity);
        Ok(Self { certificate: AuthorityCertificate::parse(&bytes)?, key })
    }

    /// Takes up an authority from its stored parts.
    pub fn new(key: SigningKey, certificate: AuthorityCertificate) -> Result<Self, AuthorityError> {
        if key.public() == certificate.public_key() {
            Ok(Self { key, certificate })
        } else {
            let trust_domain = certificate.trust_domain().to_owned();
            Err(AuthorityError::ForeignKey { trust_domain })
        }
    }

    /// Signs a node's request for `namespaces` (and all below them), as [`Self::issue_node_granted`] does, without labels.
    pub fn issue_node(
        &self,
        request: &NodeRequest,
        namespaces: &[Namespace],
        now: u64,
        lifetime_seconds: u64,
    ) -> Result<NodeCertificate, AuthorityError> {
        let granted = NodeGrant { namespaces, labels: &BTreeMap::new() };
        self.issue_node_granted(request, &granted, now, lifetime_seconds)
    }

    /// Signs a node's request for what it is `granted`. The certificate counts from `now` (unix seconds) for
    /// `lifetime_seconds`, but no longer than the authority's own.
    pub fn issue_node_granted(
        &self,
        request: &NodeRequest,
        granted: &NodeGrant<'_>,
        now: u64,
        lifetime_seconds: u64,
    ) -> Result<NodeCertificate, AuthorityError> {
        let mut namespaces = granted.namespaces.to_vec();
        namespaces.sort();
        namespaces.dedup();
        if namespaces.is_empty() || namespaces.len() > MAX_NAMESPACES {
            return Err(AuthorityError::Namespaces(namespaces.len()));
        }
        if granted.labels.len() > MAX_LABELS {
            return Err(AuthorityError::Labels(granted.labels.len()));
        }
        granted.labels.iter().try_for_each(|(key, value)| check_label(key, value))?;
        let claims = NodeClaims {
            node: request.node(),
            trust_domain: self.certificate.trust_domain(),
            key: request.public_key(),
            namespaces: &namespaces,
            labels: granted.labels,
            validity: self.validity(now, lifetime_seconds)?,
        };
        let bytes = NodeCertificate::issue(&self.key, &claims);
        if bytes.len() > MAX_CERTIFICATE_BYTES {
            let node = request.node().to_owned();
            return Err(AuthorityError::TooLarge { node, bytes: bytes.len() });
        }
        Ok(NodeCertificate::parse(&bytes)?)
    }

    fn validity(&self, now: u64, lifetime_seconds: u64) -> Result<Validity, AuthorityError> {
        let own = self.certificate.validity();
        own.check(now).map_err(|_: Untimely| AuthorityError::Untimely(own, now))?;
        let wanted = starting_at(now, lifetime_seconds)?;
        Ok(Validity {
            not_before: wanted.not_before.max(own.not_before),
            not_after: wanted.not_after.min(own.not_after),
        })
    }

    /// The authority's certificate, for every node's configuration.
    #[must_use]
    pub fn certificate(&self) -> &AuthorityCertificate {
        &self.certificate
    }

    /// The authority's key as PKCS#8 PEM, for the one file that holds it.
    #[must_use]
    pub fn key_pem(&self) -> Zeroizing<String> {
        self.key.to_pem()
    }
}

fn starting_at(now: u64, lifetime_seconds: u64) -> Result<Validity, AuthorityError> {
    if lifetime_seconds == 0 {
        return Err(AuthorityError::NoLifetime);
    }
    Ok(Validity { not_before: now, not_after: now.saturating_add(lifetime_seconds) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000;
    const DAY: u64 = 86_400;

    fn authority() -> Authority {
        Authority::init("example.org", NOW, 10 * DAY).unwrap()
    }

    fn request() -> NodeRequest {
        NodeRequest::new("node-1", &SigningKey::generate().unwrap()).unwrap()
    }

    fn paths(paths: &[&str]) -> Vec<Namespace> {
        paths.iter().map(|path| path.parse().unwrap()).collect()
    }

    #[test]
    fn a_node_certificate_says_what_was_asked_and_allowed() {
        let (authority, request) = (authority(), request());
        let namespaces = paths(&["/b", "/a/x", "/b"]);
        let issued = authority.issue_node(&request, &namespaces, NOW + 5, DAY).unwrap();
        assert_eq!((issued.node(), issued.trust_domain()), ("node-1", "example.org"));
        assert_eq!(issued.public_key(), request.public_key());
        assert_eq!(issued.namespaces(), paths(&["/a/x", "/b"]));
        let validity = Validity { not_before: NOW + 5, not_after: NOW + 5 + DAY };
        assert_eq!(issued.validity(), validity);
        assert_eq!(issued.authority(), authority.certificate().key_id());
    }

    #[test]
    fn the_labels_of_a_node_are_what_its_authority_says() {
        let (authority, request) = (authority(), request());
        let one = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), value.to_owned())]);
        let issue = |labels: &BTreeMap<String, String>| {
            let granted = NodeGrant { namespaces: &paths(&["/"]), labels };
            authority.issue_node_granted(&request, &granted, NOW, DAY)
        };
        assert_eq!(issue(&one("zone", "north")).unwrap().labels(), &one("zone", "north"));
        assert_eq!(issue(&BTreeMap::new()).unwrap().labels(), &BTreeMap::new());
        assert!(matches!(issue(&one("a b", "")), Err(AuthorityError::Name(_))));
        assert!(matches!(issue(&one("a", "\n")), Err(AuthorityError::Name(_))));
        assert!(issue(&one("a", &"b".repeat(250))).is_ok());
        let many = (0..=MAX_LABELS).map(|n| (n.to_string(), String::new())).collect();
        assert_eq!(issue(&many).unwrap_err(), AuthorityError::Labels(MAX_LABELS + 1));
        let large = (0..40).map(|n| (format!("label-{n}"), "value".to_owned())).collect();
        assert!(matches!(issue(&large), Err(AuthorityError::TooLarge { .. })));
    }

    #[test]
    fn no_certificate_outlives_its_authority() {
        let issued = authority().issue_node(&request(), &paths(&["/"]), NOW, 99 * DAY).unwrap();
        assert_eq!(issued.validity().not_after, NOW + 10 * DAY);
        let late = authority().issue_node(&request(), &paths(&["/"]), NOW + 10 * DAY, DAY);
        assert!(matches!(late, Err(AuthorityError::Untimely(..))));
    }

    #[test]
    fn what_cannot_be_signed_is_said() {
        let (authority, request) = (authority(), request());
        let issue = |namespaces: &[Namespace], lifetime| {
            authority.issue_node(&request, namespaces, NOW, lifetime).unwrap_err()
        };
        let many: Vec<Namespace> = (0..17).map(|n| format!("/n{n}").parse().unwrap()).collect();
        assert_eq!(issue(&[], DAY), AuthorityError::Namespaces(0));
        assert_eq!(issue(&many, DAY), AuthorityError::Namespaces(17));
        assert_eq!(issue(&paths(&["/"]), 0), AuthorityError::NoLifetime);
        let long = paths(&[&format!("/{}", "a".repeat(200)), &format!("/{}", "b".repeat(200))]);
        assert!(matches!(issue(&long, DAY), AuthorityError::TooLarge { .. }));
        assert!(Authority::init("Example.org", NOW, DAY).is_err());
        assert!(NodeRequest::new("node 1", &SigningKey::generate().unwrap()).is_err());
    }

    #[test]
    fn a_request_needs_the_key_it_names() {
        let bytes = request().bytes().to_vec();
        assert!(NodeRequest::parse(&bytes).is_ok());
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert!(NodeRequest::parse(&bad).is_err(), "byte {at} changed and was accepted");
        }
    }

    #[test]
    fn key_and_certificate_must_belong_together() {
        let (one, other) = (authority(), authority());
        let mixed = Authority::new(one.key, other.certificate);
        assert!(matches!(mixed, Err(AuthorityError::ForeignKey { .. })));
    }

    #[test]
    fn a_changed_authority_certificate_is_refused() {
        let bytes = authority().certificate().bytes().to_vec();
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 0x20;
            assert!(AuthorityCertificate::parse(&bad).is_err(), "byte {at} was accepted");
        }
    }
}
