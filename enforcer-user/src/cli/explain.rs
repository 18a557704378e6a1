//! `enforcer explain`

use std::process::ExitCode;

use anyhow::Context as _;

use super::arguments::{Daemon, Form, block_on, each_once, key_value, on_its_node, unix_now};
use super::output::Output;
use crate::config::Config;
use crate::control::ClientError;
use crate::control::protocol::{ExplainReport, ExplainRequest};
use crate::explain::{Known, explain};
use crate::identity::Identity;
use crate::materials;

/// What may be asked for instead of a caller, a callee and a port.
const OTHERS: [&str; 2] = ["denial", "flow"];
/// The exit status of a denial.
const DENIED: u8 = 3;

/// Say whether a connection would be permitted, and which rule or missing claim decides
///
/// Asks the running enforcer. With --config, and no enforcer running, the policy files are read and
/// evaluated here. Exits with 0 for allow and 3 for deny.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  enforcer explain --from web --to spiffe://example.org/acme/db --port 5432\n  \
                  enforcer explain --config enforcer.toml --from web --to db --port 5432 --json\n  \
                  enforcer explain --denial 17\n  \
                  enforcer explain --flow 192.0.2.10:8080,192.0.2.20:43750"
)]
pub(super) struct Arguments {
    #[command(flatten)]
    daemon: Daemon,
    #[command(flatten)]
    form: Form,
    /// The caller: a SPIFFE ID, or the name of a workload of this node
    #[arg(long, value_name = "ID|NAME", required_unless_present_any = OTHERS)]
    from: Option<String>,
    /// The callee, likewise
    #[arg(long, value_name = "ID|NAME", required_unless_present_any = OTHERS)]
    to: Option<String>,
    /// The callee's port
    #[arg(long, value_name = "N", required_unless_present_any = OTHERS)]
    port: Option<u16>,
    /// Instead of these, the number of a past denial, as `policy denied` and `policy observed` list them
    #[arg(long, value_name = "NUMBER", conflicts_with_all = ["from", "to", "port", "flow"])]
    denial: Option<u64>,
    /// Instead of these, a connection that lives, by its ends as `flows` lists them
    #[arg(long, value_name = "LOCAL,REMOTE", conflicts_with_all = ["from", "to", "port"])]
    flow: Option<String>,
    /// tcp, udp, icmp, icmpv6, sctp or a number
    #[arg(long, value_name = "PROTOCOL", default_value = "tcp")]
    protocol: String,
    /// A label of the caller, where it is named by SPIFFE ID; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    from_label: Vec<(String, String)>,
    /// A label of the callee, likewise
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    to_label: Vec<(String, String)>,
    /// What else is known of such a caller: image, executable, user, or a label of its node as node.zone
    #[arg(long, value_name = "NAME=VALUE", value_parser = key_value)]
    from_attribute: Vec<(String, String)>,
    /// What else is known of such a callee
    #[arg(long, value_name = "NAME=VALUE", value_parser = key_value)]
    to_attribute: Vec<(String, String)>,
}

pub(super) fn execute(arguments: &Arguments, out: &Output) -> anyhow::Result<ExitCode> {
    let request = ExplainRequest {
        from: arguments.from.clone().unwrap_or_default(),
        to: arguments.to.clone().unwrap_or_default(),
        port: arguments.port.unwrap_or_default(),
        denial: arguments.denial,
        flow: arguments.flow.clone(),
        protocol: Some(arguments.protocol.clone()),
        from_labels: each_once("--from-label", &arguments.from_label)?,
        to_labels: each_once("--to-label", &arguments.to_label)?,
        from_attributes: each_once("--from-attribute", &arguments.from_attribute)?,
        to_attributes: each_once("--to-attribute", &arguments.to_attribute)?,
    };
    let client = arguments.daemon.client()?;
    let report =
        match (block_on(async { Ok(client.explain(&request).await) })?, &arguments.daemon.config) {
            (Ok(report), _) => report,
            (Err(ClientError::NotRunning { .. }), Some(file)) if !request.is_of_the_daemon() => {
                offline(Config::load(file)?, &request)?
            }
            (Err(error), _) => return Err(error.into()),
        };
    if arguments.form.json {
        out.json(&report)?;
    } else {
        out.line(report.text)?;
    }
    Ok(if report.allow { ExitCode::SUCCESS } else { ExitCode::from(DENIED) })
}

fn offline(config: Config, request: &ExplainRequest) -> anyhow::Result<ExplainReport> {
    let config = on_its_node(config);
    let policy = materials::load_policy(&config).context("policy")?;
    let workloads: Vec<&Identity> = config.workloads.iter().map(|w| &w.identity).collect();
    let known = Known { workloads: &workloads, peers: &[] };
    let unix_seconds = i64::try_from(unix_now()).context("clock")?;
    Ok(explain(&policy, request, known, unix_seconds)?)
}
