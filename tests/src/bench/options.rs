//! Arguments of the benchmark.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};

/// Measures the enforcer beside the native stack and an nftables conntrack rule.
#[derive(Debug, Parser)]
#[command(name = "bench")]
pub struct Options {
    /// Write budgets and raw rounds to this file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Rounds over all arrangements
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Two short rounds and few samples: to see that it works, not to quote
    #[arg(long)]
    quick: bool,
    /// Measure one thing only
    #[arg(long, value_name = "WHAT")]
    pub only: Option<Only>,
    /// Fail if a budget is missed
    #[arg(long)]
    pub strict: bool,
    /// Measure nothing: draw what `--only side-by-side --json FILE` wrote
    #[arg(long, num_args = 2, value_names = ["FILE", "SVG"])]
    pub chart: Option<Vec<PathBuf>>,
    /// Be the program behind a queue, which accepts everything, and make this file when ready
    #[arg(long, value_name = "FILE", hide = true)]
    pub accept_queue: Option<PathBuf>,
}

/// What can be measured by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Only {
    /// What a first contact adds to a connect.
    Cold,
    /// What known identities keep of their connection rate under a flood.
    Flood,
    /// What a packet and a flow cost as the flow table fills.
    Flows,
    /// What decisions, verifications and policy changes cost the daemon, without a kernel.
    Engine,
    /// What a flood of SYNs is dropped at with the guard and without.
    Guard,
    /// What the programs cost, a packet and a connection.
    Programs,
    /// Rate and latency of warm connections.
    Rate,
    /// The enforcer beside NFQUEUE, proxies with mutual TLS, and a tunnel.
    SideBySide,
}

impl Options {
    /// Whether it is only to be seen that it works.
    #[must_use]
    pub fn is_quick(&self) -> bool {
        self.quick
    }

    /// Rounds to go.
    #[must_use]
    pub fn rounds(&self) -> u32 {
        if self.quick { self.rounds.min(2) } else { self.rounds }
    }

    /// Connections of one measurement of the connection rate.
    #[must_use]
    pub fn connections(&self) -> u64 {
        if self.quick { 1_500 } else { 8_000 }
    }

    /// How long one measurement of the throughput takes.
    #[must_use]
    pub fn stream(&self) -> Duration {
        if self.quick { Duration::from_millis(500) } else { Duration::from_secs(2) }
    }

    /// First contacts to measure.
    #[must_use]
    pub fn first_contacts(&self) -> u32 {
        if self.quick { 2 } else { 31 }
    }

    /// Batches of test runs of a program.
    #[must_use]
    pub fn batches(&self) -> u32 {
        if self.quick { 5 } else { 25 }
    }
}
