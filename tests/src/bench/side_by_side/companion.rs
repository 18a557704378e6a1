//! Programs of others that run beside a measurement, and how they are found.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::need;

/// How long a program may take until it is ready.
const READY: Duration = Duration::from_secs(10);

/// A running program with a folder of its own; ended when dropped.
#[derive(Debug)]
pub(in crate::bench) struct Companion {
    child: Child,
    name: String,
    folder: TempDir,
    /// What it makes elsewhere.
    leavings: Option<PathBuf>,
}

impl Companion {
    /// Starts it; what it says is kept in its folder.
    pub(super) fn start(name: &str, command: &mut Command, folder: TempDir) -> Result<Self> {
        let log = File::create(log_file(folder.path()))?;
        let child = command
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("{name} does not start"))?;
        Ok(Self { child, name: name.to_owned(), folder, leavings: None })
    }

    /// The same, with a file to remove when it has ended.
    pub(super) fn leaving(mut self, file: &Path) -> Self {
        self.leavings = Some(file.to_owned());
        self
    }

    /// Waits until it is ready, or says why it is not.
    pub(super) fn wait(mut self, mut ready: impl FnMut() -> Result<bool>) -> Result<Self> {
        let deadline = Instant::now() + READY;
        while !ready()? {
            let ended = self.child.try_wait()?;
            let said = || std::fs::read_to_string(log_file(self.folder.path())).unwrap_or_default();
            ensure!(ended.is_none(), "{} ended at once: {}", self.name, said().trim());
            ensure!(Instant::now() < deadline, "{} is not ready: {}", self.name, said().trim());
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(self)
    }
}

impl Drop for Companion {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(file) = &self.leavings {
            let _ = std::fs::remove_file(file);
        }
    }
}

fn log_file(folder: &Path) -> PathBuf {
    folder.join("log")
}

/// A folder for a program's files.
pub(super) fn folder() -> Result<TempDir> {
    TempDir::with_prefix("enfbench-").context("cannot make a folder")
}

/// A program of a Debian package.
pub(super) fn program(name: &str, package: &str) -> Result<PathBuf> {
    need::tool(name).map_err(|_| {
        anyhow::anyhow!("there is no program {name} here; Debian's package {package} has it")
    })
}
