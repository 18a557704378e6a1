//! What a run found, for people and for programs.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use enforcer_user::control::protocol::StatusReport;
use serde::Serialize;

use super::reading::Reading;
use super::traffic::Moved;

/// A run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// What its random faults began with.
    pub seed: u64,
    /// Minute by minute.
    pub minutes: Vec<Minute>,
    /// What both daemons have once all connections are closed: flows, half-open, peers, verdicts.
    pub left: Vec<[u64; 4]>,
    /// What did not hold at the end.
    pub complaints: Vec<String>,
}

/// One minute.
#[derive(Debug, Serialize)]
pub struct Minute {
    /// From 1.
    pub number: u32,
    /// Whether the wire was left alone, and books were kept.
    pub calm: bool,
    /// What the traffic did.
    pub moved: Moved,
    /// What happened, in order.
    pub faults: Vec<&'static str>,
    /// Packets dropped at both ends, every one with a reason; of calm minutes.
    pub drops: BTreeMap<String, u64>,
    /// What the daemons held behind it.
    pub reading: Reading,
    /// What did not hold.
    pub complaints: Vec<String>,
}

impl Report {
    /// Nothing yet.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { seed, minutes: Vec::new(), left: Vec::new(), complaints: Vec::new() }
    }

    /// Adds what is there when all is over.
    pub fn end(&mut self, complaints: Vec<String>, left: &[StatusReport; 2]) {
        self.complaints = complaints;
        self.left = left.iter().map(|s| [s.flows, s.attempts, s.peers, s.verdicts]).collect();
    }

    /// Everything that did not hold.
    pub fn all_complaints(&self) -> impl Iterator<Item = &String> {
        self.minutes.iter().flat_map(|minute| &minute.complaints).chain(&self.complaints)
    }
}

impl Minute {
    /// A line for who watches.
    pub fn line(&self) -> String {
        let weather = if self.calm { "calm " } else { "rough" };
        let moved = &self.moved;
        let held = self.reading.daemons.iter().map(|daemon| {
            format!(
                "{} flows {} peers {} MiB {} files",
                daemon.flows,
                daemon.peers,
                daemon.resident_kib / 1024,
                daemon.open_files
            )
        });
        let mut line = format!(
            "{:>4} {weather} {:>6} calls ({} in outages, {} unanswered) {:>5} MiB streamed, {} intrusions, {} drops | {} | {}",
            self.number,
            moved.calls,
            moved.calls_in_outages,
            moved.calls_unanswered,
            moved.stream_bytes >> 20,
            moved.refused,
            self.drops.values().sum::<u64>(),
            held.collect::<Vec<_>>().join("; "),
            self.faults.join(", ")
        );
        for complaint in &self.complaints {
            // Writing to a string does not fail.
            let _ = write!(line, "\n     NOT AS IT SHOULD BE: {complaint}");
        }
        line
    }
}

/// The sum, as a table.
#[must_use]
pub fn table(report: &Report) -> String {
    let sum = |of: fn(&Moved) -> u64| report.minutes.iter().map(|m| of(&m.moved)).sum::<u64>();
    let mut faults: BTreeMap<&str, u64> = BTreeMap::new();
    for fault in report.minutes.iter().flat_map(|minute| &minute.faults) {
        *faults.entry(fault).or_default() += 1;
    }
    let mut drops: BTreeMap<&str, u64> = BTreeMap::new();
    for (reason, count) in report.minutes.iter().flat_map(|minute| &minute.drops) {
        *drops.entry(reason).or_default() += count;
    }
    let memory = |which: usize| {
        let all = report.minutes.iter().map(|m| m.reading.daemons[which].resident_kib / 1024);
        let (low, high) = (all.clone().min().unwrap_or(0), all.max().unwrap_or(0));
        format!("{low} to {high}")
    };
    let left = report.left.iter().map(|l| format!("{} / {} / {} / {}", l[0], l[1], l[2], l[3]));
    let rows = [
        ("minutes, seed", format!("{}, {}", report.minutes.len(), report.seed)),
        ("calls answered", sum(|m| m.calls).to_string()),
        ("calls failed with the link down", sum(|m| m.calls_in_outages).to_string()),
        ("calls unanswered otherwise", sum(|m| m.calls_unanswered).to_string()),
        (
            "streams ended; MiB compared by hash",
            format!("{}; {}", sum(|m| m.streams), sum(|m| m.stream_bytes) >> 20),
        ),
        (
            "questions answered, lost on the way",
            format!("{}, {}", sum(|m| m.datagrams), sum(|m| m.datagrams_lost)),
        ),
        ("attempts of the unauthorised", sum(|m| m.refused).to_string()),
        ("drops in calm minutes, all with a reason", counts(&drops)),
        ("memory of caller's, server's daemon, MiB", format!("{}, {}", memory(0), memory(1))),
        ("left: flows / half-open / peers / verdicts", left.collect::<Vec<_>>().join(", ")),
        ("faults", counts(&faults)),
        ("not as it should be", report.all_complaints().count().to_string()),
    ];
    let line = |(name, value): &(&str, String)| format!("| {name} | {value} |\n");
    format!("| | |\n|---|---|\n{}", rows.iter().map(line).collect::<String>())
}

fn counts(of: &BTreeMap<&str, u64>) -> String {
    of.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
}
