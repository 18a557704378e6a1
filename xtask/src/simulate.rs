//! `cargo xtask simulate`: the real engine of one node among thousands, in virtual time.

use std::ffi::OsString;
use std::process::Command;

use anyhow::Result;
use clap::Args;

use crate::build::{self, Variant};
use crate::tools::Group;
use crate::{process, setup};

/// Arguments of `cargo xtask simulate`.
#[derive(Args)]
pub struct Options {
    /// Arguments for the simulation: `--nodes N`, `--workloads N`, `--churn PERCENT`, `--minutes N`, `--seed S`,
    /// `--limits`, `--json FILE` among them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Builds it, optimised, and runs it; it needs no privileges and no kernel.
pub fn run(options: &Options) -> Result<()> {
    setup::ensure(Group::Build)?;
    // The room of the maps is that of the object which the crates embed.
    build::ebpf()?;
    let program = build::binary("enforcer-tests", "simulate", Variant::Release)?;
    process::run(Command::new(program).args(&options.arguments))
}
