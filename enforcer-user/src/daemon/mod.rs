//! The daemon: wires configuration, identities, policy, engine, datapath and control socket together.

use anyhow::bail;

use crate::config::Config;

/// Runs the enforcer until it is told to stop.
#[expect(clippy::unused_async, reason = "the daemon is an event loop")]
pub async fn run(config: Config) -> anyhow::Result<()> {
    bail!("instance {:?}: this build has no datapath to run", config.instance);
}
