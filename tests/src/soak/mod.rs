//! Hours of mixed load with random faults, and what must hold all along: no byte lost or changed, no segment to anybody
//! unauthorised, no packet dropped without a reason, and nothing that grows.
//!
//! A minute goes so: traffic runs (`traffic`) while faults happen (`fault`), then all of it pauses and the books are
//! read (`reading`). In rough minutes the wire loses and repeats segments, delays them, and goes down; the packet
//! accounts of both ends are compared in calm ones, where everything that is sent also arrives.

mod fault;
mod nodes;
mod reading;
mod report;
mod scene;
mod traffic;
mod weather;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Parser;

pub use report::{Report, table};

use fault::Fault;
use reading::{Baseline, Reading};
use report::Minute;
use scene::Scene;
use traffic::Traffic;

/// The longest time between two faults, in milliseconds.
const LONGEST_CALM_MS: u64 = 6000;
const MINUTE: Duration = Duration::from_mins(1);

/// Arguments of `cargo xtask soak`.
#[derive(Parser)]
pub struct Options {
    /// How long
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub minutes: u32,
    /// Where random faults begin; without it another each time
    #[arg(long)]
    pub seed: Option<u64>,
    /// Write the report to this file too
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// Runs as long as asked. What does not hold is in the report; an error is a failure of the harness.
pub fn run(options: &Options) -> Result<Report> {
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..));
    println!("soak: {} minutes, --seed {seed}", options.minutes);
    let mut random = fastrand::Rng::with_seed(seed);
    let mut scene = Scene::start(seed)?;
    let traffic = Traffic::start(&scene);
    let mut report = Report::new(seed);
    let mut baseline = None;
    for number in 1..=options.minutes {
        let minute = minute(number, &mut scene, &traffic, &mut random, &mut baseline)?;
        println!("{}", minute.line());
        report.minutes.push(minute);
    }
    report.end(traffic.end(), &scene.wait_empty()?);
    Ok(report)
}

fn minute(
    number: u32,
    scene: &mut Scene,
    traffic: &Traffic,
    random: &mut fastrand::Rng,
    baseline: &mut Option<Baseline>,
) -> Result<Minute> {
    let calm = number % 2 == 1;
    let books = if calm { Some(scene.open_books()?) } else { None };
    let before = traffic.tally.read();
    let end = Instant::now() + MINUTE;
    let mut faults = Vec::new();
    traffic.gate.open();
    while Instant::now() < end {
        let pause = Duration::from_millis(random.u64(500..LONGEST_CALM_MS));
        std::thread::sleep(pause.min(end.saturating_duration_since(Instant::now())));
        if Instant::now() < end {
            let fault = Fault::choose(random, calm);
            fault.happen(scene, random)?;
            faults.push(fault.name());
        }
    }
    traffic.gate.close()?;
    let mut complaints = traffic.complaints();
    let mut drops = BTreeMap::new();
    if let Some(books) = books {
        for account in scene.close_books(&books)? {
            for (reason, count) in &account.drops {
                *drops.entry(reason.clone()).or_default() += count;
            }
            complaints.extend(account.verify().err().map(|error| format!("{error:#}")));
        }
    }
    let reading = Reading::of(scene)?;
    let baseline = baseline.get_or_insert_with(|| reading.baseline());
    complaints.extend(baseline.complaints(&reading));
    let moved = traffic.tally.read().since(&before);
    Ok(Minute { number, calm, moved, faults, drops, reading, complaints })
}
