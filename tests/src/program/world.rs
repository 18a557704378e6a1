//! One workload with one peer, as the daemon would write them into the maps; `segments` are those of their handshake.

mod segments;

use std::net::IpAddr;

use enforcer_common::abi::{
    ABI_VERSION, AddressKey, AttemptValue, Config, CredentialValue, FlowKey, FlowKey4, FlowValue,
    Handle, InterfaceValue, MAX_CREDENTIAL_BYTES, NetworkEntry, NetworkKey, NetworkValue, Nonce,
    NonceState, PeerKey, PeerValue, VerdictKey, VerdictValue, WORKLOAD_NAME_BYTES, WorkloadValue,
    direction, interface_flags, network_flags, verdict_action, workload_flags,
};
use enforcer_common::wire::checksum::sum_bytes;
use enforcer_user::datapath::boot_ns;

use super::kernel::{Exclusive, FLOWS_MAX, IFINDEX};
use super::mac::words;
use super::packet::End;
use super::segment::TCP;

/// The workload's id.
pub const WORKLOAD: u16 = 7;
/// The peer's identity id.
pub const PEER: u64 = 0x1002;
/// The policy's epoch.
pub const EPOCH: u32 = 4;
/// The server's port.
pub const SERVICE: u16 = 8080;
/// The client's port.
pub const CALLER: u16 = 40001;
/// Initial sequence number of the workload: it wraps at once.
pub const LOCAL_ISN: u32 = 0xffff_ffff;
/// Initial sequence number of the far side.
pub const REMOTE_ISN: u32 = 0x7000_0000;
/// The peer's nonce.
pub const PEER_NONCE: Nonce = [0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7, 0xa8];
/// Pair key when the workload is the initiator.
pub const KEY_AS_INITIATOR: [u8; 32] = [0x51; 32];
/// Pair key when the workload is the responder.
pub const KEY_AS_RESPONDER: [u8; 32] = [0x52; 32];
/// What applications send.
pub const DATA: &[u8] = b"a pint of the beer of the day";

/// Which set of addresses the workload has.
pub const ADDRESS_SET: u32 = 0x5e7;

const HOUR_NS: u64 = 3_600_000_000_000;
const RULE_SETS: [u32; 2] = [10, 11];
/// Bits of a mesh network's key: rule set, and /24 of a mapped IPv4 or /48 of an IPv6 address.
const MESH_BITS: [u32; 2] = [32 + 96 + 24, 32 + 48];
const WHOLE_BITS: u32 = 32 + 128;
const ATTEMPT_TABLES: [&str; 2] = ["ATTEMPTS", "CROWD"];

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];
}

/// What the workload is in the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// It opens the connection.
    Client,
    /// It is connected to.
    Server,
}

/// A credential. The programs never look inside, so any bytes serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// The bytes that travel.
    pub bytes: Vec<u8>,
    /// First bytes of their hash.
    pub handle: Handle,
}

impl Credential {
    /// One of `length` bytes.
    #[must_use]
    pub fn new(name: &str, length: usize) -> Self {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().update(name.as_bytes()).finalize_xof().fill(&mut bytes);
        let hash = blake3::hash(&bytes);
        Self { handle: *hash.as_bytes().first_chunk().expect("8 of 32"), bytes }
    }

    /// As the map holds it.
    #[must_use]
    pub fn value(&self, deadline_ns: u64) -> CredentialValue {
        let mut bytes = [0; MAX_CREDENTIAL_BYTES];
        bytes[..self.bytes.len()].copy_from_slice(&self.bytes);
        let length = u16::try_from(self.bytes.len()).expect("a credential's length");
        CredentialValue { deadline_ns, length, sum: sum_bytes(&self.bytes), zero: [0; 4], bytes }
    }
}

