//! `enforcer ca issue-node`

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use super::DAY_SECONDS;
use crate::cli::arguments::{each_once, key_value, unix_now};
use crate::cli::output::Output;
use crate::identity::files::{
    load_authority, load_node_certificate, load_node_request, save_node_certificate,
};
use crate::identity::{Namespace, NodeGrant};

/// Sign a node's request: its certificate says for which namespaces the node may speak
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  enforcer ca issue-node --dir ca --request node.request --namespace /acme/prod --out node.cert"
)]
pub(in crate::cli) struct Arguments {
    /// The authority's folder
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// What `enforcer ca request` made on the node
    #[arg(long, value_name = "FILE")]
    request: PathBuf,
    /// A namespace that the node may sign for, with all below it; may be repeated, / is every one
    #[arg(long, value_name = "PATH", required = true)]
    namespace: Vec<Namespace>,
    /// A label of the node that policies may read, such as zone=north; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    label: Vec<(String, String)>,
    /// How long the certificate counts, at most as long as the authority
    #[arg(long, value_name = "DAYS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3650))]
    days: u64,
    /// Where the certificate goes
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

pub(super) fn execute(arguments: &Arguments, out: &Output) -> anyhow::Result<ExitCode> {
    let authority = load_authority(&arguments.dir)?;
    let request = load_node_request(&arguments.request)?;
    let lifetime_seconds = arguments.days * DAY_SECONDS;
    let labels = each_once("--label", &arguments.label)?;
    let granted = NodeGrant { namespaces: &arguments.namespace, labels: &labels };
    let certificate =
        authority.issue_node_granted(&request, &granted, unix_now(), lifetime_seconds)?;
    note_lost(arguments, &labels);
    save_node_certificate(&arguments.out, &certificate)?;
    let namespaces: Vec<&str> = certificate.namespaces().iter().map(Namespace::as_str).collect();
    let labels: Vec<String> =
        certificate.labels().iter().map(|(key, value)| format!(", {key}={value}")).collect();
    out.line(format_args!(
        "{}: node {:?} may sign for {} in {}{}",
        arguments.out.display(),
        certificate.node(),
        namespaces.join(", "),
        certificate.trust_domain(),
        labels.concat()
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// A renewed certificate has the labels that are given with it, and no others: who forgets one is told.
fn note_lost(arguments: &Arguments, labels: &BTreeMap<String, String>) {
    let Ok(before) = load_node_certificate(&arguments.out) else { return };
    for (key, value) in before.labels() {
        if !labels.contains_key(key) {
            eprintln!(
                "note: {}: the certificate that stood there had the label {key}={value}, this one has not: give \
                 --label {key}={value} to keep it",
                arguments.out.display()
            );
        }
    }
}
