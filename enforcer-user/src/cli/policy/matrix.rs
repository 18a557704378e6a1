//! `enforcer policy matrix`

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use clap::ValueEnum;
use serde::Serialize;

use super::super::output::Output;
use super::{grid, svg};
use crate::kubernetes::{Cluster, Decision, Host, Judge, MAX_PEERS, Port};

/// Print who reaches whom, by Kubernetes manifests
///
/// Reads Namespace, Pod, Node, NetworkPolicy and ClusterNetworkPolicy. What a policy says that cannot be honoured is an
/// error. Needs no enforcer and no cluster. What bounds the answer is said on standard error.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  enforcer policy matrix -f manifests/ --port 80/TCP\n  \
                  kubectl get ns,pod,netpol -A -o yaml | enforcer policy matrix -f - --port 53/UDP --host dns=192.0.2.53\n  \
                  enforcer policy matrix -f pods.yaml policies/ --port 80/TCP --port 443/TCP --format svg > matrix.svg")]
pub(in crate::cli) struct Arguments {
    /// Manifests: files, or folders with all that end in .yaml, .yml or .json; - is standard input
    #[arg(short, long = "file", value_name = "FILE_OR_DIR", required = true, num_args = 1..)]
    file: Vec<PathBuf>,
    /// The port that connections go to, as 80/TCP; may be repeated
    #[arg(long, value_name = "NUMBER/PROTOCOL", required = true, num_args = 1..)]
    port: Vec<Port>,
    /// A peer outside the cluster; may be repeated
    #[arg(long, value_name = "NAME=ADDRESS")]
    host: Vec<Host>,
    /// How it is shown
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    /// For programs: port, from, to, and what each end says
    Json,
    /// A grid in text for each port
    Table,
    /// A picture, every cell with its reason
    Svg,
}

/// Who reaches whom at one port.
pub(super) struct Matrix {
    /// The port.
    pub(super) port: Port,
    /// What the rows and columns are called.
    pub(super) names: Vec<String>,
    /// A row for each source.
    pub(super) rows: Vec<Vec<Decision>>,
}

/// A cell for programs.
#[derive(Serialize)]
struct Cell {
    allowed: bool,
    ingress: bool,
    egress: bool,
}

pub(super) fn execute(arguments: &Arguments, out: &Output) -> anyhow::Result<ExitCode> {
    let mut cluster = Cluster::read(&arguments.file)?;
    for host in &arguments.host {
        cluster.add_host(host.clone()).map_err(anyhow::Error::msg).context("--host")?;
    }
    for note in cluster.notes() {
        eprintln!("note: {note}");
    }
    let judge = Judge::new(&cluster);
    let peers = judge.peers().count();
    ensure!(peers > 0, "no pod in the manifests and no --host: nobody could reach anybody");
    ensure!(peers <= MAX_PEERS, "{peers} pods and hosts: expected at most {MAX_PEERS}");
    let mut ports = arguments.port.clone();
    ports.sort_unstable();
    ports.dedup();
    let matrices: Vec<Matrix> = ports.iter().map(|port| matrix(&judge, *port)).collect();
    match arguments.format {
        Format::Json => out.json(&report(&matrices))?,
        Format::Table => out.text(grid::text(&matrices))?,
        Format::Svg => out.text(svg::picture(&matrices))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn matrix(judge: &Judge<'_>, port: Port) -> Matrix {
    let names: Vec<String> = judge.peers().map(|peer| peer.to_string()).collect();
    let row = |from| (0..names.len()).filter_map(|to| judge.decide(from, to, port)).collect();
    Matrix { port, rows: (0..names.len()).map(row).collect(), names }
}

/// Port, from, to.
type Report<'a> = BTreeMap<String, BTreeMap<&'a str, BTreeMap<&'a str, Cell>>>;

fn report(matrices: &[Matrix]) -> Report<'_> {
    matrices.iter().map(|matrix| (matrix.port.to_string(), cells(matrix))).collect()
}

fn cells(matrix: &Matrix) -> BTreeMap<&str, BTreeMap<&str, Cell>> {
    let cell = |decision: &Decision| Cell {
        allowed: decision.is_allowed(),
        ingress: decision.ingress.is_allowed(),
        egress: decision.egress.is_allowed(),
    };
    let row = |row: &Vec<Decision>| {
        matrix.names.iter().map(String::as_str).zip(row.iter().map(cell)).collect()
    };
    matrix.names.iter().map(String::as_str).zip(matrix.rows.iter().map(row)).collect()
}
