//! `enforcer policy`

mod grid;
mod matrix;
mod svg;

use std::process::ExitCode;

use clap::Subcommand;

use super::output::Output;

/// Ask what policies mean, before they are enforced
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    Matrix(matrix::Arguments),
}

pub(super) fn execute(command: &Command, out: &Output) -> anyhow::Result<ExitCode> {
    match command {
        Command::Matrix(arguments) => matrix::execute(arguments, out),
    }
}