/// The maps filled for one connection.
pub struct World {
    /// The programs, for this test alone.
    pub kernel: Exclusive,
    /// Addresses' family.
    pub family: Family,
    /// What the workload is.
    pub side: Side,
    /// The workload's end.
    pub local: End,
    /// The peer's end, in a mesh network.
    pub remote: End,
    /// An end outside the mesh networks.
    pub outside: End,
    /// The workload's credential.
    pub own: Credential,
    /// The peer's credential.
    pub theirs: Credential,
    /// Boot time when the maps were filled.
    pub now_ns: u64,
    /// Which set of addresses the workload's row names.
    address_set: u32,
}

impl World {
    /// Waits for the programs and fills their maps: peer known, allowed both ways, addresses and link address of the
    /// workload enforced, no network rule.
    #[must_use]
    pub fn new(family: Family, side: Side) -> Self {
        let address = |v4: [u8; 4], v6: [u16; 8]| match family {
            Family::V4 => IpAddr::from(v4),
            Family::V6 => IpAddr::from(v6),
        };
        let (local_port, remote_port) = match side {
            Side::Client => (CALLER, SERVICE),
            Side::Server => (SERVICE, CALLER),
        };
        let end = |last: u8, port, address| End { mac: [2, 0, 0, 0, 0, last], address, port };
        let mut world = Self {
            kernel: Exclusive::take(),
            family,
            side,
            local: end(1, local_port, address([192, 0, 2, 1], [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1])),
            remote: end(
                9,
                remote_port,
                address([198, 51, 100, 9], [0x2001, 0xdb8, 0x51, 0, 0, 0, 0, 9]),
            ),
            outside: end(
                5,
                remote_port,
                address([203, 0, 113, 5], [0x2001, 0xdb8, 0x71, 0, 0, 0, 0, 5]),
            ),
            // Odd lengths: the checksum's last word is half padding.
            own: Credential::new("the workload's", 301),
            theirs: Credential::new("the peer's", 333),
            now_ns: boot_ns(),
            address_set: ADDRESS_SET,
        };
        world.fill();
        world
    }

    fn fill(&mut self) {
        let config = Config {
            abi_version: ABI_VERSION,
            epoch: EPOCH,
            flags: 0,
            cold_per_second: 1000,
            cold_per_source: 1000,
            samples_per_second: 0,
            attempts_per_source: 1000,
            flows: 4096,
        };
        self.kernel.put_single("CONFIG", config);
        self.kernel.put_single("NONCES", NonceState { secret: [3; 2], zero: [0; 2], counter: 0 });
        self.set_interface(WORKLOAD, interface_flags::CHECK_MAC);
        self.set_workload(|_| {});
        let key = AddressKey { address: self.local.mapped(), workload: WORKLOAD, zero: [0; 6] };
        self.kernel.put("ADDRESSES", key, 1u32);
        let deadline_ns = self.later();
        let (handle, own) = (self.own.handle, self.own.value(deadline_ns));
        self.kernel.put("CREDENTIALS", handle, own);
        self.set_peer(|_| {});
        for asked in [direction::EGRESS, direction::INGRESS] {
            self.set_verdict(asked, EPOCH, verdict_action::ALLOW, deadline_ns);
        }
        for rule_set in [0, 1] {
            let value = NetworkValue { flags: network_flags::MESH, ..NetworkValue::default() };
            let key = NetworkKey { rule_set, address: self.remote.mapped() };
            let bits = MESH_BITS[usize::from(self.family == Family::V6)];
            self.kernel.put_network(bits, key, value);
        }
    }

    /// A deadline an hour away.
    #[must_use]
    pub fn later(&self) -> u64 {
        self.now_ns + HOUR_NS
    }

    /// A deadline that has passed.
    #[must_use]
    pub fn past(&self) -> u64 {
        // Programs read the clock once a tick.
        self.now_ns - 1_000_000_000
    }

    /// Says whose the interface is.
    pub fn set_interface(&mut self, workload: u16, flags: u16) {
        let mac = self.local.mac;
        self.kernel.put(
            "INTERFACES",
            IFINDEX,
            InterfaceValue { workload, flags, mac, zero: [0; 6] },
        );
    }

