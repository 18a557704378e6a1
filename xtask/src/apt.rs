//! Debian packages: installed when this runs as root, named in full when it does not.

use std::process::Command;

use anyhow::{Result, bail};

use crate::process;

/// Installs `packages`; refreshes the package lists when they turn out to be stale or missing.
pub fn install(packages: &[&str]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    if !usable() {
        bail!(
            "needed packages are missing and cannot be installed here (apt-get as root can). \
             Install these Debian packages, or what your system calls them:\n    \
             apt-get install --no-install-recommends {}",
            packages.join(" ")
        );
    }
    if process::succeeds(&mut install_command(packages))? {
        return Ok(());
    }
    update()?;
    process::run(&mut install_command(packages))
}

/// Whether packages can be installed: Debian's tools are there and this runs as root.
pub fn usable() -> bool {
    process::is_root() && process::find("apt-get").is_some()
}

/// The version that `apt-get install` would choose, from the lists as they are.
pub fn candidate(package: &str) -> Option<String> {
    let policy = process::probe(Command::new("apt-cache").args(["policy", package]))?;
    let line = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: "))?;
    (line != "(none)").then(|| line.to_owned())
}

/// Fetches the package lists.
pub fn update() -> Result<()> {
    process::run(apt_get().args(["--quiet", "update"]))
}

fn install_command(packages: &[&str]) -> Command {
    let mut command = apt_get();
    command.args(["--quiet", "--yes", "--no-install-recommends", "install"]).args(packages);
    command
}

fn apt_get() -> Command {
    let mut command = process::clean("apt-get");
    // Another apt may hold the lock on a machine that has just booted.
    command.args(["-o", "DPkg::Lock::Timeout=120"]).env("DEBIAN_FRONTEND", "noninteractive");
    command
}
