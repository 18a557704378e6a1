//! Arguments that several subcommands share.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;

use anyhow::{Context as _, bail};

use crate::config::{Config, DEFAULT_INSTANCE, DEFAULT_RUN_DIR};
use crate::control::{Client, SOCKET_NAME};
use crate::materials;

/// Which running enforcer to ask.
#[derive(Debug, clap::Args)]
pub(super) struct Daemon {
    /// Ask the enforcer that runs with this configuration
    #[arg(long, value_name = "FILE", conflicts_with = "socket")]
    pub(super) config: Option<PathBuf>,
    /// Ask over this control socket [default: /run/enforcer/default/control.sock]
    #[arg(long, value_name = "PATH")]
    pub(super) socket: Option<PathBuf>,
}

impl Daemon {
    /// A client for that enforcer.
    pub(super) fn client(&self) -> anyhow::Result<Client> {
        let socket = match (&self.socket, &self.config) {
            (Some(socket), _) => socket.clone(),
            (None, Some(file)) => Config::load(file)?.control_socket(),
            (None, None) => PathBuf::from(DEFAULT_RUN_DIR).join(DEFAULT_INSTANCE).join(SOCKET_NAME),
        };
        Ok(Client::new(socket))
    }
}

/// How a report is shown.
#[derive(Debug, clap::Args)]
pub(super) struct Form {
    /// Print JSON for programs instead of a table
    #[arg(long)]
    pub(super) json: bool,
}

/// Runs a question to its end; one thread is enough for that.
pub(super) fn block_on<T>(question: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start an event loop")?;
    runtime.block_on(question)
}

/// Unix seconds now.
pub(super) fn unix_now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// `90s`, `30m` or `2h`, in seconds.
pub(super) fn seconds(text: &str) -> Result<u64, String> {
    let parse = || {
        let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
        let scale = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            _ => return None,
        };
        number.parse::<u64>().ok()?.checked_mul(scale)
    };
    parse().ok_or_else(|| "expected a time such as 90s, 30m or 2h".to_owned())
}

/// What is written `KEY=VALUE`.
pub(super) fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("expected KEY=VALUE".to_owned()),
    }
}

/// Each key once; `argument` is the one that was repeated.
pub(super) fn each_once(
    argument: &str,
    pairs: &[(String, String)],
) -> anyhow::Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for (key, value) in pairs {
        let earlier = found.insert(key.clone(), value.clone());
        if let Some(earlier) = earlier {
            bail!("{argument} {key}={value}: {key}={earlier} stands before it; give each once");
        }
    }
    Ok(found)
}

/// The configuration with what is known of its node; where its certificate cannot be read, without, which is noted.
pub(super) fn on_its_node(config: Config) -> Config {
    match materials::on_this_node(&config, unix_now()) {
        Ok(placed) => placed,
        Err(error) => {
            eprintln!(
                "note: {}: the labels of its node are not known: {error}",
                config.file.display()
            );
            config
        }
    }
}
