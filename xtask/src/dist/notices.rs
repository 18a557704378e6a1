//! The licences of what is linked into the program.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;

use super::architecture::Architecture;
use crate::process;

/// The crates whose dependencies are linked: the daemon, and the programs that it carries.
const ROOTS: [&str; 2] = ["enforcer-user", "enforcer-ebpf"];
/// Begins the names of files with licences.
const LICENCE_FILES: [&str; 5] = ["LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE"];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    source: Option<String>,
    manifest_path: PathBuf,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    kind: Vec<String>,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<Kind>,
}

#[derive(Deserialize)]
struct Kind {
    /// None of an ordinary dependency; "build", "dev".
    kind: Option<String>,
}

/// Every crate that is linked for `architecture`, with its licence, and behind them the texts, each once.
pub fn text(architecture: Architecture) -> Result<String> {
    let mut cargo = process::cargo();
    cargo.args(["metadata", "--locked", "--format-version", "1", "--filter-platform"]);
    let json = process::probe(cargo.arg(architecture.target()))
        .context("`cargo metadata` fails; `cargo metadata --locked` says why")?;
    let metadata: Metadata = serde_json::from_str(&json)?;
    let linked = linked(&metadata);
    let mut text =
        String::from("Crates that are linked into the program, with their licences.\n\n");
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for package in &linked {
        let name = format!("{} {}", package.name, package.version);
        let licence = package.license.as_deref().unwrap_or("see its licence file");
        writeln!(text, "{name}: {licence}")?;
        for found in licence_files(&package.manifest_path)? {
            texts.entry(found).or_default().push(name.clone());
        }
    }
    for (licence, of) in texts {
        write!(text, "\n{}\n{}:\n\n{}\n", "=".repeat(80), of.join(", "), licence.trim_end())?;
    }
    Ok(text)
}

/// What is linked, by name. Macros run in the compiler, and what comes from no registry is the project's own.
fn linked(metadata: &Metadata) -> Vec<&Package> {
    let packages: BTreeMap<&str, &Package> =
        metadata.packages.iter().map(|package| (package.id.as_str(), package)).collect();
    let nodes: BTreeMap<&str, &Node> =
        metadata.resolve.nodes.iter().map(|node| (node.id.as_str(), node)).collect();
    let mut left: Vec<&str> = metadata
        .packages
        .iter()
        .filter(|package| ROOTS.contains(&package.name.as_str()))
        .map(|package| package.id.as_str())
        .collect();
    let mut seen = BTreeSet::new();
    while let Some(id) = left.pop() {
        if packages.get(id).is_some_and(|package| package.is_macro()) || !seen.insert(id) {
            continue;
        }
        let dependencies = nodes.get(id).into_iter().flat_map(|node| &node.deps);
        left.extend(dependencies.filter(|d| d.is_linked()).map(|d| d.pkg.as_str()));
    }
    let of_others = |package: &&Package| package.source.is_some();
    let mut linked: Vec<&Package> =
        seen.iter().filter_map(|id| packages.get(id).copied()).filter(of_others).collect();
    linked.sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
    linked
}

impl Package {
    fn is_macro(&self) -> bool {
        self.targets.iter().any(|target| target.kind.iter().any(|kind| kind == "proc-macro"))
    }
}

impl Dependency {
    fn is_linked(&self) -> bool {
        self.dep_kinds.iter().any(|kind| kind.kind.is_none())
    }
}

fn licence_files(manifest: &Path) -> Result<Vec<String>> {
    let folder = manifest.parent().context("a manifest lies in a folder")?;
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder)?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|file| file.is_file() && is_licence(file));
    files.sort();
    let read = |file: &PathBuf| {
        fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
    };
    files.iter().map(read).collect()
}

fn is_licence(file: &Path) -> bool {
    let name = file.file_name().map(|name| name.to_string_lossy().to_uppercase());
    name.is_some_and(|name| LICENCE_FILES.iter().any(|begin| name.starts_with(begin)))
}
