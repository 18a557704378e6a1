//! What was learned, kept across restarts of the daemon and of the machine.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use super::core::Core;
use crate::identity::replace_public;
use crate::learn::{Learned, LearnedReport};

/// The file's name in the state folder.
const NAME: &str = "learned.json";
/// The area of `problems`.
pub(super) const AREA: &str = "learned";
/// The most bytes that are read: more than a daemon ever writes.
const BYTES_MAX: u64 = 64 << 20;
/// The mode of the state folder.
const FOLDER_MODE: u32 = 0o700;

/// Where it is written.
#[derive(Debug)]
pub(super) struct LearnedFile {
    file: PathBuf,
    /// [`Learned::changes`] of what was written last.
    saved: u64,
    /// Why what was learned before could not be read.
    pub(super) problem: Option<String>,
}

impl LearnedFile {
    /// Reads what an earlier daemon left in this folder. What cannot be read is kept aside, and told.
    pub(super) fn open(folder: &Path) -> (Self, Learned) {
        let file = folder.join(NAME);
        let (report, problem) = match read(&file) {
            Ok(report) => (report, None),
            Err(error) => {
                let aside = folder.join(format!("{NAME}.refused"));
                // It is there for whoever can read it; if it cannot be moved, the next one replaces it.
                let _ = fs::rename(&file, &aside);
                let text = format!("{}: {error}; learning begins anew", file.display());
                tracing::error!("{AREA}: {text}");
                (LearnedReport::default(), Some(text))
            }
        };
        (Self { file, saved: 0, problem }, Learned::of(report))
    }

    fn write(&self, report: &LearnedReport) -> Result<(), String> {
        let folder = self.file.parent().unwrap_or(Path::new("/"));
        let made = DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(folder);
        made.map_err(|error| format!("{} cannot be made: {error}", folder.display()))?;
        let text = serde_json::to_string(report).map_err(|error| error.to_string())?;
        replace_public(&self.file, &text).map_err(|error| error.to_string())
    }
}

fn read(file: &Path) -> io::Result<LearnedReport> {
    let open = match File::open(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(LearnedReport::default());
        }
        open => open?,
    };
    let mut bytes = Vec::new();
    open.take(BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > BYTES_MAX {
        return Err(io::Error::other(format!("more than {BYTES_MAX} bytes")));
    }
    Ok(serde_json::from_slice(&bytes)?)
}

impl Core {
    /// Writes down what was learned since the last time; if that fails, the status says so.
    pub(super) fn save_learned(&mut self) {
        let changes = self.engine.learned().changes();
        if changes == self.learned.saved {
            return;
        }
        match self.learned.write(&self.engine.learned().report()) {
            Ok(()) => {
                self.learned.saved = changes;
                self.problems.remove(AREA);
            }
            Err(error) => drop(self.problems.insert(AREA, error)),
        }
    }

    /// Begins anew; tells what was known.
    pub(super) fn forget_learned(&mut self) -> LearnedReport {
        let forgotten = self.engine.learned().report();
        self.engine.set_learned(Learned::default());
        // Nothing has no changes: it must be written all the same.
        self.learned.saved = u64::MAX;
        self.save_learned();
        tracing::warn!("what was learned is forgotten");
        forgotten
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_kept_aside() {
        let folder = tempfile::tempdir().unwrap();
        let (file, _) = LearnedFile::open(&folder.path().join("new"));
        assert!(file.problem.is_none());
        let report = LearnedReport { lost: 7, ..Default::default() };
        file.write(&report).unwrap();
        let (file, learned) = LearnedFile::open(&folder.path().join("new"));
        assert_eq!((file.problem, learned.report()), (None, report));
        fs::write(folder.path().join(NAME), "{").unwrap();
        let (file, _) = LearnedFile::open(folder.path());
        assert!(file.problem.unwrap().contains("learning begins anew"));
        assert!(folder.path().join("learned.json.refused").exists());
    }
}
