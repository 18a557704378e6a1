//! The enforcer as one static program.
//!
//! With the GNU C library, since both rustup and Debian have a Rust library for that. Of what a static program
//! must not ask it, two calls are left: names of hosts (`enforcer probe`) and of groups (`[control] group`). Files and
//! DNS, which answer them, are inside since glibc 2.34.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::architecture::Architecture;
use super::arm64::Arm64;
use crate::tools::Group;
use crate::{process, project, setup};

/// A compiler for a processor.
pub enum Compiler {
    /// The one that runs this.
    Amd64,
    /// Debian's, with a standard library for arm64.
    Arm64(Arm64),
}

impl Compiler {
    /// One for each processor that is `asked` for. Without any, one for each that can be had here, and a line that says
    /// why one cannot.
    pub fn of(asked: &[Architecture]) -> Result<Vec<Self>> {
        let mut compilers = Vec::new();
        if asked.is_empty() || asked.contains(&Architecture::Amd64) {
            compilers.push(Self::Amd64);
        }
        if asked.is_empty() || asked.contains(&Architecture::Arm64) {
            match setup::ensure(Group::Arm64).and_then(|()| Arm64::ensure()) {
                Ok(library) => compilers.push(Self::Arm64(library)),
                Err(error) if asked.is_empty() => println!("arm64: left out: {error:#}"),
                Err(error) => return Err(error),
            }
        }
        Ok(compilers)
    }

    /// What it compiles for.
    pub const fn architecture(&self) -> Architecture {
        match self {
            Self::Amd64 => Architecture::Amd64,
            Self::Arm64(_) => Architecture::Arm64,
        }
    }

    /// Builds the enforcer below `folder` and returns its path.
    pub fn enforcer(&self, folder: &Path) -> Result<PathBuf> {
        match self {
            Self::Amd64 => build(process::cargo(), Architecture::Amd64, &[], folder),
            Self::Arm64(library) => {
                build(Arm64::cargo(), Architecture::Arm64, &library.flags(), folder)
            }
        }
    }
}

fn build(
    mut cargo: Command,
    architecture: Architecture,
    more: &[String],
    folder: &Path,
) -> Result<PathBuf> {
    let target = architecture.target();
    cargo.args(["build", "--locked", "--release"]);
    cargo.args(["--package", "enforcer-user", "--bin", "enforcer"]);
    // With the target named, build scripts and macros are built without these flags.
    cargo.args(["--target", target]).arg("--target-dir").arg(folder);
    let flags = [flags(folder), more.to_vec()].concat().join("\x1f");
    process::run(cargo.env("CARGO_ENCODED_RUSTFLAGS", flags).env("CARGO_INCREMENTAL", "0"))?;
    Ok(folder.join(target).join("release/enforcer"))
}

fn flags(folder: &Path) -> Vec<String> {
    let mut flags = vec!["-C".to_owned(), "target-feature=+crt-static".to_owned()];
    flags.extend(project::path_remaps());
    // Build scripts write code there, whose path stands in its panics.
    flags.push(format!("--remap-path-prefix={}=/build", folder.display()));
    flags
}
