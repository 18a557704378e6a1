//! The eBPF toolchain: a compiler that can build `core` for the bpf target, and bpf-linker.
//!
//! Two compilers will do, tried in this order: a pinned nightly with `rust-src` from rustup, and
//! Debian's `rustc-web` with `rust-web-src`, where packages can be installed. Their LLVM must not
//! be newer than the one that bpf-linker is linked with.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fmt};

use anyhow::{Result, bail};

use crate::{apt, process, project};

/// The nightly that the verifier's budget was measured with; its LLVM is 22.
const NIGHTLY: &str = "nightly-2026-05-20";
/// Another rustup toolchain for the eBPF object, for those who try newer compilers.
const NIGHTLY_VARIABLE: &str = "ENFORCER_BPF_TOOLCHAIN";
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CARGO: &str = "/usr/bin/cargo";
const DEBIAN_CLIPPY: &str = "/usr/bin/cargo-clippy";
const DEBIAN_PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];
/// The first Debian compiler on LLVM 22 with the edition and library that the crate needs.
const DEBIAN_MINIMUM: (u32, u32) = (1, 96);
const LINKER_VERSION: &str = "0.13.0";
const LLVM_PREFIX: &str = "/usr/lib/llvm-22";
/// What bpf-linker's build links with.
const LINKER_PACKAGES: [&str; 6] =
    ["llvm-22-dev", "libpolly-22-dev", "libzstd-dev", "zlib1g-dev", "g++", "pkg-config"];
const TARGET: &str = "bpfel-unknown-none";

/// A compiler for the eBPF object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Compiler {
    /// A rustup toolchain with `rust-src`.
    Rustup(String),
    /// Debian's compiler, allowed to use the unstable `-Z build-std`.
    Debian,
}

impl fmt::Display for Compiler {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rustup(toolchain) => write!(out, "rustup toolchain {toolchain}"),
            Self::Debian => write!(out, "Debian's rustc-web"),
        }
    }
}

/// A ready toolchain.
pub struct Toolchain {
    compiler: Compiler,
    linker: PathBuf,
}

impl Toolchain {
    /// The toolchain, installed if need be.
    pub fn ensure() -> Result<Self> {
        let compiler = Compiler::ensure()?;
        let linker = ensure_linker()?;
        Ok(Self { compiler, linker })
    }

    /// `cargo <subcommand>` for the eBPF crate and target, with `core` built from source.
    pub fn cargo(&self, subcommand: &str) -> Command {
        let mut command = self.compiler.cargo(subcommand);
        command
            .args(["--package", "enforcer-ebpf", "--target", TARGET, "-Z", "build-std=core"])
            .arg("--target-dir")
            .arg(project::ebpf_target_dir())
            .arg("--config")
            .arg(format!("target.{TARGET}.rustflags = {:?}", project::path_remaps()))
            .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &self.linker);
        command
    }

    /// Where cargo puts what `profile` builds.
    pub fn output(profile: &str) -> PathBuf {
        project::ebpf_target_dir().join(TARGET).join(profile).join("enforcer-ebpf")
    }

    /// Adds clippy to the compiler where it is missing.
    pub fn ensure_clippy(&self) -> Result<()> {
        let mut clippy = self.compiler.cargo("clippy");
        if process::probe(clippy.arg("--version")).is_some() {
            return Ok(());
        }
        match &self.compiler {
            Compiler::Rustup(toolchain) => process::run(Command::new("rustup").args([
                "component",
                "add",
                "clippy",
                "--toolchain",
                toolchain,
            ])),
            Compiler::Debian => apt::install(&["rust-web-clippy"]),
        }
    }
}

impl fmt::Display for Toolchain {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}, bpf-linker {LINKER_VERSION} ({})", self.compiler, self.linker.display())
    }
}

impl Compiler {
    fn find() -> Option<Self> {
        let nightly = nightly();
        if nightly_is_ready(&nightly) {
            return Some(Self::Rustup(nightly));
        }
        debian_is_ready().then_some(Self::Debian)
    }

    fn ensure() -> Result<Self> {
        if let Some(compiler) = Self::find() {
            return Ok(compiler);
        }
        let nightly = nightly();
        if install_nightly(&nightly) && nightly_is_ready(&nightly) {
            return Ok(Self::Rustup(nightly));
        }
        if install_debian()? && debian_is_ready() {
            return Ok(Self::Debian);
        }
        bail!(
            "no compiler for eBPF: rustup could not provide {nightly} with rust-src, and Debian's \
             packages are not installable here. Run one of these, then `cargo xtask setup` again:\n    \
             {}\n    \
             apt-get update && apt-get install --no-install-recommends {}   (Debian 12 or newer, \
             as root, rustc-web {}.{} or newer)",
            process::shown(&nightly_install_command(&nightly)),
            DEBIAN_PACKAGES.join(" "),
            DEBIAN_MINIMUM.0,
            DEBIAN_MINIMUM.1,
        )
    }

