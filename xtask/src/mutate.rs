//! `cargo xtask test mutate`: proves that the tests notice a missing check.
//!
//! Every check that keeps an attacker out can be left out at build time by a feature
//! `mutate-<check>` of the crate that holds it; no other build enables one. Each is left out in
//! turn, alone. A named test, the witness, must then fail, and another one beside it, the control,
//! must pass: otherwise a program that does not even load would be noticed by every test. With
//! nothing left out all of them must pass.
//!
//! A check of the programs costs a build of the eBPF object, which the ordinary test programs are
//! told to load; one of the daemon a build of its unit tests.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use crate::build::{self, Variant};
use crate::tally::Tally;
use crate::test::{self, TestProgram};
use crate::tools::Group;
use crate::{process, project, setup};

/// Where a check and its witness are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Home {
    /// The programs; a test file of the test crate.
    Programs(&'static str),
    /// The daemon's library; its unit tests.
    Daemon,
}

/// A check that can be left out.
struct Mutation {
    /// `mutate-<check>` is the feature that leaves it out.
    check: &'static str,
    home: Home,
    /// The full name of the test that must fail then.
    witness: &'static str,
}

const HANDSHAKE: Home = Home::Programs("prog_handshake");
const VERDICT: Home = Home::Programs("prog_verdict");
const FLOW: Home = Home::Programs("prog_flow");

/// One line for each check, in the order of docs/PROTOCOL.md.
const MUTATIONS: [Mutation; 21] = [
    Mutation::new("source-address", HANDSHAKE, "client::s1_that_must_not_leave"),
    Mutation::new("expiry", HANDSHAKE, "a_peer_past_its_deadline_is_unknown"),
    Mutation::new("credential-length", HANDSHAKE, "server::s1_that_must_not_be_accepted"),
    Mutation::new(
        "credential-sum",
        HANDSHAKE,
        "server::a_credential_that_only_looks_known_breaks_the_checksum",
    ),
    Mutation::new("amplification", HANDSHAKE, "server::s2_that_must_not_leave"),
    Mutation::new("old-flow", HANDSHAKE, "server::s3_that_must_not_be_accepted"),
    Mutation::new("mac", HANDSHAKE, "a_wrong_mac_is_dropped"),
    Mutation::new("address-binding", HANDSHAKE, "an_answer_from_another_address_is_dropped"),
    Mutation::new("proof", HANDSHAKE, "server::s3_that_must_not_be_accepted"),
    Mutation::new("step", HANDSHAKE, "a_mac_of_another_step_is_dropped"),
    Mutation::new("proof-numbers", HANDSHAKE, "server::s3_that_must_not_be_accepted"),
    Mutation::new("proof-verdict", VERDICT, "a_handshake_asks_under_the_current_epoch"),
    Mutation::new(
        "obligation",
        HANDSHAKE,
        "obligation::what_cannot_be_done_denies_whatever_the_answer",
    ),
    Mutation::new("epoch", VERDICT, "a_verdict_of_an_older_epoch_is_a_miss"),
    Mutation::new(
        "address-set",
        FLOW,
        "datagram::an_address_that_the_workload_has_lost_is_refused_to_its_open_flows",
    ),
    Mutation::new("workload-in-flow-key", FLOW, "a_flow_of_another_workload_is_not_found"),
    Mutation::new("reset-checksum", FLOW, "a_reset_with_a_wrong_checksum_marks_no_flow"),
    Mutation::new(
        "handle",
        Home::Daemon,
        "engine::tests::cold::a_handle_of_another_credential_is_refused_before_any_work",
    ),
    Mutation::new(
        "namespace",
        Home::Daemon,
        "identity::tests::refused::a_node_signs_only_for_its_namespaces_by_segment",
    ),
    Mutation::new(
        "signature",
        Home::Daemon,
        "identity::tests::refused::a_signature_counts_for_its_purpose_only",
    ),
    Mutation::new(
        "issued-namespace",
        Home::Daemon,
        "identity::tests::issue::what_may_not_be_signed_is_said",
    ),
];

