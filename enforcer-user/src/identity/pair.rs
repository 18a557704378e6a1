//! Pair keys: the symmetric key of two credentials, one for each direction of a handshake.
//!
//! `BLAKE3 derive_key(context, secret(32) || hash(initiator's credential)(32) || hash(responder's)(32))`,
//! where the secret is the X25519 output, or the pre-shared key. The context names version and mode.

use std::fmt;

use thiserror::Error;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::contexts;
use super::issue::{LocalCredential, LocalSecret};
use super::verify::{Proof, VerifiedCredential};

/// Why two credentials have no pair key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PairError {
    /// The peer's X25519 key gives an all-zero secret, that is one which anyone knows (RFC 7748 6.1).
    #[error(
        "the peer's X25519 key is of low order: a deliberate attempt at a key that anyone can compute"
    )]
    LowOrder,
    /// One credential is of PKI mode, the other of pre-shared key mode.
    #[error(
        "one credential is of PKI mode, the other of pre-shared key mode: there is no downgrade"
    )]
    Mode,
}

/// 32 secret bytes; erased when dropped, not shown by `Debug`.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct PairKey([u8; 32]);

impl PairKey {
    /// The key as the kernel's keyed BLAKE3 takes it.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for PairKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PairKey(redacted)")
    }
}

/// Both keys of a local and a peer's credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PairKeys {
    /// For connections that the local workload opens.
    pub as_initiator: PairKey,
    /// For connections that the peer opens.
    pub as_responder: PairKey,
}

/// Computes both keys with one X25519 operation.
pub fn pair_keys(
    local: &LocalCredential,
    peer: &VerifiedCredential,
) -> Result<PairKeys, PairError> {
    let (context, secret) = match (&local.secret, &peer.proof) {
        (LocalSecret::Pki(key), Proof::Pki { x25519, .. }) => {
            (contexts::PAIR_KEY_PKI, key.agree(x25519).ok_or(PairError::LowOrder)?)
        }
        (LocalSecret::Psk(key), Proof::Psk) => {
            (contexts::PAIR_KEY_PSK, Zeroizing::new(*key.secret()))
        }
        _ => return Err(PairError::Mode),
    };
    let (ours, theirs) = (local.hash(), peer.hash);
    Ok(PairKeys {
        as_initiator: derive(context, &secret, &ours, &theirs),
        as_responder: derive(context, &secret, &theirs, &ours),
    })
}

fn derive(context: &str, secret: &[u8; 32], initiator: &[u8; 32], responder: &[u8; 32]) -> PairKey {
    let mut material = Zeroizing::new([[0; 32]; 3]);
    *material = [*secret, *initiator, *responder];
    PairKey(blake3::derive_key(context, material.as_flattened()))
}
