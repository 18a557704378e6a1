//! Network rules and mesh networks: one longest-prefix trie for both families.

use super::{Address, pod};

/// The most rules that may apply to one address.
pub const NETWORK_ENTRIES: usize = 16;

/// Key data of the trie, behind its prefix length (32 bits of `rule_set` are always significant).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct NetworkKey {
    /// Number of the rule set, unique in each epoch.
    pub rule_set: u32,
    /// Network address, IPv4 in mapped form.
    pub address: Address,
}

/// One rule for an address. An all-zero entry matches nothing.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NetworkEntry {
    /// IP protocol number; 255 for every protocol.
    pub protocol: u8,
    /// One of [`super::direction`]; 0 ends the list.
    pub direction: u8,
    /// Lowest port of the server.
    pub port_low: u16,
    /// Highest port of the server.
    pub port_high: u16,
    /// Number of the rule, for messages.
    pub rule: u16,
}

/// All that applies to the addresses of one prefix, the rules of covering prefixes included.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NetworkValue {
    /// Bits of [`network_flags`].
    pub flags: u32,
    /// The rules, ended by an entry with direction 0.
    pub entries: [NetworkEntry; NETWORK_ENTRIES],
}

pod!(NetworkKey = 20, NetworkEntry = 8, NetworkValue = 132);

/// Flags of a prefix in the mesh set.
pub mod network_flags {
    /// Peers there are expected to speak the protocol.
    pub const MESH: u32 = 1;
    /// A peer dialled here may answer with another address (Services, published ports).
    pub const VIRTUAL: u32 = 2;
}
