//! Least capabilities (capabilities(7)): all sets are cut down to what has been proven needed.

use anyhow::{Context as _, bail};
use caps::{CapSet, Capability, CapsHashSet};
use nix::sys::prctl::set_no_new_privs;

/// What the daemon needs as long as it runs, and why; a test takes each away and sees it fail.
///
/// - `CAP_BPF`: makes maps, loads programs and their type information, reads and writes maps.
/// - `CAP_NET_ADMIN`: programs of this type, links and filters on interfaces, the helper interface.
/// - `CAP_PERFMON`: the verifier then allows arithmetic on pointers that it cannot follow to their end
///   (`bpf_allow_ptr_leaks` in the kernel's `include/linux/bpf.h`), without which it refuses our programs,
///   and leaves barriers against speculation out of them (`bpf_bypass_spec_v1`).
pub const NEEDED: [Capability; 3] =
    [Capability::CAP_BPF, Capability::CAP_NET_ADMIN, Capability::CAP_PERFMON];

/// Cuts permitted, effective, inheritable, ambient and bounding set of this thread, and of those it
/// starts, down to [`NEEDED`], for good.
pub(super) fn keep_needed() -> anyhow::Result<()> {
    check_permitted()?;
    set_no_new_privs().context("no_new_privs cannot be set")?;
    narrow_bounding()?;
    caps::clear(None, CapSet::Ambient).context("the ambient capabilities cannot be cleared")?;
    caps::clear(None, CapSet::Inheritable)
        .context("the inheritable capabilities cannot be cleared")?;
    let needed = CapsHashSet::from(NEEDED);
    caps::set(None, CapSet::Effective, &needed).context("capabilities cannot be dropped")?;
    caps::set(None, CapSet::Permitted, &needed).context("capabilities cannot be dropped")
}

fn check_permitted() -> anyhow::Result<()> {
    let permitted =
        caps::read(None, CapSet::Permitted).context("the process's capabilities cannot be read")?;
    let missing: Vec<String> = NEEDED
        .iter()
        .filter(|needed| !permitted.contains(needed))
        .map(ToString::to_string)
        .collect();
    if !missing.is_empty() {
        bail!(
            "{} missing: run the enforcer as root, with at least CAP_BPF, CAP_NET_ADMIN and \
             CAP_PERFMON in its bounding set",
            missing.join(", ")
        );
    }
    Ok(())
}

/// The bounding set says what an executed program could get. Who started us without `CAP_SETPCAP` has
/// narrowed it, or keeps it: with `no_new_privs` set nothing can be got out of it either way.
fn narrow_bounding() -> anyhow::Result<()> {
    let bounding = caps::read(None, CapSet::Bounding).context("the bounding set cannot be read")?;
    let surplus: Vec<Capability> =
        bounding.into_iter().filter(|capability| !NEEDED.contains(capability)).collect();
    let may = caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)
        .context("the process's capabilities cannot be read")?;
    if !may {
        if !surplus.is_empty() {
            tracing::debug!(surplus = surplus.len(), "bounding set kept: CAP_SETPCAP is missing");
        }
        return Ok(());
    }
    for capability in surplus {
        caps::drop(None, CapSet::Bounding, capability)
            .with_context(|| format!("{capability} cannot be taken out of the bounding set"))?;
    }
    Ok(())
}
