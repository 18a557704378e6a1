//! The loaded programs and their maps. One test at a time has them, and finds every map empty.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray, PerCpuHashMap, PerCpuValues, RingBuf};
use aya::programs::{Program, TestRun, TestRunOptions};
use aya::{Ebpf, EbpfLoader, Pod};
use enforcer_common::abi::{
    AddressKey, AttemptValue, BucketKey, BucketValue, Config, CounterBlock, CounterKey,
    CredentialValue, DropReason, Event, FlowKey, FlowKey4, FlowKey6, FlowValue, Handle,
    HeldSegment, InterfaceSlot, InterfaceValue, NetworkKey, NetworkValue, PeerKey, PeerValue,
    ReaderState, ReportedSegment, ShareValue, VerdictKey, VerdictValue, WorkloadValue,
};
use nix::sched::{CloneFlags, unshare};

use crate::need;
use crate::program::world::WORKLOAD;

/// Flows of each family that fit: few, so that a test can fill the table.
pub const FLOWS_MAX: u32 = 64;
/// Bytes of each ring of held segments: one page, so that a test can fill it.
pub const HELD_RING_BYTES: u32 = 4096;
/// Index of `lo`, the device of a test run.
pub const IFINDEX: u32 = 1;

/// Room for what a program makes of a frame.
const OUTPUT_BYTES: usize = 8192;
const HELD: [&str; 4] = ["HELD_0", "HELD_1", "HELD_2", "HELD_3"];
const REJECTED: &str = "REJECTED";
const NAMES: &str = "NAMES";
/// `__sk_buff` up to its `mark`, the third word (`<linux/bpf.h>`).
const MARK_WORDS: usize = 3;
/// Rows by workload id that tests write: of no workload, of the world's, and of another.
const WORKLOADS_USED: RangeInclusive<u32> = 0..=WORKLOAD as u32 + 1;

/// A program, from the workload's side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Sees what the workload sends.
    From,
    /// Sees what the workload is about to receive.
    To,
    /// Sees it before, and drops what [`Hook::To`] would (XDP).
    Guard,
}

impl Hook {
    const fn program(self) -> &'static str {
        match self {
            Self::From => "from_workload",
            Self::To => "to_workload",
            Self::Guard => "guard",
        }
    }

    /// What a return value of its program says.
    fn action(self, value: i32) -> Action {
        match (self, value) {
            (Self::From | Self::To, -1) | (Self::Guard, 2) => Action::Pass,
            (Self::From | Self::To, 2) | (Self::Guard, 1) => Action::Drop,
            (Self::From | Self::To, 7) => Action::Redirect,
            (_, other) => panic!("{self:?} returned action {other}"),
        }
    }
}

/// What became of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// `TC_ACT_UNSPEC`, `XDP_PASS`: goes on.
    Pass,
    /// `TC_ACT_SHOT`, `XDP_DROP`.
    Drop,
    /// `TC_ACT_REDIRECT`.
    Redirect,
}

/// What a program did with a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// What became of it.
    pub action: Action,
    /// The frame behind the program.
    pub frame: Vec<u8>,
    /// The counters that moved, and by how much: the name of a drop reason or event, behind `id:` of the workload.
    pub counters: BTreeMap<String, u64>,
}

impl Seen {
    /// Counters of which each moved by one, for the workload of the tests.
    #[must_use]
    pub fn counted(names: &[&str]) -> BTreeMap<String, u64> {
        names.iter().map(|name| (format!("{WORKLOAD}:{name}"), 1)).collect()
    }
}

/// The programs and their maps.
pub struct Kernel {
    ebpf: Ebpf,
    held: Vec<RingBuf<MapData>>,
    rejected: RingBuf<MapData>,
    names: RingBuf<MapData>,
    guarded: u64,
}

