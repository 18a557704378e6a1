//! `cargo xtask simulate`: the engine of one node of a large cluster, in virtual time.

use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use enforcer_tests::simulate::{self, Growth, Options, Report, heap};
use serde::Serialize;

#[global_allocator]
static ALLOCATOR: heap::Counting = heap::Counting;

/// What is written as JSON.
#[derive(Serialize)]
struct Found {
    report: Report,
    growth: Vec<Growth>,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("not simulated: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    println!("{}", simulate::HEADS);
    let report = simulate::run(options, |minute| println!("{}", minute.line()))?;
    println!("{}", simulate::summary(&report));
    let mut growth = Vec::new();
    if options.limits {
        growth = simulate::explore(options, |more| simulate::run(more, |_| {}))?;
        println!("{}", simulate::table(&growth));
    }
    if let Some(path) = &options.json {
        let text = serde_json::to_string_pretty(&Found { report, growth })?;
        fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
