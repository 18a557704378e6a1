//! Policy files from disk: found, bounded, in one order, and not yet understood.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::error::{PolicyError, PolicyErrors};
use super::owners::Owners;
use crate::identity::{NameError, Namespace};

/// The most bytes of one policy file.
pub const MAX_FILE_BYTES: u64 = 1 << 20;
/// The most bytes of all policy files together.
pub const MAX_TOTAL_BYTES: u64 = 32 << 20;
/// The most policy files of one set.
pub const MAX_FILES: usize = 4096;
/// The most folders below one that is named.
pub const MAX_DEPTH: usize = 8;

const EXTENSION: &str = "cedar";

/// The text of one policy file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFile {
    /// The file's name for messages.
    pub name: String,
    /// The Cedar text.
    pub text: String,
    /// The namespace the file belongs to. Its rules govern the workloads that live there or below, at their own
    /// end of a connection: when one of them calls (`connect`) and when one is called (`accept`).
    pub scope: Namespace,
}

impl SourceFile {
    /// A file that may speak of every namespace.
    #[must_use]
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        Self { name: name.into(), text: text.into(), scope: Namespace::root() }
    }
}

/// Where policies come from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sources {
    /// Files that may speak of every namespace, and folders of them.
    pub files: Vec<PathBuf>,
    /// A folder whose folders are namespaces: what lies in `acme/shop` belongs to `/acme/shop`.
    pub tree: Option<PathBuf>,
    /// Files, and folders of them, that say who may write where in the tree; empty: not asked.
    pub owners: Vec<PathBuf>,
}

impl Sources {
    /// Reads every named file, every `*.cedar` file in and below every named folder, and the tree.
    ///
    /// Folders are walked in the order of their names; entries whose name starts with a dot are left
    /// out; a file that is reached twice is read once. One refused file refuses all.
    pub fn read(&self) -> Result<Vec<SourceFile>, PolicyErrors> {
        let owners = self.read_owners()?;
        let mut reader = Reader::new(Kind::Everywhere);
        for path in &self.files {
            reader.visit(path, 0, &Namespace::root());
        }
        if let Some(tree) = &self.tree {
            reader.kind = Kind::Tree(owners.as_ref());
            reader.visit(tree, 0, &Namespace::root());
        }
        reader.finish()
    }

    /// Who may write where in the tree; none if that is not asked.
    pub fn read_owners(&self) -> Result<Option<Owners>, PolicyErrors> {
        if self.owners.is_empty() {
            return Ok(None);
        }
        let mut reader = Reader::new(Kind::Everywhere);
        for path in &self.owners {
            reader.visit(path, 0, &Namespace::root());
        }
        Owners::parse(&reader.finish()?).map(Some)
    }
}

/// What folders mean.
#[derive(Clone, Copy)]
enum Kind<'a> {
    /// Nothing.
    Everywhere,
    /// Namespaces, in which these may write.
    Tree(Option<&'a Owners>),
}

struct Reader<'a> {
    kind: Kind<'a>,
    files: Vec<SourceFile>,
    seen: BTreeSet<PathBuf>,
    total_bytes: u64,
    findings: Vec<PolicyError>,
}

impl<'a> Reader<'a> {
    fn new(kind: Kind<'a>) -> Self {
        let (files, seen, findings) = (Vec::new(), BTreeSet::new(), Vec::new());
        Self { kind, files, seen, total_bytes: 0, findings }
    }

    fn finish(self) -> Result<Vec<SourceFile>, PolicyErrors> {
        PolicyErrors::refuse_unless_empty(self.findings)?;
        Ok(self.files)
    }

    fn visit(&mut self, path: &Path, depth: usize, scope: &Namespace) {
        let visited = match fs::metadata(path) {
            Ok(found) if found.is_dir() => self
                .check_owner(path, &found, scope)
                .and_then(|()| self.visit_folder(path, depth, scope)),
            Ok(found) if found.is_file() => {
                self.check_owner(path, &found, scope).and_then(|()| self.visit_file(path, scope))
            }
            Ok(_) => Err(PolicyError::about_file(path, "neither a file nor a folder")),
            Err(error) => Err(PolicyError::about_file(path, format!("cannot be read: {error}"))
                .with_help("`files` in [policy] is relative to the configuration file")),
        };
        if let Err(finding) = visited {
            self.findings.push(finding);
        }
    }

