//! `enforcer learn`

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::process::ExitCode;

use clap::Subcommand;

use super::arguments::{Daemon, Form, block_on, unix_now};
use super::output::Output;
use super::table::{Table, ago, span};
use crate::learn::{Hours, LearnedReport, Proposal, When, network_rules, propose};

/// Above network rules, which the configuration holds and not the policy.
const HEADING: &str = "\
# For the configuration file, which the enforcer does not write: what was seen of peers without an identity.
# What a network rule in force permits is not proposed again: put these tables beside those that are there, then reload.
";

/// Hours of a week.
const HOURS_A_WEEK: u32 = 168;

/// Make a policy of what workloads did (mode = "learn")
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    Status(Status),
    Propose(Propose),
    Apply(Apply),
    Forget(Forget),
}

/// Show what was seen of each workload that learns, and what was not
///
/// SEEN counts the hours of the week in which it called or was called, WATCHED those in which the enforcer
/// ran: what happens once a week is only known behind a week.
#[derive(Debug, clap::Args)]
pub(super) struct Status {
    #[command(flatten)]
    daemon: Daemon,
    #[command(flatten)]
    form: Form,
}

/// Print the policy that permits what was seen, and network rules for peers without an identity
#[derive(Debug, clap::Args)]
pub(super) struct Propose {
    #[command(flatten)]
    daemon: Daemon,
    #[command(flatten)]
    form: Form,
}

/// Write that policy into the policy tree, a file for each namespace, and enforce it
///
/// Network rules are printed: they belong into the configuration, which the enforcer does not write. Workloads go on to learn until their `mode` says otherwise.
#[derive(Debug, clap::Args)]
pub(super) struct Apply {
    #[command(flatten)]
    daemon: Daemon,
}

/// Forget what was learned
#[derive(Debug, clap::Args)]
pub(super) struct Forget {
    #[command(flatten)]
    daemon: Daemon,
}

pub(super) fn execute(command: &Command, out: &Output) -> anyhow::Result<ExitCode> {
    match command {
        Command::Status(arguments) => status(arguments, out),
        Command::Propose(arguments) => print(arguments, out),
        Command::Apply(arguments) => apply(arguments, out),
        Command::Forget(arguments) => forget(arguments, out),
    }
}

fn learned(daemon: &Daemon) -> anyhow::Result<LearnedReport> {
    let client = daemon.client()?;
    block_on(async { Ok(client.learned().await?) })
}

/// Connections that the kernel could not tell of.
fn unreported(daemon: &Daemon) -> anyhow::Result<u64> {
    let client = daemon.client()?;
    let counters = block_on(async { Ok(client.counters().await?) })?;
    Ok(counters.events.get("unreported").copied().unwrap_or_default())
}

fn status(arguments: &Status, out: &Output) -> anyhow::Result<ExitCode> {
    let report = learned(&arguments.daemon)?;
    if arguments.form.json {
        out.json(&report)?;
        return Ok(ExitCode::SUCCESS);
    }
    out.text(table(&report))?;
    warn(&report, unreported(&arguments.daemon)?);
    Ok(ExitCode::SUCCESS)
}

fn table(report: &LearnedReport) -> Table {
    let now = unix_now();
    let mut table = Table::new(&[
        "WORKLOAD",
        "LEARNS FOR",
        "WATCHED",
        "SEEN",
        "CALLS",
        "CALLED BY",
        "ADDRESSES",
        "PORTS",
        "LAST",
    ]);
    let done = deeds(report);
    for one in &report.workloads {
        let done = done.get(one.spiffe_id.as_str());
        let count = |count: Option<usize>| count.unwrap_or_default().to_string();
        table.row([
            one.spiffe_id.clone(),
            span(now.saturating_sub(one.since_unix)),
            format!("{} of {HOURS_A_WEEK} hours", one.watched.count()),
            done.map_or(0, |done| done.hours.count()).to_string(),
            count(done.map(|done| done.calls.len())),
            count(done.map(|done| done.called_by.len())),
            count(done.map(|done| done.addresses.len())),
            count(done.map(|done| done.ports.len())),
            done.map_or_else(|| "never".to_owned(), |done| ago(done.last_unix, now)),
        ]);
    }
    table
}

/// What a workload did.
#[derive(Default)]
struct Deeds<'a> {
    hours: Hours,
    calls: BTreeSet<&'a str>,
    called_by: BTreeSet<&'a str>,
    /// Of peers without an identity.
    addresses: BTreeSet<IpAddr>,
    ports: BTreeSet<u16>,
    last_unix: u64,
}

