//! A million flows: what one takes in the flow table, and what finding it costs as the table fills.
//!
//! Maps and programs are the real ones, loaded here without a daemon, so that nothing sweeps the tables meanwhile. Each
//! run of a test run meets another flow (`stepping`).

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, HashMap, Map, MapData};
use aya::programs::SchedClassifier;
use aya::{Ebpf, EbpfLoader, Pod};
use aya_obj::generated::bpf_map_type;
use enforcer_common::abi::{
    ABI_VERSION, Config, FlowKey4, FlowKey6, FlowValue, InterfaceSlot, InterfaceValue, flow_state,
    mapped,
};
use enforcer_user::datapath;
use serde::Serialize;

use super::bpf::{make_map, map_bytes};
use super::figures::Spread;
use super::options::Options;
use super::progress;
use super::stepping::{Places, Reach, Stepping, far_end};
use super::test_run::{CONTEXT_BYTES, REPEAT, Returning, SHOT, run};
use crate::capture::Flags;
use crate::host::{Family, Host};
use crate::raw::Forged;

/// Flows in the table, one after the other.
pub const SIZES: [u32; 4] = [1_000, 10_000, 100_000, 1_000_000];
/// Entries of each table.
const ENTRIES: u32 = SIZES[3];
/// Flows that are busy, of those that are many.
const BUSY: u32 = 4_096;
const WORKLOAD: u16 = 7;
const EPOCH: u32 = 4;
/// Port of the workload, and of every flow.
const SERVICE: u16 = 8080;
/// `lo`, on which test runs are when nothing else is said.
const IFINDEX: u32 = 1;
const TCP: u8 = 6;
/// Link address of the workload.
const LINK: [u8; 6] = [2, 0, 0, 0, 0, 1];
const HOOKS: [&str; 2] = ["from_workload", "to_workload"];

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Flows {
    /// Nanoseconds a packet, net of the empty program behind the same stepping.
    pub curve: Vec<Point>,
    /// What the tables take.
    pub memory: Vec<Memory>,
}

impl Flows {
    /// What the dearer program takes for IPv4 with so many flows in the table.
    #[must_use]
    pub fn most(&self, flows: u32, of: fn(&Point) -> f64) -> f64 {
        let points = self.curve.iter();
        let points = points.filter(|point| point.flows == flows && point.family == "ipv4");
        points.map(of).fold(f64::NAN, f64::max)
    }
}

/// What a packet costs while a table holds so many flows.
#[derive(Debug, Clone, Serialize)]
pub struct Point {
    /// `ipv4` or `ipv6`.
    pub family: &'static str,
    /// Flows in the table of the family.
    pub flows: u32,
    /// The program.
    pub program: &'static str,
    /// Every packet is of one flow.
    pub one: Spread,
    /// Every packet is of another of 4,096 flows, of all if there are fewer.
    pub busy: Spread,
    /// Every packet is of any flow.
    pub all: Spread,
}

/// What a table of a million entries takes, full or empty.
#[derive(Debug, Clone, Serialize)]
pub struct Memory {
    /// `ipv4` or `ipv6`.
    pub family: &'static str,
    /// Entries.
    pub entries: u32,
    /// Bytes of the table as the kernel accounts for them.
    pub accounted: u64,
    /// Bytes by which the machine's available memory fell when such a table was made; median of three.
    pub taken: f64,
    /// Bytes of an element, header, key and value: by how much a table grows with each.
    pub element: f64,
}

impl Memory {
    /// Bytes a flow when the table is full, its buckets included.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    pub fn each(&self) -> f64 {
        self.accounted as f64 / f64::from(self.entries)
    }
}

/// Measures with maps and programs of its own.
pub fn measure(options: &Options) -> Result<Flows> {
    let host = Host::new("flows")?;
    host.run(|| {
        let memory = vec![
            memory::<FlowKey4>(Family::V4).context("the table of IPv4")?,
            memory::<FlowKey6>(Family::V6).context("the table of IPv6")?,
        ];
        let mut place = Place::load()?;
        let mut curve = Vec::new();
        let mut held = 0;
        for flows in SIZES {
            progress(&format!("{flows} flows"));
            place.fill(held..flows)?;
            held = flows;
            for family in Family::BOTH {
                for hook in HOOKS {
                    curve.push(place.point(family, hook, flows, options.batches())?);
                }
            }
        }
        place.check()?;
        Ok(Flows { curve, memory })
    })
}

