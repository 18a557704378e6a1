//! Workloads, the interfaces they are reached by, their addresses, and token buckets.

use super::{Address, Handle, pod};

/// The highest id of a workload; the lowest is 1.
pub const WORKLOAD_ID_MAX: u16 = 4096;

/// Rows of the arrays that are indexed by workload id. Row 0 is no workload's.
pub const WORKLOAD_ROWS: u32 = WORKLOAD_ID_MAX as u32 + 1;

/// Bytes of a workload's name in the map, zero-filled.
pub const WORKLOAD_NAME_BYTES: usize = 64;

/// A workload; its row is its id (1 to 4096). Programs read the flags once: with [`workload_flags::PRESENT`]
/// they hold, and without it the row is nobody's.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkloadValue {
    /// Its identity id.
    pub identity: u64,
    /// Handle of its current credential; zero while it has none.
    pub credential: Handle,
    /// Boot-time nanoseconds until which connections older than the attachment are adopted.
    pub adopt_until_ns: u64,
    /// Rule sets of even and odd epochs.
    pub rule_sets: [u32; 2],
    /// Bits of [`workload_flags`].
    pub flags: u32,
    /// Which set of addresses it has in the address map: the same number, the same set. 0 while the set
    /// changes. The daemon's maps set it.
    pub address_set: u32,
    /// Its name.
    pub name: [u8; WORKLOAD_NAME_BYTES],
}

impl WorkloadValue {
    /// A row that is nobody's.
    pub const NOBODY: Self = Self {
        identity: 0,
        credential: [0; 8],
        adopt_until_ns: 0,
        rule_sets: [0; 2],
        flags: 0,
        address_set: 0,
        name: [0; WORKLOAD_NAME_BYTES],
    };

    /// Whether the row is a workload's.
    #[must_use]
    pub const fn is_present(&self) -> bool {
        self.flags & workload_flags::PRESENT != 0
    }
}

/// Flags of a workload.
pub mod workload_flags {
    /// Policy denials pass and are counted.
    pub const OBSERVE: u32 = 1;
    /// Segments of unknown connections are answered with a reset to the workload.
    pub const RESET_UNKNOWN: u32 = 2;
    /// Its addresses are listed in the address map and enforced.
    pub const CHECK_ADDRESS: u32 = 4;
    /// The row is a workload's; the daemon's maps set it.
    pub const PRESENT: u32 = 8;
    /// Some network rule of it names hosts: the daemon reads what name servers answer to it.
    pub const ASKS_NAMES: u32 = 16;
}

/// An interface; its key is the ifindex as `u32`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct InterfaceValue {
    /// Workload id.
    pub workload: u16,
    /// Bits of [`interface_flags`].
    pub flags: u16,
    /// Source link address that frames from the workload must have, with `CHECK_MAC`.
    pub mac: [u8; 6],
    /// Zero.
    pub zero: [u8; 6],
}

/// Slots of interfaces; a power of two. A slot's number is the low bits of the ifindex.
pub const INTERFACE_SLOTS: u32 = 4096;

/// An interface in its slot. Number, workload and flags are one aligned word, which is never seen half
/// written; whoever writes another interface empties the slot first.
#[repr(C, align(8))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct InterfaceSlot {
    /// The ifindex.
    pub ifindex: u32,
    /// Its value; all zero in a slot that is empty.
    pub value: InterfaceValue,
    /// Zero.
    pub zero: [u8; 4],
}

impl InterfaceSlot {
    /// Whether the slot is the interface's.
    #[must_use]
    #[inline(always)]
    pub const fn holds(&self, ifindex: u32) -> bool {
        self.ifindex == ifindex && self.value.workload != 0
    }
}

/// Flags of an interface.
pub mod interface_flags {
    /// It is the host side of the workload's veth: the ingress hook sees what the workload sends.
    pub const HOST_SIDE: u16 = 1;
    /// Frames from the workload must have the source link address of the value.
    pub const CHECK_MAC: u16 = 2;
}

/// An address that a workload may use as its own.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct AddressKey {
    /// The address, IPv4 in mapped form.
    pub address: Address,
    /// Workload id.
    pub workload: u16,
    /// Zero.
    pub zero: [u8; 6],
}

/// Key of a token bucket.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct BucketKey {
    /// First 8 bytes of the source network (/24 of IPv4 in its last three bytes, /64 of IPv6); 0
    /// for a bucket that all sources share.
    pub source: [u8; 8],
    /// Workload id; 0 for a bucket that all workloads share.
    pub workload: u16,
    /// What is limited: a number of the datapath.
    pub kind: u16,
    /// Zero.
    pub zero: [u8; 4],
}

/// A token bucket.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BucketValue {
    /// Boot-time nanoseconds of the last refill.
    pub refilled_ns: u64,
    /// Tokens left, in thousandths.
    pub millitokens: u64,
}

pod!(
    WorkloadValue = 104,
    InterfaceValue = 16,
    InterfaceSlot = 24,
    AddressKey = 24,
    BucketKey = 16,
    BucketValue = 16,
);
