//! `enforcer man`

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::CommandFactory as _;

use super::Cli;
use super::output::Output;

/// Write the manual pages of all commands, one file each, into a folder
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  enforcer man --dir /usr/local/share/man/man1 && man enforcer-run"
)]
pub(super) struct Arguments {
    /// Where to; it must exist
    #[arg(long, value_name = "FOLDER")]
    dir: PathBuf,
}

pub(super) fn execute(arguments: &Arguments, out: &Output) -> anyhow::Result<ExitCode> {
    let folder = &arguments.dir;
    clap_mangen::generate_to(Cli::command().disable_help_subcommand(true), folder)
        .with_context(|| format!("cannot write manual pages into {}", folder.display()))?;
    out.line(format_args!("{}: manual pages written", folder.display()))?;
    Ok(ExitCode::SUCCESS)
}