impl Deeds<'_> {
    fn note(&mut self, port: u16, when: When) {
        // Some protocols have no ports.
        self.ports.extend((port != 0).then_some(port));
        self.hours = self.hours.or(when.hours);
        self.last_unix = self.last_unix.max(when.last_unix);
    }
}

fn deeds(report: &LearnedReport) -> BTreeMap<&str, Deeds<'_>> {
    let mut all: BTreeMap<&str, Deeds<'_>> = BTreeMap::new();
    for flow in &report.flows {
        let accepts = flow.action == "accept";
        let (own, peer) = if accepts { (&flow.to, &flow.from) } else { (&flow.from, &flow.to) };
        let done = all.entry(own).or_default();
        if accepts {
            done.called_by.insert(peer)
        } else {
            done.calls.insert(peer)
        };
        done.note(flow.port, flow.when);
    }
    for one in &report.addresses {
        let done = all.entry(&one.workload).or_default();
        done.addresses.insert(one.address);
        done.note(one.port, one.when);
    }
    all
}

/// What whoever believes the proposal should know.
fn warn(report: &LearnedReport, unreported: u64) {
    let done = deeds(report);
    for one in report.workloads.iter().filter(|one| !done.contains_key(one.spiffe_id.as_str())) {
        eprintln!("warning: {} was never seen to call or to be called", one.spiffe_id);
    }
    let short = report.workloads.iter().filter(|one| one.watched.count() < HOURS_A_WEEK).count();
    if short > 0 {
        eprintln!(
            "warning: {short} of {} workloads were not watched for a whole week: what runs in the other hours is not \
             in it",
            report.workloads.len()
        );
    }
    if report.lost > 0 {
        eprintln!("warning: {} times something was seen for which there was no room", report.lost);
    }
    if unreported > 0 {
        eprintln!(
            "warning: of {unreported} connections the kernel could not tell (counter unreported): those that were over \
             soon may not be in it"
        );
    }
    if report.workloads.is_empty() {
        eprintln!("warning: no workload learns: mode = \"learn\" in its [[workload]] begins it");
    }
}

/// Everything that is proposed.
#[derive(serde::Serialize)]
struct Whole {
    /// Of the policy tree.
    files: Vec<Proposal>,
    /// Tables of the configuration, as TOML.
    network_rules: String,
}

fn print_rules(rules: &str, out: &Output) -> anyhow::Result<()> {
    if rules.is_empty() { Ok(()) } else { out.text(format_args!("{HEADING}\n{rules}")) }
}

fn print(arguments: &Propose, out: &Output) -> anyhow::Result<ExitCode> {
    let report = learned(&arguments.daemon)?;
    let (files, network_rules) = (propose(&report), network_rules(&report));
    if arguments.form.json {
        out.json(&Whole { files, network_rules })?;
        return Ok(ExitCode::SUCCESS);
    }
    for one in files {
        out.text(format_args!("// {}\n\n{}", one.path, one.text))?;
    }
    print_rules(&network_rules, out)?;
    warn(&report, unreported(&arguments.daemon)?);
    Ok(ExitCode::SUCCESS)
}

fn apply(arguments: &Apply, out: &Output) -> anyhow::Result<ExitCode> {
    let client = arguments.daemon.client()?;
    let report = block_on(async { Ok(client.learned().await?) })?;
    warn(&report, unreported(&arguments.daemon)?);
    let (files, network_rules) = (propose(&report), network_rules(&report));
    anyhow::ensure!(
        !files.is_empty() || !network_rules.is_empty(),
        "nothing was learned yet: there is nothing to apply"
    );
    for one in files {
        block_on(async { Ok(client.put_policy(&one.path, one.text.clone()).await?) })?;
        out.line(format_args!("{}: written, in force", one.path))?;
    }
    print_rules(&network_rules, out)?;
    Ok(ExitCode::SUCCESS)
}

fn forget(arguments: &Forget, out: &Output) -> anyhow::Result<ExitCode> {
    let client = arguments.daemon.client()?;
    let forgotten = block_on(async { Ok(client.forget_learned().await?) })?;
    out.line(format_args!(
        "{} learned connections forgotten, and {} with peers without an identity",
        forgotten.flows.len(),
        forgotten.addresses.len()
    ))?;
    Ok(ExitCode::SUCCESS)
}
