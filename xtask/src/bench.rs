//! `cargo xtask bench`: the enforcer against the native stack and a firewall rule, in one run.

use std::ffi::OsString;

use anyhow::Result;
use clap::Args;

use crate::demo::run_in_namespaces;
use crate::tools::Group;

/// Arguments of `cargo xtask bench`.
#[derive(Args)]
pub struct Options {
    /// Arguments for the benchmark, `--json FILE` among them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Builds and runs the benchmark.
pub fn run(options: &Options) -> Result<()> {
    run_in_namespaces("bench", Group::Bench, &options.arguments)
}
