//! `cargo xtask build`: the eBPF object, then the host crates that embed it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use clap::Args;

use crate::toolchain::Toolchain;
use crate::{process, project};

/// The profile of the eBPF object, whatever the host crates' profile is.
pub const PROFILE: &str = "bpf";

/// Names the enforcer's program to the tests, the demo and the benchmark.
pub const ENFORCER_VARIABLE: &str = "ENFORCER_BIN";
/// Names the enforcer of the next layout of the maps to the tests.
pub const NEXT_VARIABLE: &str = "ENFORCER_NEXT_BIN";
/// The feature of the crates that has the next layout.
pub const NEXT_FEATURE: &str = "abi-next";
/// Names another eBPF object than the ordinary one: to the program tests when they run, to
/// `enforcer-user/build.rs` when it is embedded.
pub const OBJECT_VARIABLE: &str = "ENFORCER_EBPF_OBJECT";

/// Arguments of `cargo xtask build`.
#[derive(Args)]
pub struct Options {
    /// Build the host crates optimised
    #[arg(long)]
    pub release: bool,
    /// Build nothing but the enforcer of the next layout of the maps, which tests of upgrades need beside
    /// the ordinary one
    #[arg(long, conflicts_with = "release")]
    next: bool,
}

/// Builds everything.
pub fn run(options: &Options) -> Result<()> {
    if options.next {
        next_enforcer(Variant::default())?;
        // The ordinary one back to its place.
        return enforcer(Variant::default()).map(drop);
    }
    ebpf()?;
    let mut build = process::cargo();
    build.arg("build");
    if options.release {
        build.arg("--release");
    }
    process::run(&mut build)
}

/// Builds the eBPF object to where the host build looks for it.
pub fn ebpf() -> Result<()> {
    ebpf_with(&[], &project::ebpf_object(), process::run)
}

/// Builds the eBPF object with `features` to `object`; `run` runs the build.
pub fn ebpf_with(
    features: &[&str],
    object: &Path,
    run: fn(&mut Command) -> Result<()>,
) -> Result<()> {
    let toolchain = Toolchain::ensure()?;
    let mut build = toolchain.cargo("build");
    build.args(["--profile", PROFILE]);
    if !features.is_empty() {
        build.args(["--features", &features.join(",")]);
    }
    run(&mut build)?;
    replace_if_changed(&Toolchain::output(PROFILE), object)
}

/// By which of cargo's profiles the host crates are built.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Variant {
    /// Not optimised, with faults on demand.
    #[default]
    Dev,
    /// The same, optimised a little: for guests whose processor is emulated.
    Guest,
    /// Optimised.
    Release,
}

impl Variant {
    /// Adds what differs to a cargo command.
    pub fn apply(self, command: &mut Command) {
        match self {
            Self::Dev => {}
            Self::Guest => drop(command.args(["--profile", "guest"])),
            Self::Release => drop(command.arg("--release")),
        }
    }

    /// Where its programs lie.
    fn folder(self) -> PathBuf {
        project::target_dir().join(match self {
            Self::Dev => "debug",
            Self::Guest => "guest",
            Self::Release => "release",
        })
    }
}

/// Builds the eBPF object and the enforcer, and returns the latter's path.
pub fn enforcer(variant: Variant) -> Result<PathBuf> {
    ebpf()?;
    binary("enforcer-user", "enforcer", variant)
}

/// Builds the enforcer of the next layout of the maps, with its own eBPF object, and returns its path. It is
/// built where the ordinary one is, so that both share all they depend on: the ordinary one must be built
/// behind it.
pub fn next_enforcer(variant: Variant) -> Result<PathBuf> {
    let object = project::ebpf_object().with_file_name("enforcer-ebpf-next");
    ebpf_with(&[NEXT_FEATURE], &object, process::run)?;
    let mut build = process::cargo();
    build.args(["build", "--package", "enforcer-user", "--bin", "enforcer"]);
    build.args(["--features", NEXT_FEATURE]).env(OBJECT_VARIABLE, &object);
    variant.apply(&mut build);
    process::run(&mut build)?;
    let folder = variant.folder();
    let next = folder.join("enforcer-next");
    replace_if_changed(&folder.join("enforcer"), &next)?;
    let permissions = fs::metadata(folder.join("enforcer"))?.permissions();
    fs::set_permissions(&next, permissions)?;
    Ok(next)
}

/// Builds one program of the host crates and returns its path.
pub fn binary(package: &str, name: &str, variant: Variant) -> Result<PathBuf> {
    let mut build = process::cargo();
    build.args(["build", "--package", package, "--bin", name]);
    variant.apply(&mut build);
    process::run(&mut build)?;
    Ok(variant.folder().join(name))
}

/// Copies `from` over `to` unless they hold the same bytes: a new time stamp alone would rebuild
/// every crate that embeds the object.
fn replace_if_changed(from: &Path, to: &Path) -> Result<()> {
    let bytes =
        fs::read(from).with_context(|| format!("nothing was built at {}", from.display()))?;
    if fs::read(to).is_ok_and(|present| present == bytes) {
        return Ok(());
    }
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    // Renamed into place: a concurrent build sees the old bytes or the new ones, never half.
    let staged = to.with_extension("new");
    fs::write(&staged, bytes).with_context(|| format!("cannot write {}", staged.display()))?;
    fs::rename(&staged, to).with_context(|| format!("cannot replace {}", to.display()))
}
