//! The memory file: credentials that were verified, for the daemon after this one.
//!
//! It holds no secrets and grants nothing: what it says is verified again before it is used.
//! Records are appended as credentials are accepted, so that a killed daemon leaves them behind;
//! now and then the file is written anew with what is still of use.
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
    file: File,
    records: usize,
}

impl Memory {
    /// Reads what an earlier daemon left, and opens the file for this one.
    pub(super) fn open(folder: &Path) -> anyhow::Result<(Self, Vec<Vec<u8>>)> {
        let path = folder.join(NAME);
        let found = match read(&path) {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(file = %path.display(), %error, "memory file not read: peers are verified anew");
                Vec::new()
            }
        };
        let file = rewrite(&path, found.iter().map(Vec::as_slice))?;
        let records = found.len();
        Ok((Self { path, file, records }, found))
    }

    /// Appends a credential.
    pub(super) fn append(&mut self, bytes: &[u8]) {
        let written = encode(bytes).and_then(|record| self.file.write_all(&record));
        match written {
            Ok(()) => self.records += 1,
            Err(error) => {
                tracing::warn!(file = %self.path.display(), %error, "credential not remembered");
            }
        }
    }

    /// Whether so much is outdated that the file should be written anew.
    pub(super) fn is_bloated(&self, of_use: usize) -> bool {
        self.records > 2 * of_use + SLACK
    }

    /// Writes the file anew.
    pub(super) fn compact<'a>(
        &mut self,
        of_use: impl ExactSizeIterator<Item = &'a [u8]>,
    ) -> anyhow::Result<()> {
        let records = of_use.len();
        self.file = rewrite(&self.path, of_use)?;
        self.records = records;
        Ok(())
    }
}

/// Writes beside the file and renames, so that it is whole at any time.
fn rewrite<'a>(path: &Path, credentials: impl Iterator<Item = &'a [u8]>) -> anyhow::Result<File> {
    let beside = path.with_extension("new");
    let written = || -> io::Result<File> {
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        let mut all = HEAD.to_vec();
        for bytes in credentials {
            all.extend(encode(bytes)?);
        }
        file.write_all(&all)?;
        std::fs::rename(&beside, path)?;
        Ok(file)
    };
    written().with_context(|| format!("memory file {} cannot be written", path.display()))
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
        let (mut memory, found) = Memory::open(folder.path()).unwrap();
        assert!(found.is_empty());
        memory.append(&[1; 300]);
        memory.append(&[2; 5]);
        memory.file.write_all(&[0, 9, 1]).unwrap();
        drop(memory);
        let (mut memory, found) = Memory::open(folder.path()).unwrap();
        assert_eq!(found, [vec![1; 300], vec![2; 5]]);
        memory.compact([&[2u8; 5][..]].into_iter()).unwrap();
        memory.append(&[3]);
        let (_, found) = Memory::open(folder.path()).unwrap();
        assert_eq!(found, [vec![2; 5], vec![3]]);
    }

    #[test]
    fn a_file_of_something_else_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(NAME), "[memory]").unwrap();
        let (_, found) = Memory::open(folder.path()).unwrap();
        assert!(found.is_empty());
    }

    #[test]
    fn the_file_is_for_its_owner_only() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let (memory, _) = Memory::open(folder.path()).unwrap();
        let mode = std::fs::metadata(&memory.path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
