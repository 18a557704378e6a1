//! `enforcer status`

use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use tokio::time::Instant;

use super::arguments::{Daemon, Form, block_on, unix_now};
use super::output::Output;
use super::table::{Table, span, until};
use crate::control::protocol::StatusReport;
use crate::control::{Client, ClientError};

/// How often `--wait-ready` asks.
const POLL: Duration = Duration::from_millis(100);

/// Say whether the enforcer does its work, and how much of it there is
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  enforcer status\n  enforcer status --wait-ready 30 && start-my-service"
)]
pub(super) struct Arguments {
    #[command(flatten)]
    daemon: Daemon,
    #[command(flatten)]
    form: Form,
    /// Wait until every workload whose interface is there is enforced; fail with the reasons when SECONDS are over
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(..=86_400))]
    wait_ready: Option<u64>,
}

pub(super) fn execute(arguments: &Arguments, out: &Output) -> anyhow::Result<ExitCode> {
    let client = arguments.daemon.client()?;
    let status = block_on(async {
        match arguments.wait_ready {
            Some(seconds) => ready(&client, Duration::from_secs(seconds)).await,
            None => Ok(client.status().await?),
        }
    })?;
    if arguments.form.json {
        out.json(&status)?;
    } else {
        out.text(table(&status, unix_now()))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn ready(client: &Client, limit: Duration) -> anyhow::Result<StatusReport> {
    let deadline = Instant::now() + limit;
    loop {
        let last = client.status().await;
        match &last {
            Ok(status) if status.ready => return Ok(last?),
            Ok(_)
            | Err(ClientError::NotRunning { .. } | ClientError::Refused { status: 503, .. }) => {}
            Err(_) => return Ok(last?),
        }
        if Instant::now() >= deadline {
            let seconds = limit.as_secs();
            let reasons = last?.reasons_not_ready.join("; ");
            bail!("not ready after {seconds} s: {reasons}");
        }
        tokio::time::sleep(POLL).await;
    }
}

fn table(status: &StatusReport, now: u64) -> String {
    let mut table = Table::pairs();
    let mut pair = |name: &str, value: String| table.row([name.to_owned(), value]);
    pair("instance", status.instance.clone());
    pair("ready", if status.ready { "yes".to_owned() } else { "no".to_owned() });
    for reason in &status.reasons_not_ready {
        pair("not ready", reason.clone());
    }
    for waiting in &status.waiting {
        pair("waiting", waiting.clone());
    }
    for problem in &status.problems {
        pair("problem", problem.clone());
    }
    pair("version", format!("{} (abi {})", status.version, status.abi));
    pair("process", format!("{}, up {}", status.pid, span(status.uptime_seconds)));
    pair("kernel", status.kernel.clone());
    pair("mode", format!("{}, trust domain {}", status.mode, status.trust_domain));
    if let Some(expires) = status.node_certificate_expires_unix {
        pair("node certificate", format!("ends {}", until(expires, now)));
    }
    let rules = (status.policies, status.network_rules);
    pair(
        "policy",
        format!(
            "epoch {}, load {}, {} identity rules, {} network rules",
            status.epoch, status.policy_generation, rules.0, rules.1
        ),
    );
    for text in &status.overrides {
        pair("override", text.clone());
    }
    for attach in &status.attach {
        let method = attach.method.map_or("not attached", |method| method.as_str());
        let observed = match attach.mode.as_str() {
            "observe" => ", observe: denials pass",
            "learn" => ", learn: denials pass, and what it does is remembered",
            _ => "",
        };
        let guard =
            attach.guard.as_ref().map_or_else(String::new, |mode| format!(", guard {mode}"));
        let value =
            format!("{} on {}: {method}{guard}{observed}", attach.workload, attach.interface);
        pair("workload", value);
    }
    pair("flows", status.flows.to_string());
    pair("half-open", status.attempts.to_string());
    pair("peers", status.peers.to_string());
    pair("verdicts", status.verdicts.to_string());
    table.to_string()
}
