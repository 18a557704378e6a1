//! What is wrong with a configuration file: every fault at once, each with its line.

use std::fmt;
use std::path::PathBuf;

use thiserror::Error;

/// Why a configuration was refused.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("configuration {}: {source}; name an existing file with --config", file.display())]
    Unreadable {
        /// The file as it was named.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The list of what is revoked could not be read.
    #[error("{}: {source}; an empty file revokes nothing", file.display())]
    UnreadableList {
        /// The file as it was named.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is longer than [`super::MAX_FILE_BYTES`].
    #[error("{}: {bytes} bytes; expected at most {limit}", file.display())]
    TooLong {
        /// The file as it was named.
        file: PathBuf,
        /// Its length.
        bytes: u64,
        /// The most bytes a configuration may have.
        limit: u64,
    },
    /// The file was read and does not say what it must.
    #[error("{0}")]
    Faults(Faults),
}

/// Every fault of one file, in the order of its lines; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults(pub Vec<Fault>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, fault) in self.0.iter().enumerate() {
            if n > 0 {
                f.write_str("\n")?;
            }
            fault.fmt(f)?;
        }
        Ok(())
    }
}

/// One fault, shown as `file:line: what`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The file as it was named.
    pub file: PathBuf,
    /// The line, counted from one.
    pub line: usize,
    /// Key, value found and what was expected.
    pub what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file.display(), self.line, self.what)
    }
}
