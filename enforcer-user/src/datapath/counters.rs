//! What programs count, added up: blocks of each CPU, and a hash for what has no block.

use std::collections::BTreeMap;
use std::os::fd::AsFd as _;
use std::path::Path;

use aya::Pod;
use aya::maps::{MapData, MapError, PerCpuHashMap, PerCpuValues};
use enforcer_common::abi::{COUNTED_BEFORE, COUNTER_BLOCKS, CounterBlock, CounterKey, before};

use super::error::DatapathError;
use super::maps::{key_text, map_error, typed};
use super::sys;

/// Counters of the hash that one read may return; a bound on the loop, far above what programs write.
const MAX_COUNTERS: usize = 65_536;

/// Counts by workload id and number.
pub type Sums = BTreeMap<(u16, u16), u64>;

type Blocks = MapData;
type Table<K> = PerCpuHashMap<MapData, K, u64>;

/// The pinned maps of counters.
pub struct Counters {
    blocks: Blocks,
    table: Table<CounterKey>,
}

impl Counters {
    /// Opens the maps pinned in `folder`.
    pub(super) fn open(folder: &Path) -> Result<Self, DatapathError> {
        Ok(Self { blocks: blocks::<CounterBlock>(folder)?, table: typed(folder, "COUNTERS")? })
    }

    /// Every counter, summed over the processors.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn sums(&self) -> Result<Sums, DatapathError> {
        sums::<CounterBlock, _>(&self.blocks, &self.table)
    }

    /// Has [`Self::sums`] count what programs of the layout before had counted, whose maps are in `folder`. May be
    /// repeated.
    pub(super) fn add_before(&mut self, folder: &Path) -> Result<(), DatapathError> {
        let table: Table<before::CounterKey> = typed(folder, "COUNTERS")?;
        let blocks = blocks::<before::CounterBlock>(folder)?;
        let processors = processors()?;
        for ((workload, counter), sum) in sums::<before::CounterBlock, _>(&blocks, &table)? {
            let key = CounterKey { workload, counter: counter | COUNTED_BEFORE };
            // On one processor, as if it had counted all.
            let values = std::iter::once(sum).chain(std::iter::repeat(0));
            let values: Vec<u64> = values.take(processors).collect();
            PerCpuValues::try_from(values)
                .map_err(MapError::IoError)
                .and_then(|values| self.table.insert(key, values, 0))
                .map_err(map_error("COUNTERS", "write", key_text(&key)))?;
        }
        Ok(())
    }
}

/// Opens the blocks, which must be of the type `B`.
fn blocks<B: Pod>(folder: &Path) -> Result<Blocks, DatapathError> {
    // The typed map compares sizes; aya's reads would ask for the number of processors each time.
    let _: aya::maps::PerCpuArray<MapData, B> = typed(folder, "COUNTER_BLOCKS")?;
    MapData::from_pin(folder.join("COUNTER_BLOCKS")).map_err(map_error(
        "COUNTER_BLOCKS",
        "open",
        "its pin",
    ))
}

fn processors() -> Result<usize, DatapathError> {
    aya::util::nr_cpus().map_err(|(_, error)| MapError::IoError(error)).map_err(map_error(
        "COUNTERS",
        "read",
        "the number of processors",
    ))
}

fn sums<B: Pod + Into<CounterBlock>, K: Pod + Into<CounterKey>>(
    blocks: &Blocks,
    table: &Table<K>,
) -> Result<Sums, DatapathError> {
    let mut sums = Sums::new();
    let processors = processors()?;
    for number in 0..COUNTER_BLOCKS {
        let read: Vec<B> = sys::lookup_each_cpu(blocks.fd().as_fd(), number, processors)
            .map_err(MapError::IoError)
            .map_err(map_error("COUNTER_BLOCKS", "read", number))?;
        for block in read {
            add_block(&mut sums, number, &block.into());
        }
    }
    for entry in table.iter().take(MAX_COUNTERS) {
        let (key, values) = entry.map_err(map_error("COUNTERS", "read", "all"))?;
        let key: CounterKey = key.into();
        let sum = sums.entry((key.workload, key.counter & !COUNTED_BEFORE)).or_insert(0);
        *sum = values.iter().fold(*sum, |sum: u64, value| sum.wrapping_add(*value));
    }
    Ok(sums)
}

/// Adds what one CPU counted in a block.
fn add_block(sums: &mut Sums, number: u32, block: &CounterBlock) {
    // Programs write no owner beyond 16 bits.
    let Ok(owner) = u16::try_from(block.owner) else { return };
    if !block.is_owned(number) {
        return;
    }
    for (place, count) in (0..).zip(block.counts).filter(|(_, count)| *count > 0) {
        let sum = sums.entry((owner, CounterBlock::number(place))).or_insert(0);
        *sum = sum.wrapping_add(count);
    }
}

#[cfg(test)]
mod tests {
    use enforcer_common::abi::{BLOCK_COUNTS, DropReason, Event};

    use super::*;

    #[test]
    fn a_block_counts_for_its_owner_and_nobody_s_for_none() {
        let mut counts = [0; BLOCK_COUNTS];
        counts[CounterBlock::place(DropReason::NoFlow as u16)] = 2;
        counts[CounterBlock::place(Event::S1Sent as u16)] = 3;
        let block = |owner| CounterBlock { owner, zero: 0, counts };
        let mut sums = Sums::new();
        for (number, owner) in [(7, 7), (7, 263), (7, 0), (0, 0), (7, 7)] {
            add_block(&mut sums, number, &block(owner));
        }
        let (reason, event) = (DropReason::NoFlow as u16, Event::S1Sent as u16);
        let wanted = [
            ((0, reason), 2),
            ((0, event), 3),
            ((7, reason), 4),
            ((7, event), 6),
            ((263, reason), 2),
            ((263, event), 3),
        ];
        assert_eq!(sums, wanted.into());
    }
}
