//! What a build for arm64 needs: Debian's own compiler, and the standard library that was built with it.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::archive::Archive;
use crate::{process, project};

/// Debian's compiler, which the eBPF object is built with where rustup has none.
const RUSTC: &str = "/usr/bin/rustc";
const CARGO: &str = "/usr/bin/cargo";
/// The release that Debian's compiler is of here.
const RELEASE_FILE: &str = "/etc/os-release";
/// The standard library, and what the smoke test boots.
const PACKAGES: [&str; 2] = ["libstd-rust-web-dev", "busybox-static"];
const LINKER_VARIABLE: &str = "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER";
const LINKER: &str = "aarch64-linux-gnu-gcc";

/// An unpacked standard library for arm64, and a busybox.
pub struct Arm64 {
    root: PathBuf,
}

impl Arm64 {
    /// Downloads it, unless that has been done. The error says what is missing.
    pub fn ensure() -> Result<Self> {
        let compiler = process::probe(process::clean(RUSTC).arg("--version"))
            .context("Debian's compiler is not installed (packages rustc-web and cargo-web)")?;
        let folder = project::target_dir().join("dist/arm64");
        let root = folder.join("root");
        let mark = folder.join("complete");
        if fs::read_to_string(&mark).is_ok_and(|made_for| made_for == compiler) {
            return Ok(Self { root });
        }
        if folder.exists() {
            fs::remove_dir_all(&folder)
                .with_context(|| format!("cannot empty {}", folder.display()))?;
        }
        let archive = Archive::open(&folder, &suite()?, true, "arm64")?;
        archive.unpack(&PACKAGES.map(str::to_owned), &root)?;
        let arm64 = Self { root };
        arm64.matches(&compiler)?;
        fs::write(mark, compiler)?;
        Ok(arm64)
    }

    /// A library of another version would be refused by the compiler, crate by crate.
    fn matches(&self, compiler: &str) -> Result<()> {
        let empty = self.root.with_file_name("empty.rs");
        fs::write(&empty, "fn main() {}\n")?;
        let mut rustc = process::clean(RUSTC);
        rustc.args(["--target", "aarch64-unknown-linux-gnu", "--emit=metadata"]).args(self.flags());
        rustc.arg("-o").arg(self.root.with_file_name("empty.rmeta")).arg(empty);
        process::run_quietly(&mut rustc)
            .with_context(|| format!("Debian's libstd-rust-web-dev for arm64 is not of {compiler}"))
    }

    /// Compiler flags.
    pub fn flags(&self) -> Vec<String> {
        vec![format!("--sysroot={}", self.root.join("usr").display())]
    }

    /// Debian's cargo with Debian's compiler, linking for arm64.
    pub fn cargo() -> Command {
        let mut cargo = process::clean(CARGO);
        cargo.env("CARGO", CARGO).env("RUSTC", RUSTC).env(LINKER_VARIABLE, LINKER);
        cargo
    }

    /// A static busybox for arm64.
    pub fn busybox(&self) -> PathBuf {
        // Releases from 13 on have everything below `usr`.
        let below_usr = self.root.join("usr/bin/busybox");
        if below_usr.exists() { below_usr } else { self.root.join("bin/busybox") }
    }
}

fn suite() -> Result<String> {
    let text =
        fs::read_to_string(RELEASE_FILE).with_context(|| format!("cannot read {RELEASE_FILE}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let Some(suite) = line else { bail!("{RELEASE_FILE} names no suite: this is not Debian") };
    Ok(suite.trim_matches('"').to_owned())
}
