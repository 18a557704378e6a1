//! Where and what was measured.

use std::process::Command;

use serde::{Deserialize, Serialize};

/// The machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Machine {
    /// Release of the running kernel.
    pub kernel: String,
    /// CPUs that the benchmark could use.
    pub cpus: usize,
    /// Load average of the last minute, at the end of the run.
    pub load: String,
}

impl Machine {
    /// This one.
    #[must_use]
    pub fn here() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let load = read("/proc/loadavg");
        Self {
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            cpus: std::thread::available_parallelism().map_or(0, usize::from),
            load: load.split_whitespace().next().unwrap_or_default().to_owned(),
        }
    }
}

/// The commit that the working folder holds, `unknown` outside a repository.
#[must_use]
pub fn commit() -> String {
    let git = Command::new("git").args(["rev-parse", "HEAD"]).output();
    match git {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        }
        _ => "unknown".to_owned(),
    }
}
