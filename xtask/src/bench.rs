//! `cargo xtask bench`: the enforcer against the native stack and what a user would pick instead, in one run.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;

use crate::build::{self, Variant};
use crate::tools::Group;
use crate::{apt, process, project, setup};

/// The tunnel in userspace, of its registry.
const TUNNEL: &str = "boringtun-cli";
const TUNNEL_VERSION: &str = "0.7.1";
/// Tells the benchmark where the tunnel's program is.
const TUNNEL_VARIABLE: &str = "BORINGTUN_BIN";
/// What else is compared: programs and their Debian packages.
const OTHERS: [(&str, &str); 3] =
    [("haproxy", "haproxy"), ("iptables-legacy", "iptables"), ("openssl", "openssl")];

/// Arguments of `cargo xtask bench`.
#[derive(Args)]
pub struct Options {
    /// Arguments for the benchmark, `--json FILE` among them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Builds and runs the benchmark.
pub fn run(options: &Options) -> Result<()> {
    let arguments = &options.arguments;
    setup::ensure(Group::Bench)?;
    let tunnel = tunnel_program();
    if is_side_by_side(arguments) {
        install_others(&tunnel);
    }
    let enforcer = build::enforcer(Variant::Release)?;
    let program = build::binary("enforcer-tests", "bench", Variant::Release)?;
    let settings =
        [(build::ENFORCER_VARIABLE, enforcer.as_os_str()), (TUNNEL_VARIABLE, tunnel.as_os_str())];
    process::run(process::root_command(&program, &settings)?.args(arguments))
}

fn is_side_by_side(arguments: &[OsString]) -> bool {
    let named = OsStr::new("side-by-side");
    arguments.iter().any(|argument| argument == named || argument == "--only=side-by-side")
}

fn tools_folder() -> PathBuf {
    project::target_dir().join("tools")
}

fn tunnel_program() -> PathBuf {
    tools_folder().join("bin").join(TUNNEL)
}

/// Installs what is compared. What cannot be installed is no failure: the benchmark says that it is absent, and why.
fn install_others(tunnel: &Path) {
    let missing = OTHERS.iter().filter(|(program, _)| process::find(program).is_none());
    let packages: Vec<&str> = missing.map(|(_, package)| *package).collect();
    if let Err(error) = apt::install(&packages) {
        eprintln!("not installed: {}: {error:#}", packages.join(", "));
    }
    if tunnel.is_file() {
        return;
    }
    let mut install = process::clean("cargo");
    install.args(["install", TUNNEL, "--version", TUNNEL_VERSION, "--locked", "--root"]);
    if let Err(error) = process::run(install.arg(tools_folder())) {
        eprintln!("not installed: {TUNNEL}: {error:#}");
    }
}
