//! Side by side with what a user would pick instead: the same measures over more arrangements, in the same alternating
//! rounds. What cannot be had on the machine is named with the reason.

pub(super) mod companion;
pub(super) mod proxies;
pub mod queue;
pub(super) mod tunnel;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::figures::Figures;
use super::options::Options;
use super::rounds::{CLIENTS, Handshakes, P50, P99, STREAMS, rate_name, stream_name, warm_up};
use super::stage::{FIRST_PORT, Setting, Stage};
use super::{progress, rate, stream};

/// Of so many connections a setting that ends them in proxies makes one.
const PROXIED_SHARE: u64 = 4;

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct SideBySide {
    /// The raw figures of each round.
    pub rounds: Vec<Figures>,
    /// The settings without figures, or not with those of all rounds.
    pub absent: Vec<Absent>,
}

/// A setting that could not be measured.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Absent {
    /// The setting.
    pub setting: Setting,
    /// The first round without it; the others have its figures.
    pub from_round: u32,
    /// Why.
    pub reason: String,
}

/// Measures all that can be had. Of the three of every run a failure is an error.
pub fn measure(options: &Options) -> Result<SideBySide> {
    let mut side = Sides { options, stages: Vec::new(), port: FIRST_PORT, proven: 0 };
    let mut measured = SideBySide { rounds: Vec::new(), absent: Vec::new() };
    for setting in Setting::ALL.into_iter().chain(Setting::OTHERS) {
        progress(&format!("{}: being set up", setting.name()));
        let stage = Stage::new(setting).and_then(|stage| warm_up(&stage).map(|()| stage));
        match stage {
            Ok(stage) => side.stages.push(stage),
            Err(error) => measured.absent.push(excused(setting, 0, error)?),
        }
    }
    let enforced = |stages: &[Stage]| {
        let stage = stages.iter().find(|stage| stage.setting == Setting::Enforced);
        Handshakes::read(stage.context("nothing is enforced")?)
    };
    let before = enforced(&side.stages)?;
    for round in 0..options.rounds() {
        progress(&format!("round {} of {}", round + 1, options.rounds()));
        measured.rounds.push(side.round(round, &mut measured.absent)?);
    }
    enforced(&side.stages)?.check_since(&before, side.proven)?;
    Ok(measured)
}

/// A failure of what is not needed, as an absence; any other remains an error.
fn excused(setting: Setting, from_round: u32, error: anyhow::Error) -> Result<Absent> {
    if Setting::ALL.contains(&setting) {
        return Err(error.context(format!("when {}", setting.name())));
    }
    let reason = format!("{error:#}");
    progress(&format!("{}: absent: {reason}", setting.name()));
    Ok(Absent { setting, from_round, reason })
}

/// What is measured in one turn.
#[derive(Debug, Clone, Copy)]
enum Measure {
    Rate(usize),
    Stream(usize),
}

/// What there is, and how far the run is.
struct Sides<'a> {
    options: &'a Options,
    stages: Vec<Stage>,
    port: u16,
    /// Connections that the enforcers must have proven.
    proven: u64,
}

impl Sides<'_> {
    fn round(&mut self, round: u32, absent: &mut Vec<Absent>) -> Result<Figures> {
        let mut figures = Figures::default();
        let measures = CLIENTS.map(Measure::Rate).into_iter().chain(STREAMS.map(Measure::Stream));
        for measure in measures {
            self.port += 1;
            // The next measure, as the next round, begins with another.
            self.stages.rotate_left(1);
            let mut stages = Vec::new();
            for stage in std::mem::take(&mut self.stages) {
                match self.one(&stage, measure, &mut figures) {
                    Ok(()) => stages.push(stage),
                    Err(error) => absent.push(excused(stage.setting, round, error)?),
                }
            }
            self.stages = stages;
        }
        Ok(figures)
    }

    fn one(&mut self, stage: &Stage, measure: Measure, figures: &mut Figures) -> Result<()> {
        let setting = stage.setting;
        match measure {
            Measure::Rate(clients) => {
                let rate =
                    rate::measure(stage, self.port, clients, self.count(setting), |work| work())?;
                figures.note(&rate_name(clients), setting, rate.per_second);
                if clients == 1 {
                    figures.note(P50, setting, rate.p50_us);
                    figures.note(P99, setting, rate.p99_us);
                }
                if setting == Setting::Enforced {
                    self.proven += rate.connections;
                }
            }
            Measure::Stream(streams) => {
                let gbits = stream::measure(stage, self.port, streams, self.options.stream())?;
                figures.note(&stream_name(streams), setting, gbits);
            }
        }
        Ok(())
    }

    fn count(&self, setting: Setting) -> u64 {
        let all = self.options.connections();
        if setting == Setting::MutualTls { all / PROXIED_SHARE } else { all }
    }
}
