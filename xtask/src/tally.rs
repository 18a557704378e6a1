//! Sums the result lines that cargo's test programs print.

use std::fmt;
use std::ops::AddAssign;

/// How many tests did what.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Tally {
    /// Tests that passed.
    pub passed: u64,
    /// Tests that failed, and test programs that died before they could say.
    pub failed: u64,
    /// Tests that were not run.
    pub ignored: u64,
}

impl Tally {
    /// What one line of a test program's output adds: something for its result line only.
    pub fn of_line(line: &str) -> Option<Self> {
        let result = line.trim().strip_prefix("test result: ")?;
        let count = |word: &str| {
            result
                .split([';', '.'])
                .find_map(|part| part.trim().strip_suffix(word)?.trim().parse().ok())
        };
        Some(Self {
            passed: count("passed")?,
            failed: count("failed")?,
            ignored: count("ignored")?,
        })
    }

    /// Whether tests ran, none failed and none was left out: what is not run shows nothing.
    pub fn is_success(self) -> bool {
        self.passed > 0 && self.failed == 0 && self.ignored == 0
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} passed, {} failed", self.passed, self.failed)?;
        if self.ignored > 0 { write!(out, ", {} ignored", self.ignored) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::Tally;

    #[test]
    fn result_lines_are_counted() {
        let line = "test result: ok. 12 passed; 0 failed; 3 ignored; 0 measured; 4 filtered out; finished in 0.01s";
        let expected = Tally { passed: 12, failed: 0, ignored: 3 };
        assert_eq!(Tally::of_line(line), Some(expected));
        let line = "test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.20s";
        let expected = Tally { passed: 1, failed: 2, ignored: 0 };
        assert_eq!(Tally::of_line(line), Some(expected));
    }

    #[test]
    fn other_lines_count_nothing() {
        for line in ["", "test a ... ok", "running 3 tests", "test result: ok. x passed; 1 failed"]
        {
            assert_eq!(Tally::of_line(line), None, "{line}");
        }
    }

    #[test]
    fn nothing_run_or_something_left_out_is_no_success() {
        assert!(!Tally::default().is_success());
        assert!(!Tally { passed: 9, failed: 0, ignored: 1 }.is_success());
        assert!(Tally { passed: 1, ..Tally::default() }.is_success());
        assert!(!Tally { passed: 9, failed: 1, ignored: 0 }.is_success());
    }
}
