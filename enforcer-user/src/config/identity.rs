//! `[identity]`: how this node proves who its workloads are.

use std::path::PathBuf;
use std::time::Duration;

use super::reader::{Section, Value};

/// The longest life of a credential: X25519 keys live at most an hour.
pub const MAX_CREDENTIAL_LIFETIME_SECONDS: u64 = 3600;
/// The shortest life of a credential: shorter ones would expire between two rotations.
pub const MIN_CREDENTIAL_LIFETIME_SECONDS: u64 = 4;
/// The most bytes of a credential: with S2's prefix and both headers it fits a 1280-byte IPv6 MTU.
pub const MAX_CREDENTIAL_BYTES: usize = 1120;
/// The least budget of a credential: below it no PKI credential fits.
pub const MIN_CREDENTIAL_BYTES: usize = 256;
/// The most authorities trusted at once.
const MAX_AUTHORITIES: usize = 16;

/// The whole section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityConfig {
    /// Certificates or a shared secret.
    pub trust: TrustConfig,
    /// How long a credential lives; a new one is made at half of it.
    pub credential_lifetime: Duration,
    /// The file of what is revoked; none if nothing ever is.
    pub revocations: Option<PathBuf>,
    /// The most bytes of a credential, [`MIN_CREDENTIAL_BYTES`] to [`MAX_CREDENTIAL_BYTES`].
    pub credential_max_bytes: usize,
}

impl IdentityConfig {
    /// Every file that trust comes from, the node's key among them.
    #[must_use]
    pub fn files(&self) -> Vec<&PathBuf> {
        let trust = match &self.trust {
            TrustConfig::Psk { file } => vec![file],
            TrustConfig::Pki { authorities, node_certificate, node_key } => {
                authorities.iter().chain([node_certificate, node_key]).collect()
            }
        };
        trust.into_iter().chain(&self.revocations).collect()
    }
}

/// What makes a credential believed. A node accepts exactly the mode it is configured for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TrustConfig {
    /// Signed credentials under node certificates.
    Pki {
        /// Authority certificates; more than one while an authority is being replaced. Never empty.
        authorities: Vec<PathBuf>,
        /// This node's certificate.
        node_certificate: PathBuf,
        /// This node's Ed25519 key, PKCS#8 PEM, mode 0600.
        node_key: PathBuf,
    },
    /// One secret that every node holds; whoever has it can be anyone.
    Psk {
        /// 64 hexadecimal digits, mode 0600.
        file: PathBuf,
    },
}

impl TrustConfig {
    /// The mode's name in the configuration: `pki` or `psk`.
    #[must_use]
    pub fn mode(&self) -> &'static str {
        match self {
            Self::Pki { .. } => "pki",
            Self::Psk { .. } => "psk",
        }
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Pki,
    Psk,
}

pub(super) fn read(mut section: Section<'_>) -> Option<IdentityConfig> {
    let kinds = [("pki", Kind::Pki), ("psk", Kind::Psk)];
    let kind = section.required("mode", "\"pki\" or \"psk\"", |value| value.word(&kinds));
    let lifetimes = MIN_CREDENTIAL_LIFETIME_SECONDS..=MAX_CREDENTIAL_LIFETIME_SECONDS;
    let lifetime_seconds =
        section.or("credential_lifetime_seconds", MAX_CREDENTIAL_LIFETIME_SECONDS, |value| {
            value.integer(&lifetimes)
        });
    let sizes = MIN_CREDENTIAL_BYTES..=MAX_CREDENTIAL_BYTES;
    let credential_max_bytes =
        section.or("credential_max_bytes", 1024, |value| value.integer(&sizes));
    let revocations = section.optional("revocations", Value::path);
    let trust = match kind {
        Some(Kind::Pki) => pki(&mut section),
        Some(Kind::Psk) => psk(&mut section),
        None => {
            ignore_trust_keys(&mut section);
            None
        }
    };
    section.finish();
    Some(IdentityConfig {
        trust: trust?,
        credential_lifetime: Duration::from_secs(lifetime_seconds),
        revocations,
        credential_max_bytes,
    })
}

fn pki(section: &mut Section<'_>) -> Option<TrustConfig> {
    section.forbidden("psk_file", "no such key beside mode = \"pki\"");
    let hint = "the file that `enforcer ca init` made, or a list of them";
    let authorities = section
        .required("authority", hint, |value| value.one_or_list(MAX_AUTHORITIES, Value::path));
    let hint = "the file that `enforcer ca issue-node` made";
    let node_certificate = section.required("node_certificate", hint, Value::path);
    let hint = "the key that `enforcer ca request` made";
    let node_key = section.required("node_key", hint, Value::path);
    Some(TrustConfig::Pki {
        authorities: authorities?,
        node_certificate: node_certificate?,
        node_key: node_key?,
    })
}

fn psk(section: &mut Section<'_>) -> Option<TrustConfig> {
    for key in ["authority", "node_certificate", "node_key"] {
        section.forbidden(key, "no such key beside mode = \"psk\"");
    }
    let hint = "the file that `enforcer psk generate` made";
    Some(TrustConfig::Psk { file: section.required("psk_file", hint, Value::path)? })
}

/// Without a mode nothing can be said of these keys; they are not unknown either.
fn ignore_trust_keys(section: &mut Section<'_>) {
    for key in ["authority", "node_certificate", "node_key", "psk_file"] {
        section.optional(key, |_| Ok(()));
    }
}
