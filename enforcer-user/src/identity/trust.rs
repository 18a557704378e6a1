//! What a verifier trusts: authorities, a pre-shared key, and what has been revoked.

use std::collections::HashSet;

use thiserror::Error;

use super::certificate::{AuthorityCertificate, NodeCertificate};
use super::claims::is_trust_domain;
use super::credential::handle;
use super::envelope::KEY_ID_BYTES;
use super::keys::PresharedKey;
use super::{Identity, Namespace};

/// The most authorities trusted at once: one, its successor, and room for a few more.
pub const MAX_AUTHORITIES: usize = 8;
/// The most entries of each kind of revocation.
pub const MAX_REVOCATIONS: usize = 65_536;

/// Why trust could not be set up.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TrustError {
    /// The trust domain is not one.
    #[error("trust domain {0:?}: expected 1 to 255 lower-case letters, digits, '.', '-' or '_'")]
    TrustDomain(String),
    /// Neither authorities nor a pre-shared key: nobody could ever be verified.
    #[error("nothing to trust: configure `authority` (mode \"pki\") or `psk_file` (mode \"psk\")")]
    Nothing,
    /// Too many authorities.
    #[error("{0} authorities: at most {MAX_AUTHORITIES} are trusted at once")]
    TooManyAuthorities(usize),
    /// An authority of another trust domain.
    #[error("an authority certificate is for trust domain {found:?}, configured is {expected:?}")]
    ForeignAuthority {
        /// The certificate's trust domain.
        found: String,
        /// The configured one.
        expected: String,
    },
    /// Two authority certificates have one key id.
    #[error("two authority certificates have the same key: name each authority once")]
    SameAuthority,
    /// Too many revocations.
    #[error("{0} revocations of one kind: at most {MAX_REVOCATIONS} are held")]
    TooManyRevocations(usize),
}

/// What no longer counts although it was signed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Revocations {
    /// Credentials, by the BLAKE3 hash of their bytes.
    pub credentials: HashSet<[u8; 32]>,
    /// Credentials, by their handles: the first bytes of that hash.
    pub handles: HashSet<[u8; 8]>,
    /// Node certificates, by the BLAKE3 hash of their bytes.
    pub node_certificates: HashSet<[u8; 32]>,
    /// Namespaces, with all below them.
    pub namespaces: HashSet<Namespace>,
}

impl Revocations {
    /// Whether the credential of this hash is revoked.
    #[must_use]
    pub fn covers_credential(&self, hash: &[u8; 32]) -> bool {
        self.credentials.contains(hash) || self.handles.contains(&handle(hash))
    }

    /// Whether the identity's namespace or one above it is revoked.
    #[must_use]
    pub fn covers_namespace(&self, identity: &Identity) -> bool {
        !self.namespaces.is_empty()
            && identity.namespace().ancestors().any(|above| self.namespaces.contains(&above))
    }

    fn check(&self) -> Result<(), TrustError> {
        let counts = [
            self.credentials.len(),
            self.handles.len(),
            self.node_certificates.len(),
            self.namespaces.len(),
        ];
        match counts.into_iter().find(|count| *count > MAX_REVOCATIONS) {
            Some(count) => Err(TrustError::TooManyRevocations(count)),
            None => Ok(()),
        }
    }
}

/// Whom to believe. A mode is accepted exactly when its trust is configured.
#[derive(Debug, Clone)]
pub struct Trust {
    domain: String,
    authorities: Vec<AuthorityCertificate>,
    psk: Option<PresharedKey>,
    pub(super) revocations: Revocations,
}

impl Trust {
    /// PKI mode: these authorities, several while one replaces another.
    pub fn pki(
        trust_domain: &str,
        authorities: Vec<AuthorityCertificate>,
    ) -> Result<Self, TrustError> {
        Self::new(trust_domain, authorities, None)
    }

    /// Pre-shared key mode.
    pub fn psk(trust_domain: &str, key: PresharedKey) -> Result<Self, TrustError> {
        Self::new(trust_domain, Vec::new(), Some(key))
    }

    /// Any set of modes; both only while a set-up moves from one to the other.
    pub fn new(
        trust_domain: &str,
        authorities: Vec<AuthorityCertificate>,
        psk: Option<PresharedKey>,
    ) -> Result<Self, TrustError> {
        if !is_trust_domain(trust_domain) {
            return Err(TrustError::TrustDomain(trust_domain.to_owned()));
        }
        if authorities.is_empty() && psk.is_none() {
            return Err(TrustError::Nothing);
        }
        check_authorities(trust_domain, &authorities)?;
        let revocations = Revocations::default();
        Ok(Self { domain: trust_domain.to_owned(), authorities, psk, revocations })
    }

    /// The same trust, less what is revoked.
    pub fn revoking(self, revocations: Revocations) -> Result<Self, TrustError> {
        revocations.check()?;
        Ok(Self { revocations, ..self })
    }

    /// The trust domain of everyone believed.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    pub(super) fn accepts_pki(&self) -> bool {
        !self.authorities.is_empty()
    }

    pub(super) fn preshared_key(&self) -> Option<&PresharedKey> {
        self.psk.as_ref()
    }

    pub(super) fn authority_of(&self, node: &NodeCertificate) -> Option<&AuthorityCertificate> {
        self.authorities.iter().find(|authority| authority.key_id() == node.authority())
    }
}

fn check_authorities(
    trust_domain: &str,
    authorities: &[AuthorityCertificate],
) -> Result<(), TrustError> {
    if authorities.len() > MAX_AUTHORITIES {
        return Err(TrustError::TooManyAuthorities(authorities.len()));
    }
    if let Some(foreign) = authorities.iter().find(|one| one.trust_domain() != trust_domain) {
        let found = foreign.trust_domain().to_owned();
        return Err(TrustError::ForeignAuthority { found, expected: trust_domain.to_owned() });
    }
    let ids: HashSet<[u8; KEY_ID_BYTES]> =
        authorities.iter().map(AuthorityCertificate::key_id).collect();
    if ids.len() == authorities.len() { Ok(()) } else { Err(TrustError::SameAuthority) }
}
