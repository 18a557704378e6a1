//! The file of hosts: what name servers told workloads, for the daemon after this one. Without it every connection to a
//! host that a network rule names would end with the daemon that knew its address.
//!
//! One JSON object a line, appended before the workload gets the answer. Every few seconds the file is written anew with
//! what still counts, if that changed.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::clock::now;
use super::core::Core;
use crate::engine::HostRecord;

/// The file's name inside the instance's run folder.
const NAME: &str = "hosts.jsonl";
/// The most bytes that are read; more is what no daemon writes.
const MAX_BYTES: u64 = 64 << 20;
/// The area of `problems`.
const AREA: &str = "hosts";

/// The open file.
#[derive(Debug)]
pub(super) struct HostsFile {
    path: PathBuf,
    /// None once a line could not be written: half of it may lie at the file's end.
    file: Option<File>,
    /// What [`crate::engine::Engine::hosts_changed`] said when it was written.
    written: u64,
}

impl HostsFile {
    /// Reads what an earlier daemon left, and opens the file for this one. A file that cannot be read or written is no
    /// reason not to enforce.
    pub(super) fn open(folder: &Path) -> (Self, Vec<HostRecord>) {
        let path = folder.join(NAME);
        let found = read(&path).unwrap_or_else(|error| {
            tracing::warn!(file = %path.display(), %error, "file of hosts not read: their connections end with the next policy");
            Vec::new()
        });
        let file = write(&path, found.iter().cloned())
            .inspect_err(|error| {
                tracing::warn!(file = %path.display(), %error, "file of hosts not written; tried again every few seconds");
            })
            .ok();
        (Self { path, file, written: 0 }, found)
    }

    /// Appends a record.
    pub(super) fn append(&mut self, record: &HostRecord) {
        let Some(file) = &mut self.file else { return };
        if let Err(error) = line(record).and_then(|line| file.write_all(&line)) {
            let file = self.path.display();
            tracing::warn!(%file, %error, "file of hosts not written; tried again every few seconds");
            self.file = None;
        }
    }
}

impl Core {
    /// Writes the file of hosts anew if it is old or lacks something.
    pub(super) fn save_hosts(&mut self) {
        let (hosts, changed) = (&mut self.hosts, self.engine.hosts_changed());
        if hosts.file.is_some() && hosts.written == changed {
            return;
        }
        match write(&hosts.path, self.engine.hosts(now())) {
            Ok(file) => {
                (hosts.file, hosts.written) = (Some(file), changed);
                self.problems.remove(AREA);
            }
            Err(error) => {
                let problem = format!("{} cannot be written: {error}", hosts.path.display());
                self.log.problem(&problem);
                self.problems.insert(AREA, problem);
            }
        }
    }
}

/// The records of lines that are whole: the last one may be cut short by a daemon's end.
fn read(path: &Path) -> io::Result<Vec<HostRecord>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut text = String::new();
    file.take(MAX_BYTES).read_to_string(&mut text)?;
    Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

/// Writes beside the file and renames, so that it is whole at any time.
fn write(path: &Path, records: impl Iterator<Item = HostRecord>) -> io::Result<File> {
    let beside = path.with_extension("new");
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    let mut all = Vec::new();
    for record in records {
        all.extend(line(&record)?);
    }
    file.write_all(&all)?;
    std::fs::rename(&beside, path)?;
    Ok(file)
}

fn line(record: &HostRecord) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(record)?;
    line.push(b'\n');
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(last: u8) -> HostRecord {
        HostRecord {
            workload: "/a/web".to_owned(),
            host: "api.example.com".to_owned(),
            address: [192, 0, 2, last].into(),
            until: 5,
        }
    }

    #[test]
    fn a_later_daemon_reads_what_was_appended_and_not_what_was_cut() {
        let folder = tempfile::tempdir().unwrap();
        let (mut file, found) = HostsFile::open(folder.path());
        assert!(found.is_empty());
        file.append(&record(1));
        file.append(&record(2));
        let (_, found) = HostsFile::open(folder.path());
        assert_eq!(found, [record(1), record(2)]);
        let path = folder.path().join(NAME);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, &text[..text.len() - 5]).unwrap();
        let (_, found) = HostsFile::open(folder.path());
        assert_eq!(found, [record(1)]);
        std::fs::write(&path, [0xff; 9]).unwrap();
        assert!(HostsFile::open(folder.path()).1.is_empty());
    }
}
