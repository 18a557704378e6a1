//! `enforcer psk`

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;

use super::output::Output;
use crate::identity::files::create_psk;

/// Make a pre-shared key for a small set-up; whoever holds it can be anyone
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Write 256 random bits to a new file, mode 0600
    #[command(after_help = "Example:\n  enforcer psk generate --out psk.key")]
    Generate {
        /// The file; it must not exist
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
}

pub(super) fn execute(command: &Command, out: &Output) -> anyhow::Result<ExitCode> {
    let Command::Generate { out: file } = command;
    create_psk(file)?;
    out.line(format_args!("{}: give it to every node over a safe channel", file.display()))?;
    Ok(ExitCode::SUCCESS)
}
