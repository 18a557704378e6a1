//! The edge to the kernel: loads, attaches and removes the programs.

use anyhow::bail;

use crate::config::Config;

/// Removes everything that an instance attached and pinned.
pub fn detach(config: &Config) -> anyhow::Result<()> {
    bail!("{}: this build has no datapath to detach", config.pin_dir().display());
}
