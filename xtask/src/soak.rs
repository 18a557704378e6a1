//! `cargo xtask soak`: two enforcers under mixed load and random faults, for as long as asked.

use std::ffi::OsString;

use anyhow::Result;
use clap::Args;

use crate::build::{self, Variant};
use crate::tools::Group;
use crate::{process, setup};

/// Arguments of `cargo xtask soak`.
#[derive(Args)]
pub struct Options {
    /// Arguments for the soak: `--minutes N`, `--seed S`, `--json FILE`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Builds and runs it, with debug assertions and overflow checks.
pub fn run(options: &Options) -> Result<()> {
    setup::ensure(Group::E2e)?;
    let variant = Variant::default();
    let enforcer = build::enforcer(variant)?;
    let program = build::binary("enforcer-tests", "soak", variant)?;
    let settings = [(build::ENFORCER_VARIABLE, enforcer.as_os_str())];
    process::run(process::root_command(&program, &settings)?.args(&options.arguments))
}
