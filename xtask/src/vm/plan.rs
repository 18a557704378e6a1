//! What a guest runs, in this order, and how many tests each program must have run: a filter that matches nothing
//! succeeds, but shows nothing.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::build::{self, Variant};
use crate::test::{self, TestProgram};

/// The load gate's name in the guest.
pub const GATE: &str = "verifier_gate";
/// The file of the tests that want a machine which has just booted: no module is loaded yet, nothing is attached.
const BOOT: &str = "e2e_boot";
/// What the smoke set runs of files that are too slow for it under emulation: every start of an enforcer has the
/// verifier walk the programs. Of files that are not named here it runs the program layer whole, and no end-to-end test.
const SMOKE: [(&str, &[&str]); 5] = [
    (BOOT, &["a_stranger_who_calls_all_through_the_boot_hears_nothing::enforced"]),
    (
        "edge",
        &[
            "attach::a_restart_swaps_the_programs_and_detach_leaves_nothing",
            "attach::the_mechanism_is_what_the_kernels_version_has",
            "attach::the_watchdog_tells_what_happened_to_the_programs",
            "reset::a_cut_ipv6_flow_of_a_workload_behind_a_veth_is_reset_at_both_ends",
        ],
    ),
    ("e2e_allow_deny", &["a_client_without_an_enforcer_gets_nothing_at_all_over_ipv6::enforced"]),
    ("e2e_guard", &["a_stranger_hears_nothing_and_is_dropped_by_the_guard::enforced"]),
    ("e2e_paths", &["two_workloads_of_one_host_move_bulk_unchanged"]),
];
/// What of the program layer the smoke set leaves out: a file, or the tests of it whose names contain this. They compare
/// programs with the model, or with each other, over thousands of segments, or ask nothing of the kernel: minutes under
/// emulation, and what they expect is the same for every kernel.
const LEFT_OUT: [(&str, Option<&str>); 3] = [
    ("enforcer_tests", Some("simulate::")),
    ("prog_model", None),
    (
        "prog_guard",
        Some("whatever_the_guard_drops_the_program_behind_it_drops_for_the_same_reason"),
    ),
];

/// A file, and part of the names of its tests that no guest runs: they read the unit as `systemd-analyze` of a whole
/// distribution does, and ask nothing of the kernel.
const OF_DISTRIBUTION: (&str, &str) = ("e2e_hardening", "the_unit_");

/// A program that the guest runs.
pub struct Step {
    /// Its name in the guest, and in what is said of it.
    pub name: String,
    /// Where it lies on this machine.
    pub program: PathBuf,
    /// The tests to run by name; all if there is none.
    pub tests: Vec<&'static str>,
    /// Part of the names of tests that are not run.
    pub but: Option<&'static str>,
}

/// Which end-to-end tests a guest runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extent {
    /// The smoke set.
    Smoke,
    /// All of them.
    Full,
}

impl Extent {
    /// What `--full` asks for.
    pub fn of(full: bool) -> Self {
        if full { Self::Full } else { Self::Smoke }
    }

    /// How the programs are built: the smoke set's are at hand.
    pub const fn variant(self) -> Variant {
        match self {
            Self::Smoke => Variant::Dev,
            Self::Full => Variant::Guest,
        }
    }

    /// What a boot and its tests may take, in seconds. Emulated code is some tens of times slower.
    pub const fn patience(self) -> &'static str {
        match self {
            Self::Smoke => "2400",
            Self::Full => "28800",
        }
    }
}

/// The tests at boot, the load gate, the program layer, and the end-to-end tests of `extent`; of all test files those
/// whose names contain one of `only`, if there is any.
pub fn steps(extent: Extent, only: &[String]) -> Result<Vec<Step>> {
    let variant = extent.variant();
    let gate = Step::all(GATE, build::binary("enforcer-tests", GATE, variant)?);
    let mut programs = test::test_programs(variant)?;
    programs.sort_by(|left, right| left.name().cmp(right.name()));
    let (boot, programs) = partition(programs, |program| program.name() == BOOT);
    let (layer, rest) = partition(programs, TestProgram::is_of_program_layer);
    if boot.is_empty() {
        bail!("the test crate has no test file {BOOT}");
    }
    let mut steps: Vec<Step> = boot.iter().map(Step::of).collect();
    steps.push(gate);
    steps.extend(layer.iter().map(Step::of));
    steps.extend(rest.iter().map(Step::of));
    match extent {
        Extent::Full => restrict(steps, only),
        Extent::Smoke => smoke(steps),
    }
}

/// Keeps the gate, and what is named.
fn restrict(mut steps: Vec<Step>, only: &[String]) -> Result<Vec<Step>> {
    for part in only {
        if !steps.iter().any(|step| step.name.contains(part)) {
            let names: Vec<&str> = steps.iter().map(|step| step.name.as_str()).collect();
            bail!("no test file's name contains {part}; they are {}", names.join(", "));
        }
    }
    let named = |step: &Step| only.iter().any(|part| step.name.contains(part));
    steps.retain(|step| only.is_empty() || step.name == GATE || named(step));
    Ok(steps)
}

/// Keeps the smoke set.
fn smoke(mut steps: Vec<Step>) -> Result<Vec<Step>> {
    for (name, tests) in SMOKE {
        let Some(step) = steps.iter_mut().find(|step| step.name == name) else {
            bail!("the smoke set names a test file {name} that the test crate does not have");
        };
        step.tests = tests.to_vec();
    }
    for (name, test) in LEFT_OUT {
        let Some(at) = steps.iter().position(|step| step.name == name) else {
            bail!("the smoke set leaves out a test file {name} that the test crate does not have");
        };
        match test {
            Some(test) => steps[at].but = Some(test),
            None => drop(steps.remove(at)),
        }
    }
    steps.retain(|step| {
        let end_to_end = step.name.starts_with("e2e") || step.name == "harness_self";
        !end_to_end || !step.tests.is_empty()
    });
    Ok(steps)
}

fn partition(
    programs: Vec<TestProgram>,
    first: impl Fn(&TestProgram) -> bool,
) -> (Vec<TestProgram>, Vec<TestProgram>) {
    programs.into_iter().partition(first)
}

impl Step {
    fn of(program: &TestProgram) -> Self {
        let (name, part) = OF_DISTRIBUTION;
        let but = (program.name() == name).then_some(part);
        Self { but, ..Self::all(program.name(), program.path().to_owned()) }
    }

    fn all(name: &str, program: PathBuf) -> Self {
        Self { name: name.to_owned(), program, tests: Vec::new(), but: None }
    }

    /// Whether `ran` tests are as many as the step must have.
    pub fn is_satisfied_by(&self, ran: u64) -> bool {
        let named = self.tests.len();
        if named == 0 { ran > 0 } else { u64::try_from(named) == Ok(ran) }
    }
}
