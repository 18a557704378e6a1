//! Which workload each interface is of: a table, and in front of it the slots that programs look at first.

use std::path::Path;

use aya::maps::{Array, MapData};
use enforcer_common::abi::{INTERFACE_SLOTS, InterfaceSlot, InterfaceValue};

use super::error::DatapathError;
use super::maps::{map_error, typed};
use super::table::Table;

/// Interfaces that share the low bits of their numbers share a slot: the last one written has it, and the others are
/// found in the table.
pub struct Interfaces {
    table: Table<u32, InterfaceValue>,
    slots: Array<MapData, InterfaceSlot>,
}

impl Interfaces {
    /// Opens the maps pinned in `folder`.
    pub(super) fn open(folder: &Path) -> Result<Self, DatapathError> {
        Ok(Self { table: Table::open(folder, "INTERFACES")?, slots: typed(folder, "SLOTS")? })
    }

    /// The value of an interface.
    pub fn lookup(&self, ifindex: u32) -> Result<Option<InterfaceValue>, DatapathError> {
        self.table.lookup(&ifindex)
    }

    /// Every interface.
    pub fn entries(&self) -> Result<Vec<(u32, InterfaceValue)>, DatapathError> {
        self.table.entries()
    }

    /// Visits every interface.
    pub fn for_each(&self, visit: impl FnMut(&u32, &InterfaceValue)) -> Result<(), DatapathError> {
        self.table.for_each(visit)
    }

    /// Says what an interface is. A slot is emptied before it changes, since a program may read it half written;
    /// meanwhile the table holds.
    pub fn insert(&mut self, ifindex: u32, value: &InterfaceValue) -> Result<(), DatapathError> {
        self.table.insert(&ifindex, value)?;
        let wanted = InterfaceSlot { ifindex, value: *value, zero: [0; 4] };
        let found = self.slot(ifindex)?;
        if found == wanted {
            return Ok(());
        }
        if found != InterfaceSlot::default() {
            self.write(ifindex, InterfaceSlot::default())?;
        }
        self.write(ifindex, wanted)
    }

    /// Forgets an interface: its slot first, which programs would believe.
    pub fn remove(&mut self, ifindex: u32) -> Result<(), DatapathError> {
        if self.slot(ifindex)?.ifindex == ifindex {
            self.write(ifindex, InterfaceSlot::default())?;
        }
        self.table.remove(&ifindex).map(drop)
    }

    fn slot(&self, ifindex: u32) -> Result<InterfaceSlot, DatapathError> {
        self.slots.get(&number(ifindex), 0).map_err(map_error("SLOTS", "read", ifindex))
    }

    fn write(&mut self, ifindex: u32, slot: InterfaceSlot) -> Result<(), DatapathError> {
        self.slots.set(number(ifindex), slot, 0).map_err(map_error("SLOTS", "write", ifindex))
    }
}

/// The slot's number.
const fn number(ifindex: u32) -> u32 {
    ifindex & (INTERFACE_SLOTS - 1)
}