    /// Writes the workload anew, changed.
    pub fn set_workload(&mut self, change: impl Fn(&mut WorkloadValue)) {
        let mut value = WorkloadValue {
            identity: 0x1001,
            credential: self.own.handle,
            adopt_until_ns: 0,
            rule_sets: RULE_SETS,
            flags: workload_flags::PRESENT | workload_flags::CHECK_ADDRESS,
            address_set: self.address_set,
            name: [0; WORKLOAD_NAME_BYTES],
        };
        change(&mut value);
        self.kernel.put_row("WORKLOADS", u32::from(WORKLOAD), value);
    }

    /// Writes the configuration anew, changed.
    pub fn set_config(&mut self, change: impl Fn(&mut Config)) {
        let mut config: Config = self.kernel.single("CONFIG");
        change(&mut config);
        self.kernel.put_single("CONFIG", config);
    }

    /// Key of the peer.
    #[must_use]
    pub fn peer_key(&self) -> PeerKey {
        PeerKey { local: self.own.handle, remote: self.theirs.handle }
    }

    /// Writes the peer anew, changed.
    pub fn set_peer(&mut self, change: impl Fn(&mut PeerValue)) {
        let bytes = &self.theirs.bytes;
        let mut value = PeerValue {
            as_initiator: words(&KEY_AS_INITIATOR),
            as_responder: words(&KEY_AS_RESPONDER),
            hash: *blake3::hash(bytes).as_bytes(),
            identity: PEER,
            deadline_ns: self.later(),
            length: u16::try_from(bytes.len()).expect("a credential's length"),
            sum: sum_bytes(bytes),
            zero: [0; 4],
        };
        change(&mut value);
        let key = self.peer_key();
        self.kernel.put("PEERS", key, value);
    }

    /// Makes the daemon forget the peer.
    pub fn forget_peer(&mut self) {
        let key = self.peer_key();
        self.kernel.remove::<PeerKey, PeerValue>("PEERS", &key);
    }

    /// Key of the verdict on the peer.
    #[must_use]
    pub fn verdict_key(asked: u8, epoch: u32) -> VerdictKey {
        VerdictKey {
            peer: PEER,
            epoch,
            workload: WORKLOAD,
            port: SERVICE,
            protocol: TCP,
            direction: asked,
            zero: [0; 6],
        }
    }

    /// Writes the verdict on the peer.
    pub fn set_verdict(&mut self, asked: u8, epoch: u32, action: u8, deadline_ns: u64) {
        let value = VerdictValue { deadline_ns, rule: 1, action, obligations: 0, zero: [0; 2] };
        self.kernel.put("VERDICTS", Self::verdict_key(asked, epoch), value);
    }

    /// Writes the verdict on the peer, of the current epoch, with what it obliges to.
    pub fn oblige(&mut self, asked: u8, action: u8, obligations: u8) {
        let deadline_ns = self.later();
        let value = VerdictValue { deadline_ns, rule: 1, action, obligations, zero: [0; 2] };
        self.kernel.put("VERDICTS", Self::verdict_key(asked, EPOCH), value);
    }

    /// Makes the daemon forget the verdict on the peer.
    pub fn forget_verdict(&mut self, asked: u8) {
        self.kernel
            .remove::<VerdictKey, VerdictValue>("VERDICTS", &Self::verdict_key(asked, EPOCH));
    }

    /// Allows a protocol (255: any) and server ports at one address by a network rule, in both epochs.
    pub fn allow_network(&mut self, far: &End, asked: u8, protocol: u8, ports: (u16, u16)) {
        let mut value = NetworkValue::default();
        let (port_low, port_high) = ports;
        value.entries[0] =
            NetworkEntry { protocol, direction: asked, port_low, port_high, rule: 1 };
        for rule_set in RULE_SETS {
            let key = NetworkKey { rule_set, address: far.mapped() };
            self.kernel.put_network(WHOLE_BITS, key, value);
        }
    }

