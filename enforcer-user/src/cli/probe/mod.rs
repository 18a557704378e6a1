//! `enforcer probe`: does the path to a host carry what our handshake needs?
//!
//! Three kinds of SYN are sent: an ordinary one, one with our option, and one with the option and data.
//! What is answered, and how far a reset's acknowledgement reaches, tells what arrived.

mod segment;
mod socket;

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::Serialize;

use super::arguments::Form;
use super::output::Output;
use super::table::Table;
use segment::{Answer, Shape};
use socket::Prober;

/// The port that is asked when none is named.
const DEFAULT_PORT: u16 = 443;

/// Find out whether the path to a host carries SYNs with our option and with data
///
/// Sends a few SYNs of its own making from this host (needs root) and never opens a connection. A closed
/// port tells more than an open one: its reset says how many bytes of data arrived. Run it where no
/// enforcer is attached: an attached one drops such SYNs as forged, here or there.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  enforcer probe db.example.org:5432\n  enforcer probe [2001:db8::7]:81 --json"
)]
pub(super) struct Arguments {
    /// Name or address, and a port (443 if none is given)
    #[arg(value_name = "HOST[:PORT]")]
    target: String,
    #[command(flatten)]
    form: Form,
    /// How long to wait for each answer; each SYN is sent up to three times
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(10..=60_000))]
    timeout_ms: u64,
    /// Bytes of data in the third SYN; a credential has up to 1120
    #[arg(long, value_name = "BYTES", default_value_t = 1024, value_parser = clap::value_parser!(u16).range(1..=1120))]
    data_bytes: u16,
}

