//! The report: one object for programs, a table for people.

use std::fmt::Write as _;

use serde::Serialize;

use super::budget::{self, Budget};
use super::bypass::Bypasses;
use super::cold::Cold;
use super::engine::Costs;
use super::figures::{Figures, Samples, Spread};
use super::flood::{Floods, Kind};
use super::flow_report;
use super::flows::Flows;
use super::guard::Guards;
use super::machine::{self, Machine};
use super::process::{Processes, Usage};
use super::program::{Live, Programs};
use super::rounds::{CLIENTS, P50, P99, STREAMS, rate_name, stream_name};
use super::stage::Setting;

/// All that was measured, and what is aimed at.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// What is aimed at, and whether it is met.
    pub budgets: Vec<Budget>,
    /// The figures.
    #[serde(flatten)]
    pub measured: Measured,
    /// Where.
    pub machine: Machine,
    /// Of which source.
    pub commit: String,
}

/// All that was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Measured {
    /// The raw figures of each round.
    pub rounds: Vec<Figures>,
    /// First contacts.
    pub cold: Cold,
    /// Known identities under floods.
    pub flood: Floods,
    /// The engine by itself.
    pub engine: Costs,
    /// What the programs cost.
    pub programs: Programs,
    /// What they cost packets that need no identity.
    pub bypass: Bypasses,
    /// What they cost as the flow table fills.
    pub flows: Flows,
    /// What the daemons used.
    pub processes: Processes,
}

impl Report {
    /// Judges the figures.
    #[must_use]
    pub fn new(measured: Measured) -> Self {
        Self {
            budgets: budget::all(&measured),
            measured,
            machine: Machine::here(),
            commit: machine::commit(),
        }
    }
}

/// What was measured of floods alone.
#[derive(Debug, Clone, Serialize)]
pub struct FloodReport {
    /// What is aimed at, and whether it is met.
    pub budgets: Vec<Budget>,
    /// Known identities under floods.
    pub flood: Floods,
    /// Where.
    pub machine: Machine,
    /// Of which source.
    pub commit: String,
}

impl FloodReport {
    /// Judges the figures.
    #[must_use]
    pub fn new(flood: Floods) -> Self {
        Self {
            budgets: budget::floods(&flood),
            flood,
            machine: Machine::here(),
            commit: machine::commit(),
        }
    }
}

/// What was measured of first contacts alone.
#[derive(Debug, Clone, Serialize)]
pub struct ColdReport {
    /// What is aimed at, and whether it is met.
    pub budgets: Vec<Budget>,
    /// First contacts.
    pub cold: Cold,
    /// Where.
    pub machine: Machine,
    /// Of which source.
    pub commit: String,
}

impl ColdReport {
    /// Judges the figures.
    #[must_use]
    pub fn new(cold: Cold) -> Self {
        Self {
            budgets: budget::cold(&cold),
            cold,
            machine: Machine::here(),
            commit: machine::commit(),
        }
    }
}

/// The report of first contacts as text.
#[must_use]
pub fn cold_table(report: &ColdReport) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ =
        first_contacts(&mut text, &report.cold).and_then(|()| budgets(&mut text, &report.budgets));
    text
}

/// What was measured of the guard.
#[derive(Debug, Clone, Serialize)]
pub struct GuardReport {
    /// With it and without.
    pub guard: Guards,
    /// Where.
    pub machine: Machine,
    /// Of which source.
    pub commit: String,
}

impl GuardReport {
    /// With where and of what it was measured.
    #[must_use]
    pub fn new(guard: Guards) -> Self {
        Self { guard, machine: Machine::here(), commit: machine::commit() }
    }
}

/// The report of the guard as text.
#[must_use]
pub fn guard_table(report: &GuardReport) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = guards(&mut text, &report.guard);
    text
}

