//! `cargo xtask bench`: the enforcer beside the native stack and a firewall rule, in one run.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use enforcer_tests::bench::{self, Budget, Only, Options, SideReport};
use serde::Serialize;

fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) if !options.strict => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("a budget is missed, and --strict makes that an error");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("not measured: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Measures, prints, writes. Returns whether every budget is met.
fn run(options: &Options) -> Result<bool> {
    if let Some(bound) = &options.accept_queue {
        return bench::accept_queue(bound).map(|()| true);
    }
    if let Some([measured, svg]) = options.chart.as_deref() {
        return draw(measured, svg).map(|()| true);
    }
    match options.only {
        Some(Only::Cold) => {
            let report = bench::run_cold(options)?;
            println!("{}", bench::cold_table(&report));
            tell(options, &report, &report.budgets)
        }
        Some(Only::Flood) => {
            let report = bench::run_floods(options)?;
            println!("{}", bench::flood_table(&report));
            tell(options, &report, &report.budgets)
        }
        Some(Only::Flows) => {
            let report = bench::run_flows(options)?;
            println!("{}", bench::flow_table(&report));
            tell(options, &report, &report.budgets)
        }
        Some(Only::Guard) => {
            let report = bench::run_guard(options)?;
            println!("{}", bench::guard_table(&report));
            tell(options, &report, &[])
        }
        Some(Only::Programs) => {
            let report = bench::run_programs(options)?;
            println!("{}", bench::program_table(&report));
            tell(options, &report, &report.budgets)
        }
        Some(Only::Rate) => {
            let report = bench::run_rate(options)?;
            println!("{}", bench::rate_table(&report));
            tell(options, &report, &report.budgets)
        }
        Some(Only::SideBySide) => {
            let report = bench::run_side_by_side(options)?;
            println!("{}", bench::side_table(&report));
            tell(options, &report, &[])
        }
        Some(Only::Engine) => {
            let report = bench::run_engine(options)?;
            println!("{}", bench::engine_table(&report));
            tell(options, &report, &report.budgets)
        }
        None => {
            let report = bench::run(options)?;
            println!("{}", bench::table(&report));
            tell(options, &report, &report.budgets)
        }
    }
}

/// Draws what was measured side by side.
fn draw(measured: &Path, svg: &Path) -> Result<()> {
    let text = fs::read_to_string(measured)
        .with_context(|| format!("cannot read {}", measured.display()))?;
    let report: SideReport = serde_json::from_str(&text).with_context(|| {
        format!("{} was not written by `--only side-by-side --json`", measured.display())
    })?;
    fs::write(svg, bench::chart(&report)).with_context(|| format!("cannot write {}", svg.display()))
}

fn tell(options: &Options, report: &impl Serialize, budgets: &[Budget]) -> Result<bool> {
    if let Some(path) = &options.json {
        let text = serde_json::to_string_pretty(report)?;
        fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(budgets.iter().all(|budget| budget.met))
}
