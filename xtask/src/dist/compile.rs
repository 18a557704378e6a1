//! The enforcer as one static program.
//!
//! With the GNU C library, since that is what every Rust toolchain on Linux comes with. Of what a static program
//! must not ask it, two calls are left: names of hosts (`enforcer probe`) and of groups (`[control] group`). Files and
//! DNS, which answer them, are inside since glibc 2.34.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::architecture::Architecture;
use crate::{process, project};

/// Builds the enforcer for `architecture` below `folder` and returns its path.
pub fn enforcer(architecture: Architecture, folder: &Path) -> Result<PathBuf> {
    let target = architecture.target();
    let mut cargo = process::cargo();
    cargo.args(["build", "--locked", "--release"]);
    cargo.args(["--package", "enforcer-user", "--bin", "enforcer"]);
    // With the target named, build scripts and macros are built without these flags.
    cargo.args(["--target", target]).arg("--target-dir").arg(folder);
    let flags = flags().join("\x1f");
    process::run(cargo.env("CARGO_ENCODED_RUSTFLAGS", flags).env("CARGO_INCREMENTAL", "0"))?;
    Ok(folder.join(target).join("release/enforcer"))
}

fn flags() -> Vec<String> {
    let mut flags = vec!["-C".to_owned(), "target-feature=+crt-static".to_owned()];
    flags.extend(project::path_remaps());
    flags
}
