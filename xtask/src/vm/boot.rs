//! Boots a kernel under qemu, shows its console, and sums the tests' result lines on it.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::guest;
use crate::process;
use crate::tally::Tally;

/// What a boot and its tests may take, in seconds. Emulated code is some tens of times slower.
const PATIENCE: &str = "900";

/// Runs the guest to its end; an error unless it gets there.
pub fn run(image: &Path, initramfs: &Path) -> Result<Tally> {
    let mut qemu = command(image, initramfs);
    eprintln!("+ {}", process::shown(&qemu));
    let mut child = qemu.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let console = child.stdout.take().context("qemu's console was asked for as a pipe")?;
    let mut console_lines = Console::default();
    for line in BufReader::new(console).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        println!("    {}", line.trim_end());
        console_lines.read(line.trim());
    }
    let status = child.wait()?;
    if !console_lines.done {
        bail!("the guest stopped before its end (qemu: {status}, {PATIENCE} seconds at most)");
    }
    Ok(console_lines.sum)
}

/// Full emulation: slow, but the same everywhere. Hardware acceleration that is there in name only
/// hangs.
fn command(image: &Path, initramfs: &Path) -> Command {
    let mut qemu = Command::new("timeout");
    qemu.args(["--kill-after=10", PATIENCE, "qemu-system-x86_64"]);
    qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "2048"]);
    qemu.args(["-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio"]);
    qemu.args(["-append", "console=ttyS0 panic=-1 quiet"]);
    qemu.arg("-kernel").arg(image).arg("-initrd").arg(initramfs);
    qemu
}

/// What the console has said so far.
#[derive(Default)]
struct Console {
    sum: Tally,
    /// Failed tests of the program that runs.
    failed: u64,
    done: bool,
}

impl Console {
    fn read(&mut self, line: &str) {
        if let Some(counted) = Tally::of_line(line) {
            self.sum += counted;
            self.failed += counted.failed;
        } else if let Some(status) = line.strip_prefix(guest::STATUS) {
            self.end_of_program(status);
        } else if line == guest::DONE {
            self.done = true;
        }
    }

    /// The gate prints no result line: its success is one test passed. A program that fails
    /// without a failed test has crashed: one failed.
    fn end_of_program(&mut self, status: &str) {
        let success = status.starts_with("0 ");
        if status.ends_with("verifier_gate") {
            self.sum.passed += u64::from(success);
        }
        if !success && self.failed == 0 {
            self.sum.failed += 1;
        }
        self.failed = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::Console;
    use crate::tally::Tally;

    fn read(lines: &[&str]) -> Console {
        let mut console = Console::default();
        for line in lines {
            console.read(line);
        }
        console
    }

    #[test]
    fn gate_tests_and_crashes_are_counted() {
        let console = read(&[
            "guest: status 0 verifier_gate",
            "test result: FAILED. 3 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out",
            "guest: status 101 prog_flow",
            "guest: status 139 prog_crashing",
            "guest: done",
        ]);
        assert_eq!(console.sum, Tally { passed: 4, failed: 2, ignored: 0 });
        assert!(console.done);
    }

    #[test]
    fn a_gate_that_fails_is_a_failure() {
        let console = read(&["guest: status 1 verifier_gate"]);
        assert_eq!(console.sum, Tally { passed: 0, failed: 1, ignored: 0 });
        assert!(!console.done);
    }
}
