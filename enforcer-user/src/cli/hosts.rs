//! `enforcer hosts`

use std::process::ExitCode;

use super::arguments::{Daemon, Form, block_on, unix_now};
use super::output::Output;
use super::table::{Table, until};
use crate::control::protocol::HostReport;

/// List the addresses that are open because network rules name their hosts
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    daemon: Daemon,
    #[command(flatten)]
    form: Form,
}

pub(super) fn execute(arguments: &Arguments, out: &Output) -> anyhow::Result<ExitCode> {
    let client = arguments.daemon.client()?;
    let hosts = block_on(async { Ok(client.hosts().await?) })?;
    if arguments.form.json {
        out.json(&hosts)?;
    } else {
        out.text(table(&hosts, unix_now()))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn table(hosts: &[HostReport], now: u64) -> Table {
    let mut table = Table::new(&["WORKLOAD", "HOST", "ADDRESS", "EXPIRES"]);
    for host in hosts {
        table.row([
            host.workload.clone(),
            host.host.clone(),
            host.address.clone(),
            until(host.expires_unix, now),
        ]);
    }
    table
}
