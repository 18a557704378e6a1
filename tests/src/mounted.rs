//! File systems of a test's own, gone when dropped.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tempfile::TempDir;

/// The file that takes all the room.
const FILLING: &str = "filling";

/// A mounted file system. It must outlive the daemon that uses it.
#[derive(Debug)]
pub struct Mounted {
    folder: TempDir,
    kind: &'static str,
    options: String,
}

impl Mounted {
    /// An empty file system in memory, of some kibibytes.
    pub fn small_disk(kibibytes: u32) -> Result<Self> {
        Self::new("tmpfs", format!("size={kibibytes}k,mode=0700"))
    }

    /// A bpf file system.
    pub fn bpf() -> Result<Self> {
        Self::new("bpf", "mode=0700".to_owned())
    }

    fn new(kind: &'static str, options: String) -> Result<Self> {
        let mounted = Self { folder: TempDir::with_prefix("enftest-mount-")?, kind, options };
        mounted.mount()?;
        Ok(mounted)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Mounts an empty one in its place.
    pub fn mount(&self) -> Result<()> {
        let options = Some(self.options.as_str());
        mount(Some(self.kind), self.path(), Some(self.kind), MsFlags::empty(), options)
            .with_context(|| format!("cannot mount a {} file system", self.kind))
    }

    /// Takes it out of the tree, whoever uses it.
    pub fn unmount(&self) -> Result<()> {
        umount2(self.path(), MntFlags::MNT_DETACH).context("cannot unmount")
    }

    /// Fills it to the last byte.
    pub fn fill(&self) -> Result<()> {
        let mut file = File::create(self.filling())?;
        for size in [4096, 1] {
            loop {
                match file.write_all(&vec![0; size]) {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    /// Makes room again.
    pub fn make_room(&self) -> Result<()> {
        fs::remove_file(self.filling()).context("the disk was not filled")
    }

    fn filling(&self) -> PathBuf {
        self.path().join(FILLING)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // It may be unmounted already.
        let _ = self.unmount();
    }
}
