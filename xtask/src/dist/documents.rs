//! What the program writes about itself: manual pages and completions.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::{process, project};

/// Shells, and where Debian looks for a program's completions.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "usr/share/bash-completion/completions/enforcer"),
    ("zsh", "usr/share/zsh/vendor-completions/_enforcer"),
    ("fish", "usr/share/fish/vendor_completions.d/enforcer.fish"),
];

/// Files to be installed, each with its path below the root.
pub struct Documents {
    /// Manual pages of section 1, not compressed.
    pub pages: Vec<(String, Vec<u8>)>,
    /// Completion scripts.
    pub completions: Vec<(String, Vec<u8>)>,
}

impl Documents {
    /// Asks a program that runs here.
    pub fn of(binary: &Path) -> Result<Self> {
        Ok(Self { pages: pages(binary)?, completions: completions(binary)? })
    }
}

fn pages(binary: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let folder = project::target_dir().join("dist-pages");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    process::run_quietly(Command::new(binary).arg("man").arg("--dir").arg(&folder))?;
    let mut pages = Vec::new();
    for entry in fs::read_dir(&folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        pages.push((format!("usr/share/man/man1/{name}"), fs::read(entry.path())?));
    }
    ensure!(!pages.is_empty(), "{} wrote no manual page", binary.display());
    pages.sort();
    Ok(pages)
}

fn completions(binary: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let script = |(shell, path): (&str, &str)| {
        let text = process::probe(Command::new(binary).args(["completions", shell]))
            .with_context(|| format!("{} has no completions for {shell}", binary.display()))?;
        Ok((path.to_owned(), (text + "\n").into_bytes()))
    };
    COMPLETIONS.into_iter().map(script).collect()
}