fn guards(out: &mut String, guard: &Guards) -> std::fmt::Result {
    writeln!(out, "test run, ns, net of an empty program of its kind")?;
    let runs = &guard.programs;
    for (name, s) in [
        ("to_workload drops a SYN", runs.to_workload_drops),
        ("guard drops a SYN", runs.guard_drops),
        ("guard passes data", runs.guard_passes),
        ("(the empty TC program)", runs.empty_tc),
        ("(the empty XDP program)", runs.empty_xdp),
    ] {
        writeln!(out, "  {name:<26} {:>8.0} ({:.0}..{:.0})", s.median, s.least, s.most)?;
    }
    for (name, [without, with]) in [
        ("SYNs dropped a second on one CPU, from a driver's poll loop", guard.polled),
        ("SYNs dropped a second, sent over a veth on one CPU", guard.over_veth),
    ] {
        writeln!(out, "{name}")?;
        for (name, s) in [("without the guard", without), ("with it", with)] {
            writeln!(out, "  {name:<26} {:>8.0} ({:.0}..{:.0})", s.median, s.least, s.most)?;
        }
    }
    Ok(())
}

/// What was measured of the engine alone.
#[derive(Debug, Clone, Serialize)]
pub struct EngineReport {
    /// What is aimed at, and whether it is met.
    pub budgets: Vec<Budget>,
    /// The engine by itself.
    pub engine: Costs,
    /// Where.
    pub machine: Machine,
    /// Of which source.
    pub commit: String,
}

impl EngineReport {
    /// Judges the figures.
    #[must_use]
    pub fn new(engine: Costs) -> Self {
        Self {
            budgets: budget::engine(&engine),
            engine,
            machine: Machine::here(),
            commit: machine::commit(),
        }
    }
}

/// The report of the engine as text.
#[must_use]
pub fn engine_table(report: &EngineReport) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = engine(&mut text, &report.engine).and_then(|()| budgets(&mut text, &report.budgets));
    text
}

/// What was measured of the programs alone.
#[derive(Debug, Clone, Serialize)]
pub struct ProgramReport {
    /// What is aimed at, and whether it is met.
    pub budgets: Vec<Budget>,
    /// What the programs cost.
    pub programs: Programs,
    /// What they cost packets that need no identity.
    pub bypass: Bypasses,
    /// Where.
    pub machine: Machine,
    /// Of which source.
    pub commit: String,
}

impl ProgramReport {
    /// Judges the figures.
    #[must_use]
    pub fn new(programs: Programs, bypass: Bypasses) -> Self {
        let mut budgets = budget::programs(&programs);
        budgets.extend(budget::bypasses(&bypass));
        Self { budgets, programs, bypass, machine: Machine::here(), commit: machine::commit() }
    }
}

/// The report of programs as text.
#[must_use]
pub fn program_table(report: &ProgramReport) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = programs(&mut text, &report.programs)
        .and_then(|()| bypasses(&mut text, &report.bypass))
        .and_then(|()| budgets(&mut text, &report.budgets));
    text
}

/// What was measured of warm connections alone.
#[derive(Debug, Clone, Serialize)]
pub struct RateReport {
    /// What is aimed at, and whether it is met.
    pub budgets: Vec<Budget>,
    /// The raw figures of each round.
    pub rounds: Vec<Figures>,
    /// What both daemons used during the enforced ones.
    pub warm: Usage,
    /// Where.
    pub machine: Machine,
    /// Of which source.
    pub commit: String,
}

impl RateReport {
    /// Judges the figures.
    #[must_use]
    pub fn new(rounds: Vec<Figures>, warm: Usage) -> Self {
        let mut budgets = budget::connections(&rounds);
        budgets.push(budget::warm(&warm));
        Self { budgets, rounds, warm, machine: Machine::here(), commit: machine::commit() }
    }
}

/// The report of warm connections as text.
#[must_use]
pub fn rate_table(report: &RateReport) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = rounds(&mut text, &report.rounds).and_then(|()| budgets(&mut text, &report.budgets));
    text
}