/// The programs, for one test alone, with empty maps. Tests run in a network namespace of their own, since resets
/// and proofs are sent for real.
pub struct Exclusive(MutexGuard<'static, Option<Kernel>>);

impl Exclusive {
    /// Waits for the test before; loads the object if this is the first.
    #[must_use]
    pub fn take() -> Self {
        static KERNEL: Mutex<Option<Kernel>> = Mutex::new(None);
        isolate();
        let mut guard = KERNEL.lock().unwrap_or_else(PoisonError::into_inner);
        guard.get_or_insert_with(Kernel::load).clear();
        Self(guard)
    }
}

impl std::ops::Deref for Exclusive {
    type Target = Kernel;

    fn deref(&self) -> &Kernel {
        self.0.as_ref().expect("loaded when taken")
    }
}

impl std::ops::DerefMut for Exclusive {
    fn deref_mut(&mut self) -> &mut Kernel {
        self.0.as_mut().expect("loaded when taken")
    }
}

/// Moves this thread into a network namespace of its own, once.
fn isolate() {
    thread_local!(static ISOLATED: Cell<bool> = const { Cell::new(false) });
    if ISOLATED.replace(true) {
        return;
    }
    unshare(CloneFlags::CLONE_NEWNET)
        .expect("program tests need root, for namespaces and eBPF programs");
    need::run(Command::new("ip").args(["link", "set", "lo", "up"])).expect("`ip` works");
}

impl Kernel {
    /// Loads the object that this build embeds, or the one that `ENFORCER_EBPF_OBJECT` names.
    fn load() -> Self {
        let other = std::env::var_os("ENFORCER_EBPF_OBJECT")
            .map(|path| std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())));
        let object = other.as_deref().unwrap_or_else(|| enforcer_user::datapath::object());
        let mut loader = EbpfLoader::new();
        loader.map_max_entries("FLOWS4", FLOWS_MAX).map_max_entries("FLOWS6", FLOWS_MAX);
        for ring in HELD.into_iter().chain([NAMES]) {
            loader.map_max_entries(ring, HELD_RING_BYTES);
        }
        let mut ebpf = loader.load(object).expect("the object's maps can be made");
        for hook in [Hook::From, Hook::To, Hook::Guard] {
            let name = hook.program();
            let loaded = match ebpf.program_mut(name).expect(name) {
                Program::SchedClassifier(program) => program.load(),
                Program::Xdp(program) => program.load(),
                other => panic!("{name} is a program of kind {:?}", other.prog_type()),
            };
            loaded.unwrap_or_else(|error| panic!("{name} is refused: {error}"));
        }
        let ring = |ebpf: &mut Ebpf, name: &str| {
            RingBuf::try_from(ebpf.take_map(name).expect("a ring")).expect("a ring")
        };
        let held = HELD.iter().map(|name| ring(&mut ebpf, name)).collect();
        let rejected = ring(&mut ebpf, REJECTED);
        let names = ring(&mut ebpf, NAMES);
        Self { ebpf, held, rejected, names, guarded: 0 }
    }

    /// Runs a program on a frame that is not shorter than [`shortest`]. In front of what the workload is about to
    /// receive the guard runs too, and must be of the same mind: so every test of that hook is one of the guard.
    pub fn run(&mut self, hook: Hook, frame: &[u8]) -> Seen {
        // It takes samples too, and what it takes others lack.
        let compared = hook == Hook::To && self.single::<Config>("CONFIG").samples_per_second == 0;
        let guard = compared.then(|| self.run_alone(Hook::Guard, frame));
        let seen = self.run_alone(hook, frame);
        if let Some(guard) = guard {
            self.compare_guard(&guard, frame, &seen);
        }
        seen
    }

    /// Runs a program on a frame with this mark.
    pub fn run_marked(&mut self, hook: Hook, frame: &[u8], mark: u32) -> Seen {
        let mut context = [0; 4 * MARK_WORDS];
        context[4 * (MARK_WORDS - 1)..].copy_from_slice(&mark.to_ne_bytes());
        self.run_with(hook, frame, Some(&context))
    }

    /// Frames that the guard dropped, and the program behind it too.
    #[must_use]
    pub fn guarded(&self) -> u64 {
        self.guarded
    }

    /// What the guard drops, the program behind it drops for the same reason and with no other effect; what it passes
    /// it neither changes nor counts.
    fn compare_guard(&mut self, guard: &Seen, frame: &[u8], seen: &Seen) {
        if guard.action == Action::Drop {
            self.guarded += 1;
            assert_eq!(
                (guard.action, &guard.counters),
                (seen.action, &seen.counters),
                "the guard drops what passes, or for another reason:\n{frame:02x?}"
            );
        } else {
            assert!(guard.counters.is_empty(), "the guard counts what it passes: {guard:?}");
            assert_eq!(guard.frame, frame, "the guard changes what it passes");
        }
    }

    fn run_alone(&mut self, hook: Hook, frame: &[u8]) -> Seen {
        self.run_with(hook, frame, None)
    }

    fn run_with(&mut self, hook: Hook, frame: &[u8], context: Option<&[u8]>) -> Seen {
        let before = self.counters();
        let mut output = vec![0; OUTPUT_BYTES];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut output),
            ctx_in: context,
            ..TestRunOptions::default()
        };
        let result = match self.ebpf.program(hook.program()).expect("loaded") {
            Program::SchedClassifier(program) => program.test_run(options),
            Program::Xdp(program) => program.test_run(options),
            other => panic!("{hook:?} is a program of kind {:?}", other.prog_type()),
        };
        let result = result.unwrap_or_else(|error| {
            panic!("the kernel refuses a test run with {} bytes: {error}", frame.len())
        });
        output.truncate(result.data_size_out as usize);
        let action = hook.action(result.return_value.cast_signed());
        let counters = difference(&before, &self.counters());
        Seen { action, frame: output, counters }
    }

    /// Writes a map's entry.
    pub fn put<K: Pod, V: Pod>(&mut self, map: &str, key: K, value: V) {
        self.table::<K, V>(map).insert(key, value, 0).unwrap_or_else(|e| panic!("{map}: {e}"));
    }

    /// Reads a map's entry.
    pub fn read<K: Pod, V: Pod>(&self, map: &str, key: &K) -> Option<V> {
        let table = HashMap::<_, K, V>::try_from(self.ebpf.map(map).expect(map)).expect(map);
        table.get(key, 0).ok()
    }

    /// Removes a map's entry, which must be there.
    pub fn remove<K: Pod, V: Pod>(&mut self, map: &str, key: &K) {
        self.table::<K, V>(map).remove(key).unwrap_or_else(|e| panic!("{map}: {e}"));
    }

    /// Writes the one value of an array.
    pub fn put_single<V: Pod>(&mut self, map: &str, value: V) {
        let mut array = Array::<_, V>::try_from(self.map(map)).expect(map);
        array.set(0, value, 0).unwrap_or_else(|e| panic!("{map}: {e}"));
    }

    /// Writes the slot of [`IFINDEX`].
    pub fn put_slot(&mut self, slot: InterfaceSlot) {
        let mut slots = Array::<_, InterfaceSlot>::try_from(self.map("SLOTS")).expect("an array");
        slots.set(IFINDEX, slot, 0).expect("a slot is written");
    }

    /// Writes a workload's row of an array, which must be one that is cleared for the next test.
    pub fn put_row<V: Pod>(&mut self, map: &str, id: u32, value: V) {
        assert!(WORKLOADS_USED.contains(&id), "row {id} would stay as it is for other tests");
        let mut array = Array::<_, V>::try_from(self.map(map)).expect(map);
        array.set(id, value, 0).unwrap_or_else(|e| panic!("{map}: {e}"));
    }

    /// Reads a workload's row of an array.
    #[must_use]
    pub fn row<V: Pod>(&self, map: &str, id: u32) -> V {
        let array = Array::<_, V>::try_from(self.ebpf.map(map).expect(map)).expect(map);
        array.get(&id, 0).unwrap_or_else(|e| panic!("{map}: {e}"))
    }

    /// Reads the one value of an array.
    #[must_use]
    pub fn single<V: Pod>(&self, map: &str) -> V {
        let array = Array::<_, V>::try_from(self.ebpf.map(map).expect(map)).expect(map);
        array.get(&0, 0).unwrap_or_else(|e| panic!("{map}: {e}"))
    }

    /// Writes networks of `bits` bits, the rule set's included.
    pub fn put_network(&mut self, bits: u32, key: NetworkKey, value: NetworkValue) {
        let mut trie: LpmTrie<_, NetworkKey, NetworkValue> =
            self.map("NETWORKS").try_into().expect("a trie");
        trie.insert(&Key::new(bits, key), value, 0).expect("room for networks");
    }

    /// Says on every CPU that the next segment is a clone which must become a bare proof.
    pub fn set_cloning(&mut self, value: u32) {
        let mut array: PerCpuArray<_, u32> = self.map("CLONING").try_into().expect("an array");
        let cpus = aya::util::nr_cpus().expect("the number of CPUs is known");
        let values = PerCpuValues::try_from(vec![value; cpus]).expect("a value for each CPU");
        array.set(0, values, 0).expect("CLONING is written");
    }

    /// The segments held since the last call: ring number and record.
    pub fn held(&mut self) -> Vec<(usize, Vec<u8>)> {
        let mut records = Vec::new();
        for (number, ring) in self.held.iter_mut().enumerate() {
            while let Some(item) = ring.next() {
                records.push((number, item.to_vec()));
            }
        }
        records
    }

    /// The datagrams to and from name servers that were handed over since the last call.
    pub fn names(&mut self) -> Vec<Vec<u8>> {
        let mut records = Vec::new();
        while let Some(item) = self.names.next() {
            records.push(item.to_vec());
        }
        records
    }

    /// The drops sampled since the last call.
    pub fn rejected(&mut self) -> Vec<ReportedSegment> {
        let mut records = Vec::new();
        while let Some(item) = self.rejected.next() {
            assert_eq!(item.len(), size_of::<ReportedSegment>());
            // SAFETY: as many bytes as the record has, of which every pattern is a value.
            records.push(unsafe { item.as_ptr().cast::<ReportedSegment>().read_unaligned() });
        }
        records
    }

    fn map(&mut self, name: &str) -> &mut Map {
        self.ebpf.map_mut(name).unwrap_or_else(|| panic!("the object has no map {name}"))
    }

    fn table<K: Pod, V: Pod>(&mut self, name: &str) -> HashMap<&mut MapData, K, V> {
        HashMap::try_from(self.map(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    fn empty<K: Pod, V: Pod>(&mut self, name: &str) {
        let mut table = self.table::<K, V>(name);
        let keys: Vec<K> = table.keys().map(|key| key.expect(name)).collect();
        for key in keys {
            table.remove(&key).expect(name);
        }
    }

    fn clear(&mut self) {
        self.empty::<u32, InterfaceValue>("INTERFACES");
        self.put_slot(InterfaceSlot::default());
        self.empty::<AddressKey, u32>("ADDRESSES");
        self.empty::<Handle, CredentialValue>("CREDENTIALS");
        self.empty::<PeerKey, PeerValue>("PEERS");
        self.empty::<VerdictKey, VerdictValue>("VERDICTS");
        self.empty::<FlowKey4, FlowValue>("FLOWS4");
        self.empty::<FlowKey6, FlowValue>("FLOWS6");
        self.empty::<FlowKey, AttemptValue>("ATTEMPTS");
        self.empty::<FlowKey, AttemptValue>("CROWD");
        self.empty::<AddressKey, BucketValue>("STANDING");
        for id in WORKLOADS_USED {
            self.put_row("WORKLOADS", id, WorkloadValue::NOBODY);
            self.put_row("SHARES_OPENED", id, ShareValue::default());
            self.put_row("SHARES_GONE", id, ShareValue::default());
        }
        self.empty::<BucketKey, BucketValue>("BUCKETS");
        let mut trie: LpmTrie<_, NetworkKey, NetworkValue> =
            self.map("NETWORKS").try_into().expect("a trie");
        let keys: Vec<_> = trie.keys().map(|key| key.expect("a key")).collect();
        for key in keys {
            trie.remove(&key).expect("the key was there");
        }
        self.set_cloning(0);
        self.held();
        self.rejected();
        self.names();
        self.put_single("READER", ReaderState::default());
    }

    /// Every counter, summed over the CPUs.
    fn counters(&self) -> Counters {
        let map = self.ebpf.map("COUNTERS").expect("COUNTERS");
        let table: PerCpuHashMap<_, CounterKey, u64> = map.try_into().expect("COUNTERS");
        let mut sums: Counters = table
            .iter()
            .map(|entry| entry.expect("a counter"))
            .map(|(key, values)| ((key.workload, key.counter), values.iter().sum()))
            .collect();
        let map = self.ebpf.map("COUNTER_BLOCKS").expect("COUNTER_BLOCKS");
        let blocks: PerCpuArray<_, CounterBlock> = map.try_into().expect("COUNTER_BLOCKS");
        for number in WORKLOADS_USED {
            for block in blocks.get(&number, 0).expect("a block").iter() {
                for (place, count) in (0..).zip(block.counts).filter(|(_, count)| *count > 0) {
                    let owner = u16::try_from(block.owner).expect("a workload's id");
                    *sums.entry((owner, CounterBlock::number(place))).or_insert(0) += count;
                }
            }
        }
        sums
    }
}

/// Counts by workload id and number.
type Counters = BTreeMap<(u16, u16), u64>;

fn difference(before: &Counters, after: &Counters) -> BTreeMap<String, u64> {
    let grown = |(key, count): (&(u16, u16), &u64)| {
        let by = count - before.get(key).copied().unwrap_or(0);
        (by > 0).then(|| (name(*key), by))
    };
    after.iter().filter_map(grown).collect()
}

fn name((workload, number): (u16, u16)) -> String {
    let name = DropReason::from_number(number)
        .map(DropReason::name)
        .or_else(|| Event::from_number(number).map(Event::name))
        .unwrap_or_else(|| panic!("counter {number} has no name"));
    format!("{workload}:{name}")
}

/// Bytes of the shortest frame that the kernel takes for a test run: one byte of payload at least, and of IPv4 and
/// IPv6 the fixed header (Linux 6.18, `bpf_prog_test_run_skb`).
#[must_use]
pub fn shortest(frame: &[u8]) -> usize {
    match frame.get(12..14) {
        Some([0x08, 0x00]) => 14 + 20,
        Some([0x86, 0xdd]) => 14 + 40,
        _ => 14 + 1,
    }
}

/// A held segment's record, taken apart.
#[must_use]
pub fn held_segment(record: &[u8]) -> (HeldSegment, Vec<u8>) {
    assert!(record.len() > HeldSegment::HEADER_BYTES && record.len() <= size_of::<HeldSegment>());
    let mut whole = [0u8; size_of::<HeldSegment>()];
    whole[..record.len()].copy_from_slice(record);
    // SAFETY: as many bytes as the record has, of which every pattern is a value.
    let held = unsafe { whole.as_ptr().cast::<HeldSegment>().read_unaligned() };
    let frame = held.frame[..usize::from(held.frame_length)].to_vec();
    assert_eq!(record.len(), HeldSegment::HEADER_BYTES + frame.len());
    (held, frame)
}
