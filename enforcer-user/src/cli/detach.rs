//! `enforcer detach`

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;

use super::arguments::block_on;
use super::output::Output;
use crate::config::Config;
use crate::control::{Client, ClientError};
use crate::datapath;

/// Remove everything that an instance attached and pinned; its workloads are then not enforced
///
/// Refused while the instance's daemon runs.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  enforcer detach --config /etc/enforcer/enforcer.toml")]
pub(super) struct Arguments {
    /// The configuration of the instance
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

pub(super) fn execute(arguments: &Arguments, out: &Output) -> anyhow::Result<ExitCode> {
    let config = Config::load(&arguments.config)?;
    let client = Client::new(config.control_socket());
    match block_on(async { Ok(client.status().await) })? {
        Ok(status) => {
            let (instance, pid) = (&config.instance, status.pid);
            bail!("instance {instance:?}: its enforcer still runs (pid {pid}); stop it first");
        }
        Err(ClientError::NotRunning { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    datapath::detach(&config)?;
    out.line(format_args!(
        "instance {:?}: nothing of it is attached or pinned any more",
        config.instance
    ))?;
    Ok(ExitCode::SUCCESS)
}
