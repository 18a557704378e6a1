//! Working memory. The 512 bytes of stack are for the deepest call chain (the MAC); everything
//! that outlives a function stands here. A synchronous clone re-enters the programs on this CPU
//! and overwrites it.

use enforcer_common::{
    abi::{AttemptValue, FlowKey, FlowValue, HeldSegment, InterfaceValue, RejectedSegment},
    crypto::MacInput,
    wire::{
        frame::Packet,
        option::{HandshakeOption, OPTIONS_MAX},
        prefix::AnswerPrefix,
    },
};

/// What a program knows of the packet at hand.
#[repr(C)]
pub struct Scratch {
    /// Boot-time nanoseconds at entry.
    pub now_ns: u64,
    /// The packet's headers.
    pub packet: Packet,
    /// Its tuple, from the workload's side.
    pub key: FlowKey,
    /// The interface's workload.
    pub interface: InterfaceValue,
    /// Current epoch.
    pub epoch: u32,
    /// Interface of the hook.
    pub ifindex: u32,
    /// Identity id of the peer, once known; for the log.
    pub peer: u64,
    /// Change of the transport checksum, as a sum of 32-bit words.
    pub sum: u64,
    /// Offset of a loop over the packet.
    pub position: u32,
    /// Zero.
    pub zero: u32,
    /// An attempt to insert.
    pub attempt: AttemptValue,
    /// A flow to insert.
    pub flow: FlowValue,
    /// Input of the MAC.
    pub mac: MacInput,
    /// The MAC.
    pub tag: [u32; 4],
    /// The handshake option and, right behind it as on the wire, the prefix of S2.
    pub option: HandshakeOption,
    /// See `option`.
    pub prefix: AnswerPrefix,
    /// All options of the segment.
    pub options: [u8; OPTIONS_MAX],
    /// A sampled drop.
    pub rejected: RejectedSegment,
    /// A held segment; its frame also serves as a buffer.
    pub held: HeldSegment,
}
