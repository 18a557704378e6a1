//! `enforcer policy prove`

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde::Serialize;

use super::super::arguments::{Form, seconds, unix_now};
use super::super::output::Output;
use crate::config::{Config, Mode};
use crate::materials;
use crate::policy::prove::{Answer, Question, Sides, Solver, Witness, prove};
use crate::policy::{BothEnds, Policy, Sources, Whom, datetime};

/// The exit status where somebody reaches somebody.
const REACHES: u8 = 3;
/// The exit status where neither is known.
const UNDECIDED: u8 = 4;

/// Prove that nobody of one kind ever reaches anybody of another, or show who does
///
/// Answers for every workload that could exist, whatever its name and labels, on every port and at every hour, by what
/// the policies of both ends say. It takes an SMT solver, cvc5 1.3 or later: `cvc5`, or what the variable CVC5 names.
/// Without one, or where it gives up, the answer is 'undecided'. Overrides, and network rules for peers without an
/// identity, are not asked.
///
/// Exits with 0 if it is proved, 3 if somebody reaches somebody, 4 if neither is known.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  enforcer policy prove -f enforcer.toml --from /dev --to /prod\n  \
                  enforcer policy prove -f node-a.toml node-b.toml --from '*' --to /prod/db --port 5432 \\\n      \
                  --when '!(principal.labels has tier) || principal.labels.tier != \"api\"'"
)]
pub(in crate::cli) struct Arguments {
    /// Configurations of enforcers (.toml), each asked at both ends; or files of policies and folders of them, as one
    #[arg(short, long = "file", value_name = "FILE_OR_DIR", required = true, num_args = 1..)]
    file: Vec<PathBuf>,
    #[command(flatten)]
    form: Form,
    /// Who calls: a SPIFFE ID, a namespace with all below, or '*'
    #[arg(long, value_name = "ID|NAMESPACE|*")]
    from: Whom,
    /// Who is called, likewise
    #[arg(long, value_name = "ID|NAMESPACE|*")]
    to: Whom,
    /// The callee's port [default: any]
    #[arg(long, value_name = "N")]
    port: Option<u16>,
    /// What else holds, in Cedar: of `principal`, `resource` and `context`
    #[arg(long, value_name = "CONDITION")]
    when: Option<String>,
    /// How long the solver may take for each pair of policies: 90s, 30m
    #[arg(long, value_name = "TIME", value_parser = seconds, default_value = "60s")]
    timeout: u64,
}

pub(super) fn execute(arguments: &Arguments, out: &Output) -> anyhow::Result<ExitCode> {
    let policies = policies(&arguments.file)?;
    let question = Question {
        from: arguments.from.clone(),
        to: arguments.to.clone(),
        port: arguments.port,
        when: arguments.when.clone(),
    };
    let solver = Solver::new(Duration::from_secs(arguments.timeout));
    let report = Report::new(&policies, &question, &solver)?;
    if arguments.form.json {
        out.json(&report)?;
    } else {
        out.text(report.text(&question))?;
    }
    Ok(report.exit_code())
}

/// A policy, and what it was read from.
struct Named {
    name: String,
    policy: Policy,
}

fn policies(files: &[PathBuf]) -> anyhow::Result<Vec<Named>> {
    let is_configuration = |file: &&PathBuf| file.extension().is_some_and(|end| end == "toml");
    let count = files.iter().filter(is_configuration).count();
    if count == 0 {
        let sources = Sources { files: files.to_vec(), ..Sources::default() };
        let policy = Policy::load(&sources, Vec::new()).context("policy")?;
        return Ok(vec![Named { name: "these policies".to_owned(), policy }]);
    }
    ensure!(
        count == files.len(),
        "configurations (.toml) and files of policies do not go together: expected one or the other"
    );
    files.iter().map(|file| of_configuration(file)).collect()
}

fn of_configuration(file: &Path) -> anyhow::Result<Named> {
    let config = Config::load(file)?;
    let observed = config.workloads.iter().filter(|one| one.mode != Mode::Enforce).count();
    if observed > 0 {
        eprintln!(
            "note: {}: {observed} workloads are only observed: what is refused at their end passes all the same",
            file.display()
        );
    }
    let policy = materials::load_policy(&config).context("policy")?;
    Ok(Named { name: file.display().to_string(), policy })
}

