//! Keys and values of the pinned maps, ring records and the numbers that outlive an upgrade.
//!
//! Byte order: addresses are arrays in network order, as they stand in the packet; ports, sequence
//! numbers and every other integer are in host order. Padding is explicit and zero, because the
//! kernel compares keys as bytes. Enumerations travel as integers and are checked when read.

mod attempt;
pub mod before;
mod config;
mod counter;
mod event;
mod flow;
mod network;
mod peer;
mod share;
mod verdict;
mod workload;

pub use attempt::{AttemptValue, role};
pub use config::{Config, NonceState, config_flags};
pub use counter::{
    BLOCK_COUNTS, COUNTED_BEFORE, COUNTER_BLOCKS, CounterBlock, CounterKey, DropReason, Event,
};
pub use event::{
    HELD_FRAME_MAX, HeldSegment, READ_MARK, ReaderState, ReinjectTrailer, ReportedSegment,
    record_kind,
};
pub use flow::{FlowKey, FlowKey4, FlowKey6, FlowValue, PacketCount, flow_flags, flow_state};
pub use network::{NETWORK_ENTRIES, NetworkEntry, NetworkKey, NetworkValue, network_flags};
pub use peer::{CredentialValue, MAX_CREDENTIAL_BYTES, PeerKey, PeerValue};
pub use share::{SHARE_COUNTS, SHARE_OF_ALL, ShareValue};
pub use verdict::{VerdictKey, VerdictValue, direction, obligation, verdict_action};
pub use workload::{
    AddressKey, BucketKey, BucketValue, INTERFACE_SLOTS, InterfaceSlot, InterfaceValue,
    WORKLOAD_ID_MAX, WORKLOAD_NAME_BYTES, WORKLOAD_ROWS, WorkloadValue, interface_flags,
    workload_flags,
};

/// Version of everything in this module. A daemon adopts pinned maps of its own version, and takes over
/// those of the version that [`before`] holds; all others it refuses.
pub const ABI_VERSION: u32 = 3 + cfg!(feature = "abi-next") as u32;

/// A handle: the first 8 bytes of BLAKE3 over a credential.
pub type Handle = [u8; 8];

/// A nonce of one attempt.
pub type Nonce = [u8; 8];

/// A truncated BLAKE3 MAC.
pub type Mac = [u8; 16];

/// An IPv6 address, or an IPv4 address in mapped form (`::ffff:a.b.c.d`), network order.
pub type Address = [u8; 16];

/// An [`Address`] as four words of its memory: what packets are read into, since the kernel's
/// compiler would otherwise move sixteen bytes one by one.
pub type AddressWords = [u32; 4];

/// The address of these words.
#[must_use]
#[inline(always)]
pub const fn address(words: AddressWords) -> Address {
    // SAFETY: both are 16 plain bytes.
    unsafe { core::mem::transmute(words) }
}

/// The words of an address.
#[must_use]
#[inline(always)]
pub const fn words(address: Address) -> AddressWords {
    // SAFETY: both are 16 plain bytes.
    unsafe { core::mem::transmute(address) }
}

/// The words of a mapped IPv4 address, from the word that it is in memory.
#[must_use]
#[inline(always)]
pub const fn mapped_words(v4: u32) -> AddressWords {
    [0, 0, u32::from_ne_bytes([0, 0, 0xff, 0xff]), v4]
}

/// The mapped form of an IPv4 address (RFC 4291 2.5.5.2).
#[must_use]
#[inline(always)]
pub const fn mapped(v4: [u8; 4]) -> Address {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, v4[0], v4[1], v4[2], v4[3]]
}

/// `aya::Pod` for types that are `repr(C)`, `Copy` and without implicit padding.
macro_rules! pod {
    ($($t:ty = $size:expr),+ $(,)?) => {$(
        const _: () = assert!(size_of::<$t>() == $size);
        // SAFETY: repr(C), Copy, every byte is a declared field (the assertion above fixes the
        // size to the sum of the fields), and every bit pattern is a value.
        #[cfg(feature = "user")]
        unsafe impl aya::Pod for $t {}
    )+};
}
pub(crate) use pod;
