//! `enforcer workloads`

use std::process::ExitCode;

use super::arguments::{Daemon, Form, block_on, unix_now};
use super::output::Output;
use super::table::{Table, labels, until};
use crate::control::protocol::WorkloadReport;

/// List the workloads of this node with their credentials
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    daemon: Daemon,
    #[command(flatten)]
    form: Form,
}

pub(super) fn execute(arguments: &Arguments, out: &Output) -> anyhow::Result<ExitCode> {
    let client = arguments.daemon.client()?;
    let workloads = block_on(async { Ok(client.workloads().await?) })?;
    if arguments.form.json {
        out.json(&workloads)?;
    } else {
        out.text(table(&workloads, unix_now()))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn table(workloads: &[WorkloadReport], now: u64) -> Table {
    let mut table = Table::new(&[
        "NAME",
        "ID",
        "INTERFACE",
        "SIDE",
        "ATTACHED",
        "MODE",
        "CREDENTIAL",
        "EXPIRES",
        "ADDRESSES",
        "LABELS",
        "ATTRIBUTES",
        "SPIFFE ID",
    ]);
    for workload in workloads {
        table.row([
            workload.name.clone(),
            workload.id.to_string(),
            workload.interface.clone(),
            workload.side.clone(),
            workload.attached.map_or("no", |method| method.as_str()).to_owned(),
            workload.mode.clone(),
            workload.credential_handle.clone().unwrap_or_default(),
            workload.credential_expires_unix.map(|at| until(at, now)).unwrap_or_default(),
            workload.addresses.join(","),
            labels(&workload.labels),
            labels(&workload.attributes),
            workload.spiffe_id.clone(),
        ]);
    }
    table
}
