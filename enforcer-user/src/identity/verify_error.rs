//! Why a credential is refused, each with a stable word for counters and logs.

use std::fmt;

use thiserror::Error;

use super::cbor::EncodingError::{self, Malformed, NotCanonical};
use super::certificate::CertificateError;
use super::credential::MAX_LIFETIME_SECONDS;
use super::validity::Validity;

/// Which part of a credential a refusal is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The workload's credential.
    Credential,
    /// The node certificate behind it.
    NodeCertificate,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Credential => "credential",
            Self::NodeCertificate => "node certificate",
        })
    }
}

/// Why a credential was refused. What the message quotes is what the bytes claim, not what is proven.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum VerifyError {
    /// More bytes than one handshake segment holds, or a certificate beyond its share of them.
    #[error("{part} of {bytes} bytes: larger than any that is accepted")]
    TooLarge {
        /// Which part.
        part: Part,
        /// Its size.
        bytes: usize,
    },
    /// Not the structure or the claims of a credential.
    #[error("{part} is malformed: {what}")]
    Malformed {
        /// Which part.
        part: Part,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Another byte form than the one accepted.
    #[error("{part} is not in canonical form: {what}")]
    NotCanonical {
        /// Which part.
        part: Part,
        /// What differs.
        what: &'static str,
    },
    /// A mode that this node is not configured for.
    #[error("credential of {0} mode, for which this node is not configured")]
    WrongMode(&'static str),
    /// The node certificate names an authority that is not trusted here.
    #[error("node {node:?} was certified by an authority that is not trusted here")]
    WrongAuthority {
        /// The name that the certificate claims.
        node: String,
    },
    /// Another trust domain.
    #[error("{part} belongs to trust domain {found:?}")]
    TrustDomain {
        /// Which part.
        part: Part,
        /// The trust domain that it claims.
        found: String,
    },
    /// The node may not sign for the workload's namespace.
    #[error("node {node:?} may not sign for {id}: its certificate does not hold that namespace")]
    NamespaceOutside {
        /// The node's name.
        node: String,
        /// The workload's SPIFFE ID.
        id: String,
    },
    /// The credential counts outside of the certificate's time, or that outside of the authority's.
    #[error("{part} counts from {validity}, outside of the certificate above it")]
    ValidityOutside {
        /// The inner part.
        part: Part,
        /// Its validity.
        validity: Validity,
    },
    /// A credential that counts for more than an hour.
    #[error("credential counts for {0} s; at most {MAX_LIFETIME_SECONDS} are accepted")]
    LifetimeTooLong(u64),
    /// Its time is over.
    #[error("{part} expired: it counted from {validity}, now is {now}")]
    Expired {
        /// Which part.
        part: Part,
        /// When it counted.
        validity: Validity,
        /// The time of the check.
        now: u64,
    },
    /// Its time has not come.
    #[error("{part} does not count yet: it will from {validity}, now is {now}; compare the clocks")]
    NotYetValid {
        /// Which part.
        part: Part,
        /// When it counts.
        validity: Validity,
        /// The time of the check.
        now: u64,
    },
    /// Revoked by credential, node certificate or namespace.
    #[error("{id} is revoked by {by}")]
    Revoked {
        /// The workload's SPIFFE ID.
        id: String,
        /// What was revoked.
        by: &'static str,
    },
    /// The signature or tag is not the claimed issuer's.
    #[error("the signature of the {0} does not verify")]
    BadSignature(Part),
}

impl VerifyError {
    /// A stable word for counters and logs.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "too_large",
            Self::Malformed { .. } => "malformed",
            Self::NotCanonical { .. } => "not_canonical",
            Self::WrongMode(_) => "wrong_mode",
            Self::WrongAuthority { .. } => "wrong_authority",
            Self::TrustDomain { .. } => "trust_domain",
            Self::NamespaceOutside { .. } => "namespace_outside",
            Self::ValidityOutside { .. } => "validity_outside",
            Self::LifetimeTooLong(_) => "lifetime_too_long",
            Self::Expired { .. } => "expired",
            Self::NotYetValid { .. } => "not_yet_valid",
            Self::Revoked { .. } => "revoked",
            Self::BadSignature(_) => "bad_signature",
        }
    }

    pub(super) fn encoding(part: Part, error: EncodingError) -> Self {
        match error {
            Malformed(what) => Self::Malformed { part, what },
            NotCanonical(what) => Self::NotCanonical { part, what },
        }
    }

    pub(super) fn certificate(error: CertificateError) -> Self {
        let part = Part::NodeCertificate;
        match error {
            CertificateError::Encoding(error) => Self::encoding(part, error),
            CertificateError::TooLarge(bytes) => Self::TooLarge { part, bytes },
            CertificateError::SelfSignature => Self::BadSignature(part),
        }
    }
}
