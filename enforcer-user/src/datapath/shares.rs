//! Counts what is gone of each workload's share of the flow tables. Programs count what they open.

use std::collections::{BTreeSet, HashMap};

use enforcer_common::abi::{FlowKey, FlowValue, SHARE_OF_ALL, ShareValue};
use enforcer_common::datapath::share;

use super::error::DatapathError;
use super::maps::{Maps, is_v4};
use super::rows::Rows;

/// Numbers of shares, by workload.
type Counts = HashMap<u32, ShareValue>;

/// What is gone, and what a walk over the flow tables finds.
#[derive(Debug, Default)]
pub(super) struct Shares {
    /// Removed, and not written yet.
    removed: Counts,
    /// What programs had opened when the walk began.
    opened: Counts,
    /// What the walk has found, and what of it was not removed since.
    found: Counts,
}

impl Shares {
    /// A walk over both flow tables begins.
    pub(super) fn begin(&mut self, maps: &Maps) -> Result<(), DatapathError> {
        self.opened = counts(&maps.shares_opened)?;
        self.found.clear();
        Ok(())
    }

    /// The walk found a flow.
    pub(super) fn found(&mut self, key: &FlowKey, flow: &FlowValue) {
        change(&mut self.found, key, flow, |number| number.wrapping_add(1));
    }

    /// A flow was removed that the walk has not counted as found.
    pub(super) fn removed(&mut self, key: &FlowKey, flow: &FlowValue) {
        change(&mut self.removed, key, flow, |number| number.wrapping_add(1));
    }

    /// A flow was removed that the walk may have counted as found.
    pub(super) fn removed_aside(&mut self, key: &FlowKey, flow: &FlowValue) {
        self.removed(key, flow);
        change(&mut self.found, key, flow, |number| number.saturating_sub(1));
    }

    /// Tells the programs of what was removed since the last call.
    pub(super) fn write(&mut self, maps: &mut Maps) -> Result<(), DatapathError> {
        for (workload, removed) in self.removed.drain() {
            let mut gone = maps.shares_gone.read(workload)?;
            for (gone, removed) in gone.flows.iter_mut().zip(removed.flows) {
                *gone = gone.wrapping_add(removed);
            }
            maps.shares_gone.write(workload, &gone)?;
        }
        Ok(())
    }

    /// The walk has ended: puts right what nobody counted. [`Self::write`] comes before.
    pub(super) fn settle(&mut self, maps: &mut Maps) -> Result<(), DatapathError> {
        let gone = counts(&maps.shares_gone)?;
        let opened_now = counts(&maps.shares_opened)?;
        let workloads: BTreeSet<u32> = [&gone, &opened_now, &self.found]
            .into_iter()
            .flat_map(HashMap::keys)
            .copied()
            .collect();
        for workload in workloads {
            let [opened, opened_now, gone, found] = [&self.opened, &opened_now, &gone, &self.found]
                .map(|counts| counts.get(&workload).copied().unwrap_or_default());
            let settled = ShareValue {
                flows: std::array::from_fn(|index| {
                    let [opened, opened_now, gone, found] =
                        [&opened, &opened_now, &gone, &found].map(|value| at(value, index));
                    share::settled(opened, opened_now, gone, found)
                }),
            };
            if settled != gone {
                maps.shares_gone.write(workload, &settled)?;
            }
        }
        Ok(())
    }
}

/// The numbers of all that have any.
fn counts(rows: &Rows<ShareValue>) -> Result<Counts, DatapathError> {
    let mut counts = Counts::new();
    rows.for_each(|workload, value| {
        if *value != ShareValue::default() {
            counts.insert(workload, *value);
        }
    })?;
    Ok(counts)
}

/// Counts all flows, whoever inserted them.
pub(super) fn recount(maps: &mut Maps) -> Result<(), DatapathError> {
    let mut shares = Shares::default();
    shares.begin(maps)?;
    maps.for_each_flow(|key, flow| shares.found(key, flow))?;
    shares.settle(maps)
}

/// Changes the two numbers that a flow counts in: its share's, and its table's.
fn change(counts: &mut Counts, key: &FlowKey, flow: &FlowValue, by: impl Fn(u64) -> u64) {
    let family = if is_v4(key) { 4 } else { 6 };
    let index = share::index(key.protocol, flow.flags, family);
    for (id, index) in [(u32::from(key.workload), index), (SHARE_OF_ALL, share::table(index))] {
        if let Some(number) = counts.entry(id).or_default().flows.get_mut(index) {
            *number = by(*number);
        }
    }
}

fn at(value: &ShareValue, index: usize) -> u64 {
    value.flows.get(index).copied().unwrap_or_default()
}