/// The report of floods as text.
#[must_use]
pub fn flood_table(report: &FloodReport) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = floods(&mut text, &report.flood).and_then(|()| budgets(&mut text, &report.budgets));
    text
}

/// The report as text.
#[must_use]
pub fn table(report: &Report) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = write_all(&mut text, report);
    text
}

fn write_all(out: &mut String, report: &Report) -> std::fmt::Result {
    let (machine, measured) = (&report.machine, &report.measured);
    writeln!(
        out,
        "Linux {}, {} CPUs, load {}, {} rounds, commit {}\n",
        machine.kernel,
        machine.cpus,
        machine.load,
        measured.rounds.len(),
        report.commit
    )?;
    rounds(out, &measured.rounds)?;
    first_contacts(out, &measured.cold)?;
    floods(out, &measured.flood)?;
    engine(out, &measured.engine)?;
    programs(out, &measured.programs)?;
    bypasses(out, &measured.bypass)?;
    flow_report::flows(out, &measured.flows)?;
    processes(out, &measured.processes)?;
    budgets(out, &report.budgets)
}

fn rounds(out: &mut String, rounds: &[Figures]) -> std::fmt::Result {
    writeln!(
        out,
        "{:<26} {:>10} {:>10} {:>10}   {:<22} {:<22}",
        "medians of the rounds",
        "native",
        "nftables",
        "enforced",
        "nftables/native",
        "enforced/native"
    )?;
    let rates = CLIENTS.into_iter().map(rate_name);
    let latencies = [P50, P99].map(str::to_owned);
    let streams = STREAMS.into_iter().map(stream_name);
    for measure in rates.chain(latencies).chain(streams) {
        let samples = Samples { rounds, measure: &measure };
        if !samples.are_there() {
            continue;
        }
        let [native, nftables, enforced] = Setting::ALL.map(|setting| samples.median(setting));
        let ratio = |of| spread(samples.ratio(of, Setting::Native));
        writeln!(
            out,
            "{measure:<26} {native:>10.1} {nftables:>10.1} {enforced:>10.1}   {:<22} {:<22}",
            ratio(Setting::Nftables),
            ratio(Setting::Enforced)
        )?;
    }
    writeln!(out)
}

/// A ratio with its spread over the rounds.
fn spread(s: Spread) -> String {
    format!("{:.3} ({:.3}..{:.3})", s.median, s.least, s.most)
}

fn floods(out: &mut String, floods: &Floods) -> std::fmt::Result {
    writeln!(
        out,
        "{:<10} {:>14} {:>14}   {:<22} {:<22} {:<22}",
        "flood",
        "frames/s nft",
        "enforced",
        "nftables keeps",
        "enforced keeps",
        "enforced/nftables"
    )?;
    for kind in Kind::ALL {
        let frames = |setting| Spread::of(floods.frames(setting, kind)).median;
        writeln!(
            out,
            "{:<10} {:>14.0} {:>14.0}   {:<22} {:<22} {:<22}",
            kind.name(),
            frames(Setting::Nftables),
            frames(Setting::Enforced),
            spread(Spread::of(floods.kept(Setting::Nftables, kind))),
            spread(Spread::of(floods.kept(Setting::Enforced, kind))),
            spread(Spread::of(floods.kept_to_nftables(kind)))
        )?;
    }
    writeln!(out)
}

fn engine(out: &mut String, costs: &Costs) -> std::fmt::Result {
    writeln!(out, "engine, {} rules and {} identities", costs.rules, costs.identities)?;
    for (name, value) in [
        ("cold decision, p50, us", costs.decide_p50_us),
        ("cold decision, p99, us", costs.decide_p99_us),
        ("  with all heads alike, p99, us", costs.decide_alike_p99_us),
        ("first contact with certificate, us", costs.first_verification_us),
        ("first contact, certificate cached, us", costs.meet_p50_us),
        ("  so many a second and core", costs.met_per_second),
        ("policy read and checked, ms", costs.policy_load_ms),
        ("  one rule changed, ms", costs.policy_reload_ms),
        ("everything judged anew, ms", costs.policy_change_ms),
        ("memory an identity, bytes", costs.identity_bytes),
    ] {
        writeln!(out, "  {name:<38} {value:>10.1}")?;
    }
    writeln!(out)
}

