//! `enforcer reload`

use std::process::ExitCode;

use anyhow::bail;

use super::arguments::{Daemon, Form, block_on};
use super::output::Output;
use crate::control::protocol::ReloadReport;

/// Load policies, keys and certificates anew and judge live flows by them, as SIGHUP does
///
/// Policies, keys or certificates with an error change nothing: those in force stay. The
/// configuration file itself, network rules included, is read when the daemon starts.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    daemon: Daemon,
    #[command(flatten)]
    form: Form,
}

/// What a load came to.
pub(super) fn sentence(report: &ReloadReport) -> String {
    let changed = if report.changed { "changed" } else { "unchanged" };
    format!(
        "policy {changed}: epoch {}, load {}, {} verdicts judged again, {} flows cut",
        report.epoch, report.policy_generation, report.rejudged, report.flows_cut
    )
}

pub(super) fn execute(arguments: &Arguments, out: &Output) -> anyhow::Result<ExitCode> {
    let client = arguments.daemon.client()?;
    let (report, problems) = block_on(async {
        let report = client.reload().await?;
        Ok((report, client.status().await?.problems))
    })?;
    if arguments.form.json {
        out.json(&report)?;
    } else {
        out.line(sentence(&report))?;
    }
    // Keys and certificates are loaded anew too; what of them was refused stands in the status.
    match problems.iter().find(|problem| problem.starts_with("trust: ")) {
        Some(problem) => bail!("{problem}; keys and certificates loaded before hold"),
        None => Ok(ExitCode::SUCCESS),
    }
}
