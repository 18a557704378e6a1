//! Changes of the policy tree that come by the control socket: checked as a whole before anything is written.

use std::io;

use crate::config::Config;
use crate::control::BackendError;
use crate::control::protocol::PolicyChange;
use crate::materials;
use crate::policy::{Place, Policy, SourceFile, Sources, check_size};

/// A change that was written.
#[derive(Debug)]
pub(super) struct Written {
    place: Place,
    before: Option<String>,
    /// Folders of the namespace that are not theirs to remove who asked.
    kept: usize,
}

impl Written {
    /// Takes it back: the policy was refused after all.
    pub(super) fn undo(self) {
        let undone = match &self.before {
            Some(text) => self.place.write(text),
            None => self.place.remove(self.kept),
        };
        if let Err(error) = undone {
            let file = self.place.path();
            tracing::error!(file = %file.display(), %error, "cannot be set back to what is in force");
        }
    }
}

/// Writes a change, if whoever asks may and the whole policy loads with it. Returns that policy too: if what is loaded
/// then has another generation, somebody else changed something meanwhile.
pub(super) fn write(
    config: &Config,
    earlier: Option<&Policy>,
    change: &PolicyChange,
) -> Result<(Policy, Written), BackendError> {
    let sources = &config.policy.sources;
    let tree = sources.tree.as_deref().ok_or_else(|| {
        let file = config.file.display();
        BackendError::BadRequest(format!(
            "there is no policy tree: `tree` in [policy] of {file} names its folder"
        ))
    })?;
    let kept = authorize(sources, change)?;
    let place = Place::new(tree, &change.namespace, &change.name);
    let refused = |text: String| BackendError::BadRequest(text);
    if place.is_too_deep() {
        return Err(refused(format!("{}: lies too many folders deep", place.path().display())));
    }
    let mut files = sources.read().map_err(|errors| {
        refused(format!("nothing can be changed while the policy on disk is refused: {errors}"))
    })?;
    let name = place.path().display().to_string();
    let before = files.iter().position(|one| one.name == name).map(|at| files.remove(at).text);
    match &change.text {
        Some(text) => files.push(SourceFile {
            scope: change.namespace.clone(),
            ..SourceFile::new(name, text.clone())
        }),
        None if before.is_none() => return Err(refused(format!("{name}: there is no such file"))),
        None => {}
    }
    check_size(&files).map_err(|error| refused(error.to_string()))?;
    let policy =
        materials::policy_of(earlier, config, files).map_err(|error| refused(error.to_string()))?;
    let stored = match &change.text {
        Some(text) => place.write(text),
        None => place.remove(kept),
    };
    stored.map_err(|error| unwritten(&place, &error))?;
    Ok((policy, Written { place, before, kept }))
}

fn unwritten(place: &Place, error: &io::Error) -> BackendError {
    let file = place.path();
    match place.owner().filter(|_| error.kind() == io::ErrorKind::PermissionDenied) {
        Some((folder, uid)) => BackendError::BadRequest(format!(
            "{}: {} belongs to uid {uid}, who can change it there; the enforcer has no right to",
            file.display(),
            folder.display()
        )),
        None => BackendError::Internal(format!("{} cannot be written: {error}", file.display())),
    }
}

