//! The memory file: credentials that were verified, for the daemon after this one.
//!
//! It holds no secrets and grants nothing: what it says is verified again before it is used.
//! Records are appended as credentials are accepted, so that a killed daemon leaves them behind;
//! now and then the file is written anew with what is still of use. What cannot be written, for want of
//! room, is kept in a pinned map until the file is written anew, once there is room.
//!
//! ```text
//! "enforcer memory 1\n", then for each credential: length(2, big endian), bytes(length)
//! ```

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::identity::MAX_CREDENTIAL_BYTES;

/// The file's name inside the instance's run folder.
const NAME: &str = "credentials.memory";
/// What every memory file begins with.
pub const HEAD: &[u8] = b"enforcer memory 1\n";
/// The most bytes that are read; more is what no daemon writes.
const MAX_BYTES: u64 = 1 << 30;
/// Records appended beyond twice what is of use before the file is written anew.
const SLACK: usize = 1024;

/// The open file.
#[derive(Debug)]
pub(super) struct Memory {
    path: PathBuf,
    /// None once a record could not be written: half of it may lie at the file's end.
    file: Option<File>,
    records: usize,
}

impl Memory {
    /// Reads what an earlier daemon left, and opens the file for this one.
    ///
    /// A file that cannot be written is no reason not to enforce.
    pub(super) fn open(folder: &Path) -> (Self, Vec<Vec<u8>>) {
        let path = folder.join(NAME);
        let found = match read(&path) {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(file = %path.display(), %error, "memory file not read: peers are verified anew");
                Vec::new()
            }
        };
        let records = found.len();
        let file = match rewrite(&path, found.iter().map(Vec::as_slice)) {
            Ok(file) => Some(file),
            Err(error) => {
                tracing::warn!("{error:#}; tried again every few seconds");
                None
            }
        };
        (Self { path, file, records }, found)
    }

    /// Appends a credential; `false` if it could not be written.
    pub(super) fn append(&mut self, bytes: &[u8]) -> bool {
        let Some(file) = &mut self.file else { return false };
        match encode(bytes).and_then(|record| file.write_all(&record)) {
            Ok(()) => self.records += 1,
            Err(error) => {
                let file = self.path.display();
                tracing::warn!(%file, %error, "memory file not written; tried again every few seconds");
                self.file = None;
            }
        }
        self.file.is_some()
    }

    /// Whether the file should be written anew: so much is outdated, or something is missing.
    pub(super) fn is_stale(&self, of_use: usize) -> bool {
        self.lacks() || self.records > 2 * of_use + SLACK
    }

    /// Whether something is missing in the file that a restart would want.
    pub(super) fn lacks(&self) -> bool {
        self.file.is_none()
    }

    /// Writes the file anew.
    pub(super) fn compact(
        &mut self,
        of_use: impl ExactSizeIterator<Item = impl AsRef<[u8]>>,
    ) -> anyhow::Result<()> {
        let records = of_use.len();
        self.file = Some(rewrite(&self.path, of_use)?);
        self.records = records;
        Ok(())
    }
}

/// Writes beside the file and renames, so that it is whole at any time.
fn rewrite(
    path: &Path,
    credentials: impl Iterator<Item = impl AsRef<[u8]>>,
) -> anyhow::Result<File> {
    let beside = path.with_extension("new");
    let written = || -> io::Result<File> {
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        let mut all = HEAD.to_vec();
        for bytes in credentials {
            all.extend(encode(bytes.as_ref())?);
        }
        file.write_all(&all)?;
        std::fs::rename(&beside, path)?;
        Ok(file)
    };
    written()
        .inspect_err(|_| {
            // What there is of it may take the very room that is missing. It may not exist.
            let _ = std::fs::remove_file(&beside);
        })
        .with_context(|| format!("memory file {} cannot be written", path.display()))
}

/// The record of one credential.
///
/// # Errors
/// It has more bytes than a length of 16 bits can say.
pub fn encode(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    Ok([&length.to_be_bytes(), bytes].concat())
}

fn read(path: &Path) -> io::Result<Vec<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut bytes)?;
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, "not a memory file");
    parse(&bytes).ok_or_else(malformed)
}

/// The credentials of a memory file, of those that are whole and not longer than a credential may
/// be; `None` if it is not a memory file.
#[must_use]
pub fn parse(bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut rest = bytes.strip_prefix(HEAD)?;
    let mut found = Vec::new();
    // A daemon that was killed may have left half a record at the end.
    while let Some((length, behind)) = rest.split_first_chunk::<2>() {
        let length = usize::from(u16::from_be_bytes(*length));
        let Some((credential, behind)) = behind.split_at_checked(length) else { break };
        if length <= MAX_CREDENTIAL_BYTES {
            found.push(credential.to_vec());
        }
        rest = behind;
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_appended_is_found_again_even_behind_half_a_record() {
        let folder = tempfile::tempdir().unwrap();
        let (mut memory, found) = Memory::open(folder.path());
        assert!(found.is_empty());
        assert!(memory.append(&[1; 300]));
        assert!(memory.append(&[2; 5]));
        memory.file.as_mut().unwrap().write_all(&[0, 9, 1]).unwrap();
        drop(memory);
        let (mut memory, found) = Memory::open(folder.path());
        assert_eq!(found, [vec![1; 300], vec![2; 5]]);
        memory.compact([&[2u8; 5][..]].into_iter()).unwrap();
        assert!(memory.append(&[3]));
        let (_, found) = Memory::open(folder.path());
        assert_eq!(found, [vec![2; 5], vec![3]]);
    }

    #[test]
    fn a_file_of_something_else_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(NAME), "[memory]").unwrap();
        let (_, found) = Memory::open(folder.path());
        assert!(found.is_empty());
    }

    #[test]
    fn what_could_not_be_written_is_made_up_for() {
        let folder = tempfile::tempdir().unwrap();
        let (mut memory, _) = Memory::open(folder.path());
        assert!(memory.append(&[1; 9]));
        // Every write to this device fails for want of room (full(4)).
        memory.file = Some(OpenOptions::new().write(true).open("/dev/full").unwrap());
        assert!(!memory.append(&[2; 9]));
        assert!(memory.lacks() && memory.is_stale(2));
        assert!(!memory.append(&[3; 9]));
        memory.compact([&[1u8; 9][..], &[2; 9], &[3; 9]].into_iter()).unwrap();
        assert!(!memory.lacks());
        assert!(memory.append(&[4; 9]));
        let (_, found) = Memory::open(folder.path());
        assert_eq!(found, [[1; 9], [2; 9], [3; 9], [4; 9]]);
    }

    #[test]
    fn a_folder_that_cannot_be_written_to_is_no_reason_to_fail() {
        let (memory, found) = Memory::open(Path::new("/proc/self/nothing"));
        assert!(found.is_empty() && memory.lacks());
    }

    #[test]
    fn the_file_is_for_its_owner_only() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let (memory, _) = Memory::open(folder.path());
        let mode = std::fs::metadata(&memory.path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
