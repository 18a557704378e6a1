//! `enforcer reload`

use std::process::ExitCode;

use super::arguments::{Daemon, Form, block_on};
use super::output::Output;

/// Load the policy anew and judge live flows by it, as SIGHUP does
///
/// A policy with an error changes nothing: the one in force stays.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    daemon: Daemon,
    #[command(flatten)]
    form: Form,
}

pub(super) fn execute(arguments: &Arguments, out: &Output) -> anyhow::Result<ExitCode> {
    let client = arguments.daemon.client()?;
    let report = block_on(async { Ok(client.reload().await?) })?;
    if arguments.form.json {
        out.json(&report)?;
    } else {
        let changed = if report.changed { "changed" } else { "unchanged" };
        out.line(format_args!(
            "policy {changed}: epoch {}, load {}, {} verdicts judged again, {} flows cut",
            report.epoch, report.policy_generation, report.rejudged, report.flows_cut
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}
