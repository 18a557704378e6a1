//! `cargo xtask setup`: the eBPF toolchain, and the programs that a group of tasks needs.

use std::process::Command;

use anyhow::Result;
use clap::Args;

use crate::toolchain::Toolchain;
use crate::tools::{self, Group};
use crate::{apt, process, solver};

const CARGO_DENY_VERSION: &str = "0.20.2";

/// Arguments of `cargo xtask setup`.
#[derive(Args)]
pub struct Options {
    /// What to prepare for
    #[arg(value_enum, default_values_t = [Group::Build])]
    groups: Vec<Group>,
}

/// Installs what is missing; says what there is.
pub fn run(options: &Options) -> Result<()> {
    let toolchain = Toolchain::ensure()?;
    for group in &options.groups {
        ensure(*group)?;
    }
    println!("ready: {toolchain}");
    Ok(())
}

/// Installs what `group` lacks beside the eBPF toolchain.
pub fn ensure(group: Group) -> Result<()> {
    let missing = tools::missing(group);
    for tool in &missing {
        println!("missing: {} ({})", tool.package, tool.why);
    }
    let mut packages: Vec<&str> = missing.iter().map(|tool| tool.package).collect();
    packages.sort_unstable();
    packages.dedup();
    apt::install(&packages)?;
    match group {
        Group::Check => ensure_checkers(),
        Group::Unit => solver::ensure().map(drop),
        _ => Ok(()),
    }
}

fn ensure_checkers() -> Result<()> {
    for component in ["rustfmt", "clippy"] {
        let subcommand = component.trim_start_matches("rust");
        if process::probe(process::cargo().args([subcommand, "--version"])).is_none() {
            process::run(Command::new("rustup").args(["component", "add", component]))?;
        }
    }
    let version = process::probe(process::cargo().args(["deny", "--version"]));
    if version.is_some_and(|text| text.ends_with(CARGO_DENY_VERSION)) {
        return Ok(());
    }
    let mut install = process::clean("cargo");
    install.args(["install", "cargo-deny", "--version", CARGO_DENY_VERSION, "--locked"]);
    process::run(install.arg("--force"))
}
