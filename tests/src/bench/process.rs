//! What the daemons use: processor time and memory.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::enforcer::Enforcer;

/// Processor time of processes, over a time.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Usage {
    /// User and system time, seconds.
    pub processor_seconds: f64,
    /// Time that went by, seconds; of a reading, since the run's first.
    pub seconds: f64,
    /// Connections made meanwhile, where they were counted.
    pub connections: u64,
}

impl Usage {
    /// A reading of all daemons together.
    pub fn of_all(daemons: &[Enforcer]) -> Result<Self> {
        let mut processor = Duration::ZERO;
        for daemon in daemons {
            processor += processor_time(pid(daemon)?)?;
        }
        Ok(Self {
            processor_seconds: processor.as_secs_f64(),
            seconds: uptime().as_secs_f64(),
            connections: 0,
        })
    }

    /// What was used between two readings.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            processor_seconds: self.processor_seconds - earlier.processor_seconds,
            seconds: self.seconds - earlier.seconds,
            connections: self.connections - earlier.connections,
        }
    }

    /// Adds a further stretch of time.
    pub fn add(&mut self, other: Self) {
        self.processor_seconds += other.processor_seconds;
        self.seconds += other.seconds;
        self.connections += other.connections;
    }

    /// Of one processor, in percent.
    #[must_use]
    pub fn percent(self) -> f64 {
        100.0 * self.processor_seconds / self.seconds
    }

    /// Microseconds a connection.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
    pub fn micros_per_connection(self) -> f64 {
        1e6 * self.processor_seconds / self.connections as f64
    }
}

/// What the daemons of the enforced setting used, both together.
#[derive(Debug, Clone, Serialize)]
pub struct Processes {
    /// With nothing to do.
    pub idle: Usage,
    /// While warm connections were made.
    pub warm: Usage,
    /// Over all rounds, other settings' turns and the clearing away of closed flows included.
    pub whole: Usage,
    /// Resident memory of each at the end of the rounds, KiB: client's, server's.
    pub resident_kib: Vec<u64>,
}

/// What daemons use while something is done.
pub fn during(daemons: &[Enforcer], work: impl FnOnce() -> Result<()>) -> Result<Usage> {
    let before = Usage::of_all(daemons)?;
    work()?;
    Ok(Usage::of_all(daemons)?.since(before))
}

/// Resident memory of each daemon, KiB.
pub fn resident_kib(daemons: &[Enforcer]) -> Result<Vec<u64>> {
    daemons.iter().map(|daemon| resident(pid(daemon)?)).collect()
}

/// Resident memory of this process, KiB.
pub fn own_resident_kib() -> Result<u64> {
    resident(std::process::id())
}

fn pid(daemon: &Enforcer) -> Result<u32> {
    daemon.pid().context("a daemon of the enforced setting has ended")
}

fn uptime() -> Duration {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}

/// User and system time of all threads, those that ended included; resolution 10 ms.
fn processor_time(pid: u32) -> Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let ticks = parse_ticks(&text).with_context(|| format!("{path} is not understood: {text}"))?;
    // SAFETY: sysconf reads a constant.
    let per_second = u64::try_from(unsafe { libc::sysconf(libc::_SC_CLK_TCK) })?.max(1);
    Ok(Duration::from_nanos(ticks * (1_000_000_000 / per_second)))
}

/// Fields 14 and 15 of `/proc/PID/stat` (proc(5)), counted behind the name, which may hold anything.
fn parse_ticks(text: &str) -> Option<u64> {
    let (_, rest) = text.rsplit_once(") ")?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

fn resident(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    kib.with_context(|| format!("{path} has no VmRSS"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_found_behind_any_name() {
        let text = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 2 3 4 55 11 0 0 20 0 5 0 1 2 3";
        assert_eq!(parse_ticks(text), Some(66));
        assert_eq!(parse_ticks("7 (a) S 1"), None);
    }

    #[test]
    fn this_process_has_memory() {
        assert!(resident(std::process::id()).unwrap() > 100);
    }
}
