//! `cargo xtask fuzz`, and the layer `fuzz` of `cargo xtask test`: libFuzzer on every parser of what
//! comes from outside, and on the programs.
//!
//! The targets are built by plain cargo with `tests/fuzz/rustc-coverage` as wrapper of the compiler:
//! cargo-fuzz would build every dependency once more, and is not needed for what is left of it
//! without a sanitizer. New inputs gather below `target/fuzz`; the committed ones are only read.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::tally::Tally;
use crate::test::built;
use crate::tools::Group;
use crate::{build, process, project, setup};

const PACKAGE: &str = "enforcer-fuzz";
/// The target that loads programs.
const NEEDS_ROOT: &str = "datapath";
/// Cargo's name for a program between it and the compiler.
const WRAPPER_VARIABLE: &str = "RUSTC_WORKSPACE_WRAPPER";
/// What one input may take, in seconds; much more than any does on a machine under load.
const INPUT_SECONDS: u32 = 60;
/// What one target may hold, in MiB.
const MEMORY_MIB: u32 = 2048;
/// What a target may take in the test layer, in seconds, whatever number of runs it has made.
const SHORT_SECONDS: u32 = 10;
/// Runs of a target in the test layer, committed inputs included.
const SHORT_RUNS: u32 = 20_000;
/// The layer's seed: the same code is tried with the same inputs.
const SHORT_SEED: u32 = 1;

/// Arguments of `cargo xtask fuzz`.
#[derive(Args)]
pub struct Options {
    /// The target; without it each in turn
    target: Option<String>,
    /// Minutes for each target
    #[arg(long, default_value_t = 10)]
    minutes: u32,
    /// Run one input, such as one that a crash left behind, instead of searching
    #[arg(long, requires = "target")]
    input: Option<PathBuf>,
    /// Drop gathered inputs that reach nothing new, and stop
    #[arg(long, conflicts_with = "input")]
    minimize: bool,
}

/// Searches for long, or runs one input.
pub fn run(options: &Options) -> Result<()> {
    let targets = targets()?;
    let names: Vec<&str> = targets.iter().map(|target| target.name.as_str()).collect();
    let selected: Vec<&Target> = match &options.target {
        Some(name) => targets.iter().filter(|target| target.name == *name).collect(),
        None => targets.iter().collect(),
    };
    if selected.is_empty() {
        let found = options.target.as_deref().unwrap_or_default();
        bail!("no fuzz target {found:?}; expected one of {}", names.join(", "));
    }
    let mut failed = Vec::new();
    for target in selected {
        let mut command = match &options.input {
            Some(input) => target.command(&[input.as_os_str()])?,
            None if options.minimize => target.minimize()?,
            None => target.search(&[format!("-max_total_time={}", options.minutes * 60)])?,
        };
        if !process::succeeds(&mut command)? {
            target.show_findings();
            failed.push(target.name.as_str());
        }
    }
    if failed.is_empty() { Ok(()) } else { bail!("fuzz targets failed: {}", failed.join(", ")) }
}

/// The layer: every committed input and a bounded search behind it; each target counts as one test.
pub fn layer() -> Result<Tally> {
    let mut sum = Tally::default();
    for target in targets()? {
        let bounds = [
            format!("-runs={SHORT_RUNS}"),
            format!("-max_total_time={SHORT_SECONDS}"),
            format!("-seed={SHORT_SEED}"),
        ];
        let passed = process::succeeds(&mut target.search(&bounds)?)?;
        println!("fuzz {} ... {}", target.name, if passed { "ok" } else { "FAILED" });
        if !passed {
            target.show_findings();
        }
        sum += Tally { passed: passed.into(), failed: (!passed).into(), ignored: 0 };
    }
    Ok(sum)
}

/// A built target.
struct Target {
    name: String,
    executable: PathBuf,
}

fn targets() -> Result<Vec<Target>> {
    setup::ensure(Group::Fuzz)?;
    build::ebpf()?;
    let mut command = process::cargo();
    command.args(["build", "--package", PACKAGE, "--bins"]);
    command.env(WRAPPER_VARIABLE, folder().join("rustc-coverage"));
    let mut targets: Vec<Target> = built(&mut command)?
        .into_iter()
        .map(|(name, executable)| Target { name, executable })
        .collect();
    targets.sort_by(|a, b| a.name.cmp(&b.name));
    if targets.is_empty() {
        bail!(
            "cargo built no program of {PACKAGE}; expected one for each file in {}",
            folder().display()
        );
    }
    Ok(targets)
}

fn folder() -> PathBuf {
    project::root().join("tests/fuzz")
}

impl Target {
    /// The committed inputs.
    fn corpus(&self) -> PathBuf {
        folder().join("corpus").join(&self.name)
    }

    /// The inputs that were found here.
    fn gathered(&self) -> Result<PathBuf> {
        made(project::target_dir().join("fuzz/corpus").join(&self.name))
    }

    /// Where inputs that fail are left.
    fn findings(&self) -> PathBuf {
        project::target_dir().join("fuzz/findings").join(&self.name)
    }

    fn search(&self, bounds: &[String]) -> Result<Command> {
        let (gathered, corpus) = (self.gathered()?, self.corpus());
        let mut arguments: Vec<&OsStr> = bounds.iter().map(AsRef::as_ref).collect();
        let dictionary = folder().join("dictionaries").join(&self.name);
        let dictionary = format!("-dict={}", dictionary.display());
        if Path::new(&dictionary["-dict=".len()..]).exists() {
            arguments.push(dictionary.as_ref());
        }
        arguments.extend([gathered.as_os_str(), corpus.as_os_str()]);
        self.command(&arguments)
    }

    /// Gathered inputs are taken over only where they reach what those before them do not.
    fn minimize(&self) -> Result<Command> {
        let gathered = self.gathered()?;
        let before = gathered.with_extension("before");
        if before.exists() {
            fs::remove_dir_all(&before)
                .with_context(|| format!("cannot remove {}", before.display()))?;
        }
        fs::rename(&gathered, &before)
            .with_context(|| format!("cannot move {}", gathered.display()))?;
        let (gathered, corpus) = (self.gathered()?, self.corpus());
        self.command(&[
            "-merge=1".as_ref(),
            gathered.as_os_str(),
            corpus.as_os_str(),
            before.as_os_str(),
        ])
    }

    fn command(&self, arguments: &[&OsStr]) -> Result<Command> {
        let findings = made(self.findings())?;
        let mut command = if self.name == NEEDS_ROOT {
            process::root_command(&self.executable, &[])?
        } else {
            Command::new(&self.executable)
        };
        command.arg(format!("-artifact_prefix={}/", findings.display()));
        command.arg(format!("-timeout={INPUT_SECONDS}")).arg(format!("-rss_limit_mb={MEMORY_MIB}"));
        command.args(["-print_final_stats=1", "-verbosity=0"]).args(arguments);
        command.current_dir(project::root());
        Ok(command)
    }

    /// How each finding is run again.
    fn show_findings(&self) {
        let found = fs::read_dir(self.findings()).into_iter().flatten().flatten();
        for entry in found {
            eprintln!("again: cargo xtask fuzz {} --input {}", self.name, entry.path().display());
        }
    }
}

fn made(folder: PathBuf) -> Result<PathBuf> {
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}
