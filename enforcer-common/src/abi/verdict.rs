//! Cached verdicts.

use super::pod;

/// What was asked. A verdict of another epoch has another key, so that a policy change writes the
/// new verdicts beside the old ones and then flips the epoch in one store.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct VerdictKey {
    /// Identity id of the peer.
    pub peer: u64,
    /// Epoch of the policy.
    pub epoch: u32,
    /// Local workload id.
    pub workload: u16,
    /// The server's port; 0 holds for every port of which no rule speaks.
    pub port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// One of [`direction`].
    pub direction: u8,
    /// Zero.
    pub zero: [u8; 6],
}

/// The answer.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VerdictValue {
    /// Boot-time nanoseconds until which it holds.
    pub deadline_ns: u64,
    /// Number of the rule that decided, as the daemon numbers them; 0 for none.
    pub rule: u32,
    /// One of [`verdict_action`].
    pub action: u8,
    /// What allowing obliges to: any of [`obligation`]. One that is not known denies.
    pub obligations: u8,
    /// Zero.
    pub zero: [u8; 2],
}

pod!(VerdictKey = 24, VerdictValue = 16);

/// Direction of a connection, from the workload's side.
pub mod direction {
    /// The workload opens it.
    pub const EGRESS: u8 = 1;
    /// The workload is connected to.
    pub const INGRESS: u8 = 2;
}

/// What a rule asks for beside its answer.
pub mod obligation {
    /// Each connection is reported for the log.
    pub const LOG: u8 = 1;
    /// The connection must be encrypted.
    pub const ENCRYPT: u8 = 2;
    /// What the programs can do; they deny what obliges to more.
    pub const HONOURED: u8 = LOG;
}

/// Answers. Any other number denies.
pub mod verdict_action {
    /// Allowed.
    pub const ALLOW: u8 = 1;
    /// Denied.
    pub const DENY: u8 = 2;
    /// Denied, but the workload is in observe mode: passes and is counted.
    pub const WOULD_DENY: u8 = 3;
}
