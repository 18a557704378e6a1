//! `cargo xtask test vm`: boots other kernels and runs the load gate, the program layer and end-to-end tests there.

mod accelerator;
mod boot;
pub mod guest;
pub mod kernel;
pub mod modules;
mod plan;
mod systemd;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;
use std::{iter, thread};

use anyhow::{Context, Result};

use crate::build;
use crate::tally::Tally;
use crate::tools::Group;
use crate::{budget, project, setup};

use accelerator::Accelerator;
pub use kernel::Version;
pub use plan::Extent;
use plan::Step;

/// Guests that run beside each other: a test program keeps little more than one processor busy.
const GUESTS: usize = 2;
/// The kernel with which a whole distribution boots too.
const WITH_SYSTEMD: Version = Version::Stable;

/// Boots each kernel (all if `versions` is empty) and sums what its tests say; the load gate counts as one. A kernel
/// that cannot be had or does not boot counts as a failure. With `only`, of the test files those whose names contain
/// one of it.
pub fn run(versions: &[Version], extent: Extent, only: &[String]) -> Result<Tally> {
    setup::ensure(Group::Vm)?;
    let versions = if versions.is_empty() { &Version::ALL } else { versions };
    let variant = extent.variant();
    let matrix = Matrix {
        // The ordinary one is built behind the next: they share a place.
        next: match extent {
            Extent::Smoke => None,
            Extent::Full => Some(build::next_enforcer(variant)?),
        },
        enforcer: build::enforcer(variant)?,
        steps: plan::steps(extent, only)?,
        extent,
        with_systemd: extent == Extent::Full && only.is_empty(),
        accelerator: Mutex::default(),
    };
    let queue = Mutex::new(versions.iter());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || iter::from_fn(next).map(|version| matrix.tally(*version)).collect::<Vec<_>>();
    let tallies = thread::scope(|scope| {
        let workers: Vec<_> = (0..GUESTS).map(|_| scope.spawn(work)).collect();
        workers.into_iter().map(thread::ScopedJoinHandle::join).collect::<Vec<_>>()
    });
    let mut sum = Tally::default();
    for tally in tallies {
        let lost = vec![Tally { failed: 1, ..Tally::default() }];
        tally.unwrap_or(lost).into_iter().for_each(|tally| sum += tally);
    }
    Ok(sum)
}

/// What all guests share.
struct Matrix {
    enforcer: PathBuf,
    /// The enforcer of the next layout of the maps, for what the smoke set leaves out.
    next: Option<PathBuf>,
    steps: Vec<Step>,
    extent: Extent,
    /// Whether a whole distribution boots too.
    with_systemd: bool,
    /// Found out with the first kernel.
    accelerator: Mutex<Option<Accelerator>>,
}

impl Matrix {
    fn tally(&self, version: Version) -> Tally {
        let begin = Instant::now();
        let tally = self.run(version).unwrap_or_else(|error| {
            eprintln!("Linux {version}: {error:#}");
            Tally { failed: 1, ..Tally::default() }
        });
        println!("Linux {version}: {tally}, {:.1} minutes", begin.elapsed().as_secs_f64() / 60.0);
        tally
    }

    fn run(&self, version: Version) -> Result<Tally> {
        let kernel = kernel::fetch(version, "amd64")?;
        let accelerator = self.accelerator(&kernel)?;
        let object = project::ebpf_object();
        let initramfs = guest::pack(&kernel, &object, &self.enforcers(), &self.steps)?;
        let label = version.to_string();
        let mut qemu = accelerator.command(&kernel.image, &initramfs, self.extent.patience());
        let report = boot::run(&mut qemu, &self.steps, &label)
            .with_context(|| format!("kernel {}", kernel.release))?;
        println!("Linux {version}: {} under {accelerator:?}", kernel.release);
        budget::print(&report.figures);
        let mut sum = report.sum;
        if let Err(error) = budget::hold(&report.figures) {
            eprintln!("Linux {version}: {error:#}");
            sum.failed += 1;
        }
        if self.with_systemd && version == WITH_SYSTEMD {
            sum += systemd::run(&kernel, accelerator, &self.enforcer)?;
        }
        Ok(sum)
    }

    fn enforcers(&self) -> Vec<&Path> {
        iter::once(&self.enforcer).chain(&self.next).map(PathBuf::as_path).collect()
    }

    fn accelerator(&self, kernel: &kernel::Kernel) -> Result<Accelerator> {
        let mut known = self.accelerator.lock().unwrap_or_else(PoisonError::into_inner);
        let found = match *known {
            Some(found) => found,
            None => Accelerator::probe(&kernel.image)?,
        };
        *known = Some(found);
        Ok(found)
    }
}
