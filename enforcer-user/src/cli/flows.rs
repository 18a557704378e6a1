//! `enforcer flows`

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;

use super::arguments::{Daemon, Form, block_on};
use super::output::Output;
use super::table::{Table, span};
use crate::control::Client;
use crate::control::protocol::{
    DEFAULT_FLOW_LIMIT, FlowQuery, FlowReport, FlowsReport, MAX_FLOW_LIMIT,
};

/// How often `--follow` asks.
const POLL: Duration = Duration::from_secs(1);

/// List live flows, with the peer that each was authenticated as
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  enforcer flows --workload web\n  enforcer flows --follow --json | jq -r .flow.peer"
)]
pub(super) struct Arguments {
    #[command(flatten)]
    daemon: Daemon,
    #[command(flatten)]
    form: Form,
    /// Go on, and print each flow that appears, changes its state or ends; looks once a second
    #[arg(long)]
    follow: bool,
    /// Only flows of this workload
    #[arg(long, value_name = "NAME")]
    workload: Option<String>,
    /// The most flows to list
    #[arg(long, value_name = "N", default_value_t = DEFAULT_FLOW_LIMIT, value_parser = limit)]
    limit: usize,
}

pub(super) fn execute(arguments: &Arguments, out: &Output) -> anyhow::Result<ExitCode> {
    let client = arguments.daemon.client()?;
    let query = FlowQuery { limit: arguments.limit, workload: arguments.workload.clone() };
    block_on(async {
        if arguments.follow {
            return follow(&client, &query, arguments.form.json, out).await;
        }
        let report = client.flows(&query).await?;
        if arguments.form.json { out.json(&report) } else { list(&report, out) }
    })?;
    Ok(ExitCode::SUCCESS)
}

fn list(report: &FlowsReport, out: &Output) -> anyhow::Result<()> {
    let columns = [
        "WORKLOAD",
        "DIRECTION",
        "PROTOCOL",
        "LOCAL",
        "REMOTE",
        "STATE",
        "EPOCH",
        "PACKETS",
        "BYTES",
        "IDLE",
        "PEER",
    ];
    let mut table = Table::new(&columns);
    for flow in &report.flows {
        table.row([
            flow.workload.clone(),
            flow.direction.clone(),
            flow.protocol.clone(),
            flow.local.clone(),
            flow.remote.clone(),
            flow.state.clone(),
            flow.epoch.to_string(),
            flow.packets.to_string(),
            flow.bytes.to_string(),
            span(flow.idle_seconds),
            flow.peer.clone().unwrap_or_default(),
        ]);
    }
    out.text(table)?;
    let shown = report.flows.len() as u64;
    if shown < report.total {
        out.line(format_args!("{shown} of {} flows; --limit N lists more", report.total))?;
    }
    Ok(())
}

/// What became of a flow since the last look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Change {
    Opened,
    Changed,
    Ended,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Event<'a> {
    event: Change,
    flow: &'a FlowReport,
}

/// Flows by what names them; the state tells a change.
type Seen = BTreeMap<(String, String, String, String), FlowReport>;

async fn follow(
    client: &Client,
    query: &FlowQuery,
    json: bool,
    out: &Output,
) -> anyhow::Result<()> {
    let mut before = Seen::new();
    loop {
        let now = by_name(client.flows(query).await?.flows);
        for event in changes(&before, &now) {
            if json {
                out.json_line(&event)?;
            } else {
                out.line(line(&event))?;
            }
        }
        before = now;
        tokio::time::sleep(POLL).await;
    }
}

fn by_name(flows: Vec<FlowReport>) -> Seen {
    let name = |flow: &FlowReport| {
        let flow = flow.clone();
        (flow.workload, flow.protocol, flow.local, flow.remote)
    };
    flows.into_iter().map(|flow| (name(&flow), flow)).collect()
}

fn changes<'a>(before: &'a Seen, now: &'a Seen) -> Vec<Event<'a>> {
    let ended = before.iter().filter(|(name, _)| !now.contains_key(*name));
    let ended = ended.map(|(_, flow)| Event { event: Change::Ended, flow });
    let news = now.iter().filter_map(|(name, flow)| match before.get(name) {
        None => Some(Event { event: Change::Opened, flow }),
        Some(old) if old.state != flow.state || old.peer != flow.peer => {
            Some(Event { event: Change::Changed, flow })
        }
        Some(_) => None,
    });
    ended.chain(news).collect()
}

fn line(event: &Event<'_>) -> String {
    let flow = event.flow;
    let what = match event.event {
        Change::Opened => "opened",
        Change::Changed => "changed",
        Change::Ended => "ended",
    };
    let arrow = if flow.direction == "egress" { "->" } else { "<-" };
    let peer = flow.peer.as_deref().unwrap_or("-");
    let line = format!(
        "{what:8}{} {} {} {arrow} {} {} {peer}",
        flow.workload, flow.protocol, flow.local, flow.remote, flow.state
    );
    line.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

fn limit(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(limit) if (1..=MAX_FLOW_LIMIT).contains(&limit) => Ok(limit),
        _ => Err(format!("expected a number from 1 to {MAX_FLOW_LIMIT}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(remote: &str, state: &str) -> FlowReport {
        FlowReport { remote: remote.into(), state: state.into(), ..Default::default() }
    }

    #[test]
    fn a_follower_sees_what_opened_changed_and_ended() {
        let before = by_name(vec![flow("a", "open"), flow("b", "open"), flow("c", "open")]);
        let now = by_name(vec![flow("b", "open"), flow("c", "closing"), flow("d", "open")]);
        let events: Vec<(Change, &str)> =
            changes(&before, &now).iter().map(|e| (e.event, e.flow.remote.as_str())).collect();
        let expected = [(Change::Ended, "a"), (Change::Changed, "c"), (Change::Opened, "d")];
        assert_eq!(events, expected);
    }
}