    /// Says which set of addresses the workload has; its row is written anew.
    pub fn name_address_set(&mut self, address_set: u32) {
        self.address_set = address_set;
        self.set_workload(|_| {});
    }

    /// The workload's address is its own no more.
    pub fn lose_address(&mut self) {
        let key = AddressKey { address: self.local.mapped(), workload: WORKLOAD, zero: [0; 6] };
        self.kernel.remove::<_, u32>("ADDRESSES", &key);
    }

    /// Says what the mesh networks know of the peer's address.
    pub fn set_mesh(&mut self, flags: u32) {
        for rule_set in [0, 1] {
            let key = NetworkKey { rule_set, address: self.remote.mapped() };
            let value = NetworkValue { flags, ..NetworkValue::default() };
            self.kernel.put_network(WHOLE_BITS, key, value);
        }
    }

    /// Key of the connection.
    #[must_use]
    pub fn key(&self) -> FlowKey {
        self.key_with(&self.remote)
    }

    /// Key of a TCP connection with another far end.
    #[must_use]
    pub fn key_with(&self, far: &End) -> FlowKey {
        FlowKey {
            workload: WORKLOAD,
            protocol: TCP,
            zero: 0,
            local_port: self.local.port,
            remote_port: far.port,
            local: self.local.mapped(),
            remote: far.mapped(),
        }
    }

    /// The half-open connection.
    #[must_use]
    pub fn attempt(&self) -> Option<AttemptValue> {
        ATTEMPT_TABLES.iter().find_map(|table| self.kernel.read(table, &self.key()))
    }

    /// Whether the half-open connection stands where only its like can displace it.
    #[must_use]
    pub fn is_in_crowd(&self) -> bool {
        self.kernel.read::<FlowKey, AttemptValue>("CROWD", &self.key()).is_some()
    }

    /// Changes the half-open connection, which must be there.
    pub fn change_attempt(&mut self, change: impl Fn(&mut AttemptValue)) {
        let mut value = self.attempt().expect("an attempt");
        change(&mut value);
        let (key, table) = (self.key(), ATTEMPT_TABLES[usize::from(self.is_in_crowd())]);
        self.kernel.put(table, key, value);
    }

    /// Evicts the half-open connection, if there is one.
    pub fn evict_attempt(&mut self) {
        if self.attempt().is_some() {
            let (key, table) = (self.key(), ATTEMPT_TABLES[usize::from(self.is_in_crowd())]);
            self.kernel.remove::<FlowKey, AttemptValue>(table, &key);
        }
    }

    /// The flow.
    #[must_use]
    pub fn flow(&self) -> Option<FlowValue> {
        self.flow_of(self.key())
    }

    /// A flow.
    #[must_use]
    pub fn flow_of(&self, key: FlowKey) -> Option<FlowValue> {
        match self.family {
            Family::V4 => self.kernel.read::<FlowKey4, _>("FLOWS4", &key.to_v4()),
            Family::V6 => self.kernel.read::<FlowKey, _>("FLOWS6", &key),
        }
    }

    /// Writes a flow.
    pub fn put_flow(&mut self, key: FlowKey, value: FlowValue) {
        match self.family {
            Family::V4 => self.kernel.put("FLOWS4", key.to_v4(), value),
            Family::V6 => self.kernel.put("FLOWS6", key, value),
        }
    }

    /// Leaves no room in the flow table.
    pub fn fill_flows(&mut self) {
        for port in 1..=FLOWS_MAX {
            let mut key = self.key();
            key.remote_port = u16::try_from(port).expect("a port");
            self.put_flow(key, FlowValue { deadline_ns: u64::MAX, ..FlowValue::default() });
        }
    }

    /// Changes the flow, which must be there.
    pub fn change_flow(&mut self, change: impl Fn(&mut FlowValue)) {
        let mut value = self.flow().expect("a flow");
        change(&mut value);
        self.put_flow(self.key(), value);
    }
}
