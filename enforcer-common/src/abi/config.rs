//! What the daemon sets for the whole datapath.

use super::pod;
use crate::crypto::NONCE_KEY_WORDS;

/// The one value of the configuration map.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Config {
    /// [`super::ABI_VERSION`] of the daemon that made the maps.
    pub abi_version: u32,
    /// Current policy epoch. A store of it is what makes a new policy hold.
    pub epoch: u32,
    /// Bits of [`config_flags`].
    pub flags: u32,
    /// Segments of unknown peers handed to the daemon a second, over all sources.
    pub cold_per_second: u32,
    /// The same for one source network (/24 or /64).
    pub cold_per_source: u32,
    /// Denied segments reported to the daemon for its log, a second.
    pub samples_per_second: u32,
    /// Half-open connections that one source may begin and not finish a second; a workload's own
    /// calls have four times as many.
    pub attempts_per_source: u32,
    /// Entries of each flow table, of which workloads have shares.
    pub flows: u32,
    /// Zero.
    #[cfg(feature = "abi-next")]
    pub zero: [u32; 2],
}

/// Flags of the configuration.
pub mod config_flags {
    /// A caller that was proven and is denied gets a reset.
    pub const DENY_RESET: u32 = 1;
}

/// State of the nonce generator. Secret and counter stand in one value, so that neither can be
/// replaced without the other.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct NonceState {
    /// Key of [`nonce`](crate::crypto::nonce), fresh from the system whenever the value is written.
    pub secret: [u64; NONCE_KEY_WORDS],
    /// Zero.
    pub zero: [u64; 2],
    /// Nonces made so far; only ever incremented.
    pub counter: u64,
}

pod!(NonceState = 40);
#[cfg(not(feature = "abi-next"))]
pod!(Config = 32);
#[cfg(feature = "abi-next")]
pod!(Config = 40);
