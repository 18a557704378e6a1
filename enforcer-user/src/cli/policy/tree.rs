//! `enforcer policy list`, `put` and `remove`: the running enforcer's files.

use std::io::Read as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;

use super::super::arguments::{Daemon, Form, block_on};
use super::super::output::Output;
use super::super::reload;
use super::super::table::Table;
use crate::control::protocol::ReloadReport;

/// The most bytes of a file that the control socket takes.
const MAX_BYTES: u64 = 64 * 1024;

/// List the files of the policy in force, with their namespaces
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct List {
    #[command(flatten)]
    daemon: Daemon,
    #[command(flatten)]
    form: Form,
}

/// Write a file of the policy tree and enforce it, or change nothing
///
/// The whole policy is checked with it first. Root may write everywhere, others where `owners` in
/// [policy] lets them.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  enforcer policy put /acme/shop/front.cedar front.cedar")]
pub(in crate::cli) struct Put {
    #[command(flatten)]
    daemon: Daemon,
    #[command(flatten)]
    form: Form,
    /// The namespace and a name in it, such as /acme/shop/front.cedar
    #[arg(value_name = "NAMESPACE/NAME.cedar", value_parser = path)]
    path: String,
    /// What is to stand there; `-` reads it from the standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Remove a file of the policy tree and enforce what is left, or change nothing
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Remove {
    #[command(flatten)]
    daemon: Daemon,
    #[command(flatten)]
    form: Form,
    /// The namespace and a name in it, such as /acme/shop/front.cedar
    #[arg(value_name = "NAMESPACE/NAME.cedar", value_parser = path)]
    path: String,
}

pub(super) fn list(arguments: &List, out: &Output) -> anyhow::Result<ExitCode> {
    let client = arguments.daemon.client()?;
    let files = block_on(async { Ok(client.policy_files().await?) })?;
    if arguments.form.json {
        out.json(&files)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new(&["NAMESPACE", "RULES", "FILE"]);
    for file in files {
        table.row([file.namespace, file.rules.to_string(), file.file]);
    }
    out.text(table)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn put(arguments: &Put, out: &Output) -> anyhow::Result<ExitCode> {
    let text = read(&arguments.file)?;
    let client = arguments.daemon.client()?;
    let report = block_on(async { Ok(client.put_policy(&arguments.path, text).await?) })?;
    tell(&report, &arguments.form, out)
}

pub(super) fn remove(arguments: &Remove, out: &Output) -> anyhow::Result<ExitCode> {
    let client = arguments.daemon.client()?;
    let report = block_on(async { Ok(client.remove_policy(&arguments.path).await?) })?;
    tell(&report, &arguments.form, out)
}

fn tell(report: &ReloadReport, form: &Form, out: &Output) -> anyhow::Result<ExitCode> {
    if form.json {
        out.json(report)?;
    } else {
        out.line(reload::sentence(report))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn read(file: &PathBuf) -> anyhow::Result<String> {
    let input: Box<dyn std::io::Read> = if file.as_os_str() == "-" {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(std::fs::File::open(file).with_context(|| file.display().to_string())?)
    };
    let mut text = String::new();
    let read = input.take(MAX_BYTES + 1).read_to_string(&mut text);
    read.with_context(|| file.display().to_string())?;
    let len = text.len() as u64;
    anyhow::ensure!(
        len <= MAX_BYTES,
        "{}: more than {MAX_BYTES} bytes; write it into the tree itself",
        file.display()
    );
    Ok(text)
}

fn path(text: &str) -> Result<String, String> {
    // Whoever writes it is known to the daemon only.
    crate::control::protocol::PolicyChange::new(0, text, None)?;
    if text.starts_with('/') {
        Ok(text.to_owned())
    } else {
        Err("expected /NAMESPACE/NAME.cedar".to_owned())
    }
}
