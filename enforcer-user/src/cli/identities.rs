//! `enforcer identities`

use std::process::ExitCode;

use super::arguments::{Daemon, Form, block_on, unix_now};
use super::output::Output;
use super::table::{Table, labels, until};
use crate::control::protocol::IdentityReport;

/// List the peers whose credentials were verified
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    daemon: Daemon,
    #[command(flatten)]
    form: Form,
}

pub(super) fn execute(arguments: &Arguments, out: &Output) -> anyhow::Result<ExitCode> {
    let client = arguments.daemon.client()?;
    let identities = block_on(async { Ok(client.identities().await?) })?;
    if arguments.form.json {
        out.json(&identities)?;
    } else {
        out.text(table(&identities, unix_now()))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn table(identities: &[IdentityReport], now: u64) -> Table {
    let mut table = Table::new(&["HANDLE", "WORKLOAD", "EXPIRES", "LABELS", "ATTRIBUTES", "PEER"]);
    for identity in identities {
        table.row([
            identity.handle.clone(),
            identity.workload.clone(),
            until(identity.expires_unix, now),
            labels(&identity.labels),
            labels(&identity.attributes),
            identity.spiffe_id.clone(),
        ]);
    }
    table
}
