//! `cargo xtask demo`: the enforcer at work between three hosts made of network namespaces.

use std::ffi::OsString;

use anyhow::Result;
use clap::Args;

use crate::build::{self, Variant};
use crate::tools::Group;
use crate::{process, setup};

/// Arguments of `cargo xtask demo`.
#[derive(Args)]
pub struct Options {
    /// Arguments for the demo
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Builds and runs the demo; fails if anything it shows differs from what should be.
pub fn run(options: &Options) -> Result<()> {
    run_in_namespaces("demo", Group::E2e, &options.arguments)
}

/// Builds the enforcer and program `name` of the test crate, and runs that as root.
pub fn run_in_namespaces(name: &str, group: Group, arguments: &[OsString]) -> Result<()> {
    setup::ensure(group)?;
    let enforcer = build::enforcer(Variant::Release)?;
    let program = build::binary("enforcer-tests", name, Variant::Release)?;
    let settings = [(build::ENFORCER_VARIABLE, enforcer.as_os_str())];
    process::run(process::root_command(&program, &settings)?.args(arguments))
}
