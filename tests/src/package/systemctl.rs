//! What stands in for systemctl on a machine without systemd.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};

/// Runs what the unit's `ExecStartPre` and `ExecStart` say; knows the commands that the package gives, and refuses all
/// others.
const SCRIPT: &str = include_str!("systemctl.sh");

/// Puts it into a machine's root, and says there that systemd runs.
pub fn install(root: &Path) -> Result<()> {
    let path = root.join("usr/bin/systemctl");
    // Through another name: the machine's own may be a link to something else.
    let new = root.join("usr/bin/systemctl.new");
    fs::write(&new, SCRIPT).with_context(|| format!("cannot write {}", new.display()))?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755))?;
    fs::rename(&new, &path)?;
    fs::create_dir_all(root.join("run/systemd/system"))?;
    Ok(())
}

/// The process that it started, if it runs.
pub fn daemon(root: &Path) -> Option<i32> {
    fs::read_to_string(root.join("run/systemctl.pid")).ok()?.trim().parse().ok()
}