/// What came of it.
#[derive(Debug, Serialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
enum Report {
    Never,
    Reaches {
        /// Whose policy the caller's end asks, where there are several.
        #[serde(skip_serializing_if = "Option::is_none")]
        source: Option<String>,
        /// Whose policy the callee's end asks.
        #[serde(skip_serializing_if = "Option::is_none")]
        destination: Option<String>,
        from: Box<Peer>,
        to: Box<Peer>,
        port: u16,
        time: String,
        why: Box<BothEnds>,
    },
    Undecided {
        why: String,
    },
}

/// A workload that could be.
#[derive(Debug, Serialize)]
struct Peer {
    spiffe_id: String,
    labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    attributes: BTreeMap<String, String>,
}

impl Report {
    /// Asks every policy at the caller's end with every one at the callee's. A connection that was found ends it.
    fn new(policies: &[Named], question: &Question, solver: &Solver) -> anyhow::Result<Self> {
        let now = i64::try_from(unix_now()).unwrap_or(i64::MAX);
        let mut undecided = None;
        for source in policies {
            for destination in policies {
                let sides = Sides { connect: &source.policy, accept: &destination.policy };
                let said = |why: String| {
                    if policies.len() == 1 {
                        why
                    } else {
                        format!("{} to {}: {why}", source.name, destination.name)
                    }
                };
                match prove(sides, question, solver, now).map_err(anyhow::Error::msg)? {
                    Answer::Never => {}
                    Answer::Undecided(why) => undecided = undecided.or(Some(said(why))),
                    Answer::Reaches(witness) => {
                        let name = |of: &Named| (policies.len() > 1).then(|| of.name.clone());
                        return Ok(Self::reaches(*witness, name(source), name(destination)));
                    }
                }
            }
        }
        Ok(undecided.map_or(Self::Never, |why| Self::Undecided { why }))
    }

    fn reaches(witness: Witness, source: Option<String>, destination: Option<String>) -> Self {
        let Witness { caller, callee, port, unix_seconds, why } = witness;
        let peer = |of: crate::identity::Identity| {
            Box::new(Peer {
                spiffe_id: of.spiffe_id(),
                labels: of.labels().clone(),
                attributes: of.description(),
            })
        };
        let time = datetime(unix_seconds).unwrap_or_default();
        let (from, to, why) = (peer(caller), peer(callee), Box::new(why));
        Self::Reaches { source, destination, from, to, port, time, why }
    }

    fn text(&self, question: &Question) -> String {
        let on = question.port.map_or_else(|| "any port".to_owned(), |port| format!("port {port}"));
        let when = question.when.as_ref().map_or_else(String::new, |when| format!(" where {when}"));
        match self {
            Self::Never => format!(
                "never: nobody in {} reaches anybody in {} on {on}{when}\n",
                question.from, question.to
            ),
            Self::Undecided { why } => format!("undecided: {why}\n"),
            Self::Reaches { source, destination, from, to, port, time, why } => {
                let at = |name: &Option<String>| {
                    name.as_ref().map_or_else(String::new, |name| format!(" ({name})"))
                };
                format!(
                    "reaches: {from} reaches {to} on port {port}, for example at {time}\n    source{}: {}\n    \
                     destination{}: {}\n",
                    at(source),
                    why.connect.line(),
                    at(destination),
                    why.accept.line()
                )
            }
        }
    }

    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Never => ExitCode::SUCCESS,
            Self::Reaches { .. } => REACHES.into(),
            Self::Undecided { .. } => UNDECIDED.into(),
        }
    }
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.spiffe_id)?;
        let one = |(key, value): (&String, &String)| format!("{key}={value:?}");
        let texts = |texts: &BTreeMap<String, String>| {
            texts.iter().map(one).collect::<Vec<String>>().join(", ")
        };
        if !self.labels.is_empty() {
            write!(f, " ({})", texts(&self.labels))?;
        }
        if !self.attributes.is_empty() {
            write!(f, " [{}]", texts(&self.attributes))?;
        }
        Ok(())
    }
}
