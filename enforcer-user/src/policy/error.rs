//! What is wrong with a policy set: every finding names file, line, column, and the next step.

use std::fmt;
use std::path::Path;

use serde::Serialize;
use thiserror::Error;

/// The most findings one load reports; the rest are only counted.
pub const MAX_REPORTED: usize = 64;

/// One finding about one place of one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PolicyError {
    /// The file, as it was named in the configuration; empty for what belongs to no file.
    pub file: String,
    /// Line, from 1; 0 when the finding is about the whole file.
    pub line: usize,
    /// Column in characters, from 1; 0 when only the line is known.
    pub column: usize,
    /// What was found, and what was expected.
    pub message: String,
    /// The next step, for example the nearest known name.
    pub help: Option<String>,
}

impl PolicyError {
    /// A finding about a whole file or folder.
    #[must_use]
    pub fn about_file(file: &Path, message: impl Into<String>) -> Self {
        let (file, message) = (file.display().to_string(), message.into());
        Self { file, line: 0, column: 0, message, help: None }
    }

    /// A finding that belongs to no file, for example about a network rule.
    #[must_use]
    pub fn general(message: impl Into<String>) -> Self {
        Self { file: String::new(), line: 0, column: 0, message: message.into(), help: None }
    }

    /// Adds the next step.
    #[must_use]
    pub fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.file.is_empty() {
            f.write_str(&self.file)?;
            for position in [self.line, self.column].into_iter().take_while(|p| *p != 0) {
                write!(f, ":{position}")?;
            }
            f.write_str(": ")?;
        }
        f.write_str(&self.message)?;
        match &self.help {
            Some(help) => write!(f, " ({help})"),
            None => Ok(()),
        }
    }
}

/// Why a policy set was refused. Nothing of a refused set is used.
#[derive(Debug, Clone, PartialEq, Eq, Error, Serialize)]
pub struct PolicyErrors {
    findings: Vec<PolicyError>,
    unreported: usize,
}

impl PolicyErrors {
    /// Turns a list of findings into a refusal, or into nothing when there are none.
    pub fn refuse_unless_empty(mut findings: Vec<PolicyError>) -> Result<(), Self> {
        if findings.is_empty() {
            return Ok(());
        }
        findings.sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
        let unreported = findings.len().saturating_sub(MAX_REPORTED);
        findings.truncate(MAX_REPORTED);
        Err(Self { findings, unreported })
    }

    /// The findings, by file and line.
    #[must_use]
    pub fn findings(&self) -> &[PolicyError] {
        &self.findings
    }
}

impl From<PolicyError> for PolicyErrors {
    fn from(finding: PolicyError) -> Self {
        Self { findings: vec![finding], unreported: 0 }
    }
}

impl fmt::Display for PolicyErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, finding) in self.findings.iter().enumerate() {
            let newline = if n == 0 { "" } else { "\n" };
            write!(f, "{newline}{finding}")?;
        }
        if self.unreported > 0 {
            write!(f, "\nand {} more", self.unreported)?;
        }
        Ok(())
    }
}
