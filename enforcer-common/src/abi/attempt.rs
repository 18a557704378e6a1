//! Half-open connections: everything between the first SYN and the proof.

use super::{Handle, Mac, Nonce, pod};

/// An attempt; its key is the [`super::FlowKey`] of the tuple. Handle, nonce and MAC are frozen by
/// the first segment of the attempt, so that retransmissions are byte-identical.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AttemptValue {
    /// Boot-time nanoseconds of the first segment.
    pub created_ns: u64,
    /// Boot-time nanoseconds of the last proof sent on its own.
    pub proof_ns: u64,
    /// Identity id of the peer; 0 while unknown.
    pub peer: u64,
    /// Boot-time nanoseconds at which the pair's credentials expire.
    pub deadline_ns: u64,
    /// Handle of the workload's credential in this attempt.
    pub local_handle: Handle,
    /// Handle of the peer's credential.
    pub remote_handle: Handle,
    /// The workload's nonce.
    pub local_nonce: Nonce,
    /// The peer's nonce.
    pub remote_nonce: Nonce,
    /// Server: `mac_B`, as sent in S2.
    pub answer: Mac,
    /// `mac_A`: what the client stamps and the server expects.
    pub proof: Mac,
    /// Initial sequence number of the workload.
    pub local_isn: u32,
    /// Initial sequence number of the far side.
    pub remote_isn: u32,
    /// Bytes that S1 added to its segment.
    pub s1_bytes: u16,
    /// Port the verdict is asked for: the server's.
    pub port: u16,
    /// One of [`role`].
    pub role: u8,
    /// SYN-ACKs sent so far.
    pub syn_acks: u8,
    /// Bits of [`super::flow_flags`] for the flow that comes of it.
    pub flags: u8,
    /// Whether nonce and MACs of S2 are frozen (server) or S2 was verified (client): 0 or 1.
    pub answered: u8,
}

pod!(AttemptValue = 112);

/// What the workload is in an attempt.
pub mod role {
    /// It sent S1.
    pub const CLIENT: u8 = 1;
    /// It received S1.
    pub const SERVER: u8 = 2;
    /// A network rule allows the connection without identity.
    pub const PLAIN: u8 = 3;
    /// It was refused; only a reset to the workload passes.
    pub const REFUSED: u8 = 4;
    /// It sent S1 and received one that crossed it (simultaneous open): it answers with the nonce
    /// of its own S1, and whichever of S2 and S3 comes first opens the flow.
    pub const BOTH: u8 = 5;
}
