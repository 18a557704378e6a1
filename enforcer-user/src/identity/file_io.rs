//! Reading and writing the small files of keys and certificates.
//!
//! Secrets are 0600 from the moment they exist and never replace anything; every file appears whole
//! or not at all.

use std::fs::{File, OpenOptions, Permissions, hard_link, remove_file, rename};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use thiserror::Error;
use zeroize::Zeroizing;

use super::keys::random;

/// The most bytes of a key or certificate file.
pub const MAX_FILE_BYTES: usize = 16 * 1024;

const SECRET_MODE: u32 = 0o600;
const PUBLIC_MODE: u32 = 0o644;

/// Why a file could not be read or written. Its content is never part of the message.
#[derive(Debug, Error)]
pub enum FileIoError {
    /// The system refused.
    #[error("{path}: cannot {action}: {source}", path = path.display())]
    System {
        /// Which file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Others may read or write a secret.
    #[error(
        "{path}: mode {mode:04o} lets others read or change this secret; expected 0600 or less: chmod 600 {path}",
        path = path.display()
    )]
    Exposed {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Something is there already.
    #[error(
        "{path} exists already, and keys are never overwritten: choose another path, or move it away",
        path = path.display()
    )]
    Exists {
        /// Which file.
        path: PathBuf,
    },
    /// Not a plain file of sensible size.
    #[error("{path}: expected a regular file of at most 16 KiB of text", path = path.display())]
    NotPlain {
        /// Which file.
        path: PathBuf,
    },
}

fn system(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> FileIoError {
    let path = path.to_owned();
    move |source| FileIoError::System { path, action, source }
}

/// The text of a certificate or request.
pub fn read_public(path: &Path) -> Result<String, FileIoError> {
    let bytes = read(path, &open(path)?)?;
    String::from_utf8(bytes.to_vec()).map_err(|_| FileIoError::NotPlain { path: path.to_owned() })
}

/// The text of a secret that nobody but its owner can reach.
pub fn read_secret(path: &Path) -> Result<Zeroizing<String>, FileIoError> {
    let file = open(path)?;
    let mode = file.metadata().map_err(system(path, "read its mode"))?.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(FileIoError::Exposed { path: path.to_owned(), mode });
    }
    let bytes = read(path, &file)?;
    let text =
        std::str::from_utf8(&bytes).map_err(|_| FileIoError::NotPlain { path: path.to_owned() })?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// Opening does not wait for a writer, should the path be a pipe.
fn open(path: &Path) -> Result<File, FileIoError> {
    let mut options = OpenOptions::new();
    let options = options.read(true).custom_flags(libc::O_NONBLOCK);
    options.open(path).map_err(system(path, "open"))
}

/// Reads into one allocation of the full size: growing would leave copies of a secret behind.
#[allow(clippy::indexing_slicing, reason = "the loop ends where the buffer does")]
fn read(path: &Path, file: &File) -> Result<Zeroizing<Vec<u8>>, FileIoError> {
    let not_plain = || FileIoError::NotPlain { path: path.to_owned() };
    if !file.metadata().map_err(system(path, "read its type"))?.is_file() {
        return Err(not_plain());
    }
    let mut bytes = Zeroizing::new(vec![0; MAX_FILE_BYTES + 1]);
    let mut len = 0;
    while len < bytes.len() {
        match (&*file).read(&mut bytes[len..]) {
            Ok(0) => break,
            Ok(more) => len += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(system(path, "read")(error)),
        }
    }
    if len > MAX_FILE_BYTES {
        return Err(not_plain());
    }
    bytes.truncate(len);
    Ok(bytes)
}

/// Writes a secret, mode 0600, to a path where nothing is.
pub fn create_secret(path: &Path, text: &str) -> Result<(), FileIoError> {
    create(path, text, SECRET_MODE)
}

/// Writes a public file, mode 0644, to a path where nothing is.
pub fn create_public(path: &Path, text: &str) -> Result<(), FileIoError> {
    create(path, text, PUBLIC_MODE)
}

/// Writes a public file, mode 0644, in place of what may be there.
pub fn replace_public(path: &Path, text: &str) -> Result<(), FileIoError> {
    let staged = Staged::write(path, text, PUBLIC_MODE)?;
    rename(&staged.0, path).map_err(system(path, "rename into place"))
}

/// A link, not a rename: it fails if the name has been taken meanwhile.
fn create(path: &Path, text: &str, mode: u32) -> Result<(), FileIoError> {
    let staged = Staged::write(path, text, mode)?;
    hard_link(&staged.0, path).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => FileIoError::Exists { path: path.to_owned() },
        _ => system(path, "create")(error),
    })
}