/// The programs, their maps, and how often they ran.
struct Place {
    ebpf: Ebpf,
    empty: OwnedFd,
    runs: u64,
    seed: u32,
}

impl Place {
    fn load() -> Result<Self> {
        let mut loader = EbpfLoader::new();
        loader.map_max_entries("FLOWS4", ENTRIES).map_max_entries("FLOWS6", ENTRIES);
        let mut ebpf = loader.load(datapath::object()).context("the programs' maps")?;
        for hook in HOOKS {
            let program: &mut SchedClassifier = ebpf.program_mut(hook).context(hook)?.try_into()?;
            program.load().context(hook)?;
        }
        let mut place = Self { ebpf, empty: Returning::in_tc().load()?, runs: 0, seed: 1 };
        place.furnish()?;
        Ok(place)
    }

    /// One workload at the interface of test runs.
    fn furnish(&mut self) -> Result<()> {
        let config = Config { abi_version: ABI_VERSION, epoch: EPOCH, ..Config::default() };
        Array::try_from(self.map("CONFIG")?)?.set(0, config, 0)?;
        let value = InterfaceValue { workload: WORKLOAD, flags: 0, mac: LINK, zero: [0; 6] };
        let slot = InterfaceSlot { ifindex: IFINDEX, value, zero: [0; 4] };
        Array::try_from(self.map("SLOTS")?)?.set(IFINDEX, slot, 0)?;
        HashMap::try_from(self.map("INTERFACES")?)?.insert(IFINDEX, value, 0)?;
        Ok(())
    }

    fn map(&mut self, name: &str) -> Result<&mut Map> {
        self.ebpf.map_mut(name).with_context(|| format!("the object has no map {name}"))
    }

    /// Opens flows of both families.
    fn fill(&mut self, flows: std::ops::Range<u32>) -> Result<()> {
        let value = FlowValue {
            peer: 1,
            deadline_ns: u64::MAX,
            seen_ns: datapath::boot_ns(),
            epoch: EPOCH,
            port: SERVICE,
            state: flow_state::ESTABLISHED,
            ..FlowValue::default()
        };
        insert(
            self.map("FLOWS4")?,
            flows.clone().map(|flow| key(Family::V4, flow).to_v4()),
            value,
        )?;
        insert(self.map("FLOWS6")?, flows.map(|flow| key(Family::V6, flow)), value)
    }

    /// Runs a program on flows of a family: on one, on some, on any.
    fn point(
        &mut self,
        family: Family,
        hook: &'static str,
        flows: u32,
        batches: u32,
    ) -> Result<Point> {
        let from_workload = hook == HOOKS[0];
        let frame = frame(family, from_workload)?;
        let places = Places::of(family, from_workload, frame.len())?;
        let program: &SchedClassifier = self.ebpf.program(hook).context(hook)?.try_into()?;
        let measured = program.fd()?.as_fd();
        let pair = |reach| -> Result<_> {
            // Those that are met are spread over the table.
            let reach = Reach { flows: reach, apart: flows / reach };
            let stepping = |program: BorrowedFd<'_>| Stepping::over(reach, places, program);
            Ok([stepping(measured)?, stepping(self.empty.as_fd())?])
        };
        let reaches = [pair(1)?, pair(BUSY.min(flows))?, pair(flows)?];
        let mut columns = [Vec::new(), Vec::new(), Vec::new()];
        for _ in 0..batches {
            for (column, [measured, empty]) in columns.iter_mut().zip(&reaches) {
                self.seed = self.seed.wrapping_mul(0x9E37_79B1).wrapping_add(1);
                let took = batch(measured, &frame, self.seed)?;
                self.runs += u64::from(REPEAT);
                column.push(took - batch(empty, &frame, self.seed)?);
            }
        }
        let [one, busy, all] = columns.map(Spread::of);
        Ok(Point { family: name(family), flows, program: hook, one, busy, all })
    }

    /// Every run met a flow that it was counted into; else the figures were of something else.
    fn check(&mut self) -> Result<()> {
        let counted =
            packets::<FlowKey4>(self.map("FLOWS4")?)? + packets::<FlowKey6>(self.map("FLOWS6")?)?;
        ensure!(
            counted == self.runs,
            "{counted} packets were counted into flows of {} that were run",
            self.runs
        );
        Ok(())
    }
}

