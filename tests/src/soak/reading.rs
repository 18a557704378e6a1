//! What daemons hold while no traffic runs, and what of it may not grow.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use enforcer_user::control::protocol::StatusReport;
use serde::Serialize;

use super::scene::Scene;
use crate::enforcer::Enforcer;

/// What memory may grow by behind the first minute, KiB, beside half of what it was then.
const MEMORY_SLACK_KIB: u64 = 16 * 1024;
/// What the number of open files may grow by: questions that are being answered.
const FILES_SLACK: usize = 8;
/// Half-open connections that may be left when nothing moves: those of the unauthorised, until they time out.
const ATTEMPTS: u64 = 4096;

/// Both daemons, the caller's first.
#[derive(Debug, Clone, Serialize)]
pub struct Reading {
    /// Each.
    pub daemons: [Daemon; 2],
    /// Connections that the server's application was handed from those who are not permitted.
    pub unauthorised: u64,
}

/// One daemon.
#[derive(Debug, Clone, Serialize)]
pub struct Daemon {
    /// Entries of the flow tables.
    pub flows: u64,
    /// Half-open handshakes.
    pub attempts: u64,
    /// Pairs whose key is known.
    pub peers: u64,
    /// Cached policy answers.
    pub verdicts: u64,
    /// Resident memory, KiB.
    pub resident_kib: u64,
    /// Open file descriptors.
    pub open_files: usize,
    /// Files in the pin folder: maps, programs, links.
    pub pins: usize,
    /// Helper interfaces in its network.
    pub helpers: usize,
}

impl Reading {
    /// Reads all.
    pub fn of(scene: &Scene) -> Result<Self> {
        let [caller, server] = &scene.daemons;
        let links = [scene.caller.ip("-o link")?, scene.net.server.ip("-o link")?];
        Ok(Self {
            daemons: [Daemon::of(caller, &links[0])?, Daemon::of(server, &links[1])?],
            unauthorised: scene.forbidden.accepted(),
        })
    }

    /// What later readings are held against.
    pub fn baseline(&self) -> Baseline {
        Baseline(self.clone())
    }
}

impl Daemon {
    fn of(daemon: &Enforcer, links: &str) -> Result<Self> {
        let status: StatusReport = daemon.ask(&["status"])?;
        Ok(Self {
            flows: status.flows,
            attempts: status.attempts,
            peers: status.peers,
            verdicts: status.verdicts,
            resident_kib: resident_kib(status.pid)?,
            open_files: entries(Path::new(&format!("/proc/{}/fd", status.pid)))?,
            pins: files_below(&daemon.pins())?,
            helpers: links.lines().filter(|line| line.contains(" enf-")).count(),
        })
    }
}

/// The reading of the first minute.
#[derive(Debug)]
pub struct Baseline(Reading);

impl Baseline {
    /// What has grown.
    pub fn complaints(&self, now: &Reading) -> Vec<String> {
        let mut complaints = Vec::new();
        if now.unauthorised > 0 {
            complaints.push(format!("{} unauthorised connections were served", now.unauthorised));
        }
        for ((name, now), first) in
            ["caller's", "server's"].iter().zip(&now.daemons).zip(&self.0.daemons)
        {
            let memory = first.resident_kib + first.resident_kib / 2 + MEMORY_SLACK_KIB;
            let bounds = [
                ("KiB of memory", now.resident_kib, memory),
                ("open files", now.open_files as u64, (first.open_files + FILES_SLACK) as u64),
                ("pins", now.pins as u64, first.pins as u64),
                ("helper interfaces", now.helpers as u64, 1),
                ("half-open connections", now.attempts, ATTEMPTS),
            ];
            for (what, found, bound) in bounds {
                if found > bound {
                    complaints.push(format!(
                        "the {name} daemon has {found} {what}, at most {bound} may be"
                    ));
                }
            }
        }
        complaints
    }
}

fn resident_kib(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    kib.with_context(|| format!("{path} has no VmRSS"))
}

fn entries(folder: &Path) -> Result<usize> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    Ok(entries.count())
}

fn files_below(folder: &Path) -> Result<usize> {
    let mut count = 0;
    let mut left = vec![folder.to_owned()];
    while let Some(folder) = left.pop() {
        let entries =
            fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?;
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() { left.push(entry.path()) } else { count += 1 }
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(resident_kib: u64, open_files: usize) -> Reading {
        let daemon = Daemon {
            flows: 1,
            attempts: 0,
            peers: 2,
            verdicts: 2,
            resident_kib,
            open_files,
            pins: 30,
            helpers: 1,
        };
        Reading { daemons: [daemon.clone(), daemon], unauthorised: 0 }
    }

    #[test]
    fn what_grows_is_told_for_each_daemon() {
        let baseline = reading(40_000, 30).baseline();
        assert!(baseline.complaints(&reading(70_000, 38)).is_empty());
        assert_eq!(baseline.complaints(&reading(80_000, 38)).len(), 2);
        assert_eq!(baseline.complaints(&reading(40_000, 39)).len(), 2);
        let served = Reading { unauthorised: 1, ..reading(40_000, 30) };
        assert_eq!(baseline.complaints(&served).len(), 1);
    }
}
