//! Where the daemons of tests keep what they pin, and what is left there by tests that were killed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use crate::config::Place;
use crate::host::is_alive;

const BPF_FILE_SYSTEM: &str = "/sys/fs/bpf";
const ROOT: &str = "/sys/fs/bpf/enforcer-tests";
/// Starts the name of every instance; the process id of its maker follows.
const PREFIX: &str = "t";

/// Where all are.
#[must_use]
pub fn root() -> &'static Path {
    Path::new(ROOT)
}

/// A place of its own for one daemon, whose other files are in `folder`.
#[must_use]
pub fn place(folder: &Path) -> Place {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    Place {
        instance: format!("{PREFIX}{}-{count}", std::process::id()),
        bpf_root: PathBuf::from(ROOT),
        run_dir: folder.join("run"),
        state_dir: folder.join("state"),
        policy: folder.join("policy"),
        tree: folder.join("tree"),
        owners: folder.join("owners.cedar"),
        staged: folder.join("staged.cedar"),
        manifests: folder.join("manifests.yaml"),
    }
}

/// Mounts the BPF file system once, for all test processes (two that did it at the same time would hide each
/// other's pins), and removes the pins of test processes that were killed.
pub fn prepare() -> Result<()> {
    static STALE: Once = Once::new();
    let lock = File::create(std::env::temp_dir().join("enftest-bpf.lock"))?;
    lock.lock().context("cannot lock the mounting of the BPF file system")?;
    if statfs(BPF_FILE_SYSTEM)?.filesystem_type() != BPF_FS_MAGIC {
        mount(Some("bpf"), BPF_FILE_SYSTEM, Some("bpf"), MsFlags::empty(), None::<&str>)
            .with_context(|| format!("cannot mount the BPF file system at {BPF_FILE_SYSTEM}"))?;
    }
    STALE.call_once(remove_stale);
    Ok(())
}

fn remove_stale() {
    let Ok(entries) = fs::read_dir(ROOT) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if maker_of(&name).is_some_and(|pid| !is_alive(pid))
            && let Err(error) = fs::remove_dir_all(entry.path())
        {
            eprintln!("stale pins {} could not be removed: {error}", entry.path().display());
        }
    }
}

fn maker_of(instance: &str) -> Option<u32> {
    instance.strip_prefix(PREFIX)?.split('-').next()?.parse().ok()
}
