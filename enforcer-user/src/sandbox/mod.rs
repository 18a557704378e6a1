//! What the daemon takes from itself before it reads anything that others chose: privileges, system
//! calls, and the traces that keys could leave.
//!
//! [`enter`] runs once, on the only thread there is; every thread that is started later has what is
//! left. What takes more than that comes first: the bpf file system is mounted, the control socket's
//! group is joined. Keys, certificates and policy are read behind it, so a file that could not be read
//! again after a rotation cannot be read at the start either.

mod capabilities;
mod core_dump;
mod group;
mod seccomp;

use anyhow::Context as _;

use crate::config::Config;
use crate::datapath;

pub use capabilities::NEEDED;

/// Gives up what the daemon does not need. Must be called while the process has one thread.
///
/// # Errors
/// A capability that is needed is missing, or the kernel refuses a step: the daemon must not go on
/// with more rights than it is said to have.
pub fn enter(config: &Config) -> anyhow::Result<()> {
    core_dump::forbid().context("core dumps cannot be switched off")?;
    if let Some(name) = &config.control.group {
        group::join(name)?;
    }
    datapath::mount_bpf(config)?;
    capabilities::keep_needed()?;
    seccomp::install(config.hardening.seccomp)?;
    tracing::debug!(seccomp = config.hardening.seccomp.as_str(), "sandbox entered");
    Ok(())
}
