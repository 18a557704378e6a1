//! `enforcer ca`: an authority made of files.

mod init;
mod issue_node;
mod request;

use std::process::ExitCode;

use clap::Subcommand;

use super::output::Output;

/// Seconds of a day.
const DAY_SECONDS: u64 = 86_400;

/// Make an authority, and certificates for nodes
///
/// The authority's key stays where `init` makes it. A node makes its own key with `request`, sends the
/// request to the authority, and gets a certificate back from `issue-node`.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    Init(init::Arguments),
    Request(request::Arguments),
    IssueNode(issue_node::Arguments),
}

pub(super) fn execute(command: &Command, out: &Output) -> anyhow::Result<ExitCode> {
    match command {
        Command::Init(arguments) => init::execute(arguments, out),
        Command::Request(arguments) => request::execute(arguments, out),
        Command::IssueNode(arguments) => issue_node::execute(arguments, out),
    }
}