/// Nanoseconds a run; the generator begins where `seed` says.
fn batch(program: &Stepping, frame: &[u8], seed: u32) -> Result<f64> {
    let mut frame = frame.to_vec();
    let state = frame.len() - 4;
    frame[state..].copy_from_slice(&seed.to_ne_bytes());
    let ran = run(program.as_fd(), &frame, &[0; CONTEXT_BYTES])?;
    ensure!(ran.action != SHOT, "a packet of an established flow was dropped");
    Ok(f64::from(ran.nanoseconds))
}

fn insert<K: Pod>(map: &mut Map, keys: impl Iterator<Item = K>, value: FlowValue) -> Result<()> {
    let mut table: HashMap<&mut MapData, K, FlowValue> = HashMap::try_from(map)?;
    for key in keys {
        table.insert(key, value, 0).context("a flow has no room")?;
    }
    Ok(())
}

/// The packets of all flows of a table.
fn packets<K: Pod>(map: &mut Map) -> Result<u64> {
    let table: HashMap<&mut MapData, K, FlowValue> = HashMap::try_from(map)?;
    table
        .iter()
        .map(|entry| entry.map(|(_, v)| u64::from(v.packets_in) + u64::from(v.packets_out)))
        .sum::<Result<_, _>>()
        .context("the flows cannot be read")
}

/// A table by itself, of a million entries.
fn memory<K>(family: Family) -> Result<Memory> {
    const FEWER: u32 = 600_000;
    const TABLES: usize = 3;
    let sizes = [u32::try_from(size_of::<K>())?, u32::try_from(size_of::<FlowValue>())?];
    let table = |entries| make_map(bpf_map_type::BPF_MAP_TYPE_HASH, sizes, entries);
    // All are kept to the end: the kernel gives a map's memory back some time after the map is gone.
    let (mut tables, mut taken) = (Vec::new(), Vec::new());
    for _ in 0..TABLES {
        let before = available()?;
        tables.push(table(ENTRIES)?);
        taken.push(before - available()?);
    }
    let accounted = map_bytes(tables[0].as_fd())?;
    // Both have as many buckets: the next power of two.
    let grown = accounted - map_bytes(table(FEWER)?.as_fd())?;
    let element = f64::from(u32::try_from(grown)?) / f64::from(ENTRIES - FEWER);
    let taken = Spread::of(taken).median;
    Ok(Memory { family: name(family), entries: ENTRIES, accounted, taken, element })
}

/// Bytes that the machine has available.
fn available() -> Result<f64> {
    let path = "/proc/meminfo";
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    Ok(1024.0 * kib.with_context(|| format!("{path} has no MemAvailable"))?)
}

/// Key of a flow by its number.
fn key(family: Family, flow: u32) -> FlowKey6 {
    let [local, far] = ends(family, flow);
    let bytes = |address| match address {
        IpAddr::V4(address) => mapped(address.octets()),
        IpAddr::V6(address) => address.octets(),
    };
    FlowKey6 {
        workload: WORKLOAD,
        protocol: TCP,
        zero: 0,
        local_port: local.port(),
        remote_port: far.port(),
        local: bytes(local.ip()),
        remote: bytes(far.ip()),
    }
}

/// The workload's end and the far end of a flow.
fn ends(family: Family, flow: u32) -> [SocketAddr; 2] {
    let (local, base) = match family {
        Family::V4 => (IpAddr::from([192, 0, 2, 1]), IpAddr::from([198, 51, 100, 0])),
        Family::V6 => (
            IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]),
            IpAddr::from([0x2001, 0xdb8, 0x51, 0, 0, 0, 0, 0]),
        ),
    };
    let (far, port) = far_end(flow, base);
    [SocketAddr::new(local, SERVICE), SocketAddr::new(far, port)]
}

/// A data segment with the timestamps that Linux sends and 64 bytes of payload.
fn frame(family: Family, from_workload: bool) -> Result<Vec<u8>> {
    let [local, far] = ends(family, 0);
    let (source, destination) = if from_workload { (local, far) } else { (far, local) };
    let segment = Forged {
        options: vec![1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 1],
        ..Forged::new(source, destination, Flags::ACK)
    };
    segment.payload(&[b'x'; 64]).frame(LINK)
}

fn name(family: Family) -> &'static str {
    match family {
        Family::V4 => "ipv4",
        Family::V6 => "ipv6",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_differ_in_their_far_ends_alone() {
        let [first, last] = [0, ENTRIES - 1].map(|flow| key(Family::V4, flow));
        assert_eq!((first.local, first.local_port), (last.local, last.local_port));
        assert_ne!((first.remote, first.remote_port), (last.remote, last.remote_port));
        assert_eq!(FlowKey6::from(first.to_v4()), first);
    }
}
