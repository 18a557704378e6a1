//! `enforcer policy observed` and `denied`

use std::process::ExitCode;

use super::super::arguments::{Daemon, Form, block_on, unix_now};
use super::super::output::Output;
use super::super::table::{Table, ago};
use crate::control::protocol::ObservedReport;

/// List what would have been denied and passed: by observed rules, a staged policy, or for observed workloads
///
/// Each pair once, since the enforcer started. TIMES counts how often the policy was asked:
/// connections on a cached answer do not ask. `enforcer explain --denial NUMBER` says more.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Arguments {
    #[command(flatten)]
    daemon: Daemon,
    #[command(flatten)]
    form: Form,
}

/// List what was denied
///
/// Each pair once, since the enforcer started, as many as there is room for; those denied last stay.
/// `enforcer explain --denial NUMBER` says more.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Denied {
    #[command(flatten)]
    daemon: Daemon,
    #[command(flatten)]
    form: Form,
}

pub(super) fn execute(arguments: &Arguments, out: &Output) -> anyhow::Result<ExitCode> {
    let client = arguments.daemon.client()?;
    let observed = block_on(async { Ok(client.observed().await?) })?;
    tell(&observed, &arguments.form, out)
}

pub(super) fn denied(arguments: &Denied, out: &Output) -> anyhow::Result<ExitCode> {
    let client = arguments.daemon.client()?;
    let denied = block_on(async { Ok(client.denied().await?) })?;
    tell(&denied, &arguments.form, out)
}

fn tell(denials: &[ObservedReport], form: &Form, out: &Output) -> anyhow::Result<ExitCode> {
    if form.json {
        out.json(&denials)?;
    } else {
        out.text(table(denials))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn table(observed: &[ObservedReport]) -> Table {
    let now = unix_now();
    let mut table =
        Table::new(&["NUMBER", "FROM", "TO", "PORT", "ASKED FOR", "TIMES", "LAST", "BECAUSE"]);
    for one in observed {
        table.row([
            one.number.to_string(),
            one.from.clone(),
            one.to.clone(),
            one.port.to_string(),
            one.action.clone(),
            one.times.to_string(),
            ago(one.last_unix, now),
            one.because.clone(),
        ]);
    }
    table
}
