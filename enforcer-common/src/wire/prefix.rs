//! The fixed prefix of S2's payload; the credential follows it.

use crate::abi::{Address, Mac};

/// Its length in bytes.
pub const PREFIX_BYTES: usize = 34;

/// What B says in front of its credential.
///
/// ```text
/// offset 0   mac_B(16)
///       16   B's local address as B sees it(16), IPv4 in mapped form
///       32   B's local port(2), big endian
///       34   credential B
/// ```
#[repr(C, align(4))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnswerPrefix {
    /// `mac_B`.
    pub mac: Mac,
    /// B's address.
    pub address: Address,
    /// B's port, big endian.
    pub port: [u8; 2],
    /// Zero; not on the wire.
    pub zero: [u8; 2],
}

const _: () = assert!(size_of::<AnswerPrefix>() == PREFIX_BYTES + 2);
