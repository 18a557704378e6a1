//! The report of arrangements side by side.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::figures::{Figures, Samples, Spread};
use super::machine::{self, Machine};
use super::rounds::{CLIENTS, P50, P99, STREAMS, rate_name, stream_name};
use super::side_by_side::{Absent, SideBySide};
use super::stage::Setting;

/// What was measured side by side.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SideReport {
    /// The raw figures of each round.
    pub rounds: Vec<Figures>,
    /// The settings without figures, or not with those of all rounds.
    pub absent: Vec<Absent>,
    /// Where.
    pub machine: Machine,
    /// Of which source.
    pub commit: String,
}

impl SideReport {
    /// With where and of what it was measured.
    #[must_use]
    pub fn new(measured: SideBySide) -> Self {
        let SideBySide { rounds, absent } = measured;
        Self { rounds, absent, machine: Machine::here(), commit: machine::commit() }
    }

    /// A setting's ratio to native in each round.
    #[must_use]
    pub fn ratio(&self, measure: &str, setting: Setting) -> Spread {
        Samples { rounds: &self.rounds, measure }.ratio(setting, Setting::Native)
    }

    /// The settings, in order.
    pub fn settings() -> impl Iterator<Item = Setting> {
        Setting::ALL.into_iter().chain(Setting::OTHERS)
    }

    /// Names of connection rates and throughputs.
    #[must_use]
    pub fn speeds() -> Vec<String> {
        CLIENTS.into_iter().map(rate_name).chain(STREAMS.into_iter().map(stream_name)).collect()
    }
}

/// The report as text.
#[must_use]
pub fn side_table(report: &SideReport) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = write_all(&mut text, report);
    text
}

fn write_all(out: &mut String, report: &SideReport) -> std::fmt::Result {
    let machine = &report.machine;
    writeln!(
        out,
        "Linux {}, {} CPUs, load {}, {} rounds, commit {}\n",
        machine.kernel,
        machine.cpus,
        machine.load,
        report.rounds.len(),
        report.commit
    )?;
    let latencies = [P50, P99].map(str::to_owned);
    for measure in SideReport::speeds().into_iter().chain(latencies) {
        writeln!(out, "{measure:<30} {:>10}   to native", "median")?;
        for setting in SideReport::settings() {
            let samples = Samples { rounds: &report.rounds, measure: &measure };
            let (median, ratio) = (samples.median(setting), report.ratio(&measure, setting));
            if median.is_nan() {
                continue;
            }
            writeln!(
                out,
                "  {:<28} {median:>10.1}   {:.3} ({:.3}..{:.3})",
                setting.name(),
                ratio.median,
                ratio.least,
                ratio.most
            )?;
        }
    }
    for Absent { setting, from_round, reason } in &report.absent {
        writeln!(out, "{} is absent from round {} on: {reason}", setting.name(), from_round + 1)?;
    }
    Ok(())
}
