//! `enforcer ca request`

use std::path::PathBuf;
use std::process::ExitCode;

use crate::cli::output::Output;
use crate::identity::files::request_node;

/// Make this node's key, and a request for its certificate
///
/// The key stays here, mode 0600; only the request goes to the authority. A key that is there is used
/// again, so that a certificate can be renewed.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  enforcer ca request --name node-1 --key node.key --out node.request"
)]
pub(in crate::cli) struct Arguments {
    /// The node's name
    #[arg(long, value_name = "NODE")]
    name: String,
    /// The node's key; made if it is not there
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Where the request goes
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

pub(super) fn execute(arguments: &Arguments, out: &Output) -> anyhow::Result<ExitCode> {
    let requested = request_node(&arguments.name, &arguments.key, &arguments.out)?;
    let key = arguments.key.display();
    let what =
        if requested.key_created { "a new key, keep it here" } else { "the key that was there" };
    out.line(format_args!("{key}: {what}"))?;
    out.line(format_args!("{}: give it to the authority", arguments.out.display()))?;
    Ok(ExitCode::SUCCESS)
}