    /// Whoever owns a file or a folder of the tree must be one who may write there, and the only one.
    fn check_owner(
        &self,
        path: &Path,
        found: &fs::Metadata,
        scope: &Namespace,
    ) -> Result<(), PolicyError> {
        let Kind::Tree(Some(owners)) = self.kind else { return Ok(()) };
        if found.mode() & 0o022 != 0 {
            let message = "may be written by more than its owner, so nobody knows who wrote it";
            return Err(PolicyError::about_file(path, message).with_help("chmod go-w"));
        }
        owners.check(found.uid(), scope).map_err(|problem| PolicyError::about_file(path, problem))
    }

    /// The namespace of a folder of this one's folder.
    fn below(&self, folder: &Path, scope: &Namespace) -> Result<Namespace, PolicyError> {
        if matches!(self.kind, Kind::Everywhere) {
            return Ok(scope.clone());
        }
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        let path = format!("{}/{name}", scope.as_str().trim_end_matches('/'));
        path.parse().map_err(|error: NameError| {
            PolicyError::about_file(folder, format!("is no namespace: {error}"))
        })
    }

    fn visit_folder(
        &mut self,
        folder: &Path,
        depth: usize,
        scope: &Namespace,
    ) -> Result<(), PolicyError> {
        if depth > MAX_DEPTH {
            let message = format!("lies more than {MAX_DEPTH} folders deep");
            return Err(PolicyError::about_file(folder, message));
        }
        let unreadable = |error: std::io::Error| {
            PolicyError::about_file(folder, format!("cannot be listed: {error}"))
        };
        let mut entries = Vec::new();
        for entry in fs::read_dir(folder).map_err(unreadable)? {
            entries.push(entry.map_err(unreadable)?.path());
            if entries.len() > MAX_FILES {
                let message = format!("holds more than {MAX_FILES} entries");
                return Err(PolicyError::about_file(folder, message));
            }
        }
        entries.sort();
        for entry in entries.iter().filter(|entry| is_policy_or_folder(entry)) {
            if entry.is_dir() {
                self.visit(entry, depth + 1, &self.below(entry, scope)?);
            } else {
                self.visit(entry, depth + 1, scope);
            }
        }
        Ok(())
    }

    fn visit_file(&mut self, path: &Path, scope: &Namespace) -> Result<(), PolicyError> {
        let unreadable = |error: std::io::Error| {
            PolicyError::about_file(path, format!("cannot be read: {error}"))
        };
        if !self.seen.insert(fs::canonicalize(path).map_err(unreadable)?) {
            return Ok(());
        }
        if self.files.len() >= MAX_FILES {
            let message = format!("is one file too many, at most {MAX_FILES} are read");
            return Err(PolicyError::about_file(path, message));
        }
        let mut bytes = Vec::new();
        let file = fs::File::open(path).map_err(unreadable)?;
        file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        let len = bytes.len() as u64;
        self.total_bytes += len;
        if len > MAX_FILE_BYTES || self.total_bytes > MAX_TOTAL_BYTES {
            let message = format!(
                "is too long: a file may have {MAX_FILE_BYTES} bytes, all together {MAX_TOTAL_BYTES}"
            );
            return Err(PolicyError::about_file(path, message));
        }
        let text = String::from_utf8(bytes)
            .map_err(|error| PolicyError::about_file(path, format!("is not UTF-8: {error}")))?;
        let scope = scope.clone();
        self.files.push(SourceFile { scope, ..SourceFile::new(path.display().to_string(), text) });
        Ok(())
    }
}

