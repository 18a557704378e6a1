//! What root said for a while over the policy: put in force, kept across restarts of the daemon, ended on time.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::clock::now;
use super::core::Core;
use crate::control::protocol::OverrideRequest;
use crate::control::{Answer, BackendError};
use crate::identity::replace_public;
use crate::policy::{MAX_OVERRIDES, Override, Policy};

/// The file's name in the run folder.
const NAME: &str = "overrides.json";
/// Numbers of overrides are smaller.
const MAX_NUMBER: u64 = 1 << 48;
/// The area of `problems`.
const AREA: &str = "overrides";

/// The overrides in force, and the file that remembers them.
#[derive(Debug)]
pub(super) struct Overrides {
    file: PathBuf,
    list: Vec<Override>,
    /// The number of the last one that was made.
    last: u64,
    /// Why what was remembered could not be read.
    pub(super) problem: Option<String>,
}

impl Overrides {
    /// Reads what an earlier daemon left in this folder. What cannot be read is told, and none of it is in force.
    pub(super) fn open(folder: &Path) -> Self {
        let file = folder.join(NAME);
        let (list, problem) = match read(&file, unix_seconds()) {
            Ok(list) => (list, None),
            Err(error) => {
                // Kept for whoever wants to know what was in force; the next one that is made writes a new file.
                let _ = fs::rename(&file, folder.join(format!("{NAME}.refused")));
                let text =
                    format!("{}: {error}; those made before are not in force", file.display());
                tracing::error!("overrides: {text}");
                (Vec::new(), Some(text))
            }
        };
        let last = list.iter().map(|one| one.number).max().unwrap_or_default();
        Self { file, list, last, problem }
    }

    /// Those in force.
    pub(super) fn list(&self) -> &[Override] {
        &self.list
    }

    /// What they make of a policy.
    pub(super) fn over(&self, policy: &Policy) -> Result<Policy, String> {
        policy.with_overrides(self.list.clone()).map_err(|errors| errors.to_string())
    }

    fn write(&self) -> Result<(), String> {
        let text = serde_json::to_string_pretty(&self.list).map_err(|error| error.to_string())?;
        replace_public(&self.file, &text).map_err(|error| error.to_string())
    }
}

fn read(file: &Path, now: i64) -> io::Result<Vec<Override>> {
    let text = match fs::read_to_string(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        read => read?,
    };
    let list: Vec<Override> = serde_json::from_str(&text)?;
    if list.len() > MAX_OVERRIDES {
        return Err(io::Error::other(format!("{} overrides, at most {MAX_OVERRIDES}", list.len())));
    }
    // One that has ended is no fault, but none that could be made ends later.
    let list: Vec<Override> = list.into_iter().filter(|one| one.is_active(now)).collect();
    for one in &list {
        let numbered =
            if one.number < MAX_NUMBER { Ok(()) } else { Err("too high a number".to_owned()) };
        let checked = one.check(now).and(numbered);
        checked.map_err(|error| io::Error::other(format!("override {}: {error}", one.number)))?;
    }
    Ok(list)
}

impl Core {
    /// Makes one: it is remembered first and in force when this returns, or nothing has changed.
    pub(super) fn override_policy(
        &mut self,
        uid: u32,
        wanted: OverrideRequest,
    ) -> Answer<Override> {
        let bad = BackendError::BadRequest;
        let at = unix_seconds();
        let OverrideRequest { allow, from, to, port, seconds, reason } = wanted;
        let until_unix = at.saturating_add(i64::try_from(seconds).unwrap_or(i64::MAX));
        let number = self.overrides.last + 1;
        let made = Override { number, allow, from, to, port, until_unix, reason, uid };
        made.check(at).map_err(bad)?;
        if self.overrides.list.len() >= MAX_OVERRIDES {
            return Err(bad(format!(
                "{MAX_OVERRIDES} overrides are in force, which is the most: end some"
            )));
        }
        let before = self.overrides.list.clone();
        self.overrides.list.push(made.clone());
        self.put_overrides(before)?;
        self.overrides.last = number;
        tracing::warn!("{made}");
        Ok(made)
    }

