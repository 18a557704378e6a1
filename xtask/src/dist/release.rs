//! Which version is built, and the time that stands on everything in it: the commit's.

use std::env;
use std::process::Command;

use anyhow::{Context, Result};

use crate::{process, project};

/// The convention of <https://reproducible-builds.org/specs/source-date-epoch/>.
pub const EPOCH_VARIABLE: &str = "SOURCE_DATE_EPOCH";

/// A version to be packaged.
pub struct Release {
    /// As Debian compares versions; the packaging's own part stands behind the last `-`.
    pub version: String,
    /// Unix seconds.
    pub epoch: u64,
    /// The same as a Debian changelog has it (RFC 5322).
    pub date: String,
}

impl Release {
    /// The checked-out commit: the crates' version if the commit has its tag, else a version behind it, by time.
    pub fn of_commit() -> Result<Self> {
        let epoch = match env::var(EPOCH_VARIABLE) {
            Ok(text) => text,
            Err(_) => git(&["show", "--no-patch", "--format=%ct", "HEAD"])?,
        };
        let epoch = epoch
            .parse()
            .with_context(|| format!("{EPOCH_VARIABLE} is {epoch:?}, expected Unix seconds"))?;
        let crates = env!("CARGO_PKG_VERSION");
        let tagged = git(&["tag", "--points-at", "HEAD"])?;
        let version = if tagged.lines().any(|tag| tag == format!("v{crates}")) {
            format!("{crates}-1")
        } else {
            let commit = git(&["rev-parse", "--short=10", "HEAD"])?;
            format!("{crates}+git{}.{commit}-1", date(epoch, "+%Y%m%d%H%M%S")?)
        };
        if !git(&["status", "--porcelain"])?.is_empty() {
            eprintln!("note: the working tree differs from the commit that {version} names");
        }
        Ok(Self { version, epoch, date: date(epoch, "+%a, %d %b %Y %H:%M:%S +0000")? })
    }
}

fn date(epoch: u64, format: &str) -> Result<String> {
    let mut date = Command::new("date");
    date.env("LC_ALL", "C").args(["--utc", &format!("--date=@{epoch}"), format]);
    process::probe(&mut date).with_context(|| format!("date cannot print {epoch}"))
}

fn git(words: &[&str]) -> Result<String> {
    let mut command = process::clean("git");
    // The tree may belong to another user than root.
    command.arg("-c").arg(format!("safe.directory={}", project::root().display())).args(words);
    process::probe(&mut command).with_context(|| {
        format!(
            "`git {}` fails in {}: dist packages a commit",
            words.join(" "),
            project::root().display()
        )
    })
}
