//! `cargo xtask run`: builds the enforcer and starts it on this host.

use std::ffi::OsString;

use anyhow::Result;
use clap::Args;

use crate::build::{self, Variant};
use crate::process;

/// Arguments of `cargo xtask run`.
#[derive(Args)]
pub struct Options {
    /// Arguments for the enforcer, after `--`
    #[arg(last = true)]
    arguments: Vec<OsString>,
}

/// Starts the enforcer as root with the given arguments and waits for it.
pub fn run(options: &Options) -> Result<()> {
    let enforcer = build::enforcer(Variant::Release)?;
    process::run(process::root_command(&enforcer, &[])?.args(&options.arguments))
}
