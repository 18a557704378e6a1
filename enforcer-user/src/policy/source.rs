//! Policy files from disk: found, bounded, in one order, and not yet understood.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::error::{PolicyError, PolicyErrors};
use crate::identity::Namespace;

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
    /// The namespace the file belongs to. Its `permit` rules apply only between workloads that
    /// both live there, its `forbid` rules where at least one does. The root: everywhere.
    pub scope: Namespace,
}

impl SourceFile {
    /// A file that may speak of every namespace.
    #[must_use]
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        Self { name: name.into(), text: text.into(), scope: Namespace::root() }
    }
}

/// Reads every named file, and every `*.cedar` file in and below every named folder.
///
/// Folders are walked in the order of their names; entries whose name starts with a dot are left
/// out; a file that is reached twice is read once. One refused file refuses all.
pub fn read_sources(paths: &[PathBuf]) -> Result<Vec<SourceFile>, PolicyErrors> {
    let mut reader = Reader::default();
    for path in paths {
        reader.visit(path, 0);
    }
    PolicyErrors::refuse_unless_empty(reader.findings)?;
    Ok(reader.files)
}

#[derive(Default)]
struct Reader {
    files: Vec<SourceFile>,
    seen: BTreeSet<PathBuf>,
    total_bytes: u64,
    findings: Vec<PolicyError>,
}

impl Reader {
    fn visit(&mut self, path: &Path, depth: usize) {
        let visited = match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => self.visit_folder(path, depth),
            Ok(metadata) if metadata.is_file() => self.visit_file(path),
            Ok(_) => Err(PolicyError::about_file(path, "neither a file nor a folder")),
            Err(error) => Err(PolicyError::about_file(path, format!("cannot be read: {error}"))
                .with_help("`files` in [policy] is relative to the configuration file")),
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
        self.files.push(SourceFile::new(path.display().to_string(), text));
        Ok(())
    }
}

fn is_policy_or_folder(path: &Path) -> bool {
    let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
    !hidden && (path.is_dir() || path.extension().is_some_and(|found| found == EXTENSION))
}

#[cfg(test)]
mod tests {
    use super::*;

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
