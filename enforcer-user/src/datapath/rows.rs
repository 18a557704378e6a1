//! A pinned array that is indexed by workload id. Programs find a row without a hash.

use std::path::Path;

use aya::Pod;
use aya::maps::{Array, Map, MapData, MapError};

use super::error::DatapathError;
use super::maps::map_error;
use super::table::{BATCH, Position, batch, walk_error};

/// A typed array. The kernel copies a row in place, so whoever reads it meanwhile may see fields of before and after,
/// and no size of a step is promised: docs/ARCHITECTURE.md says what programs make of a field that is half another's.
pub struct Rows<V: Pod> {
    name: &'static str,
    data: MapData,
    array: Array<MapData, V>,
}

impl<V: Pod> Rows<V> {
    /// Opens the array pinned as `name` in `folder`.
    pub(super) fn open(folder: &Path, name: &'static str) -> Result<Self, DatapathError> {
        let open = || -> Result<Self, MapError> {
            let data = MapData::from_pin(folder.join(name))?;
            let array =
                Array::try_from(Map::from_map_data(MapData::from_pin(folder.join(name))?)?)?;
            Ok(Self { name, data, array })
        };
        open().map_err(map_error(name, "open", "its pin"))
    }

    /// The row of a workload.
    ///
    /// # Errors
    /// There is no such row, or the kernel refuses.
    pub fn read(&self, id: u32) -> Result<V, DatapathError> {
        self.array.get(&id, 0).map_err(map_error(self.name, "read", id))
    }

    /// Writes the row of a workload.
    ///
    /// # Errors
    /// There is no such row, or the kernel refuses.
    pub fn write(&mut self, id: u32, value: &V) -> Result<(), DatapathError> {
        self.array.set(id, value, 0).map_err(map_error(self.name, "write", id))
    }

    /// Visits every row, those of nobody too.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn for_each(&self, mut visit: impl FnMut(u32, &V)) -> Result<(), DatapathError> {
        let mut position = Position::default();
        let mut visit = |id: &u32, value: &V| visit(*id, value);
        for _ in 0..=self.array.len() {
            if batch(&self.data, &mut position, BATCH, &mut visit)
                .map_err(|error| walk_error(self.name, error))?
            {
                break;
            }
        }
        Ok(())
    }
}
