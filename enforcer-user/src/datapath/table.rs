//! A pinned hash map: single operations, and walks in batches of the kernel (`BPF_MAP_LOOKUP_BATCH`,
//! Linux 5.6), one system call for some hundred entries.

use std::fmt::Debug;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsFd as _;
use std::path::Path;

use aya::Pod;
use aya::maps::{HashMap, Map, MapData, MapError};

use zeroize::Zeroize as _;

use super::error::DatapathError;
use super::maps::{errno, is_missing, key_text, map_error};
use super::sys;

/// Entries of one batch.
pub(super) const BATCH: usize = 512;

/// A batch must hold a whole hash bucket; the kernel says `ENOSPC` for a longer one. Buckets hold
/// one entry on average, so this bound is never met by chance.
const MAX_BATCH: usize = 16_384;

/// Where a walk stands: the kernel's opaque number of the next bucket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Position(Option<u32>);

impl Position {
    /// Whether the next visit begins anew.
    pub(super) fn is_start(self) -> bool {
        self.0.is_none()
    }
}

/// A typed hash map.
pub struct Table<K: Pod, V: Pod> {
    name: &'static str,
    entries: u32,
    data: MapData,
    map: HashMap<MapData, K, V>,
}

impl<K: Pod + Debug + Default, V: Pod> Table<K, V> {
    /// Opens the map pinned as `name` in `folder`.
    pub(super) fn open(folder: &Path, name: &'static str) -> Result<Self, DatapathError> {
        let open = || -> Result<Self, MapError> {
            let data = MapData::from_pin(folder.join(name))?;
            let map =
                HashMap::try_from(Map::from_map_data(MapData::from_pin(folder.join(name))?)?)?;
            Ok(Self { name, entries: data.info()?.max_entries(), data, map })
        };
        open().map_err(map_error(name, "open", "its pin"))
    }

