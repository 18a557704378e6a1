//! Working memory. The 512 bytes of stack are for the deepest call chain (the MAC); everything
//! that outlives a function stands here. A synchronous clone re-enters the programs on this CPU
//! and overwrites it.

use enforcer_common::{
    abi::{AttemptValue, FlowKey, FlowValue, HeldSegment, InterfaceValue, ReportedSegment},
    crypto::{KEY_WORDS, MacInput, Macs, Transcript},
    datapath::opaque::Opaque,
    wire::{
        frame::Packet,
        option::{HandshakeOption, OPTIONS_MAX, ScanState},
        prefix::AnswerPrefix,
        room::RoomState,
    },
};

/// What a program knows of the packet at hand.
#[repr(C)]
pub struct Scratch {
    /// Boot-time nanoseconds; on the fast path as they were read last, in [`Self::tick`].
    pub now_ns: u64,
    /// The kernel's tick of the last packet.
    pub tick: u64,
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
    /// One's complement sum of the bytes that were just cut off.
    pub cut: u32,
    /// What the verdict at hand obliges to.
    pub obligations: u32,
    /// Offset of a loop over the packet.
    pub position: Opaque,
    /// What becomes of the packet, as `outcome::Outcome` numbers it.
    pub outcome: Opaque,
    /// What of a share the flow at hand counts against.
    pub share: Opaque,
    /// State of reading TCP options.
    pub scan: ScanState,
    /// State of making room among them.
    pub room: RoomState,
    /// An attempt to insert.
    pub attempt: AttemptValue,
    /// A flow to insert.
    pub flow: FlowValue,
    /// Handles and nonces of the handshake at hand.
    pub transcript: Transcript,
    /// Key of the MACs.
    pub pair_key: [u32; KEY_WORDS],
    /// Boot-time nanoseconds until which the verdict holds.
    pub deadline_ns: u64,
    /// One's complement sum of the peer's credential.
    pub credential_sum: u32,
    /// Input of the MACs.
    pub mac: MacInput,
    /// The MACs.
    pub macs: Macs,
    /// The handshake option and, right behind it as on the wire, the prefix of S2.
    pub option: HandshakeOption,
    /// See `option`.
    pub prefix: AnswerPrefix,
    /// All options of the segment.
    pub options: [u8; OPTIONS_MAX],
    /// What is reported for the log.
    pub reported: ReportedSegment,
    /// A held segment; its frame also serves as a buffer.
    pub held: HeldSegment,
}
