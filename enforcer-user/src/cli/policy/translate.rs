//! `enforcer policy translate`

use std::path::PathBuf;
use std::process::ExitCode;

use super::super::output::Output;
use crate::identity::Namespace;
use crate::kubernetes::Enforced;

/// Print the rules that Kubernetes manifests are enforced by, as Cedar
///
/// They decide between pods. What the manifests open for peers without an identity is no rule of these, but of the
/// networks' tables.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  enforcer policy translate -f manifests/ --namespace /cluster")]
pub(in crate::cli) struct Arguments {
    /// Manifests: files, or folders with all that end in .yaml, .yml or .json; - is standard input
    #[arg(short, long = "file", value_name = "FILE_OR_DIR", required = true, num_args = 1..)]
    file: Vec<PathBuf>,
    /// The namespace below which the manifests' namespaces are, as `kubernetes_namespace` in [policy]
    #[arg(long, value_name = "PATH", default_value = "/")]
    namespace: Namespace,
}

pub(super) fn execute(arguments: &Arguments, out: &Output) -> anyhow::Result<ExitCode> {
    let enforced = Enforced::read(&arguments.file, &arguments.namespace, Vec::new())?;
    for note in enforced.notes() {
        eprintln!("note: {note}");
    }
    out.text(enforced.cedar().text)?;
    Ok(ExitCode::SUCCESS)
}