    /// The most entries it holds.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.entries
    }

    /// The value of a key.
    pub fn lookup(&self, key: &K) -> Result<Option<V>, DatapathError> {
        match self.map.get(key, 0) {
            Ok(value) => Ok(Some(value)),
            Err(e) if is_missing(&e) => Ok(None),
            Err(e) => Err(map_error(self.name, "read", key_text(key))(e)),
        }
    }

    /// Writes a value, over an old one if there is one.
    pub fn insert(&mut self, key: &K, value: &V) -> Result<(), DatapathError> {
        self.map.insert(key, value, 0).map_err(|e| self.write_error(key, e))
    }

    /// Writes a value unless there is one; `false` if there was.
    pub fn add(&mut self, key: &K, value: &V) -> Result<bool, DatapathError> {
        match self.map.insert(key, value, u64::from(aya_obj::generated::BPF_NOEXIST)) {
            Ok(()) => Ok(true),
            Err(e) if errno(&e) == Some(libc::EEXIST) => Ok(false),
            Err(e) => Err(self.write_error(key, e)),
        }
    }

    /// Writes a value over an old one; `false` if there is none.
    pub fn replace(&mut self, key: &K, value: &V) -> Result<bool, DatapathError> {
        match self.map.insert(key, value, u64::from(aya_obj::generated::BPF_EXIST)) {
            Ok(()) => Ok(true),
            Err(e) if is_missing(&e) => Ok(false),
            Err(e) => Err(self.write_error(key, e)),
        }
    }

    /// Removes a key; `false` if it was not there.
    pub fn remove(&mut self, key: &K) -> Result<bool, DatapathError> {
        match self.map.remove(key) {
            Ok(()) => Ok(true),
            Err(e) if is_missing(&e) => Ok(false),
            Err(e) => Err(map_error(self.name, "remove", key_text(key))(e)),
        }
    }

    /// Removes every key for which `stale` holds; returns how many there were.
    pub fn remove_if(
        &mut self,
        mut stale: impl FnMut(&K, &V) -> bool,
    ) -> Result<usize, DatapathError> {
        let mut keys = Vec::new();
        self.for_each(|key, value| {
            if stale(key, value) {
                keys.push(*key);
            }
        })?;
        for key in &keys {
            self.remove(key)?;
        }
        Ok(keys.len())
    }

    /// Everything in it.
    pub fn entries(&self) -> Result<Vec<(K, V)>, DatapathError> {
        let mut all = Vec::new();
        self.for_each(|key, value| all.push((*key, *value)))?;
        Ok(all)
    }

    /// Visits every entry, holding one batch in memory. Entries that come or go meanwhile may be
    /// missed or seen twice.
    pub fn for_each(&self, mut visit: impl FnMut(&K, &V)) -> Result<(), DatapathError> {
        let mut position = Position::default();
        // A batch ends behind at least one bucket, and there are at most twice as many buckets
        // as entries.
        for _ in 0..=u64::from(self.entries) * 2 {
            if self.visit_some(&mut position, &mut visit)? {
                break;
            }
        }
        Ok(())
    }

    /// Visits every entry as [`Self::for_each`] does, up to the first error, and returns that.
    pub(super) fn try_for_each(
        &self,
        mut visit: impl FnMut(&K, &V) -> Result<(), DatapathError>,
    ) -> Result<(), DatapathError> {
        let mut visited = Ok(());
        self.for_each(|key, value| {
            if visited.is_ok() {
                visited = visit(key, value);
            }
        })?;
        visited
    }

    /// Visits one batch behind `position` and moves it on; `true` when the end was reached, and
    /// `position` is back at the beginning.
    pub(super) fn visit_some(
        &self,
        position: &mut Position,
        mut visit: impl FnMut(&K, &V),
    ) -> Result<bool, DatapathError> {
        let mut size = BATCH;
        loop {
            match batch(&self.data, position, size, &mut visit) {
                Ok(done) => return Ok(done),
                Err(e) if e.raw_os_error() == Some(libc::ENOSPC) && size < MAX_BATCH => size *= 4,
                Err(io_error) => {
                    return Err(walk_error(self.name, io_error));
                }
            }
        }
    }

    fn write_error(&self, key: &K, error: MapError) -> DatapathError {
        if errno(&error) == Some(libc::E2BIG) {
            return DatapathError::Full {
                map: self.name,
                entries: self.entries,
                key: key_text(key),
            };
        }
        map_error(self.name, "write", key_text(key))(error)
    }
}

pub(super) fn walk_error(map: &'static str, io_error: io::Error) -> DatapathError {
    let call = "BPF_MAP_LOOKUP_BATCH";
    let source = MapError::SyscallError(aya::sys::SyscallError { call, io_error });
    map_error(map, "walk", "all")(source)
}

/// Visits at most `size` entries behind `position` and moves it on; `true` at the end. `K` and `V` must be what
/// the map holds.
pub(super) fn batch<K: Pod, V: Pod>(
    data: &MapData,
    position: &mut Position,
    size: usize,
    visit: &mut impl FnMut(&K, &V),
) -> io::Result<bool> {
    let mut keys: Vec<MaybeUninit<K>> = vec![MaybeUninit::zeroed(); size];
    let mut values: Vec<MaybeUninit<V>> = vec![MaybeUninit::zeroed(); size];
    let mut next = 0u32;
    let count = u32::try_from(size).map_err(io::Error::other)?;
    // SAFETY: both hold `size` entries of the sizes that the callers' typed maps have compared with the map's.
    let (written, done) = unsafe {
        sys::lookup_batch(
            data.fd().as_fd(),
            position.0,
            &mut next,
            keys.as_mut_ptr().cast(),
            values.as_mut_ptr().cast(),
            count,
        )
    }?;
    for (key, value) in keys.iter().zip(&values).take(written) {
        // SAFETY: `Pod` types are valid for every bit pattern, and these were zeroed at least.
        visit(unsafe { key.assume_init_ref() }, unsafe { value.assume_init_ref() });
    }
    // Some values are keys.
    values.zeroize();
    position.0 = if done { None } else { Some(next) };
    Ok(done)
}
