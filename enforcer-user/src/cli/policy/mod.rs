//! `enforcer policy`

mod diff;
mod expectations;
mod grid;
mod matrix;
mod observed;
mod overrides;
mod prove;
mod svg;
mod translate;
mod tree;
mod world;

use std::process::ExitCode;

use clap::Subcommand;

use super::output::Output;

/// Ask what policies mean before they are enforced; change those that are
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    Matrix(matrix::Arguments),
    Diff(diff::Arguments),
    Test(expectations::Arguments),
    Prove(prove::Arguments),
    Translate(translate::Arguments),
    List(tree::List),
    Put(tree::Put),
    Remove(tree::Remove),
    Observed(observed::Arguments),
    Denied(observed::Denied),
    Override(overrides::Arguments),
    Overrides(overrides::List),
}

pub(super) fn execute(command: &Command, out: &Output) -> anyhow::Result<ExitCode> {
    match command {
        Command::Matrix(arguments) => matrix::execute(arguments, out),
        Command::Diff(arguments) => diff::execute(arguments, out),
        Command::Test(arguments) => expectations::execute(arguments, out),
        Command::Prove(arguments) => prove::execute(arguments, out),
        Command::Translate(arguments) => translate::execute(arguments, out),
        Command::List(arguments) => tree::list(arguments, out),
        Command::Put(arguments) => tree::put(arguments, out),
        Command::Remove(arguments) => tree::remove(arguments, out),
        Command::Observed(arguments) => observed::execute(arguments, out),
        Command::Denied(arguments) => observed::denied(arguments, out),
        Command::Override(arguments) => overrides::make(arguments, out),
        Command::Overrides(arguments) => overrides::list(arguments, out),
    }
}
