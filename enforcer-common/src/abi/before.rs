//! The layout one version back: what a daemon takes over from a version that it follows.
//!
//! Every map that outlives an upgrade has its key and value here, the same as today's where nothing
//! changed, and a `From` for what did: new fields get the default that is written there. Whoever changes
//! a layout moves the old structure here and raises [`super::ABI_VERSION`] and [`VERSION`]; what stands
//! here for the version before that one goes.

/// What a version left as it was.
macro_rules! unchanged {
    ($($name:ident),+ $(,)?) => {$(
        #[doc = concat!("As [`super::", stringify!($name), "`].")]
        pub type $name = super::$name;
    )+};
}

unchanged!(
    AddressKey,
    AttemptValue,
    BucketKey,
    BucketValue,
    CounterBlock,
    CounterKey,
    CredentialValue,
    FlowKey,
    FlowKey4,
    FlowKey6,
    Handle,
    InterfaceValue,
    NetworkKey,
    NetworkValue,
    PeerKey,
    PeerValue,
    VerdictKey,
    VerdictValue,
    WorkloadValue,
);

/// The version that is taken over, if one is: nothing of an earlier version was released.
#[cfg(not(feature = "abi-next"))]
pub const VERSION: Option<u32> = None;
#[cfg(not(feature = "abi-next"))]
unchanged!(FlowValue);

#[cfg(feature = "abi-next")]
pub use self::v3::{FlowValue, VERSION};

#[cfg(feature = "abi-next")]
mod v3 {
    use super::super::{Handle, pod};

    /// The version that is taken over, if one is.
    pub const VERSION: Option<u32> = Some(3);

    /// A flow whose packets are counted in 32 bits.
    #[repr(C)]
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    #[expect(missing_docs, reason = "as in the layout of today")]
    pub struct FlowValue {
        pub peer: u64,
        pub deadline_ns: u64,
        pub seen_ns: u64,
        pub bytes_out: u64,
        pub bytes_in: u64,
        pub packets_out: u32,
        pub packets_in: u32,
        pub epoch: u32,
        pub local_next: u32,
        pub local_ack: u32,
        pub remote_next: u32,
        pub remote_ack: u32,
        pub port: u16,
        pub state: u8,
        pub flags: u8,
        pub handle: Handle,
        pub local_mac: [u8; 6],
        pub remote_mac: [u8; 6],
        pub remote_end: u32,
    }

    pod!(FlowValue = 96);

    impl From<FlowValue> for super::super::FlowValue {
        fn from(flow: FlowValue) -> Self {
            Self {
                peer: flow.peer,
                deadline_ns: flow.deadline_ns,
                seen_ns: flow.seen_ns,
                bytes_out: flow.bytes_out,
                bytes_in: flow.bytes_in,
                packets_out: flow.packets_out.into(),
                packets_in: flow.packets_in.into(),
                epoch: flow.epoch,
                local_next: flow.local_next,
                local_ack: flow.local_ack,
                remote_next: flow.remote_next,
                remote_ack: flow.remote_ack,
                port: flow.port,
                state: flow.state,
                flags: flow.flags,
                handle: flow.handle,
                local_mac: flow.local_mac,
                remote_mac: flow.remote_mac,
                remote_end: flow.remote_end,
            }
        }
    }
}
