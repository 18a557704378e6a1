//! `enforcer policy override` and `overrides`

use std::process::ExitCode;

use clap::ValueEnum;

use super::super::arguments::{Daemon, Form, block_on, seconds, unix_now};
use super::super::output::Output;
use super::super::table::{Table, until};
use crate::control::protocol::OverrideRequest;
use crate::policy::{MAX_OVERRIDE_SECONDS, Override, Whom};

/// Allow or deny something for a while, whatever the rules say
///
/// For emergencies: it overrules every rule of this node at once, is logged with its reason, shows
/// in `enforcer status`, and ends by itself. A connection has two ends: where both nodes deny it,
/// both need one. Only root may.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  enforcer policy override allow --from /acme/ops --to /acme/prod/db --port 5432 \
                  --for 30m --reason 'incident 4711'"
)]
pub(in crate::cli) struct Arguments {
    #[command(flatten)]
    daemon: Daemon,
    #[command(flatten)]
    form: Form,
    /// What to say over the rules
    #[arg(value_enum)]
    verdict: Verdict,
    /// Who calls: a SPIFFE ID, a namespace with all below, or '*'
    #[arg(long, value_name = "ID|NAMESPACE|*")]
    from: Whom,
    /// Who is called, likewise
    #[arg(long, value_name = "ID|NAMESPACE|*")]
    to: Whom,
    /// The callee's port [default: all]
    #[arg(long, value_name = "N")]
    port: Option<u16>,
    /// How long, at most a day: 90s, 30m, 2h
    #[arg(long = "for", value_name = "TIME", value_parser = override_seconds)]
    seconds: u64,
    /// Why, for the log and whoever looks
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Verdict {
    /// Connections are allowed
    Allow,
    /// Connections are denied, and open ones reset
    Deny,
}

/// List the overrides in force, or end one
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct List {
    #[command(flatten)]
    daemon: Daemon,
    #[command(flatten)]
    form: Form,
    /// End this one before its time
    #[arg(long, value_name = "NUMBER")]
    end: Option<u64>,
}

pub(super) fn make(arguments: &Arguments, out: &Output) -> anyhow::Result<ExitCode> {
    let request = OverrideRequest {
        allow: arguments.verdict == Verdict::Allow,
        from: arguments.from.clone(),
        to: arguments.to.clone(),
        port: arguments.port,
        seconds: arguments.seconds,
        reason: arguments.reason.clone(),
    };
    let client = arguments.daemon.client()?;
    let made = block_on(async { Ok(client.override_policy(&request).await?) })?;
    tell(&made, &arguments.form, out)
}

pub(super) fn list(arguments: &List, out: &Output) -> anyhow::Result<ExitCode> {
    let client = arguments.daemon.client()?;
    if let Some(number) = arguments.end {
        let ended = block_on(async { Ok(client.end_override(number).await?) })?;
        return tell(&ended, &arguments.form, out);
    }
    let overrides = block_on(async { Ok(client.overrides().await?) })?;
    if arguments.form.json {
        out.json(&overrides)?;
    } else {
        out.text(table(&overrides))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn tell(one: &Override, form: &Form, out: &Output) -> anyhow::Result<ExitCode> {
    if form.json {
        out.json(one)?;
    } else {
        out.line(one)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn table(overrides: &[Override]) -> Table {
    let now = unix_now();
    let mut table = Table::new(&["NUMBER", "SAYS", "FROM", "TO", "PORT", "ENDS", "BY", "REASON"]);
    for one in overrides {
        table.row([
            one.number.to_string(),
            if one.allow { "allow" } else { "deny" }.to_owned(),
            one.from.to_string(),
            one.to.to_string(),
            one.port.map_or_else(|| "all".to_owned(), |port| port.to_string()),
            until(u64::try_from(one.until_unix).unwrap_or_default(), now),
            format!("uid {}", one.uid),
            one.reason.clone(),
        ]);
    }
    table
}

/// How long an override lasts.
fn override_seconds(text: &str) -> Result<u64, String> {
    let seconds = seconds(text)?;
    if (1..=MAX_OVERRIDE_SECONDS).contains(&seconds) {
        return Ok(seconds);
    }
    Err("an override lasts from 1s to 24h; what is needed for longer is a rule".to_owned())
}

#[cfg(test)]
mod tests {
    use super::override_seconds as seconds;

    #[test]
    fn times_have_a_unit_and_a_bound() {
        assert_eq!(
            (seconds("90s"), seconds("30m"), seconds("24h")),
            (Ok(90), Ok(1800), Ok(86_400))
        );
        for text in
            ["", "m", "30", "0s", "25h", "-1m", "1.5h", "30 m", "99999999999999999999h", "1µ"]
        {
            assert!(seconds(text).is_err(), "{text:?}");
        }
    }
}
