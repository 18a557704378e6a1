//! `enforcer policy diff`

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::ensure;

use super::super::output::Output;
use super::world::{Asked, Verdict, World};
use crate::kubernetes::{Host, Port};

/// The exit status of `--exit-code` where something changes.
const CHANGED: u8 = 3;

/// Say who would reach whom that did not, and the other way round
///
/// Compares two sets of manifests or configurations, as `policy matrix` reads them. `+` is allowed in the new one alone,
/// `-` in the old one alone.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  enforcer policy diff old/ new/ -f pods.yaml --port 80/TCP\n  \
                  enforcer policy diff enforcer.toml enforcer.new.toml --port 8080/TCP --exit-code"
)]
pub(in crate::cli) struct Arguments {
    /// What is in force
    #[arg(value_name = "OLD")]
    old: PathBuf,
    /// What is to be
    #[arg(value_name = "NEW")]
    new: PathBuf,
    /// What both have in common, such as the manifests of pods; may be repeated
    #[arg(short, long = "file", value_name = "FILE_OR_DIR")]
    file: Vec<PathBuf>,
    /// The port that connections go to, as 80/TCP; may be repeated
    #[arg(long, value_name = "NUMBER/PROTOCOL", required = true)]
    port: Vec<Port>,
    /// A peer outside the cluster; may be repeated
    #[arg(long, value_name = "NAME=ADDRESS")]
    host: Vec<Host>,
    /// Exit with 3 if anything changes
    #[arg(long)]
    exit_code: bool,
}

pub(super) fn execute(arguments: &Arguments, out: &Output) -> anyhow::Result<ExitCode> {
    let named = arguments.file.iter().chain([&arguments.old, &arguments.new]);
    ensure!(
        named.into_iter().all(|path| path.as_os_str() != "-"),
        "-: standard input is there once, and both OLD and NEW are read: name a file"
    );
    let read = |path: &PathBuf| {
        let files: Vec<PathBuf> = arguments.file.iter().chain([path]).cloned().collect();
        World::read(&files, &arguments.host)
    };
    let (old, new) = (read(&arguments.old)?, read(&arguments.new)?);
    ensure!(
        old.is_cluster() == new.is_cluster(),
        "one is a configuration and the other manifests: expected two of a kind"
    );
    let (old, new) = (old.ask(), new.ask());
    let mut ports = arguments.port.clone();
    ports.sort_unstable();
    ports.dedup();
    let mut changes = 0;
    for (sign, here, there) in [('-', &old, &new), ('+', &new, &old)] {
        let missing = here.names.iter().filter(|name| !there.names.contains(name));
        for name in missing {
            changes += 1;
            out.line(format_args!("{sign} {name}"))?;
        }
    }
    for port in ports {
        changes += compare(&old, &new, port, out)?;
    }
    let is_changed = changes > 0;
    if !is_changed {
        out.line("nothing changes")?;
    }
    Ok(if is_changed && arguments.exit_code { CHANGED.into() } else { ExitCode::SUCCESS })
}

/// Prints every pair of whom both know that changes.
fn compare(old: &Asked<'_>, new: &Asked<'_>, port: Port, out: &Output) -> anyhow::Result<usize> {
    let numbers: BTreeMap<&String, usize> = new.names.iter().zip(0..).collect();
    let both: Vec<(usize, usize)> = old
        .names
        .iter()
        .enumerate()
        .filter_map(|(number, name)| Some((number, *numbers.get(name)?)))
        .collect();
    let mut changes = 0;
    for (from, to) in both.iter().flat_map(|from| both.iter().map(move |to| (*from, *to))) {
        let allows = |asked: &Asked<'_>, from, to| {
            asked.verdict(from, to, port).is_some_and(Verdict::is_allowed)
        };
        let (before, after) = (allows(old, from.0, to.0), allows(new, from.1, to.1));
        if before == after {
            continue;
        }
        changes += 1;
        let name = |number: usize| old.names.get(number).map_or("", String::as_str);
        let sign = if after { '+' } else { '-' };
        let reasons = new.explained(from.1, to.1, port);
        out.line(format_args!("{sign} {} to {} at {port}\n{reasons}", name(from.0), name(to.0)))?;
    }
    Ok(changes)
}