fn first_contacts(out: &mut String, cold: &Cold) -> std::fmt::Result {
    writeln!(out, "connect after a pause, us    median      least       most   samples")?;
    for (name, samples) in [
        ("native, of pods", &cold.native_pods_us),
        ("enforced, first contact", &cold.met_us),
        ("native", &cold.native_us),
        ("first, of new daemons", &cold.first_us),
        ("second, of new daemons", &cold.second_us),
    ] {
        let s = Spread::of(samples.clone());
        writeln!(
            out,
            "{name:<24} {:>10.0} {:>10.0} {:>10.0} {:>9}",
            s.median,
            s.least,
            s.most,
            samples.len()
        )?;
    }
    writeln!(out)
}

fn programs(out: &mut String, programs: &Programs) -> std::fmt::Result {
    writeln!(out, "established packet, test run net of an empty program, ns")?;
    let runs = &programs.established;
    for (name, s) in [
        ("from_workload", runs.from_workload),
        ("to_workload", runs.to_workload),
        ("(the empty program)", runs.empty),
    ] {
        writeln!(out, "  {name:<22} {:>6.0} ({:.0}..{:.0})", s.median, s.least, s.most)?;
    }
    writeln!(out, "kernel statistics, one stream, ns a packet and packets")?;
    live(out, &programs.bulk)?;
    writeln!(
        out,
        "kernel statistics, warm connections: {:.2} us a connection, both hosts together",
        programs.micros_per_connection()
    )?;
    live(out, &programs.connections)?;
    writeln!(out)
}

fn bypasses(out: &mut String, bypasses: &Bypasses) -> std::fmt::Result {
    writeln!(out, "what needs no identity, test run net of an empty program, ns: sent, arriving")?;
    for bypass in &bypasses.0 {
        let [sent, arriving] = [bypass.from_workload, bypass.to_workload]
            .map(|s| format!("{:.0} ({:.0}..{:.0})", s.median, s.least, s.most));
        writeln!(out, "  {:<22} {sent:<18} {arriving}", bypass.packet)?;
    }
    writeln!(out)
}

fn live(out: &mut String, programs: &[Live]) -> std::fmt::Result {
    for live in programs {
        let name = format!("{} {}", live.host, live.program);
        writeln!(out, "  {name:<22} {:>6.0} {:>10}", live.per_run(), live.runs)?;
    }
    Ok(())
}

fn processes(out: &mut String, processes: &Processes) -> std::fmt::Result {
    let line = |out: &mut String, name: &str, usage: Usage| {
        writeln!(out, "{name:<38} {:>6.2} % of a CPU over {:.1} s", usage.percent(), usage.seconds)
    };
    line(out, "both daemons, idle", processes.idle)?;
    line(out, "both daemons, during warm connections", processes.warm)?;
    line(out, "both daemons, all rounds", processes.whole)?;
    writeln!(
        out,
        "both daemons, a warm connection        {:>6.2} us",
        processes.warm.micros_per_connection()
    )?;
    writeln!(out, "resident memory, KiB: {:?}\n", processes.resident_kib)
}

pub(super) fn budgets(out: &mut String, budgets: &[Budget]) -> std::fmt::Result {
    writeln!(out, "{:<40} {:>10} {:>10}", "budget", "limit", "value")?;
    for budget in budgets {
        let sign = if budget.at_least { ">=" } else { "<=" };
        let met = if budget.met { "met" } else { "MISSED" };
        let limit = format!("{sign} {:.2}", budget.limit);
        writeln!(out, "{:<40} {limit:>10} {:>10.3}  {met}", budget.name, budget.value)?;
    }
    Ok(())
}
