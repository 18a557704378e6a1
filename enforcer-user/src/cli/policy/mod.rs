//! `enforcer policy`

mod diff;
mod expectations;
mod grid;
mod matrix;
mod svg;
mod world;

use std::process::ExitCode;

use clap::Subcommand;

use super::output::Output;

/// Ask what policies mean, before they are enforced
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    Matrix(matrix::Arguments),
    Diff(diff::Arguments),
    Test(expectations::Arguments),
}

pub(super) fn execute(command: &Command, out: &Output) -> anyhow::Result<ExitCode> {
    match command {
        Command::Matrix(arguments) => matrix::execute(arguments, out),
        Command::Diff(arguments) => diff::execute(arguments, out),
        Command::Test(arguments) => expectations::execute(arguments, out),
    }
}
