//! `enforcer check-config`

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};

use super::arguments::unix_now;
use super::output::Output;
use crate::config::Config;
use crate::kubernetes::Enforced;
use crate::materials;
use crate::policy::Policy;

/// Check a configuration and every file it names, changing nothing
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  enforcer check-config --config /etc/enforcer/enforcer.toml")]
pub(super) struct Arguments {
    /// The configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Only the configuration itself: for a machine that has neither the keys nor the interfaces
    #[arg(long)]
    file_only: bool,
}

pub(super) fn execute(arguments: &Arguments, out: &Output) -> anyhow::Result<ExitCode> {
    let config = Config::load(&arguments.config)?;
    if arguments.file_only {
        out.line(format_args!("{}: good ({})", config.file.display(), summary(&config)))?;
        return Ok(ExitCode::SUCCESS);
    }
    let config = check_identity(config)?;
    let policy = materials::load_policy(&config).context("policy")?;
    check_network_tables(&config, &policy)?;
    check_interfaces(&config)?;
    warn(&config, &policy);
    let rules = policy.set().rules().len();
    let file = config.file.display();
    out.line(format_args!("{file}: good ({}, {rules} identity rules)", summary(&config)))?;
    Ok(ExitCode::SUCCESS)
}

fn summary(config: &Config) -> String {
    format!(
        "instance {:?}, mode {}, {} workloads, {} network rules",
        config.instance,
        config.identity.trust.mode(),
        config.workloads.len(),
        config.network_rules.len()
    )
}

/// A credential is made for each workload, so that labels that do not fit and namespaces that the node
/// may not sign for are told now and not when the daemon starts.
fn check_identity(config: Config) -> anyhow::Result<Config> {
    let now = unix_now();
    let (_, issuer) = materials::load_trust(&config, now)?;
    let config = config.on_node(issuer.node_labels());
    let limits = materials::credential_limits(&config);
    for workload in &config.workloads {
        issuer.issue(&workload.identity, now, limits)?;
    }
    Ok(config)
}

/// What is no error, and probably not meant.
fn warn(config: &Config, policy: &Policy) {
    let labels = config.workloads.iter().flat_map(|workload| workload.identity.labels().keys());
    let carried = labels.chain(config.node_labels.keys()).map(String::as_str).collect();
    let labels = policy.set().label_warnings(&carried);
    for warning in labels.into_iter().chain(policy.set().bounds_warnings()) {
        eprintln!("warning: {warning}");
    }
    for note in policy.kubernetes().into_iter().flat_map(Enforced::notes) {
        eprintln!("note: {note}");
    }
}

fn check_network_tables(config: &Config, policy: &Policy) -> anyhow::Result<()> {
    for workload in &config.workloads {
        policy.network_table(&workload.identity)?;
    }
    Ok(())
}

fn check_interfaces(config: &Config) -> anyhow::Result<()> {
    for workload in &config.workloads {
        let interface = workload.interface.as_str();
        if nix::net::if_::if_nametoindex(interface).is_err() {
            bail!(
                "workload {:?}: interface {interface} not found in this network namespace; `ip -br link` \
                 lists those that are, --file-only leaves this out",
                workload.identity.name()
            );
        }
    }
    Ok(())
}
