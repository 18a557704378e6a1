//! Records of the event rings, and the trailer of a re-injected frame.

use super::{FlowKey, pod};

/// The longest frame that is held for the daemon, in bytes.
pub const HELD_FRAME_MAX: usize = 1536;

/// Kinds of ring records.
pub mod record_kind {
    /// A [`super::HeldSegment`]: the kernel dropped it and asks for what it lacks.
    pub const HELD: u32 = 1;
    /// A [`super::ReportedSegment`]: a sampled drop, for the log.
    pub const REJECTED: u32 = 2;
    /// A [`super::HeldSegment`]: a question to a name server, which has passed, or an answer of one, which passes once the
    /// daemon has read it.
    pub const NAMES: u32 = 4;
    /// A [`super::ReportedSegment`] without a reason: it opened a connection whose rule wants it logged.
    pub const CONNECTED: u32 = 3;
    /// A [`super::ReportedSegment`] without a reason and a peer: it opened a connection without identity of a workload
    /// that is only observed. `from_workload` says that the workload called.
    pub const OPENED: u32 = 5;
}

/// A segment of an unknown peer or without a verdict. Only the first `frame_length` bytes of
/// `frame` travel.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct HeldSegment {
    /// [`record_kind::HELD`] or [`record_kind::NAMES`].
    pub kind: u32,
    /// Interface it arrived on.
    pub ifindex: u32,
    /// Boot-time nanoseconds.
    pub time_ns: u64,
    /// Tuple of the segment.
    pub key: FlowKey,
    /// Handle of the local credential that the attempt uses.
    pub local_handle: [u8; 8],
    /// Identity id of the peer; 0 while unknown.
    pub peer: u64,
    /// Port the verdict is asked for.
    pub port: u16,
    /// One of [`super::direction`].
    pub direction: u8,
    /// 1 if the interface is the host side of the workload's veth.
    pub host_side: u8,
    /// Offset of the transport header in the frame.
    pub transport_offset: u16,
    /// Bytes of `frame`.
    pub frame_length: u16,
    /// Current epoch when it was held.
    pub epoch: u32,
    /// Zero.
    pub zero: u32,
    /// The frame, from its Ethernet header on.
    pub frame: [u8; HELD_FRAME_MAX],
}

impl HeldSegment {
    /// Bytes in front of the frame.
    pub const HEADER_BYTES: usize = size_of::<Self>() - HELD_FRAME_MAX;
}

/// A sampled drop, or what opened a connection that is to be told.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct ReportedSegment {
    /// [`record_kind::REJECTED`], [`record_kind::CONNECTED`] or [`record_kind::OPENED`].
    pub kind: u32,
    /// Interface where it happened.
    pub ifindex: u32,
    /// Boot-time nanoseconds.
    pub time_ns: u64,
    /// Tuple of the segment.
    pub key: FlowKey,
    /// Identity id of the peer; 0 while unknown.
    pub peer: u64,
    /// Number of the [`super::DropReason`]; 0 for a connection.
    pub reason: u16,
    /// 1 for a segment from the workload, 0 for one towards it.
    pub from_workload: u8,
    /// TCP flags.
    pub tcp_flags: u8,
    /// Zero.
    pub zero: u32,
}

/// The last bytes of a frame that the daemon writes to the helper interface; the program there
/// cuts them off and sends the frame to where they say.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReinjectTrailer {
    /// Interface to send it to.
    pub ifindex: u32,
    /// 1: as if it had arrived there (ingress), 0: out of it (egress).
    pub ingress: u32,
    /// Mark of the packet: [`READ_MARK`], or 0.
    pub mark: u32,
}

/// Mark (`skb->mark`) of an answer of a name server that the daemon has read. Whoever else sets it gains nothing: an
/// answer that was not read opens nothing.
pub const READ_MARK: u32 = 0x656e_6672;

/// How far the daemon has read the ring of names, as a program saw it last.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReaderState {
    /// The ring's consumer position.
    pub consumed: u64,
    /// Boot-time nanoseconds since when it has stood there with records left to read.
    pub since_ns: u64,
}

pod!(HeldSegment = 1624, ReportedSegment = 72, ReinjectTrailer = 12, ReaderState = 16);
