//! Measurements: the same traffic over three arrangements of two hosts each, in turn within each round, so
//! that what disturbs the machine disturbs all three.
//!
//! `options` says how much, [`stage`] has the arrangements, `rounds` goes round over `rate` and [`stream`];
//! `cold`, [`flood`], [`flows`], [`guard`], [`engine`], [`program`],
//! [`mod@bypass`] and [`process`] measure what has no native counterpart; `budget`
//! compares with what is aimed at and `report` prints. [`side_by_side`] adds what a user would pick instead. Nothing here is a test: a budget that is missed is reported, not an
//! error, but a connection that fails is one, since its figures would mean nothing.

mod bpf;
mod budget;
pub mod bypass;
mod chart;
mod cold;
pub mod engine;
mod figures;
pub mod flood;
mod flow_report;
pub mod flows;
pub mod guard;
mod machine;
mod options;
pub mod process;
pub mod program;
mod rate;
mod report;
mod rounds;
pub mod side_by_side;
mod side_report;
pub mod stage;
mod stepping;
pub mod stream;
mod test_run;

use std::time::Duration;

use anyhow::Result;

use crate::need;
use process::Usage;
use stage::{Setting, Stage, Stages};

pub use budget::Budget;
pub use chart::chart;
pub use figures::{Figures, Samples, Spread};
pub use flow_report::{FlowReport, flow_table};
pub use machine::Machine;
pub use options::{Only, Options};
pub use report::{
    ColdReport, EngineReport, FloodReport, GuardReport, Measured, ProgramReport, RateReport,
    Report, cold_table, engine_table, flood_table, guard_table, program_table, rate_table, table,
};
pub use side_by_side::queue::accept_all as accept_queue;
pub use side_report::{SideReport, side_table};

/// How long the daemons are left alone to see what they cost when nothing happens.
const IDLE: Duration = Duration::from_secs(3);

/// Measures everything.
pub fn run(options: &Options) -> Result<Report> {
    need::environment()?;
    let stages = Stages::new()?;
    let daemons = stages.enforced().daemons()?;
    stages.from(0).try_for_each(rounds::warm_up)?;
    let idle = process::during(daemons, || {
        std::thread::sleep(IDLE);
        Ok(())
    })?;
    let before = Usage::of_all(daemons)?;
    let (rounds, warm) = rounds::run(&stages, options, false)?;
    let whole = Usage::of_all(daemons)?.since(before);
    progress("per-packet cost");
    let programs = program::measure(stages.enforced(), options)?;
    let resident_kib = process::resident_kib(daemons)?;
    let bypass = bypass::measure(options)?;
    let flows = flows::measure(options)?;
    progress("first contact");
    let cold = cold::measure(stages.native(), options).unwrap_or_else(|error| {
        // The rest took minutes: it is reported, with this budget as not measured and not met.
        eprintln!("bench: first contact was not measured: {error:#}");
        cold::Cold::default()
    });
    let flood = flood::measure(options)?;
    progress("the engine by itself");
    let engine = engine::measure(options)?;
    let processes = process::Processes { idle, warm, whole, resident_kib };
    Ok(Report::new(Measured { rounds, cold, flood, engine, programs, bypass, flows, processes }))
}

/// Measures what floods cost, and nothing else.
pub fn run_floods(options: &Options) -> Result<FloodReport> {
    need::environment()?;
    Ok(FloodReport::new(flood::measure(options)?))
}

/// Measures first contacts, and nothing else.
pub fn run_cold(options: &Options) -> Result<ColdReport> {
    need::environment()?;
    let native = Stage::new(Setting::Native)?;
    Ok(ColdReport::new(cold::measure(&native, options)?))
}

/// Measures what flows cost as their table fills, and nothing else.
pub fn run_flows(options: &Options) -> Result<FlowReport> {
    need::environment()?;
    Ok(FlowReport::new(flows::measure(options)?))
}

/// Measures warm connections, and nothing else.
pub fn run_rate(options: &Options) -> Result<RateReport> {
    need::environment()?;
    let stages = Stages::new()?;
    stages.from(0).try_for_each(rounds::warm_up)?;
    let (rounds, warm) = rounds::run(&stages, options, true)?;
    Ok(RateReport::new(rounds, warm))
}

/// Measures the enforcer beside what a user would pick instead, and nothing else.
pub fn run_side_by_side(options: &Options) -> Result<SideReport> {
    need::environment()?;
    Ok(SideReport::new(side_by_side::measure(options)?))
}

/// Measures what the guard spares, and nothing else.
pub fn run_guard(options: &Options) -> Result<GuardReport> {
    need::environment()?;
    Ok(GuardReport::new(guard::measure(options)?))
}

/// Measures what the programs cost, and nothing else.
pub fn run_programs(options: &Options) -> Result<ProgramReport> {
    need::environment()?;
    let stage = Stage::new(Setting::Enforced)?;
    rounds::warm_up(&stage)?;
    let programs = program::measure(&stage, options)?;
    drop(stage);
    Ok(ProgramReport::new(programs, bypass::measure(options)?))
}

/// Measures what the engine costs by itself, and nothing else; it needs no privileges.
pub fn run_engine(options: &Options) -> Result<EngineReport> {
    Ok(EngineReport::new(engine::measure(options)?))
}

/// Says on standard error how far the run is.
fn progress(what: &str) {
    eprintln!("bench: {what}");
}
