//! What the memory file could not take, in a pinned map that no program reads: a disk that is full
//! must not make the next daemon forget whose the live connections are. Like the file, it holds no
//! secrets and grants nothing.

use std::io;
use std::os::fd::AsFd as _;

use super::error::DatapathError;
use super::folder::PinFolder;
use super::sys;
use super::table::Table;
use crate::identity::MAX_CREDENTIAL_BYTES;

/// The name of its pin.
const NAME: &str = "REMEMBERED";
/// The most credentials it holds, at a kilobyte each.
const ENTRIES: u32 = 16_384;

/// A credential: its length, native order, and its bytes, filled up with zeros.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Value {
    length: u16,
    bytes: [u8; MAX_CREDENTIAL_BYTES],
}

// SAFETY: integers and bytes without padding (the length is even), valid for every bit pattern.
unsafe impl aya::Pod for Value {}

const _: () = assert!(size_of::<Value>() == 2 + MAX_CREDENTIAL_BYTES);

/// The map.
pub(super) struct Remembered {
    table: Table<[u8; 32], Value>,
    /// Whether something was written that [`Self::clear`] has not removed.
    used: bool,
}

impl std::fmt::Debug for Remembered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Remembered").field("used", &self.used).finish_non_exhaustive()
    }
}

impl Remembered {
    /// Opens the pinned map, or makes and pins it. One of another layout is replaced.
    pub(super) fn open(folder: &PinFolder) -> Result<Self, DatapathError> {
        if folder.has(NAME)
            && let Ok(table) = Table::open(folder.path(), NAME)
        {
            return Ok(Self { table, used: true });
        }
        folder.remove(NAME)?;
        let path = folder.pin(NAME);
        let failed = |action| move |e: io::Error| DatapathError::file(&path, action, e);
        let map = sys::create_hash(NAME, 32, size_of::<Value>(), ENTRIES)
            .map_err(failed.clone()("make the map for"))?;
        sys::pin(map.as_fd(), &folder.pin(NAME)).map_err(failed("pin"))?;
        Ok(Self { table: Table::open(folder.path(), NAME)?, used: false })
    }

    /// Keeps a credential, by the hash of its bytes.
    pub(super) fn keep(&mut self, hash: &[u8; 32], credential: &[u8]) -> Result<(), DatapathError> {
        let mut value = Value { length: 0, bytes: [0; MAX_CREDENTIAL_BYTES] };
        let (Ok(length), Some(bytes)) =
            (u16::try_from(credential.len()), value.bytes.get_mut(..credential.len()))
        else {
            // Nothing that long was ever verified.
            return Ok(());
        };
        bytes.copy_from_slice(credential);
        value.length = length;
        self.used = true;
        self.table.insert(hash, &value)
    }

    /// Every credential in it.
    pub(super) fn all(&self) -> Result<Vec<Vec<u8>>, DatapathError> {
        let mut found = Vec::new();
        self.table.for_each(|_, value| {
            found.extend(value.bytes.get(..usize::from(value.length)).map(<[u8]>::to_vec));
        })?;
        Ok(found)
    }

    /// Empties it.
    pub(super) fn clear(&mut self) -> Result<(), DatapathError> {
        if self.used {
            self.table.remove_if(|_, _| true)?;
            self.used = false;
        }
        Ok(())
    }
}
