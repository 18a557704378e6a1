//! More of one thing after another, doubled until a limit is met: found by running it, not by reckoning.

use std::fmt::Write as _;

use anyhow::Result;
use serde::Serialize;

use super::options::Options;
use super::report::Report;

/// How often something is doubled at most.
const DOUBLINGS: u32 = 6;

/// What came of more of one thing.
#[derive(Debug, Serialize)]
pub struct Growth {
    /// Of what.
    pub of: &'static str,
    /// How much of it, and the limits that were met, with the part of the scarcest that was used.
    pub steps: Vec<Step>,
}

/// One run.
#[derive(Debug, Serialize)]
pub struct Step {
    /// How much of it there was.
    pub amount: f64,
    /// The scarcest thing, and the part of it that was used.
    pub scarcest: (String, f64),
    /// All limits that were met.
    pub met: Vec<String>,
}

type Double = fn(&mut Options) -> f64;

const GROWN: [(&str, Double); 5] = [
    ("nodes", |options| {
        options.nodes *= 2;
        options.nodes.into()
    }),
    ("churn, percent a minute", |options| {
        options.churn *= 2.0;
        options.churn
    }),
    ("workloads a node", |options| {
        options.workloads *= 2;
        options.workloads.into()
    }),
    ("calls a workload", |options| {
        options.calls *= 2;
        options.calls.into()
    }),
    ("connections a workload and second", |options| {
        options.rate *= 2.0;
        options.rate
    }),
];

/// Runs with more and more of each in turn.
pub fn explore(options: &Options, run: impl Fn(&Options) -> Result<Report>) -> Result<Vec<Growth>> {
    let mut growths = Vec::new();
    for (of, double) in GROWN {
        let mut more = options.clone();
        let mut steps = Vec::new();
        for _ in 0..DOUBLINGS {
            let amount = double(&mut more);
            if let Err(error) = more.check().and_then(|()| in_range(&more)) {
                eprintln!("simulate: {of} {amount}: {error:#}");
                break;
            }
            eprintln!("simulate: {of} {amount}");
            let report = run(&more)?;
            let met: Vec<String> = report.met().map(|room| room.name.clone()).collect();
            let scarcest = report.rooms.first().map(|room| (room.name.clone(), room.share()));
            let done = !met.is_empty();
            steps.push(Step { amount, scarcest: scarcest.unwrap_or_default(), met });
            if done {
                break;
            }
        }
        growths.push(Growth { of, steps });
    }
    Ok(growths)
}

fn in_range(options: &Options) -> Result<()> {
    anyhow::ensure!(options.nodes <= 60_000, "each node has a /24 of 10.0.0.0/8");
    Ok(())
}

/// The table of it.
#[must_use]
pub fn table(growths: &[Growth]) -> String {
    let mut text = String::from("\nmore of one thing, doubled until a limit is met:\n");
    for Growth { of, steps } in growths {
        for Step { amount, scarcest: (name, share), met } in steps {
            let met = if met.is_empty() {
                "no limit met".to_owned()
            } else {
                format!("MET: {}", met.join("; "))
            };
            // Writing to a string does not fail.
            let _ = writeln!(text, "{of:34} {amount:8.0}: {met}; {:.1} % of {name}", 100.0 * share);
        }
    }
    text
}
