//! Boots a guest, shows its console, and sums the tests' result lines on it.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use super::guest;
use super::plan::{GATE, Step};
use crate::budget::Programs;
use crate::process;
use crate::tally::Tally;

/// What a guest said.
pub struct Report {
    /// Its tests, and one failed for each program that did not do what it should.
    pub sum: Tally,
    /// What its verifier found.
    pub figures: Programs,
}

/// Runs the guest to its end, its console shown behind `label`.
pub fn run(qemu: &mut Command, steps: &[Step], label: &str) -> Result<Report> {
    eprintln!("+ {}", process::shown(qemu));
    let mut child = qemu.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let output = child.stdout.take().context("qemu's console was asked for as a pipe")?;
    let mut console = Console::new(steps);
    for line in BufReader::new(output).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        println!("[{label}] {}", line.trim_end());
        console.read(line.trim());
    }
    let status = child.wait()?;
    let report = console.end();
    for complaint in &report.1 {
        eprintln!("[{label}] {complaint} (qemu: {status}; 124 when its time was up)");
    }
    Ok(report.0)
}

/// What the console has said so far.
struct Console<'a> {
    /// The steps that have not ended.
    left: &'a [Step],
    sum: Tally,
    /// What the step that runs has counted.
    step: Tally,
    /// What the gate has printed.
    figures: String,
    done: bool,
    complaints: Vec<String>,
}

impl<'a> Console<'a> {
    fn new(steps: &'a [Step]) -> Self {
        Self {
            left: steps,
            sum: Tally::default(),
            step: Tally::default(),
            figures: String::new(),
            done: false,
            complaints: Vec::new(),
        }
    }

    fn read(&mut self, line: &str) {
        if let Some(status) = line.strip_prefix(guest::STATUS) {
            self.end_of_step(status);
        } else if line == guest::DONE {
            self.done = true;
        } else if let Some(counted) = Tally::of_line(line) {
            self.step += counted;
        } else if self.left.first().is_some_and(|step| step.name == GATE) {
            self.figures.push_str(line);
        }
    }

    /// The gate prints no result line: its success is one test passed. A program that fails without a failed test
    /// has crashed, and one that ran other tests than it was told has shown nothing: one failed.
    fn end_of_step(&mut self, status: &str) {
        let Some((step, left)) = self.left.split_first() else { return };
        self.left = left;
        let mut counted = std::mem::take(&mut self.step);
        let success = status == format!("0 {}", step.name);
        if step.name == GATE {
            counted.passed += u64::from(success);
        }
        let ran = counted.passed + counted.failed;
        if counted.failed == 0 && (!success || !step.is_satisfied_by(ran)) {
            self.complaints.push(format!("{} ran {ran} tests and ended so: {status}", step.name));
            counted.failed += 1;
        }
        self.sum += counted;
    }

    /// The report, and what is wrong beside failed tests.
    fn end(mut self) -> (Report, Vec<String>) {
        if !self.done {
            let at = self.left.first().map_or("its end", |step| step.name.as_str());
            self.complaints.push(format!("the guest stopped at {at}, before its end"));
            self.sum += self.step;
            self.sum.failed += 1;
        }
        let figures = figures(&self.figures).unwrap_or_else(|error| {
            self.complaints.push(format!("the load gate printed no figures: {error}"));
            self.sum.failed += 1;
            Programs::new()
        });
        (Report { sum: self.sum, figures }, self.complaints)
    }
}

/// Reads the gate's object, around which other programs and the kernel may have printed.
fn figures(printed: &str) -> Result<Programs, serde_json::Error> {
    let object = printed.find('{').and_then(|begin| {
        let end = printed.rfind('}')?;
        printed.get(begin..=end)
    });
    serde_json::from_str(object.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::{Console, Report, Step};
    use crate::tally::Tally;

    const GATE: [&str; 2] = [
        r#"{"to": {"verified_instructions": 9, "instructions": 8, "stack_bytes": 7,
                   "helper_calls": 6, "map_lookups": 5, "fast_path": null}}"#,
        "guest: status 0 verifier_gate",
    ];

    fn step(name: &str, tests: &[&'static str]) -> Step {
        Step { name: name.to_owned(), program: PathBuf::new(), tests: tests.to_vec(), but: None }
    }

    fn read(steps: &[Step], lines: &[&str]) -> (Report, Vec<String>) {
        let mut console = Console::new(steps);
        for line in lines {
            console.read(line);
        }
        console.end()
    }

    fn result(passed: u64, failed: u64) -> String {
        format!(
            "test result: ok. {passed} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out"
        )
    }

    #[test]
    fn gate_tests_and_crashes_are_counted() {
        let steps = [step("verifier_gate", &[]), step("prog_flow", &[]), step("prog_crash", &[])];
        let lines = [GATE[0], GATE[1], &result(3, 1), "guest: status 101 prog_flow"];
        let (report, complaints) =
            read(&steps, &[&lines[..], &["guest: status 139 prog_crash", "guest: done"]].concat());
        assert_eq!(report.sum, Tally { passed: 4, failed: 2, ignored: 0 });
        assert_eq!((report.figures.len(), complaints.len()), (1, 1));
    }

    #[test]
    fn a_gate_that_fails_is_a_failure() {
        let steps = [step("verifier_gate", &[])];
        let (report, _) = read(&steps, &["guest: status 1 verifier_gate", "guest: done"]);
        assert_eq!(report.sum.passed, 0);
        assert!(report.sum.failed > 0);
    }

    #[test]
    fn a_guest_that_stops_is_a_failure_and_keeps_what_it_counted() {
        let steps = [step("verifier_gate", &[]), step("prog_flow", &[])];
        let (report, complaints) = read(&steps, &[GATE[0], GATE[1], "Kernel panic"]);
        assert_eq!(report.sum, Tally { passed: 1, failed: 1, ignored: 0 });
        assert!(complaints[0].contains("prog_flow"), "{complaints:?}");
    }

    #[test]
    fn a_named_test_that_did_not_run_is_a_failure() {
        let steps = [step("verifier_gate", &[]), step("e2e_paths", &["one", "two"])];
        for (ran, failed) in [(0, 1), (1, 1), (2, 0)] {
            let lines = [GATE[0], GATE[1], &result(ran, 0), "guest: status 0 e2e_paths"];
            let (report, _) = read(&steps, &[&lines[..], &["guest: done"]].concat());
            assert_eq!(report.sum.failed, failed, "{ran} of 2 ran");
        }
    }
}
