//! The project's tasks, started with `cargo xtask`. Each command installs what it needs first.

mod apt;
mod archive;
mod bench;
mod budget;
mod build;
mod check;
mod demo;
mod dist;
mod fuzz;
mod mutate;
mod pool;
mod process;
mod project;
mod run;
mod setup;
mod simulate;
mod soak;
mod solver;
mod tally;
mod test;
mod toolchain;
mod tools;
mod vm;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// The project's tasks.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Tasks {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Find or install the eBPF toolchain and, for a group, its programs; quick when all is there
    Setup(setup::Options),
    /// Build the eBPF object and the host crates
    Build(build::Options),
    /// Build and start the enforcer on this host with the given arguments
    Run(run::Options),
    /// Run the tests and print `N passed, N failed` in a last plain line
    Test(test::Options),
    /// Search for inputs that break a parser, or part the programs from the pure datapath
    Fuzz(fuzz::Options),
    /// Show the enforcer at work between three hosts
    Demo(demo::Options),
    /// Measure the enforcer against the native stack
    Bench(bench::Options),
    /// Drive the engine of one node of a large cluster in virtual time
    Simulate(simulate::Options),
    /// Mixed load under random faults, for as long as asked
    Soak(soak::Options),
    /// Static binaries and Debian packages for x86_64 and arm64
    Dist(dist::Options),
    /// Formatting, lints, docs, dependencies, and the verifier's load gate
    Check(check::Options),
}

fn main() -> ExitCode {
    match run(Tasks::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    match task {
        Task::Setup(options) => setup::run(&options),
        Task::Build(options) => build::run(&options),
        Task::Run(options) => run::run(&options),
        Task::Test(options) => test::run(&options),
        Task::Fuzz(options) => fuzz::run(&options),
        Task::Demo(options) => demo::run(&options),
        Task::Bench(options) => bench::run(&options),
        Task::Simulate(options) => simulate::run(&options),
        Task::Soak(options) => soak::run(&options),
        Task::Dist(options) => dist::run(&options),
        Task::Check(options) => check::run(&options),
    }
}