/// Runs every mutation; each counts as one test, and so does the run without any.
pub fn run() -> Result<Tally> {
    setup::ensure(Group::E2e)?;
    build::ebpf()?;
    let tests = Tests { programs: test::test_programs(Variant::default())? };
    let mut sum = Tally::default();
    sum += told("nothing left out", &tests, Tests::all_pass);
    for mutation in &MUTATIONS {
        let name = format!("without {}", mutation.check);
        sum += told(&name, &tests, |tests| tests.notice(mutation));
    }
    Ok(sum)
}

/// Runs one step and prints its line.
fn told<T: fmt::Display>(
    name: &str,
    tests: &Tests,
    step: impl FnOnce(&Tests) -> Result<T>,
) -> Tally {
    let begin = Instant::now();
    let result = step(tests);
    let seconds = begin.elapsed().as_secs();
    match result {
        Ok(what) => {
            println!("{name}: {what} ({seconds} s)");
            Tally { passed: 1, ..Tally::default() }
        }
        Err(error) => {
            println!("{name}: FAILED ({seconds} s): {error:#}");
            Tally { failed: 1, ..Tally::default() }
        }
    }
}

impl Mutation {
    const fn new(check: &'static str, home: Home, witness: &'static str) -> Self {
        Self { check, home, witness }
    }

    fn feature(&self) -> String {
        format!("mutate-{}", self.check)
    }
}

impl Home {
    /// A test that none of the mutations here touches. It fails where nothing works.
    fn control(self) -> Result<&'static str> {
        Ok(match self {
            HANDSHAKE => "s1_leaves_with_option_and_credential_and_again_the_same",
            VERDICT => "drops_are_sampled_within_their_limit",
            FLOW => "neighbour::a_workload_answers_arp_only_for_itself",
            Self::Daemon => "identity::tests::refused::the_forge_itself_makes_good_credentials",
            Self::Programs(file) => bail!("tests/tests/{file} has no control in `mutate.rs`"),
        })
    }
}

/// What was built without a mutation.
struct Tests {
    programs: Vec<TestProgram>,
}

impl Tests {
    /// Expects every witness and control to pass where nothing is left out.
    fn all_pass(&self) -> Result<String> {
        let mut names: BTreeMap<Home, BTreeSet<&str>> = BTreeMap::new();
        for mutation in &MUTATIONS {
            let tests = names.entry(mutation.home).or_default();
            tests.extend([mutation.witness, mutation.home.control()?]);
        }
        let mut count = 0;
        for (home, names) in names {
            let names: Vec<&str> = names.into_iter().collect();
            count += names.len();
            let outcomes = match home {
                Home::Programs(file) => self.on_kernel(file, &project::ebpf_object(), &names)?,
                Home::Daemon => in_daemon(None, &names)?,
            };
            for name in names {
                ensure!(outcomes.passed(name)?, "{name} fails");
            }
        }
        Ok(format!("{count} witnesses and controls pass"))
    }

    /// Expects the witness of one mutation to fail, and its control to pass.
    fn notice(&self, mutation: &Mutation) -> Result<String> {
        let (witness, control) = (mutation.witness, mutation.home.control()?);
        let feature = mutation.feature();
        let outcomes = match mutation.home {
            Home::Programs(file) => {
                let object = mutated_object(mutation)?;
                self.on_kernel(file, &object, &[witness, control])?
            }
            Home::Daemon => in_daemon(Some(&feature), &[witness, control])?,
        };
        ensure!(outcomes.passed(control)?, "{control} fails too: the build is broken otherwise");
        ensure!(!outcomes.passed(witness)?, "NOT NOTICED by {witness}");
        Ok(format!("noticed by {witness}"))
    }