    fn cargo(&self, subcommand: &str) -> Command {
        match self {
            Self::Rustup(toolchain) => {
                let mut command = process::clean("rustup");
                command.args(["run", toolchain, "cargo", subcommand]);
                command
            }
            Self::Debian => {
                // Not as cargo's subcommand: cargo prefers rustup's proxy of it, for another
                // compiler.
                let program = if subcommand == "clippy" { DEBIAN_CLIPPY } else { DEBIAN_CARGO };
                let mut command = process::clean(program);
                command.arg(subcommand).env("CARGO", DEBIAN_CARGO);
                command.env("RUSTC", DEBIAN_RUSTC).env("RUSTC_BOOTSTRAP", "1");
                command
            }
        }
    }
}

fn nightly() -> String {
    env::var(NIGHTLY_VARIABLE).unwrap_or_else(|_| NIGHTLY.to_owned())
}

fn nightly_is_ready(toolchain: &str) -> bool {
    let mut sysroot = process::clean("rustup");
    sysroot.args(["run", toolchain, "rustc", "--print", "sysroot"]);
    process::probe(&mut sysroot).is_some_and(|root| has_library_source(Path::new(&root)))
}

fn install_nightly(toolchain: &str) -> bool {
    process::find("rustup").is_some()
        && process::succeeds(&mut nightly_install_command(toolchain)).unwrap_or(false)
}

fn nightly_install_command(toolchain: &str) -> Command {
    let mut command = process::clean("rustup");
    command.args(["toolchain", "install", toolchain, "--profile", "minimal"]);
    command.args(["--component", "rust-src", "--component", "clippy", "--no-self-update"]);
    command
}

fn debian_is_ready() -> bool {
    let mut version = process::clean(DEBIAN_RUSTC);
    process::probe(version.arg("--version")).is_some_and(|text| is_new_enough(&text))
        && Path::new(DEBIAN_CARGO).exists()
        && has_library_source(Path::new("/usr"))
}

/// Whether Debian's compiler could be installed; an error only when installing it fails.
fn install_debian() -> Result<bool> {
    if !apt::usable() {
        return Ok(false);
    }
    if !candidate_is_new_enough() {
        apt::update()?;
    }
    if !candidate_is_new_enough() {
        eprintln!(
            "Debian's rustc-web is {}, expected {}.{} or newer",
            apt::candidate("rustc-web").as_deref().unwrap_or("not offered"),
            DEBIAN_MINIMUM.0,
            DEBIAN_MINIMUM.1
        );
        return Ok(false);
    }
    apt::install(&DEBIAN_PACKAGES)?;
    Ok(true)
}

fn candidate_is_new_enough() -> bool {
    apt::candidate("rustc-web").is_some_and(|version| is_new_enough(&version))
}

/// Whether the first word of `version` that looks like one is at least [`DEBIAN_MINIMUM`].
fn is_new_enough(version: &str) -> bool {
    version.split_whitespace().find_map(major_minor).is_some_and(|found| found >= DEBIAN_MINIMUM)
}

fn major_minor(word: &str) -> Option<(u32, u32)> {
    let mut numbers = word.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn has_library_source(sysroot: &Path) -> bool {
    sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs").exists()
}

/// bpf-linker, if it is installed in the version that the object is built with.
fn linker() -> Option<PathBuf> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| env::home_dir().map(|home| home.join(".cargo")));
    let installed = home.map(|home| home.join("bin/bpf-linker"));
    installed.into_iter().chain(process::find("bpf-linker")).find(|path| {
        let version = process::probe(process::clean(path).arg("--version"));
        version.is_some_and(|text| text.split_whitespace().any(|word| word == LINKER_VERSION))
    })
}

fn ensure_linker() -> Result<PathBuf> {
    if let Some(linker) = linker() {
        return Ok(linker);
    }
    if !Path::new(LLVM_PREFIX).join("bin/llvm-config").exists() || !build_tools_are_present() {
        apt::install(&LINKER_PACKAGES)?;
    }
    let mut install = process::clean(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    install.args(["install", "bpf-linker", "--version", LINKER_VERSION, "--locked", "--force"]);
    install.args(["--no-default-features", "--features", "llvm-22"]);
    process::run(install.env("LLVM_PREFIX", LLVM_PREFIX))?;
    let Some(linker) = linker() else {
        bail!(
            "bpf-linker {LINKER_VERSION} was installed but does not start; `bpf-linker --version` \
             shows why"
        );
    };
    Ok(linker)
}

fn build_tools_are_present() -> bool {
    process::find("c++").is_some()
        && Path::new("/usr/include/zstd.h").exists()
        && Path::new("/usr/include/zlib.h").exists()
}

#[cfg(test)]
mod tests {
    use super::is_new_enough;

    #[test]
    fn versions_of_rustc_and_of_packages_compare_by_number() {
        for accepted in ["rustc 1.96.0 (abc 2026-05-25)", "1.96.0+dfsg1-1~deb12u2", "2.0.0"] {
            assert!(is_new_enough(accepted), "{accepted}");
        }
        for refused in ["1.85.0+dfsg3-1~deb12u3", "rustc 1.9.0 (x)", "", "rustc unknown"] {
            assert!(!is_new_enough(refused), "{refused}");
        }
    }
}
