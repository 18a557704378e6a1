//! What is wrong with manifests, and where.

use std::path::PathBuf;

/// A fault in a manifest.
#[derive(Debug, thiserror::Error)]
#[error("{}{}: {fault}", file.display(), place(*.document, object))]
pub struct ManifestError {
    /// The file; `-` is standard input.
    pub file: PathBuf,
    /// The document in it, from 1; 0 if the fault is the file's.
    pub document: usize,
    /// Kind, namespace and name, as far as they are known.
    pub object: String,
    /// What is wrong, and what was expected.
    pub fault: String,
}

fn place(document: usize, object: &str) -> String {
    match (document, object) {
        (0, _) => String::new(),
        (number, "") => format!(", document {number}"),
        (number, object) => format!(", document {number}, {object}"),
    }
}
