//! The maps. All but the scratch are pinned by the daemon; their layout is `enforcer_common::abi`.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, PerCpuHashMap, RingBuf},
    macros::btf_map,
};
use enforcer_common::abi::{
    AddressKey, AttemptValue, BucketKey, BucketValue, COUNTER_BLOCKS as BLOCKS, Config,
    CounterBlock, CounterKey, CredentialValue, FlowKey, FlowKey4, FlowKey6, FlowValue, Handle,
    INTERFACE_SLOTS, InterfaceSlot, InterfaceValue, NetworkKey, NetworkValue, NonceState, PeerKey,
    PeerValue, ReaderState, ShareValue, VerdictKey, VerdictValue, WORKLOAD_ROWS, WorkloadValue,
};

use crate::scratch::Scratch;

const WORKLOADS_MAX: usize = WORKLOAD_ROWS as usize;
const HELD_RING_BYTES: usize = 1 << 18;
const REJECTED_RING_BYTES: usize = 1 << 18;
const NAMES_RING_BYTES: usize = 1 << 17;

/// Epoch, limits.
#[btf_map]
pub static CONFIG: Array<Config, 1> = Array::new();
/// Secret and counter of the nonce PRF.
#[btf_map]
pub static NONCES: Array<NonceState, 1> = Array::new();
/// ifindex to workload.
#[btf_map]
pub static INTERFACES: HashMap<u32, InterfaceValue, 4096> = HashMap::new();
/// The same by the low bits of the ifindex, for the look-up of every packet: one of each that share
/// them, the others are in [`INTERFACES`] alone.
#[btf_map]
pub static SLOTS: Array<InterfaceSlot, { INTERFACE_SLOTS as usize }> = Array::new();
/// Workloads by id.
#[btf_map]
pub static WORKLOADS: Array<WorkloadValue, WORKLOADS_MAX> = Array::new();
/// Addresses a workload may use.
#[btf_map]
pub static ADDRESSES: HashMap<AddressKey, u32, 16384> = HashMap::new();
/// Local credentials by handle.
#[btf_map]
pub static CREDENTIALS: HashMap<Handle, CredentialValue, 8192> = HashMap::new();
/// Pair keys and identities of peers.
#[btf_map]
pub static PEERS: HashMap<PeerKey, PeerValue, 16384> = HashMap::new();
/// Cached verdicts.
#[btf_map]
pub static VERDICTS: HashMap<VerdictKey, VerdictValue, 65536> = HashMap::new();
/// Mesh networks and network rules.
#[btf_map]
pub static NETWORKS: LpmTrie<NetworkKey, NetworkValue, 65536> = LpmTrie::new();
/// IPv4 flows.
#[btf_map]
pub static FLOWS4: HashMap<FlowKey4, FlowValue, 131_072> = HashMap::new();
/// IPv6 flows.
#[btf_map]
pub static FLOWS6: HashMap<FlowKey6, FlowValue, 131_072> = HashMap::new();
/// Half-open connections that have a place of their own: calls of workloads, and those of sources
/// that have proven themselves before, within their rates.
#[btf_map]
pub static ATTEMPTS: LruHashMap<FlowKey, AttemptValue, 16384> = LruHashMap::new();
/// All other half-open connections: a flood of them displaces its like.
#[btf_map]
pub static CROWD: LruHashMap<FlowKey, AttemptValue, 16384> = LruHashMap::new();
/// The rates of places in [`ATTEMPTS`]: by source for those that a proof came from, by the zero
/// address for a workload itself.
#[btf_map]
pub static STANDING: LruHashMap<AddressKey, BucketValue, 16384> = LruHashMap::new();
/// Flows ever opened, by workload, and by `SHARE_OF_ALL` those of all. Only programs write them.
#[btf_map]
pub static SHARES_OPENED: Array<ShareValue, WORKLOADS_MAX> = Array::new();
/// Those of [`SHARES_OPENED`] that are gone; only the daemon writes it.
#[btf_map]
pub static SHARES_GONE: Array<ShareValue, WORKLOADS_MAX> = Array::new();
/// Token buckets.
#[btf_map]
pub static BUCKETS: LruHashMap<BucketKey, BucketValue, 16384> = LruHashMap::new();
/// Counters, by the low bits of a workload's id.
#[btf_map]
pub static COUNTER_BLOCKS: PerCpuArray<CounterBlock, { BLOCKS as usize }> = PerCpuArray::new();
/// Counters of workloads whose block is another's.
#[btf_map]
pub static COUNTERS: PerCpuHashMap<CounterKey, u64, 16384, { BPF_F_NO_PREALLOC as usize }> =
    PerCpuHashMap::new();
/// Held segments; a segment's ring is chosen by its source, so that one flood leaves the others.
#[btf_map]
pub static HELD_0: RingBuf<(), HELD_RING_BYTES> = RingBuf::new();
/// See [`HELD_0`].
#[btf_map]
pub static HELD_1: RingBuf<(), HELD_RING_BYTES> = RingBuf::new();
/// See [`HELD_0`].
#[btf_map]
pub static HELD_2: RingBuf<(), HELD_RING_BYTES> = RingBuf::new();
/// See [`HELD_0`].
#[btf_map]
pub static HELD_3: RingBuf<(), HELD_RING_BYTES> = RingBuf::new();
/// Sampled drops.
#[btf_map]
pub static REJECTED: RingBuf<(), REJECTED_RING_BYTES> = RingBuf::new();
/// Questions to name servers, and their answers.
#[btf_map]
pub static NAMES: RingBuf<(), NAMES_RING_BYTES> = RingBuf::new();
/// How far the daemon has read [`NAMES`].
#[btf_map]
pub static READER: Array<ReaderState, 1> = Array::new();
/// Working memory of the program that runs on this CPU.
#[btf_map]
pub static SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();
/// Set while this CPU sends a clone that must become a bare proof.
#[btf_map]
pub static CLONING: PerCpuArray<u32, 1> = PerCpuArray::new();
