//! Identities, and the credentials that carry them.
//!
//! The way of a credential: an [`authority`] signs a node's [`certificate`], the node's [`issue`]
//! signs its workloads' credentials, a peer's [`verify`] turns the bytes back into an identity, and
//! [`pair`] gives the two ends their key. Nothing here reads a clock; times are unix seconds from
//! the caller.
//!
//! Invariant: a credential, certificate or request has exactly one byte form that is accepted.

pub mod armor;
pub mod authority;
mod canonical;
pub mod cbor;
pub mod certificate;
pub mod claims;
mod contexts;
pub mod credential;
pub mod envelope;
mod file_io;
pub mod files;
mod held_once;
pub mod issue;
pub mod keys;
mod node_cache;
pub mod pair;
pub mod payload;
mod provenance;
pub mod trust;
pub mod validity;
pub mod verify;
mod verify_error;
mod x25519;

pub use authority::{Authority, AuthorityError, NodeGrant};
pub use cbor::EncodingError;
pub use certificate::{AuthorityCertificate, CertificateError, NodeCertificate, NodeRequest};
pub use claims::{Identity, NameError, Namespace};
pub use credential::{MAX_CREDENTIAL_BYTES, MAX_LIFETIME_SECONDS, identity_id};
pub use file_io::{FileIoError, replace_public};
pub use files::FileError;
pub use issue::{IssueError, Issuer, Limits, LocalCredential};
pub use keys::{NoRandomness, PresharedKey, PskError, SigningKey};
pub use pair::{PairError, PairKey, PairKeys, pair_keys};
pub use provenance::{Attribute, Attributes};
pub use trust::{MAX_REVOCATIONS, Revocations, Trust, TrustError};
pub use validity::{CLOCK_SKEW_SECONDS, Validity};
pub use verify::{Part, Proof, VerifiedCredential, Verifier, VerifyError};

#[cfg(test)]
mod tests;
