//! `enforcer policy test`

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, anyhow, ensure};
use serde::Deserialize;

use super::super::output::Output;
use super::world::{Asked, Verdict, World};
use crate::kubernetes::{Host, Port};

/// Hold policies against what is expected of them
///
/// The file says who must reach whom and who must not. `*` at the end of a name means all that begin so, but
/// nobody to itself. Conditions on the time are asked as of now. Exits with 3 if anything is otherwise, and says why.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  enforcer policy test expectations.yaml\n\nThe file:\n  \
                  files: [manifests/]            # or -f; from this file's folder\n  \
                  hosts: {dns: 192.0.2.53}\n  \
                  allow:\n  - {from: shop/till, to: shop/web, port: 80/TCP}\n  \
                  - {from: [shop/*], to: dns, port: [53/UDP, 53/TCP]}\n  \
                  deny:\n  - {from: \"*\", to: shop/db, port: 5432/TCP}")]
pub(in crate::cli) struct Arguments {
    /// What is expected, YAML
    #[arg(value_name = "FILE")]
    expectations: PathBuf,
    /// Manifests or configurations, as `policy matrix` takes them, beside those that the file names
    #[arg(short, long = "file", value_name = "FILE_OR_DIR", num_args = 1..)]
    file: Vec<PathBuf>,
}

/// The exit status where anything is otherwise.
const OTHERWISE: u8 = 3;

/// What a name ends in that means all which begin so.
const ANY: char = '*';

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expectations {
    #[serde(default)]
    files: Vec<PathBuf>,
    #[serde(default)]
    hosts: BTreeMap<String, IpAddr>,
    #[serde(default)]
    allow: Vec<Pairs>,
    #[serde(default)]
    deny: Vec<Pairs>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pairs {
    from: OneOrMore,
    to: OneOrMore,
    port: OneOrMore,
}

/// A name or a port, or a list of them.
#[derive(Debug, Deserialize)]
#[serde(from = "Written")]
struct OneOrMore(Vec<String>);

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a text or a number, or a list of them")]
enum Written {
    One(Word),
    More(Vec<Word>),
}

/// YAML takes a port for a number.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Word {
    Text(String),
    Number(i64),
}

impl From<Written> for OneOrMore {
    fn from(written: Written) -> Self {
        let words = match written {
            Written::One(word) => vec![word],
            Written::More(words) => words,
        };
        let text = |word| match word {
            Word::Text(text) => text,
            Word::Number(number) => number.to_string(),
        };
        Self(words.into_iter().map(text).collect())
    }
}

pub(super) fn execute(arguments: &Arguments, out: &Output) -> anyhow::Result<ExitCode> {
    let file = &arguments.expectations;
    let expected = read(file)?;
    let folder = file.parent().unwrap_or(Path::new(""));
    let mut files = arguments.file.clone();
    files.extend(expected.files.iter().map(|named| folder.join(named)));
    ensure!(!files.is_empty(), "{}: no files: expected some there, or by -f", file.display());
    let hosts: Result<Vec<Host>, String> =
        expected.hosts.iter().map(|(name, address)| format!("{name}={address}").parse()).collect();
    let hosts = hosts.map_err(|fault| anyhow!("{}: hosts: {fault}", file.display()))?;
    let world = World::read(&files, &hosts)?;
    let asked = world.ask();
    let mut tally = Tally::default();
    for (allowed, lists) in [(true, &expected.allow), (false, &expected.deny)] {
        for (number, pairs) in (1..).zip(lists) {
            let list = if allowed { "allow" } else { "deny" };
            let place = || format!("{}: {list}, entry {number}", file.display());
            tally.hold(&asked, pairs, allowed, out).with_context(place)?;
        }
    }
    let Tally { held, failed } = tally;
    ensure!(held + failed > 0, "{}: nothing is expected", file.display());
    out.line(format_args!("{held} as expected, {failed} not"))?;
    Ok(if failed == 0 { ExitCode::SUCCESS } else { OTHERWISE.into() })
}

fn read(file: &Path) -> anyhow::Result<Expectations> {
    let text =
        fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    yaml_serde::from_str(&text).with_context(|| file.display().to_string())
}

/// Connections that were held against an expectation.
#[derive(Default)]
struct Tally {
    held: usize,
    failed: usize,
}

impl Tally {
    fn hold(
        &mut self,
        asked: &Asked<'_>,
        pairs: &Pairs,
        allowed: bool,
        out: &Output,
    ) -> anyhow::Result<()> {
        let (from, to) = (named(asked, &pairs.from)?, named(asked, &pairs.to)?);
        let ports: Result<BTreeSet<Port>, String> =
            pairs.port.0.iter().map(|port| port.parse()).collect();
        let before = self.held + self.failed;
        for port in ports.map_err(anyhow::Error::msg)? {
            for (from, to) in from.iter().flat_map(|from| to.iter().map(move |to| (from, to))) {
                // Nobody means itself by a pattern.
                if from.0 != to.0 || !(*from.1 || *to.1) {
                    self.count(asked, (*from.0, *to.0, port), allowed, out)?;
                }
            }
        }
        ensure!(
            self.held + self.failed > before,
            "nothing is expected: no port, or nobody but who is meant itself"
        );
        Ok(())
    }

    fn count(
        &mut self,
        asked: &Asked<'_>,
        (from, to, port): (usize, usize, Port),
        allowed: bool,
        out: &Output,
    ) -> anyhow::Result<()> {
        let is = asked.verdict(from, to, port).is_some_and(Verdict::is_allowed);
        if is == allowed {
            self.held += 1;
            return Ok(());
        }
        self.failed += 1;
        let name = |number: usize| asked.names.get(number).map_or("", String::as_str);
        let (said, wanted) =
            if is { ("reaches", "be refused") } else { ("does not reach", "reach") };
        out.line(format_args!(
            "{} {said} {} at {port}, expected to {wanted}\n{}",
            name(from),
            name(to),
            asked.explained(from, to, port)
        ))
    }
}

/// Whom names mean, and whether only by a pattern: one that ends in `*` means all that begin so. A name that is nobody's
/// is a mistake.
fn named(asked: &Asked<'_>, names: &OneOrMore) -> anyhow::Result<BTreeMap<usize, bool>> {
    let mut meant = BTreeMap::new();
    for name in &names.0 {
        let beginning = name.strip_suffix(ANY);
        let means = |one: &str| beginning.map_or(one == name, |all| one.starts_with(all));
        let numbered = asked.names.iter().enumerate().filter(|(_, one)| means(one));
        let mut is_somebody = false;
        for (number, _) in numbered {
            is_somebody = true;
            *meant.entry(number).or_insert(true) &= beginning.is_some();
        }
        ensure!(is_somebody, "{name:?} is nobody in these files{}", nearest(asked, name));
    }
    Ok(meant)
}

fn nearest(asked: &Asked<'_>, name: &str) -> String {
    let is_odd = name.strip_suffix(ANY).unwrap_or(name).contains(ANY);
    if is_odd {
        return format!("; {ANY} counts only at the end of a name");
    }
    let near = crate::policy::nearest(name, asked.names.iter().map(String::as_str));
    near.map_or_else(String::new, |near| format!("; did you mean {near:?}?"))
}
