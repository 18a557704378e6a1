//! Credentials: the workloads' own, and the pair keys with those of their peers.

use super::{Handle, pod};

/// The longest credential. With IPv6 (40), a full TCP header (60) and the S2 prefix (34) the
/// segment stays within the 1280 bytes that every IPv6 link carries (RFC 8200 5).
pub const MAX_CREDENTIAL_BYTES: usize = 1120;

/// A local credential as S1 and S2 carry it; its key is the handle.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct CredentialValue {
    /// Boot-time nanoseconds at which it expires.
    pub deadline_ns: u64,
    /// Its length in bytes.
    pub length: u16,
    /// Its one's complement sum as native 16-bit words in memory order (RFC 1071), folded.
    pub sum: u16,
    /// Zero.
    pub zero: [u8; 4],
    /// The credential, zero-filled behind its length.
    pub bytes: [u8; MAX_CREDENTIAL_BYTES],
}

/// Key of a peer: which local credential speaks with which remote one.
#[repr(C, align(8))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct PeerKey {
    /// Handle of the local credential.
    pub local: Handle,
    /// Handle of the peer's credential.
    pub remote: Handle,
}

/// What is known of a peer. Key and identity stand in one value, so they can never disagree.
/// Holds secrets: never printed.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PeerValue {
    /// Pair key when the local workload is the initiator, as BLAKE3 key words (little endian).
    pub as_initiator: [u32; 8],
    /// Pair key when the local workload is the responder.
    pub as_responder: [u32; 8],
    /// Full BLAKE3 hash of the peer's credential.
    pub hash: [u8; 32],
    /// Identity id of the peer.
    pub identity: u64,
    /// Boot-time nanoseconds at which either credential expires.
    pub deadline_ns: u64,
    /// Length of the peer's credential in bytes.
    pub length: u16,
    /// One's complement sum of the peer's credential, as in [`CredentialValue::sum`].
    pub sum: u16,
    /// Zero.
    pub zero: [u8; 4],
}

pod!(CredentialValue = 1136, PeerKey = 16, PeerValue = 120);
