//! The flow table: connections that were proven, or that a network rule allows.

use super::{Address, pod};

/// Key of an IPv4 flow, seen from one workload. The workload is part of it, so no packet is judged
/// by another workload's flow.
#[repr(C, align(8))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct FlowKey4 {
    /// Workload id.
    pub workload: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub zero: u8,
    /// Port on the workload's side; 0 for protocols without ports.
    pub local_port: u16,
    /// Port on the far side.
    pub remote_port: u16,
    /// Address of the workload's side.
    pub local: [u8; 4],
    /// Address of the far side.
    pub remote: [u8; 4],
}

/// Key of an IPv6 flow, and of an attempt of either family (IPv4 in mapped form).
#[repr(C, align(8))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct FlowKey6 {
    /// Workload id.
    pub workload: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub zero: u8,
    /// Port on the workload's side; 0 for protocols without ports.
    pub local_port: u16,
    /// Port on the far side.
    pub remote_port: u16,
    /// Address of the workload's side.
    pub local: Address,
    /// Address of the far side.
    pub remote: Address,
}

/// Either flow key as the family-independent form.
pub type FlowKey = FlowKey6;

impl FlowKey6 {
    /// The IPv4 form, if both addresses are mapped ones.
    #[must_use]
    #[inline(always)]
    pub fn to_v4(&self) -> FlowKey4 {
        let last4 = |a: &Address| super::words(*a)[3].to_ne_bytes();
        FlowKey4 {
            workload: self.workload,
            protocol: self.protocol,
            zero: 0,
            local_port: self.local_port,
            remote_port: self.remote_port,
            local: last4(&self.local),
            remote: last4(&self.remote),
        }
    }
}

impl From<FlowKey4> for FlowKey6 {
    fn from(key: FlowKey4) -> Self {
        Self {
            workload: key.workload,
            protocol: key.protocol,
            zero: 0,
            local_port: key.local_port,
            remote_port: key.remote_port,
            local: super::mapped(key.local),
            remote: super::mapped(key.remote),
        }
    }
}

/// Packets of a flow in one direction.
#[cfg(not(feature = "abi-next"))]
pub type PacketCount = u32;
/// Packets of a flow in one direction.
#[cfg(feature = "abi-next")]
pub type PacketCount = u64;

/// A flow. With 48 bytes of the kernel's element header an IPv4 entry takes 160 bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FlowValue {
    /// Identity id of the peer; 0 for a flow that a network rule allows or that was adopted.
    pub peer: u64,
    /// Boot-time nanoseconds at which the peer's or the workload's credential expires.
    pub deadline_ns: u64,
    /// Boot-time nanoseconds of the last packet.
    pub seen_ns: u64,
    /// Payload and header bytes from the workload, counted from the IP header on.
    pub bytes_out: u64,
    /// Bytes towards the workload.
    pub bytes_in: u64,
    /// Packets from the workload; wraps.
    pub packets_out: PacketCount,
    /// Packets towards the workload; wraps.
    pub packets_in: PacketCount,
    /// Epoch under which the verdict was last asked.
    pub epoch: u32,
    /// One past the highest sequence number the workload sent.
    pub local_next: u32,
    /// Highest acknowledgement the workload sent.
    pub local_ack: u32,
    /// One past the highest sequence number the far side sent.
    pub remote_next: u32,
    /// Highest acknowledgement the far side sent.
    pub remote_ack: u32,
    /// Port the verdict was asked for: the server's.
    pub port: u16,
    /// One of [`flow_state`].
    pub state: u8,
    /// Bits of [`flow_flags`].
    pub flags: u8,
    /// Handle of the peer's credential, for who inspects the table.
    pub handle: [u8; 8],
    /// Link address of the workload's side.
    pub local_mac: [u8; 6],
    /// Link address that frames of the far side come from.
    pub remote_mac: [u8; 6],
    /// One past the number of the far side's FIN, of the last one if there were several; while
    /// [`flow_flags::FIN_IN`] is set. Of a protocol without connections: see [`Self::address_set`].
    pub remote_end: u32,
}

impl FlowValue {
    /// Of a flow without connections: the set of the workload's addresses
    /// ([`WorkloadValue::address_set`](super::WorkloadValue::address_set)) in which the flow's local address was
    /// found. 0: not yet looked for.
    #[must_use]
    #[inline(always)]
    pub const fn address_set(&self) -> u32 {
        self.remote_end
    }

    /// Notes in which set of the workload's addresses the local one was found.
    #[inline(always)]
    pub const fn note_address_set(&mut self, address_set: u32) {
        self.remote_end = address_set;
    }
}

pod!(FlowKey4 = 16, FlowKey6 = 40);
#[cfg(not(feature = "abi-next"))]
pod!(FlowValue = 96);
#[cfg(feature = "abi-next")]
pod!(FlowValue = 104);

/// States of a flow.
pub mod flow_state {
    /// Client side: S2 was verified, the server has not yet been seen to accept the proof.
    pub const UNCONFIRMED: u8 = 1;
    /// Both directions pass.
    pub const ESTABLISHED: u8 = 2;
    /// A FIN passed in one direction at least.
    pub const CLOSING: u8 = 3;
    /// A RST with the exact number and a right checksum passed; valid traffic revives the flow.
    pub const RESET: u8 = 4;
    /// A policy change denied it; nothing passes any more but a reset.
    pub const CUT: u8 = 5;
    /// A flow of a protocol without connections (UDP, ICMP, …).
    pub const DATAGRAM: u8 = 6;
    /// As [`DATAGRAM`], with a name server that the workload asks: the daemon reads its answers before they pass.
    pub const NAME_SERVER: u8 = 7;
}

/// Flags of a flow.
pub mod flow_flags {
    /// The workload opened it (egress); otherwise the far side did.
    pub const INITIATOR: u8 = 1;
    /// Allowed by a network rule, without an identity.
    pub const PLAIN: u8 = 2;
    /// Open before the workload was attached.
    pub const ADOPTED: u8 = 4;
    /// Allowed only because the workload is in observe mode.
    pub const WOULD_DENY: u8 = 8;
    /// The workload sent a FIN.
    pub const FIN_OUT: u8 = 16;
    /// The far side sent a FIN.
    pub const FIN_IN: u8 = 32;
    /// Copied from the tables of the layout before, whose programs may still see packets of it. Programs
    /// leave it as it is.
    pub const CARRIED: u8 = 64;
    /// The workload closed second: its first FIN acknowledged the far side's.
    pub const CLOSED_SECOND: u8 = 128;
}