    /// Runs tests of a file with the programs of an object.
    fn on_kernel(&self, file: &str, object: &Path, names: &[&str]) -> Result<Outcomes> {
        let found = self.programs.iter().find(|program| program.name() == file);
        let program = found.with_context(|| format!("there is no test file tests/tests/{file}"))?;
        let settings = [(build::OBJECT_VARIABLE, object.as_os_str())];
        Outcomes::of(program.command_with(&settings)?.arg("--exact").args(names))
    }
}

fn mutated_object(mutation: &Mutation) -> Result<PathBuf> {
    let object = project::root().join("target/bpf-mutate").join(mutation.check);
    build::ebpf_with(&[&mutation.feature()], &object, process::run_quietly)?;
    Ok(object)
}

/// Runs unit tests of the daemon's library, built with a feature.
fn in_daemon(feature: Option<&str>, names: &[&str]) -> Result<Outcomes> {
    let mut command = process::cargo();
    command.args(["test", "--package", "enforcer-user", "--lib"]);
    if let Some(feature) = feature {
        command.args(["--features", feature]);
    }
    Outcomes::of(command.args(["--", "--exact"]).args(names))
}

/// What a test program said of each test.
struct Outcomes {
    shown: String,
    output: String,
}

impl Outcomes {
    fn of(command: &mut Command) -> Result<Self> {
        let output = command
            .output()
            .with_context(|| format!("could not start: {}", process::shown(command)))?;
        let text = [output.stderr, output.stdout].concat();
        let output = String::from_utf8_lossy(&text).into_owned();
        Ok(Self { shown: process::shown(command), output })
    }

    /// Whether a test passed; an error unless it ran.
    fn passed(&self, name: &str) -> Result<bool> {
        let mut lines = self.output.lines();
        let outcome = lines
            .find_map(|line| line.strip_prefix("test ")?.strip_prefix(name)?.strip_prefix(" ... "));
        match outcome {
            Some("ok") => Ok(true),
            Some("FAILED") => Ok(false),
            _ => bail!("{name} did not run: {}\n{}", self.shown, self.output.trim_end()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;

    use super::{Home, MUTATIONS, Outcomes};
    use crate::project;

    /// The mutations that a crate has features for.
    fn features(crate_name: &str) -> BTreeSet<String> {
        let manifest = project::root().join(crate_name).join("Cargo.toml");
        let text = fs::read_to_string(manifest).unwrap();
        let names =
            text.lines().filter_map(|line| line.split_once(" = ")?.0.strip_prefix("mutate-"));
        names.map(str::to_owned).collect()
    }

    #[test]
    fn every_feature_has_its_line_and_every_line_its_feature() {
        for (crate_name, is_daemon) in [("enforcer-ebpf", false), ("enforcer-user", true)] {
            let lines = MUTATIONS.iter().filter(|m| (m.home == Home::Daemon) == is_daemon);
            let checks: Vec<String> = lines.map(|m| m.check.to_owned()).collect();
            let distinct: BTreeSet<String> = checks.iter().cloned().collect();
            assert_eq!(distinct.len(), checks.len(), "one line for each check: {checks:?}");
            assert_eq!(distinct, features(crate_name), "{crate_name}/Cargo.toml");
        }
    }

    #[test]
    fn every_home_has_a_control_that_is_no_witness() {
        for mutation in &MUTATIONS {
            let control = mutation.home.control().unwrap();
            assert!(MUTATIONS.iter().all(|other| other.witness != control), "{control}");
        }
    }

    #[test]
    fn outcomes_are_read_by_whole_names() {
        let output = "running 2 tests\ntest a::b ... FAILED\ntest a::bc ... ok\n".to_owned();
        let outcomes = Outcomes { shown: "tests".to_owned(), output };
        assert!(!outcomes.passed("a::b").unwrap());
        assert!(outcomes.passed("a::bc").unwrap());
        assert!(outcomes.passed("a").unwrap_err().to_string().contains("did not run: tests"));
    }
}
