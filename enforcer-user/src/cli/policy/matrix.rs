//! `enforcer policy matrix`

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::ValueEnum;
use serde::Serialize;

use super::super::output::Output;
use super::world::{Asked, Verdict, World};
use super::{grid, svg};
use crate::kubernetes::{Host, Port};

/// Print who reaches whom, by Kubernetes manifests or configurations of enforcers
///
/// Of manifests reads Namespace, Pod, Node, NetworkPolicy and ClusterNetworkPolicy; of configurations the workloads and
/// the policy of each. What a policy says that cannot be honoured is an error. Needs no enforcer and no cluster. What
/// bounds the answer is said on standard error.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  enforcer policy matrix -f manifests/ --port 80/TCP\n  \
                  kubectl get ns,pod,netpol -A -o yaml | enforcer policy matrix -f - --port 53/UDP --host dns=192.0.2.53\n  \
                  enforcer policy matrix -f pods.yaml policies/ --port 80/TCP --port 443/TCP --format svg > matrix.svg\n  \
                  enforcer policy matrix -f node-a.toml node-b.toml --port 8080/TCP")]
pub(in crate::cli) struct Arguments {
    /// Manifests: files, or folders with all that end in .yaml, .yml or .json; - is standard input. Or configurations,
    /// whose names end in .toml
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
    /// A row for each source, of what is said for each destination.
    pub(super) rows: Vec<Vec<Verdict>>,
}

/// A cell for programs.
#[derive(Serialize)]
struct Cell {
    allowed: bool,
    ingress: bool,
    egress: bool,
}

pub(super) fn execute(arguments: &Arguments, out: &Output) -> anyhow::Result<ExitCode> {
    let world = World::read(&arguments.file, &arguments.host)?;
    let asked = world.ask();
    let mut ports = arguments.port.clone();
    ports.sort_unstable();
    ports.dedup();
    let matrices: Vec<Matrix> = ports.iter().map(|port| Matrix::of(&asked, *port)).collect();
    match arguments.format {
        Format::Json => out.json(&report(&asked, &matrices))?,
        Format::Table => out.text(grid::text(&asked.names, &matrices))?,
        Format::Svg => out.text(svg::picture(&asked, &matrices))?,
    }
    Ok(ExitCode::SUCCESS)
}

impl Matrix {
    fn of(asked: &Asked<'_>, port: Port) -> Self {
        let numbers = 0..asked.names.len();
        let row = |from| numbers.clone().filter_map(|to| asked.verdict(from, to, port)).collect();
        Self { port, rows: numbers.clone().map(row).collect() }
    }
}

/// Port, from, to.
type Report<'a> = BTreeMap<String, BTreeMap<&'a str, BTreeMap<&'a str, Cell>>>;

fn report<'a>(asked: &'a Asked<'_>, matrices: &[Matrix]) -> Report<'a> {
    matrices.iter().map(|matrix| (matrix.port.to_string(), cells(&asked.names, matrix))).collect()
}

fn cells<'a>(names: &'a [String], matrix: &Matrix) -> BTreeMap<&'a str, BTreeMap<&'a str, Cell>> {
    let cell = |verdict: &Verdict| Cell {
        allowed: verdict.is_allowed(),
        ingress: verdict.ingress,
        egress: verdict.egress,
    };
    let row =
        |row: &Vec<Verdict>| names.iter().map(String::as_str).zip(row.iter().map(cell)).collect();
    names.iter().map(String::as_str).zip(matrix.rows.iter().map(row)).collect()
}
