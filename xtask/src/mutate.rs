//! `cargo xtask test mutate`: proves that the tests notice a missing check.
//!
//! Every check that keeps an attacker out can be left out at build time by a feature
//! `mutate-<check>` of the crate that holds it; no other build enables one. Each is left out in
//! turn, alone, and a named test must then fail. A mutation that the test does not notice fails
//! this layer; so does one whose feature or test does not exist.

use anyhow::{Context, Result, bail};

use crate::build::{self, Variant};
use crate::tally::Tally;
use crate::test::{self, TestProgram};
use crate::tools::Group;
use crate::{process, project, setup};

/// The crate that holds a check.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Side {
    Kernel,
    Daemon,
}

/// The test that must fail without the check.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Witness {
    /// A test file of the test crate, and the test's name in it.
    OnKernel(&'static str, &'static str),
    /// The full path of a unit test of the daemon's library.
    Unit(&'static str),
}

struct Mutation {
    /// The check's name: `mutate-<check>` is the feature that leaves it out.
    check: &'static str,
    side: Side,
    witness: Witness,
}

/// One line for each check, in the order of docs/PROTOCOL.md.
const MUTATIONS: [Mutation; 7] = [
    kernel("mac", "prog_handshake", "a_wrong_mac_is_dropped"),
    kernel("step-label", "prog_handshake", "a_mac_of_another_step_is_dropped"),
    kernel("expiry", "prog_handshake", "a_peer_past_its_deadline_is_unknown"),
    kernel("epoch", "prog_verdict", "a_verdict_of_an_older_epoch_is_a_miss"),
    kernel("address-binding", "prog_handshake", "an_answer_from_another_address_is_dropped"),
    kernel("workload-in-flow-key", "prog_flow", "a_flow_of_another_workload_is_not_found"),
    Mutation {
        check: "namespace",
        side: Side::Daemon,
        witness: Witness::Unit(
            "identity::tests::refused::a_node_signs_only_for_its_namespaces_by_segment",
        ),
    },
];

const fn kernel(check: &'static str, file: &'static str, test: &'static str) -> Mutation {
    Mutation { check, side: Side::Kernel, witness: Witness::OnKernel(file, test) }
}

/// Runs every mutation; each counts as one test.
pub fn run() -> Result<Tally> {
    setup::ensure(Group::E2e)?;
    let mut sum = Tally::default();
    for mutation in &MUTATIONS {
        let noticed = mutation.is_noticed().unwrap_or_else(|error| {
            eprintln!("without {}: {error:#}", mutation.check);
            false
        });
        let verdict = if noticed { "noticed" } else { "NOT NOTICED" };
        println!("without {}: {verdict} by {:?}", mutation.check, mutation.witness);
        sum += Tally { passed: u64::from(noticed), failed: u64::from(!noticed), ignored: 0 };
    }
    Ok(sum)
}

impl Mutation {
    fn is_noticed(&self) -> Result<bool> {
        let variant = self.variant()?;
        let ran = match self.witness {
            Witness::OnKernel(file, test) => on_kernel(&variant, file, test)?,
            Witness::Unit(test) => {
                let mut command = process::cargo();
                command.args(["test", "--package", "enforcer-user", "--lib"]);
                variant.apply(&mut command);
                test::tallied(command.args(["--", "--exact", test]))?
            }
        };
        match (ran.passed, ran.failed) {
            (1, 0) => Ok(false),
            (0, 1) => Ok(true),
            _ => bail!("expected exactly one test to run for {:?}, found {ran}", self.witness),
        }
    }

    fn variant(&self) -> Result<Variant> {
        let feature = format!("mutate-{}", self.check);
        match self.side {
            Side::Kernel => {
                let object = project::root().join("target/bpf-mutate").join(self.check);
                build::ebpf_with(&[&feature], &object)?;
                Ok(Variant { object: Some(object), ..Variant::default() })
            }
            Side::Daemon => {
                build::ebpf()?;
                Ok(Variant {
                    feature: Some(format!("enforcer-user/{feature}")),
                    ..Variant::default()
                })
            }
        }
    }
}

fn on_kernel(variant: &Variant, file: &str, test: &str) -> Result<Tally> {
    let enforcer = build::binary("enforcer-user", "enforcer", variant)?;
    let programs = test::test_programs(variant)?;
    let program: &TestProgram =
        programs.iter().find(|program| program.name() == file).with_context(|| {
            format!("there is no test file tests/tests/{file}.rs; `mutate.rs` names it")
        })?;
    test::tallied(program.command(&enforcer)?.args(["--exact", test]))
}
