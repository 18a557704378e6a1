//! `cargo xtask soak`: two enforcers under mixed load and random faults, for as long as asked.

use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use enforcer_tests::soak::{self, Options, Report};

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(report) if report.all_complaints().next().is_none() => ExitCode::SUCCESS,
        Ok(report) => {
            report.all_complaints().for_each(|complaint| eprintln!("{complaint}"));
            eprintln!("not everything held; the same faults again: --seed {}", report.seed);
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("the soak could not go on: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<Report> {
    let report = soak::run(options)?;
    println!("\n{}", soak::table(&report));
    if let Some(path) = &options.json {
        let text = serde_json::to_string_pretty(&report)?;
        fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(report)
}