/// A complete file under a temporary name beside its destination; the name goes when this is dropped.
struct Staged(PathBuf);

impl Staged {
    fn write(path: &Path, text: &str, mode: u32) -> Result<Self, FileIoError> {
        let staged = Self(temporary_name(path)?);
        let mut options = OpenOptions::new();
        let options = options.write(true).create_new(true).mode(mode & SECRET_MODE);
        let mut file = options.open(&staged.0).map_err(system(path, "create a file beside it"))?;
        file.write_all(text.as_bytes())
            .and_then(|()| file.set_permissions(Permissions::from_mode(mode)))
            .and_then(|()| file.sync_all())
            .map_err(system(path, "write"))?;
        Ok(staged)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // After a rename it is gone already; after anything else a leftover must not hold a secret.
        let _ = remove_file(&self.0);
    }
}

fn temporary_name(path: &Path) -> Result<PathBuf, FileIoError> {
    let not_a_name = || system(path, "write")(ErrorKind::InvalidFilename.into());
    let random = random().map_err(|error| system(path, "write")(io::Error::other(error)))?;
    let name = path.file_name().ok_or_else(not_a_name)?.to_string_lossy();
    Ok(path.with_file_name(format!(".{name}.{:016x}", u64::from_ne_bytes(random))))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn a_secret_is_private_and_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        create_secret(&path, "one").unwrap();
        assert_eq!((mode(&path), read_secret(&path).unwrap().as_str()), (0o600, "one"));
        let again = create_secret(&path, "two").unwrap_err();
        assert!(matches!(again, FileIoError::Exists { .. }), "{again}");
        assert_eq!(read_secret(&path).unwrap().as_str(), "one");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "a temporary file is left");
    }

    #[test]
    fn a_dangling_link_is_not_followed_when_a_secret_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), &path).unwrap();
        assert!(matches!(create_secret(&path, "x"), Err(FileIoError::Exists { .. })));
        assert!(!dir.path().join("elsewhere").exists());
    }

    #[test]
    fn an_exposed_secret_is_refused_with_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        create_secret(&path, "x").unwrap();
        for exposed in [0o640, 0o604, 0o620, 0o601, 0o666] {
            fs::set_permissions(&path, Permissions::from_mode(exposed)).unwrap();
            let text = read_secret(&path).unwrap_err().to_string();
            assert!(
                text.contains(&format!("{exposed:04o}")) && text.contains("chmod 600"),
                "{text}"
            );
        }
        fs::set_permissions(&path, Permissions::from_mode(0o400)).unwrap();
        assert!(read_secret(&path).is_ok());
    }

    #[test]
    fn public_files_are_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cert");
        replace_public(&path, "one").unwrap();
        replace_public(&path, "two").unwrap();
        assert_eq!((mode(&path), read_public(&path).unwrap().as_str()), (0o644, "two"));
        assert!(create_public(&path, "three").is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "a temporary file is left");
    }

    #[test]
    fn what_is_no_small_text_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cert");
        assert!(matches!(read_public(dir.path()), Err(FileIoError::NotPlain { .. })));
        assert!(matches!(read_public(&path), Err(FileIoError::System { .. })));
        fs::write(&path, [0xff]).unwrap();
        assert!(matches!(read_public(&path), Err(FileIoError::NotPlain { .. })));
        fs::write(&path, vec![b'a'; MAX_FILE_BYTES + 1]).unwrap();
        assert!(matches!(read_public(&path), Err(FileIoError::NotPlain { .. })));
        fs::write(&path, vec![b'a'; MAX_FILE_BYTES]).unwrap();
        assert_eq!(read_public(&path).unwrap().len(), MAX_FILE_BYTES);
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(matches!(read_secret(&fifo), Err(FileIoError::NotPlain { .. })));
    }
}