/// Root and the daemon's own user may write everywhere, others where the owners' policy says so.
///
/// Returns how many folders of the namespace, from the top, are not theirs.
fn authorize(sources: &Sources, change: &PolicyChange) -> Result<usize, BackendError> {
    if change.uid == 0 || change.uid == nix::unistd::geteuid().as_raw() {
        return Ok(0);
    }
    let owners = sources.read_owners().map_err(|errors| {
        BackendError::Forbidden(format!(
            "nobody but root may write while policy.owners is refused: {errors}"
        ))
    })?;
    let Some(owners) = owners else {
        let uid = change.uid;
        let text = format!(
            "only root may write in the policy tree, not uid {uid}; `owners` in [policy] lets others in"
        );
        return Err(BackendError::Forbidden(text));
    };
    owners.check(change.uid, &change.namespace).map_err(BackendError::Forbidden)?;
    let above: Vec<_> = change.namespace.ancestors().collect();
    let theirs = above.iter().rev().position(|above| owners.check(change.uid, above).is_ok());
    Ok(theirs.unwrap_or(above.len()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    const OPEN: &str = "permit(principal, action, resource);";

    fn config(folder: &Path, more: &str) -> Config {
        let text = format!(
            "trust_domain = \"example.org\"\n[identity]\nmode = \"psk\"\npsk_file = \"psk.key\"\n\
             [policy]\ntree = \"tree\"\n{more}\n"
        );
        fs::create_dir_all(folder.join("tree")).unwrap();
        Config::parse(&text, &folder.join("e.toml"), folder).unwrap()
    }

    fn change(uid: u32, path: &str, text: Option<&str>) -> PolicyChange {
        PolicyChange::new(uid, path, text.map(str::to_owned)).unwrap()
    }

    fn own() -> u32 {
        nix::unistd::geteuid().as_raw()
    }

    #[test]
    fn what_loads_is_written_and_taken_back() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path(), "");
        let file = folder.path().join("tree/acme/shop/open.cedar");
        let wanted = change(own(), "/acme/shop/open.cedar", Some(OPEN));
        let (policy, written) = write(&config, None, &wanted).unwrap();
        assert_eq!(policy.set().rules()[0].scope().as_str(), "/acme/shop");
        assert_eq!(fs::read_to_string(&file).unwrap(), OPEN);
        assert_eq!(materials::load_policy(&config).unwrap().generation(), policy.generation());

        let other = OPEN.replace("permit", "forbid");
        let again = change(own(), "/acme/shop/open.cedar", Some(&other));
        write(&config, Some(&policy), &again).unwrap().1.undo();
        assert_eq!(fs::read_to_string(&file).unwrap(), OPEN);
        written.undo();
        assert!(!file.exists());
        let gone = change(own(), "/acme/shop/open.cedar", None);
        assert!(matches!(write(&config, None, &gone), Err(BackendError::BadRequest(_))));
    }

    #[test]
    fn a_staged_policy_is_no_change_by_somebody_else() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("next.cedar"), OPEN).unwrap();
        let config = config(folder.path(), "staged = [\"next.cedar\"]");
        let wanted = change(own(), "/acme/open.cedar", Some(OPEN));
        let (policy, _) = write(&config, None, &wanted).unwrap();
        assert_eq!(materials::load_policy(&config).unwrap().generation(), policy.generation());
    }

    #[test]
    fn what_does_not_load_leaves_everything_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path(), "");
        let (_, _) = write(&config, None, &change(own(), "/a/x.cedar", Some(OPEN))).unwrap();
        for (path, text) in [
            ("/a/x.cedar", "permit(principal, action);"),
            (
                "/b/x.cedar",
                "permit(principal, action == Action::\"accept\", resource in Namespace::\"/a\");",
            ),
        ] {
            let refused = write(&config, None, &change(own(), path, Some(text))).unwrap_err();
            assert!(refused.to_string().contains(path), "{refused}");
        }
        assert_eq!(fs::read_to_string(folder.path().join("tree/a/x.cedar")).unwrap(), OPEN);
        assert!(!folder.path().join("tree/b").exists());
        let deep = change(own(), "/a/b/c/d/e/f/g/h/i/x.cedar", Some(OPEN));
        let refused = write(&config, None, &deep).unwrap_err().to_string();
        assert!(refused.contains("too many folders deep"), "{refused}");
        assert!(!folder.path().join("tree/a/b").exists());
    }

    #[test]
    fn others_write_only_where_the_owners_policy_lets_them() {
        let folder = tempfile::tempdir().unwrap();
        let other = own() + 4711;
        let wanted = change(other, "/acme/shop/x.cedar", Some(OPEN));
        let nobody = write(&config(folder.path(), ""), None, &wanted).unwrap_err();
        assert!(matches!(nobody, BackendError::Forbidden(_)), "{nobody}");

        let owners = folder.path().join("owners.cedar");
        let rule = "permit(principal, action, resource in Namespace::\"/acme/shop\") when { principal.uid == UID };";
        fs::write(&owners, rule.replace("UID", &other.to_string())).unwrap();
        if own() != 0 {
            return; // Files of this user would be refused, who is not in the policy.
        }
        let config = config(folder.path(), "owners = [\"owners.cedar\"]");
        write(&config, None, &wanted).unwrap();
        let above = change(other, "/acme/x.cedar", Some(OPEN));
        let refused = write(&config, None, &above).unwrap_err();
        assert!(matches!(refused, BackendError::Forbidden(_)), "{refused}");
        fs::write(&owners, "permit(").unwrap();
        assert!(matches!(write(&config, None, &wanted), Err(BackendError::Forbidden(_))));
    }
}
