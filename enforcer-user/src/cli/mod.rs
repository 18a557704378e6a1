//! The command line: one subcommand a file.

mod arguments;
mod ca;
mod check_config;
mod completions;
mod counters;
mod detach;
mod explain;
mod flows;
mod hosts;
mod identities;
mod learn;
mod man;
mod output;
mod policy;
#[allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a command of its own, which a panic would only end: lengths are checked where a segment begins"
)]
mod probe;
mod psk;
mod reload;
mod run;
mod status;
mod table;
mod workloads;

use std::io;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use output::Output;

/// Authenticates workloads inside the TCP handshake and enforces who may talk to whom.
#[derive(Debug, Parser)]
#[command(
    name = "enforcer",
    version,
    propagate_version = true,
    after_help = "Exit status: 0 done, 1 failed, 2 wrong usage, 3 `explain` says deny or `policy diff --exit-code` a change."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Arguments),
    CheckConfig(check_config::Arguments),
    Status(status::Arguments),
    Workloads(workloads::Arguments),
    Flows(flows::Arguments),
    Identities(identities::Arguments),
    Hosts(hosts::Arguments),
    Explain(explain::Arguments),
    Counters(counters::Arguments),
    Reload(reload::Arguments),
    #[command(subcommand)]
    Policy(policy::Command),
    #[command(subcommand)]
    Learn(learn::Command),
    Probe(probe::Arguments),
    Detach(detach::Arguments),
    #[command(subcommand)]
    Ca(ca::Command),
    #[command(subcommand)]
    Psk(psk::Command),
    Completions(completions::Arguments),
    Man(man::Arguments),
}

/// Reads the command line, does what it says, and gives the exit status: 0 done, 1 failed (said on
/// standard error), 2 wrong usage, 3 `explain` says deny.
#[must_use]
pub fn main() -> ExitCode {
    let out = Output::standard();
    match execute(Cli::parse().command, &out) {
        Ok(code) => code,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("enforcer: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn execute(command: Command, out: &Output) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run(arguments) => run::execute(&arguments),
        Command::CheckConfig(arguments) => check_config::execute(&arguments, out),
        Command::Status(arguments) => status::execute(&arguments, out),
        Command::Workloads(arguments) => workloads::execute(&arguments, out),
        Command::Flows(arguments) => flows::execute(&arguments, out),
        Command::Identities(arguments) => identities::execute(&arguments, out),
        Command::Hosts(arguments) => hosts::execute(&arguments, out),
        Command::Explain(arguments) => explain::execute(&arguments, out),
        Command::Counters(arguments) => counters::execute(&arguments, out),
        Command::Reload(arguments) => reload::execute(&arguments, out),
        Command::Policy(command) => policy::execute(&command, out),
        Command::Learn(command) => learn::execute(&command, out),
        Command::Probe(arguments) => probe::execute(&arguments, out),
        Command::Detach(arguments) => detach::execute(&arguments, out),
        Command::Ca(command) => ca::execute(&command, out),
        Command::Psk(command) => psk::execute(&command, out),
        Command::Completions(arguments) => completions::execute(&arguments, out),
        Command::Man(arguments) => man::execute(&arguments, out),
    }
}

/// An error with its causes, each once: many name their cause in their own text.
fn chain(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !text.contains(&cause) {
            let separator = if text.is_empty() { "" } else { ": " };
            text.push_str(separator);
            text.push_str(&cause);
        }
    }
    text
}

/// Whoever read our output has seen enough; that is no failure.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn a_cause_that_was_told_is_not_told_again() {
        let error = anyhow!("not found").context("ca.cert: not found").context("trust");
        assert_eq!(chain(&error), "trust: ca.cert: not found");
        assert_eq!(chain(&anyhow!("inner").context("outer")), "outer: inner");
    }
}
