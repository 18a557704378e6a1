//! `enforcer counters`

use std::collections::BTreeMap;
use std::process::ExitCode;

use super::arguments::{Daemon, Form, block_on};
use super::output::Output;
use super::table::Table;
use crate::control::protocol::CountersReport;

/// Show what was dropped and why, and what else was counted
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    daemon: Daemon,
    #[command(flatten)]
    form: Form,
    /// List counters that are zero too
    #[arg(long)]
    all: bool,
}

pub(super) fn execute(arguments: &Arguments, out: &Output) -> anyhow::Result<ExitCode> {
    let client = arguments.daemon.client()?;
    let counters = block_on(async { Ok(client.counters().await?) })?;
    if arguments.form.json {
        out.json(&counters)?;
    } else {
        out.text(table(&counters, arguments.all))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn table(counters: &CountersReport, all: bool) -> Table {
    let mut table = Table::new(&["KIND", "COUNTER", "COUNT"]);
    let mut add = |kind: &str, group: &BTreeMap<String, u64>| {
        for (name, count) in group.iter().filter(|(_, count)| all || **count > 0) {
            table.row([kind.to_owned(), name.clone(), count.to_string()]);
        }
    };
    add("drop", &counters.drops);
    add("event", &counters.events);
    for (workload, group) in &counters.per_workload {
        add(workload, group);
    }
    table
}
