//! Policy files from disk: found, bounded, in one order, and not yet understood.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use ipnet::IpNet;

use super::error::{PolicyError, PolicyErrors};
use super::owners::Owners;
use super::tree;
use crate::identity::Namespace;
use crate::kubernetes::Enforced;

/// The most bytes of one policy file.
pub const MAX_FILE_BYTES: u64 = 1 << 20;
/// The most bytes of all policy files together.
pub const MAX_TOTAL_BYTES: u64 = 32 << 20;
/// The most policy files of one set.
pub const MAX_FILES: usize = 4096;
/// The most folders below one that is named.
pub const MAX_DEPTH: usize = 8;

/// How the names of policy files end.
pub(super) const EXTENSION: &str = "cedar";

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
    /// Kubernetes manifests, and folders of them, whose policies are enforced.
    pub kubernetes: Vec<PathBuf>,
    /// Namespace `x` of the manifests is `x` below this one.
    pub kubernetes_namespace: Namespace,
}

impl Sources {
    /// Reads every named file, every `*.cedar` file in and below every named folder, and the tree.
    ///
    /// Folders are walked in the order of their names; entries whose name starts with a dot are left
    /// out; a file that is reached twice is read once. One refused file refuses all.
    pub fn read(&self) -> Result<Vec<SourceFile>, PolicyErrors> {
        self.check_apart()?;
        let owners = self.read_owners()?;
        let mut files = read_all(&self.files)?;
        if let Some(tree) = &self.tree {
            match tree::read(tree, owners.as_ref()) {
                Ok(found) => files.extend(found),
                Err(findings) => PolicyErrors::refuse_unless_empty(findings)?,
            }
        }
        check_size(&files)?;
        Ok(files)
    }

    /// Reads the manifests; none if there are none. In `mesh` peers that speak TCP are known by identity.
    pub fn read_kubernetes(&self, mesh: Vec<IpNet>) -> Result<Option<Enforced>, PolicyErrors> {
        if self.kubernetes.is_empty() {
            return Ok(None);
        }
        let read = Enforced::read(&self.kubernetes, &self.kubernetes_namespace, mesh);
        Ok(Some(read.map_err(|error| PolicyError::general(error.to_string()))?))
    }

    /// Who may write where in the tree; none if that is not asked.
    pub fn read_owners(&self) -> Result<Option<Owners>, PolicyErrors> {
        if self.owners.is_empty() {
            return Ok(None);
        }
        let files = read_all(&self.owners)?;
        check_size(&files)?;
        Owners::parse(&files).map(Some)
    }

    /// A file of the tree that were one for every namespace too would speak for all of them, and one that says who may
    /// write there could be written by them.
    fn check_apart(&self) -> Result<(), PolicyErrors> {
        let Some(tree) = &self.tree else {
            if self.owners.is_empty() {
                return Ok(());
            }
            let finding = PolicyError::general(
                "policy.owners says who may write in policy.tree, and there is none",
            );
            return Err(finding.with_help("name the tree's folder, or leave `owners` out").into());
        };
        // What is not there is told of by whoever reads it.
        let Ok(whole) = fs::canonicalize(tree) else { return Ok(()) };
        let others = self.files.iter().chain(&self.owners);
        let inside = others.filter(|path| {
            fs::canonicalize(path)
                .is_ok_and(|other| other.starts_with(&whole) || whole.starts_with(&other))
        });
        let findings = inside.map(|path| {
            let message = format!("and the policy tree {} lie within each other", tree.display());
            PolicyError::about_file(path, message).with_help("keep them apart")
        });
        PolicyErrors::refuse_unless_empty(findings.collect())
    }
}

fn read_all(paths: &[PathBuf]) -> Result<Vec<SourceFile>, PolicyErrors> {
    let mut reader = Reader::new();
    for path in paths {
        reader.visit(path, 0);
    }
    reader.finish()
}

struct Reader {
    files: Vec<SourceFile>,
    seen: BTreeSet<PathBuf>,
    findings: Vec<PolicyError>,
    bytes: u64,
}

impl Reader {
    fn new() -> Self {
        Self { files: Vec::new(), seen: BTreeSet::new(), findings: Vec::new(), bytes: 0 }
    }

    fn finish(self) -> Result<Vec<SourceFile>, PolicyErrors> {
        PolicyErrors::refuse_unless_empty(self.findings)?;
        Ok(self.files)
    }

    fn visit(&mut self, path: &Path, depth: usize) {
        let visited = match fs::metadata(path) {
            Ok(found) if found.is_dir() => self.visit_folder(path, depth),
            Ok(_) => self.visit_file(path),
            Err(error) => Err(PolicyError::about_file(path, format!("cannot be read: {error}"))
                .with_help("paths in [policy] are relative to the configuration file")),
        };
        if let Err(finding) = visited {
            self.findings.push(finding);
        }
    }

    fn visit_folder(&mut self, folder: &Path, depth: usize) -> Result<(), PolicyError> {
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
            self.visit(entry, depth + 1);
        }
        Ok(())
    }

    fn visit_file(&mut self, path: &Path) -> Result<(), PolicyError> {
        let unreadable = |error: std::io::Error| {
            PolicyError::about_file(path, format!("cannot be read: {error}"))
        };
        if !self.seen.insert(fs::canonicalize(path).map_err(unreadable)?) {
            return Ok(());
        }
        // A pipe must not keep the reader waiting for its other end.
        let mut options = fs::OpenOptions::new();
        let file = options.read(true).custom_flags(libc::O_NONBLOCK).open(path);
        let file = file.map_err(unreadable)?;
        if !file.metadata().map_err(unreadable)?.is_file() {
            return Err(PolicyError::about_file(path, "neither a file nor a folder"));
        }
        if self.bytes > MAX_TOTAL_BYTES || self.files.len() > MAX_FILES {
            // Told at the end; the rest is not read.
            return Ok(());
        }
        let text = tree::text_of(file, path)?;
        self.bytes += text.len() as u64;
        self.files.push(SourceFile::new(path.display().to_string(), text));
        Ok(())
    }
}

/// The bounds of a whole set.
pub fn check_size(files: &[SourceFile]) -> Result<(), PolicyError> {
    let bytes: u64 = files.iter().map(|file| file.text.len() as u64).sum();
    if files.len() > MAX_FILES || bytes > MAX_TOTAL_BYTES {
        return Err(PolicyError::general(format!(
            "{} policy files of {bytes} bytes; at most {MAX_FILES} of {MAX_TOTAL_BYTES} bytes are read",
            files.len()
        )));
    }
    Ok(())
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
        let (tree, owners) = (Some(tree.to_owned()), vec![file]);
        Sources { tree, owners, ..Sources::default() }.read()
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
