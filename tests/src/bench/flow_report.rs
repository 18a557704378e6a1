//! The report of what flows cost as their table fills.

use std::fmt::Write as _;

use serde::Serialize;

use super::budget::{self, Budget};
use super::figures::Spread;
use super::flows::Flows;
use super::machine::{self, Machine};
use super::report::budgets;

/// What was measured of flows alone.
#[derive(Debug, Clone, Serialize)]
pub struct FlowReport {
    /// What is aimed at, and whether it is met.
    pub budgets: Vec<Budget>,
    /// Packets and memory.
    pub flows: Flows,
    /// Where.
    pub machine: Machine,
    /// Of which source.
    pub commit: String,
}

impl FlowReport {
    /// Judges the figures.
    #[must_use]
    pub fn new(flows: Flows) -> Self {
        Self {
            budgets: budget::flows(&flows),
            flows,
            machine: Machine::here(),
            commit: machine::commit(),
        }
    }
}

/// The report of flows as text.
#[must_use]
pub fn flow_table(report: &FlowReport) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = flows(&mut text, &report.flows).and_then(|()| budgets(&mut text, &report.budgets));
    text
}

/// The figures.
pub(super) fn flows(out: &mut String, flows: &Flows) -> std::fmt::Result {
    writeln!(out, "a packet of an established flow, test run net of an empty program, ns")?;
    writeln!(
        out,
        "  {:<6} {:<14} {:>8}   {:<18} {:<18} {:<18}",
        "family", "program", "flows", "one hot", "4,096 of them", "any of them"
    )?;
    for point in &flows.curve {
        writeln!(
            out,
            "  {:<6} {:<14} {:>8}   {:<18} {:<18} {:<18}",
            point.family,
            point.program,
            point.flows,
            spread(point.one),
            spread(point.busy),
            spread(point.all)
        )?;
    }
    let cold = |size| flows.most(size, |point| point.all.median);
    writeln!(
        out,
        "  any of a million to any of a thousand, IPv4, the dearer program: {:.2}",
        cold(1_000_000) / cold(1_000)
    )?;
    writeln!(out, "a flow table, bytes an entry")?;
    for memory in &flows.memory {
        writeln!(
            out,
            "  {:<6} {} entries: element {:.1}, with buckets {:.1}; taken from the machine {:.1}",
            memory.family,
            memory.entries,
            memory.element,
            memory.each(),
            memory.taken / f64::from(memory.entries)
        )?;
    }
    writeln!(out)
}

fn spread(s: Spread) -> String {
    format!("{:.0} ({:.0}..{:.0})", s.median, s.least, s.most)
}
