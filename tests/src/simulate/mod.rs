//! Scale past one machine: the real engine of one node among thousands, in virtual time.
//!
//! `options` says how large the cluster is, `cluster` who calls whom in it, `remotes` who the others are and what
//! they show, `frames` what of theirs arrives; `node` drives the engine and does what it says with `tables` (the
//! kernel's maps, with their real room) and `flows`; `course` is what happens second by second, `changes` what happens
//! a few times; `report` counts, `summary` says it,
//! `growth` does it again with more. There are no kernel, no threads and no waiting: identities, signatures, pair
//! keys, decisions, leases and sweeps are real, the rest is counted. docs/SCALE.md has the formulae beside it.

mod changes;
mod cluster;
mod course;
mod flows;
mod frames;
mod growth;
pub mod heap;
mod node;
mod options;
mod random;
mod remotes;
mod report;
mod summary;
mod tables;

use anyhow::Result;

pub use growth::{Growth, explore, table};
pub use options::Options;
pub use report::{HEADS, Minute, Report};
pub use summary::summary;

use cluster::Cluster;
use course::Course;

/// Runs it; `tell` is called with each minute.
///
/// # Errors
/// The options are out of bounds, or something does not add up: a defect of the engine or of the simulation.
pub fn run(options: &Options, tell: impl FnMut(&Minute)) -> Result<Report> {
    options.check()?;
    let cluster = Cluster::new(options);
    Course::new(options, &cluster)?.run(tell)
}

#[cfg(test)]
mod tests;