fn is_policy_or_folder(path: &Path) -> bool {
    let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
    !hidden && (path.is_dir() || path.extension().is_some_and(|found| found == EXTENSION))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn read_sources(paths: &[PathBuf]) -> Result<Vec<SourceFile>, PolicyErrors> {
        Sources { files: paths.to_vec(), ..Sources::default() }.read()
    }

    fn read_tree(tree: &Path, owners: &str) -> Result<Vec<SourceFile>, PolicyErrors> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("owners.cedar");
        fs::write(&file, owners).unwrap();
        Sources { files: Vec::new(), tree: Some(tree.to_owned()), owners: vec![file] }.read()
    }

    #[test]
    fn folders_of_the_tree_are_namespaces() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::create_dir_all(root.join("acme/shop")).unwrap();
        for name in ["all.cedar", "acme/a.cedar", "acme/shop/s.cedar"] {
            fs::write(root.join(name), name).unwrap();
        }
        let sources = Sources { tree: Some(root.to_owned()), ..Sources::default() };
        let files = sources.read().unwrap();
        let scopes: Vec<&str> = files.iter().map(|file| file.scope.as_str()).collect();
        assert_eq!(scopes, ["/acme", "/acme/shop", "/"]);
        fs::create_dir(root.join("acme/not a name")).unwrap();
        let told = sources.read().unwrap_err().to_string();
        assert!(told.contains("not a name: is no namespace"), "{told}");
    }

    #[test]
    fn who_owns_a_file_of_the_tree_must_be_allowed_to_write_there() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::create_dir(root.join("acme")).unwrap();
        let file = root.join("acme/a.cedar");
        fs::write(&file, "").unwrap();
        let mode = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        mode(root, 0o755);
        mode(&root.join("acme"), 0o755);
        mode(&file, 0o644);
        let own = nix::unistd::geteuid().as_raw();
        let allow = format!(
            "permit(principal, action, resource in Namespace::\"/\") when {{ principal.uid == {own} }};"
        );
        assert_eq!(read_tree(root, &allow).unwrap().len(), 1);
        mode(&file, 0o664);
        let told = read_tree(root, &allow).unwrap_err().to_string();
        assert!(told.contains("a.cedar: may be written by more than its owner"), "{told}");
        mode(&file, 0o644);
        if own == 0 {
            // Root writes everywhere; anybody else must be named.
            assert_eq!(read_tree(root, "").unwrap().len(), 1);
            std::os::unix::fs::chown(&file, Some(4711), None).unwrap();
            let told = read_tree(root, "").unwrap_err().to_string();
            assert!(told.contains("a.cedar: uid 4711 may not write in /acme"), "{told}");
            let named = "permit(principal, action, resource == Namespace::\"/acme\") when { principal.uid == 4711 };";
            assert_eq!(read_tree(root, named).unwrap().len(), 1);
            let other = named.replace("/acme", "/other");
            assert!(read_tree(root, &other).is_err());
        }
    }

    #[test]
    fn folders_are_read_in_order_and_only_their_policies() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::create_dir(root.join("b")).unwrap();
        for name in ["c.cedar", "a.cedar", "b/z.cedar", "notes.txt", ".hidden.cedar"] {
            fs::write(root.join(name), name).unwrap();
        }
        let files = read_sources(&[root.to_path_buf(), root.join("a.cedar")]).unwrap();
        let texts: Vec<&str> = files.iter().map(|file| file.text.as_str()).collect();
        assert_eq!(texts, ["a.cedar", "b/z.cedar", "c.cedar"]);
    }

    #[test]
    fn one_unreadable_path_refuses_all_by_name() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.cedar"), "").unwrap();
        let missing = folder.path().join("missing");
        let errors = read_sources(&[folder.path().to_path_buf(), missing]).unwrap_err();
        assert_eq!(errors.findings().len(), 1);
        assert!(errors.to_string().contains("missing: cannot be read"), "{errors}");
    }

    #[test]
    fn too_long_and_non_text_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let long = usize::try_from(MAX_FILE_BYTES).unwrap() + 1;
        fs::write(folder.path().join("long.cedar"), vec![b' '; long]).unwrap();
        fs::write(folder.path().join("raw.cedar"), [0xff]).unwrap();
        let errors = read_sources(&[folder.path().to_path_buf()]).unwrap_err().to_string();
        assert!(errors.contains("long.cedar: is too long"), "{errors}");
        assert!(errors.contains("raw.cedar: is not UTF-8"), "{errors}");
    }
}
