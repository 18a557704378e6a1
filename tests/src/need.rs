//! What the harness needs of the machine, checked before the first namespace is made.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, bail, ensure};

/// The programs every test may call.
const TOOLS: [&str; 3] = ["ip", "nft", "ethtool"];

/// Fails with the name of what is missing: root, or one of the tools.
pub fn environment() -> Result<()> {
    static CHECKED: OnceLock<Result<(), String>> = OnceLock::new();
    CHECKED
        .get_or_init(|| check().map_err(|error| format!("{error:#}")))
        .clone()
        .map_err(anyhow::Error::msg)
}

fn check() -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "these tests make network namespaces and load eBPF programs: expected to run as root, found uid {}; run them with sudo, or by `cargo xtask test`",
        nix::unistd::geteuid()
    );
    for name in TOOLS {
        tool(name)?;
    }
    Ok(())
}

/// Major and minor number of the running kernel.
///
/// # Panics
/// The kernel's release does not begin with two numbers.
#[must_use]
pub fn kernel_version() -> (u32, u32) {
    let release = nix::sys::utsname::uname().expect("uname(2) fails for no argument of ours");
    let release = release.release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-', '+']).map_while(|part| part.parse().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) => (major, minor),
        _ => panic!("{release} is no kernel release"),
    }
}

/// The path of a program of the system, found as a shell finds it.
pub fn tool(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = [PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")];
    std::env::split_paths(&path)
        .chain(system)
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
        .with_context(|| {
            format!("program {name} not found in PATH; install it (Debian: iproute2, nftables, ethtool, bpftool)")
        })
}

/// Runs a program to its end. Returns its standard output; an exit code other than zero is an error that
/// holds the whole command line and what it said.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    if !output.status.success() {
        bail!(
            "{command:?} failed with {}: {}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr),
            String::from_utf8_lossy(&output.stdout)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Where captures and logs of failed tests are kept: `target/e2e-artifacts` of this build.
pub fn artifacts_dir() -> Result<PathBuf> {
    let exe = std::env::current_exe().context("the path of the test program is unknown")?;
    let target = exe.ancestors().find(|path| path.ends_with("target"));
    let folder = target.map_or_else(std::env::temp_dir, Path::to_owned).join("e2e-artifacts");
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}
