//! What a machine has that it did not have before.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// What dpkg and the programs that it triggers keep for themselves.
const OF_THE_SYSTEM: [&str; 4] = ["var/lib/dpkg", "var/log", "var/cache", "etc/ld.so.cache"];

/// The files and folders of an overlay's upper layer, relative to it. Folders that only lead to a change are not told
/// from others: compare two readings.
pub fn list(upper: &Path) -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    let mut left = vec![upper.to_owned()];
    while let Some(folder) = left.pop() {
        let entries =
            fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?;
        for entry in entries {
            let entry = entry?;
            let path = entry.path();
            let relative = path.strip_prefix(upper)?.to_owned();
            if OF_THE_SYSTEM.iter().any(|system| relative.starts_with(system)) {
                continue;
            }
            if entry.file_type()?.is_dir() {
                left.push(path);
            }
            found.insert(relative);
        }
    }
    Ok(found)
}