pub(super) fn execute(arguments: &Arguments, out: &Output) -> anyhow::Result<ExitCode> {
    let remote = resolve(&arguments.target)?;
    let prober = Prober::open(remote)?;
    let patience = Duration::from_millis(arguments.timeout_ms);
    let ask = |shape| prober.ask(shape, patience).with_context(|| format!("probe of {remote}"));
    let data_bytes = arguments.data_bytes;
    let heard = Heard {
        plain: ask(Shape::Plain)?,
        option: ask(Shape::Option)?,
        data: ask(Shape::OptionAndData(data_bytes.into()))?,
    };
    let report = Report::new(remote, &heard, data_bytes);
    if arguments.form.json {
        out.json(&report)?;
    } else {
        out.text(report.table())?;
    }
    Ok(if report.usable == Some(false) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// What was answered to each SYN.
struct Heard {
    plain: Option<Answer>,
    option: Option<Answer>,
    data: Option<Answer>,
}

/// What a probe found.
#[derive(Debug, Serialize)]
struct Report {
    target: String,
    plain_syn: String,
    syn_with_option: String,
    syn_with_option_and_data: String,
    /// Whether the path carries what the handshake needs; `None` where it cannot be told.
    usable: Option<bool>,
    conclusion: String,
}

impl Report {
    fn new(remote: SocketAddr, heard: &Heard, data_bytes: u16) -> Self {
        let (usable, conclusion) = conclude(heard, data_bytes);
        Self {
            target: remote.to_string(),
            plain_syn: said(heard.plain, 0),
            syn_with_option: said(heard.option, 0),
            syn_with_option_and_data: said(heard.data, data_bytes),
            usable,
            conclusion,
        }
    }

    fn table(&self) -> Table {
        let mut table = Table::pairs();
        for (name, value) in [
            ("target", &self.target),
            ("plain SYN", &self.plain_syn),
            ("SYN with option", &self.syn_with_option),
            ("SYN with option and data", &self.syn_with_option_and_data),
            ("conclusion", &self.conclusion),
        ] {
            table.row([name.to_owned(), value.clone()]);
        }
        table
    }
}

fn said(answer: Option<Answer>, data_bytes: u16) -> String {
    match answer {
        None => "no answer".to_owned(),
        Some(Answer::SynAck { echoed: false }) => "SYN-ACK".to_owned(),
        Some(Answer::SynAck { echoed: true }) => "SYN-ACK with our option".to_owned(),
        Some(Answer::Reset { .. }) if data_bytes == 0 => "reset (closed port)".to_owned(),
        Some(Answer::Reset { data_seen }) => {
            format!("reset (closed port), {data_seen} of {data_bytes} bytes arrived")
        }
    }
}

fn conclude(heard: &Heard, data_bytes: u16) -> (Option<bool>, String) {
    let (usable, text) = match (heard.plain, heard.option, heard.data) {
        (None, None, None) => (
            None,
            "the host does not answer: it is down, filtered, or an enforcer keeps silent there",
        ),
        (_, None, None) => (
            Some(false),
            "SYNs with our option are dropped on the path or by the host; an enforcer that \
                 runs there drops a probe too, stop it with `enforcer detach` to be sure",
        ),
        (_, _, None) => (Some(false), "SYNs with data are dropped on the path or by the host"),
        (_, _, Some(Answer::Reset { data_seen })) if data_seen < u32::from(data_bytes) => {
            (Some(false), "data is taken out of SYNs on the path: credentials would not arrive")
        }
        (_, _, Some(Answer::Reset { .. })) => {
            (Some(true), "SYNs with our option pass, and their data arrives whole")
        }
        (_, _, Some(Answer::SynAck { .. })) => (
            Some(true),
            "SYNs with our option and data are answered; probe a closed port of the host to see whether \
             the data arrives whole",
        ),
    };
    (usable, text.to_owned())
}

fn resolve(target: &str) -> anyhow::Result<SocketAddr> {
    if let Ok(address) = target.parse::<SocketAddr>() {
        return Ok(address);
    }
    let bare = target.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(target);
    if let Ok(address) = bare.parse() {
        return Ok(SocketAddr::new(address, DEFAULT_PORT));
    }
    let (host, port) = match target.rsplit_once(':') {
        Some((host, port)) => match port.parse() {
            Ok(port) => (host, port),
            Err(_) => bail!("{target:?}: port {port:?}; expected a number from 0 to 65535"),
        },
        None => (target, DEFAULT_PORT),
    };
    let found =
        (host, port).to_socket_addrs().with_context(|| format!("{host:?}: no address found"))?;
    let mut found = found;
    found.next().with_context(|| format!("{host:?}: the name has no address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: Option<Answer> = Some(Answer::SynAck { echoed: false });

    const CLOSED: Option<Answer> = Some(Answer::Reset { data_seen: 0 });
    const CLOSED_AFTER_99: Option<Answer> = Some(Answer::Reset { data_seen: 99 });
    const CLOSED_AFTER_100: Option<Answer> = Some(Answer::Reset { data_seen: 100 });

    #[test]
    fn conclusions_follow_from_what_was_heard() {
        let cases = [
            (None, None, None, None, "does not answer"),
            (OPEN, None, None, Some(false), "with our option are dropped"),
            (OPEN, OPEN, None, Some(false), "with data are dropped"),
            (CLOSED, CLOSED, CLOSED, Some(false), "taken out"),
            (CLOSED, CLOSED, CLOSED_AFTER_99, Some(false), "taken out"),
            (CLOSED, CLOSED, CLOSED_AFTER_100, Some(true), "arrives whole"),
            (OPEN, OPEN, OPEN, Some(true), "probe a closed port"),
        ];
        for (plain, option, data, usable, words) in cases {
            let told = conclude(&Heard { plain, option, data }, 100);
            assert_eq!(told.0, usable, "{}", told.1);
            assert!(told.1.contains(words), "{}", told.1);
        }
    }

    #[test]
    fn targets_are_addresses_with_or_without_a_port() {
        for (target, expected) in [
            ("192.0.2.1", "192.0.2.1:443"),
            ("192.0.2.1:80", "192.0.2.1:80"),
            ("2001:db8::1", "[2001:db8::1]:443"),
            ("[2001:db8::1]", "[2001:db8::1]:443"),
            ("[2001:db8::1]:80", "[2001:db8::1]:80"),
        ] {
            assert_eq!(resolve(target).unwrap().to_string(), expected);
        }
        assert!(resolve("192.0.2.1:http").unwrap_err().to_string().contains("port \"http\""));
    }
}
