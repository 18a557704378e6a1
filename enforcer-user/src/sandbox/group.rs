//! The group that may read from the control socket.

use anyhow::Context as _;
use nix::unistd::{getegid, getgroups, setgroups};

use crate::control::find_group;

/// Makes this process a member, since only members may give files to a group without `CAP_CHOWN`.
pub(super) fn join(name: &str) -> anyhow::Result<()> {
    let group = find_group(name)?;
    let mut groups = getgroups().context("the process's groups cannot be read")?;
    if group == getegid() || groups.contains(&group) {
        return Ok(());
    }
    groups.push(group);
    setgroups(&groups).with_context(|| {
        format!(
            "control.group {name:?}: cannot join it; under systemd add SupplementaryGroups={name}"
        )
    })
}