    /// Ends one before its time.
    pub(super) fn end_override(&mut self, uid: u32, number: u64) -> Answer<Override> {
        let before = self.overrides.list.clone();
        let Some(at) = before.iter().position(|one| one.number == number) else {
            let text = format!(
                "override {number}: there is none in force; `enforcer policy overrides` lists them"
            );
            return Err(BackendError::BadRequest(text));
        };
        let ended = self.overrides.list.remove(at);
        // In force first: a disk that is full must not keep an emergency open.
        if let Err(problem) = self.enforce_overrides() {
            self.overrides.list = before;
            return Err(BackendError::Internal(problem));
        }
        self.remember_overrides();
        tracing::warn!("override {number} was ended by uid {uid}: {ended}");
        Ok(ended)
    }

    /// Forgets those whose time is over. They have not counted since; only now do they leave the list.
    pub(super) fn end_overrides(&mut self) {
        let at = unix_seconds();
        if self.overrides.list.iter().all(|one| one.is_active(at)) {
            return;
        }
        for ended in self.overrides.list.extract_if(.., |one| !one.is_active(at)) {
            tracing::warn!("override {} has ended: {ended}", ended.number);
        }
        self.remember_overrides();
        if let Err(error) = self.enforce_overrides() {
            self.log.problem(&format!("overrides: {error}"));
        }
    }

    /// Writes down what is in force; if that fails, the status says so.
    fn remember_overrides(&mut self) {
        match self.overrides.write() {
            Ok(()) => drop(self.problems.remove(AREA)),
            Err(error) => {
                let problem = format!("{error}; the next start may not know what is in force");
                self.problems.insert(AREA, problem);
            }
        }
    }

    /// Remembers the list and puts it in force, or goes back to the one before.
    fn put_overrides(&mut self, before: Vec<Override>) -> Result<(), BackendError> {
        let put = self.overrides.write().and_then(|()| self.enforce_overrides());
        let Err(problem) = put else {
            self.problems.remove(AREA);
            return Ok(());
        };
        self.overrides.list = before;
        self.remember_overrides();
        Err(BackendError::Internal(problem))
    }

    fn enforce_overrides(&mut self) -> Result<(), String> {
        let policy = self.engine.policy().ok_or("no policy is loaded")?;
        let policy = self.overrides.over(policy)?;
        self.set_policy(Arc::new(policy), false).map(drop)
    }
}

fn unix_seconds() -> i64 {
    i64::try_from(now().unix_seconds()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(number: u64) -> Override {
        Override {
            number,
            allow: true,
            from: "*".parse().unwrap(),
            to: "/acme".parse().unwrap(),
            port: Some(80),
            until_unix: unix_seconds() + 600,
            reason: "the pager rang".to_owned(),
            uid: 0,
        }
    }

    #[test]
    fn the_next_daemon_knows_them() {
        let folder = tempfile::tempdir().unwrap();
        let mut first = Overrides::open(folder.path());
        assert!(first.list().is_empty() && first.problem.is_none());
        first.list = vec![one(3), one(7)];
        first.write().unwrap();
        let next = Overrides::open(folder.path());
        assert_eq!((next.list(), next.last), (first.list(), 7));
    }

    #[test]
    fn a_file_that_is_not_understood_is_told_and_opens_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut many = Overrides::open(folder.path());
        many.list = (0..=MAX_OVERRIDES as u64).map(one).collect();
        many.write().unwrap();
        assert!(Overrides::open(folder.path()).problem.is_some());
        let changes: [fn(&mut Override); 2] =
            [|one| one.until_unix += 99_999_999, |one| one.number = u64::MAX];
        for change in changes {
            many.list = vec![one(1)];
            many.list.iter_mut().for_each(change);
            many.write().unwrap();
            assert!(Overrides::open(folder.path()).problem.is_some());
        }
        fs::write(folder.path().join(NAME), "[{").unwrap();
        let opened = Overrides::open(folder.path());
        assert!(opened.list().is_empty() && opened.problem.unwrap().contains(NAME));
    }
}
