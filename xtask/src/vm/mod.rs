//! `cargo xtask test vm`: boots other kernels and runs the load gate and the program tests there.

mod boot;
mod guest;
mod kernel;

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::build::{self, Variant};
use crate::tally::Tally;
use crate::tools::Group;
use crate::{project, setup, test};

pub use kernel::Version;

/// Boots each kernel and sums what its tests say; the load gate counts as one.
pub fn run(versions: &[Version]) -> Result<Tally> {
    setup::ensure(Group::Vm)?;
    let programs = programs()?;
    let mut sum = Tally::default();
    for version in versions {
        let ran = on(*version, &programs).unwrap_or_else(|error| {
            eprintln!("Linux {version}: {error:#}");
            Tally { failed: 1, ..Tally::default() }
        });
        println!("Linux {version}: {ran}");
        sum += ran;
    }
    Ok(sum)
}

fn on(version: Version, programs: &[PathBuf]) -> Result<Tally> {
    let kernel = kernel::fetch(version)?;
    let initramfs = guest::pack(&kernel, &project::ebpf_object(), programs)?;
    boot::run(&kernel.image, &initramfs).with_context(|| format!("kernel {}", kernel.release))
}

/// The load gate first, then the program tests.
fn programs() -> Result<Vec<PathBuf>> {
    build::ebpf()?;
    let variant = Variant::default();
    let gate = build::binary("enforcer-tests", "verifier_gate", &variant)?;
    let tests =
        test::test_programs(&variant)?.into_iter().filter(test::TestProgram::is_program_test);
    Ok([gate].into_iter().chain(tests.map(test::TestProgram::into_path)).collect())
}
