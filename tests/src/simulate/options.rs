//! Arguments of the simulation.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Parser;
use enforcer_common::abi::WORKLOAD_ID_MAX;
use serde::Serialize;

/// Drives the real engine of one node as if it stood in a large cluster, in virtual time.
#[derive(Debug, Clone, Parser, Serialize)]
#[command(name = "simulate")]
pub struct Options {
    /// Nodes of the cluster
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(2..=60_000))]
    pub nodes: u32,
    /// Workloads of each node
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=4000))]
    pub workloads: u32,
    /// Workloads that are replaced, percent a minute
    #[arg(long, value_name = "PERCENT", default_value_t = 10.0)]
    pub churn: f64,
    /// Virtual minutes; credentials last an hour and are replaced after half of it
    #[arg(long, value_name = "N", default_value_t = 75, value_parser = clap::value_parser!(u32).range(1..=1440))]
    pub minutes: u32,
    /// Where everything random begins
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Workloads that each workload calls
    #[arg(long, value_name = "K", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub calls: u32,
    /// Connections that each workload opens a second, over all that it calls
    #[arg(long, value_name = "R", default_value_t = 5.0)]
    pub rate: f64,
    /// Rules of the policy: ten for each service, one for each service that it calls
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(20..=60_000))]
    pub rules: u32,
    /// Exponent of Zipf's law, by which services are chosen to be called
    #[arg(long, value_name = "S", default_value_t = 1.0)]
    pub popularity: f64,
    /// Days that a node's certificate counts; it is renewed after half of them
    #[arg(long, value_name = "DAYS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=365))]
    pub certificate_days: u32,
    /// Room for peers, as `[limits] peers` of the configuration; its default if it is not said
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(64..=1_048_576))]
    pub peers: Option<u32>,
    /// Be the node that is called the most, not the one in the middle
    #[arg(long)]
    pub busiest: bool,
    /// Then run again with more of everything in turn, doubled each time until a limit is met
    #[arg(long)]
    pub limits: bool,
    /// Write all of it to this file too
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub json: Option<PathBuf>,
}

impl Options {
    /// Refuses what cannot be run in bounded memory.
    pub fn check(&self) -> Result<()> {
        let places = u64::from(self.nodes) * u64::from(self.workloads);
        let calls = places * u64::from(self.calls);
        ensure!(places <= 20_000_000, "{places} workloads: at most 20,000,000 are simulated");
        ensure!(calls <= 2_000_000_000, "{calls} calls: at most 2,000,000,000 are drawn");
        ensure!(self.workloads <= u32::from(WORKLOAD_ID_MAX), "more workloads than ids");
        for (name, value, most) in [
            ("churn", self.churn, 100.0),
            ("rate", self.rate, 100_000.0),
            ("popularity", self.popularity, 10.0),
        ] {
            ensure!((0.0..=most).contains(&value), "--{name} {value}: expected 0 to {most}");
        }
        Ok(())
    }
}
