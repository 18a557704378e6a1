//! The pin folder of an instance: `<bpf_root>/<instance>` on a bpf file system, mode 0700, because
//! maps with pair keys are pinned there.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::error::DatapathError;

/// Where the bpf file system is mounted by convention.
pub(super) const STANDARD_MOUNT: &str = "/sys/fs/bpf";

/// The pins that one folder may hold; a bound on the loops over it.
const MAX_PINS: usize = 65_536;

/// A pin folder, held by this process alone.
#[derive(Debug)]
pub struct PinFolder {
    path: PathBuf,
    /// Its lock falls with the descriptor.
    lock: File,
}

impl PinFolder {
    /// Makes the folder where it is missing, mounts a bpf file system where there is none, and
    /// takes the folder for this process.
    pub fn open(path: &Path) -> Result<Self, DatapathError> {
        let root = path.parent().unwrap_or(path);
        mount_if_needed(root)?;
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(root);
        made.map_err(|e| DatapathError::file(root, "create", e))?;
        make_private(path)?;
        Self::hold(path)
    }

    /// Takes the folder if it is there.
    pub fn open_existing(path: &Path) -> Result<Option<Self>, DatapathError> {
        if !path.is_dir() || !is_bpffs(path) {
            return Ok(None);
        }
        Self::hold(path).map(Some)
    }

    fn hold(path: &Path) -> Result<Self, DatapathError> {
        let lock = File::open(path).map_err(|e| DatapathError::file(path, "open", e))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), lock }),
            Err(fs::TryLockError::WouldBlock) => Err(DatapathError::Busy(path.to_owned())),
            Err(fs::TryLockError::Error(e)) => Err(DatapathError::file(path, "lock", e)),
        }
    }

    /// Makes and takes the folder again where it is not the one that is held any more: somebody
    /// removed it, or unmounted or mounted a file system there.
    pub(super) fn reclaim(&mut self) -> Result<(), DatapathError> {
        let failed = |e| DatapathError::file(&self.path, "look at", e);
        let held = self.lock.metadata().map_err(failed)?;
        match fs::metadata(&self.path) {
            Ok(found) if (found.dev(), found.ino()) == (held.dev(), held.ino()) => return Ok(()),
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(e)),
            _ => {}
        }
        // Mounting takes rights that a running daemon has given up.
        let root = self.path.parent().unwrap_or(&self.path);
        if !root.ancestors().find(|path| path.exists()).is_some_and(is_bpffs) {
            return Err(DatapathError::PinsGone(self.path.clone()));
        }
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(root);
        made.map_err(|e| DatapathError::file(root, "create", e))?;
        make_private(&self.path)?;
        *self = Self::hold(&self.path)?;
        Ok(())
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of a pin.
    #[must_use]
    pub fn pin(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Whether a pin of this name is there.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.pin(name).exists()
    }

    /// The names of everything in it, sorted.
    pub fn names(&self) -> Result<Vec<String>, DatapathError> {
        let failed = |e| DatapathError::file(&self.path, "list", e);
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(failed)?.take(MAX_PINS) {
            names.push(entry.map_err(failed)?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    /// Removes a pin or a marker; `false` if it was not there.
    pub fn remove(&self, name: &str) -> Result<bool, DatapathError> {
        let path = self.pin(name);
        let removed = if path.is_dir() { fs::remove_dir(&path) } else { fs::remove_file(&path) };
        match removed {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(DatapathError::file(&path, "remove", e)),
        }
    }

    /// A folder in this one, made where it is missing.
    pub(super) fn inner(&self, name: &str) -> Result<Self, DatapathError> {
        let path = self.pin(name);
        make_private(&path)?;
        Self::hold(&path)
    }

    /// Gives a pin or a folder another name, in one step; a pin of that name is replaced.
    pub(super) fn rename(&self, from: &str, to: &str) -> Result<(), DatapathError> {
        let path = self.pin(from);
        fs::rename(&path, self.pin(to)).map_err(|e| DatapathError::file(&path, "rename", e))
    }

    /// Removes a folder in this one with the pins in it; `false` if it was not there.
    pub(super) fn remove_inner(&self, name: &str) -> Result<bool, DatapathError> {
        if !self.has(name) {
            return Ok(false);
        }
        let inner = self.inner(name)?;
        for pin in inner.names()? {
            inner.remove(&pin)?;
        }
        self.remove(name)
    }

    /// Leaves a note that outlives the daemon. A bpf file system holds no plain files, so it is an
    /// empty folder.
    pub fn mark(&self, name: &str) -> Result<(), DatapathError> {
        let path = self.pin(name);
        match fs::create_dir(&path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                Err(DatapathError::file(&path, "create", e))
            }
            _ => Ok(()),
        }
    }

    /// Removes the folder itself, and the one above it if no other instance is in there.
    pub fn discard(self) -> Result<(), DatapathError> {
        fs::remove_dir(&self.path).map_err(|e| DatapathError::file(&self.path, "remove", e))?;
        if let Some(root) = self.path.parent() {
            // Fails while other instances are there or a file system is mounted on it: both stay.
            let _ = fs::remove_dir(root);
        }
        Ok(())
    }
}

/// Mounts a bpf file system unless `root`, or the closest folder above it that exists, is on one:
/// at [`STANDARD_MOUNT`] for a root below it, else at the root itself.
pub(super) fn mount_if_needed(root: &Path) -> Result<(), DatapathError> {
    let existing = root.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    if is_bpffs(existing) {
        return Ok(());
    }
    let target = if root.starts_with(STANDARD_MOUNT) { Path::new(STANDARD_MOUNT) } else { root };
    if target == root {
        fs::create_dir_all(root).map_err(|e| DatapathError::file(root, "create", e))?;
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("bpf"), target, Some("bpf"), flags, Some("mode=0700"))
        .map_err(|e| DatapathError::file(target, "mount a bpf file system", e.into()))
}

fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|info| info.filesystem_type() == BPF_FS_MAGIC)
}

fn make_private(path: &Path) -> Result<(), DatapathError> {
    let failed = |e| DatapathError::file(path, "create", e);
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(failed(e)),
        _ => {}
    }
    let metadata = fs::symlink_metadata(path).map_err(failed)?;
    if !metadata.is_dir() {
        return Err(failed(io::Error::other(
            "not a folder; remove it or choose another `bpf_root`",
        )));
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(failed)?;
    }
    Ok(())
}
