//! Programs in filters of a clsact qdisc, for kernels without links at these hooks: first in the chain, and swapped
//! within the filter where an earlier daemon's are.

use aya::programs::SchedClassifier;
use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle, qdisc_add_clsact,
};

use super::attach::{self, Hook};
use super::error::DatapathError;
use super::folder::PinFolder;
use super::load::{CLSACT_PREFIX, program_error};
use super::netlink::{self, Filter, LinkFacts};
use crate::fault::{self, KillPoint};

/// Priority of our filters: no other can come before it.
const PRIORITY: u16 = 1;

/// The note that this instance made the qdisc of an interface.
pub(super) fn mark_of(ifindex: u32) -> String {
    format!("{CLSACT_PREFIX}{ifindex}")
}

/// A filter that is not there yet. The kernel numbers it: others may have any number of this priority.
pub(super) fn new_filter() -> TcAttachOptions {
    let handle = TcHandle::AUTO_ASSIGN;
    TcAttachOptions::Netlink(NlOptions { priority: PRIORITY, handle, classid: None })
}

/// Attaches a program as the first filter, or puts it into the filter of an earlier daemon.
pub(super) fn attach(
    folder: &PinFolder,
    classifier: &mut SchedClassifier,
    program: &'static str,
    facts: &LinkFacts,
    hook: Hook,
) -> Result<(), DatapathError> {
    add_qdisc(Some(folder), facts, program)?;
    let present = filters(facts.ifindex, hook)?.into_iter().find(is_ours);
    let reached = if present.is_some() { KillPoint::FilterSwapped } else { KillPoint::FilterMade };
    let attach = || {
        let id = match present {
            Some(filter) => classifier.attach_to_link(SchedClassifierLink::attached(
                &facts.name,
                hook.tc(),
                PRIORITY,
                filter.handle.into(),
                None,
            )?)?,
            None => classifier.attach_with_options(&facts.name, hook.tc(), new_filter())?,
        };
        // A filter lives in the kernel until it is removed; aya would remove it with the handle.
        std::mem::forget(classifier.take_link(id)?);
        Ok(())
    };
    attach().map_err(program_error(program, format!("attach to {} as a filter", facts.name)))?;
    fault::reached(reached);
    Ok(())
}

/// Adds the clsact qdisc where there is none. What is pinned says so first: one that is made by a daemon that
/// dies here is removed all the same.
pub(super) fn add_qdisc(
    folder: Option<&PinFolder>,
    facts: &LinkFacts,
    program: &'static str,
) -> Result<(), DatapathError> {
    if netlink::has_clsact(facts.ifindex)? {
        return Ok(());
    }
    if let Some(folder) = folder {
        folder.mark(&mark_of(facts.ifindex))?;
    }
    let action =
        format!("add the clsact qdisc (kernel modules sch_ingress, cls_bpf) to {}", facts.name);
    if let Err(error) = qdisc_add_clsact(&facts.name) {
        if let Some(folder) = folder {
            folder.remove(&mark_of(facts.ifindex))?;
        }
        return Err(program_error(program, action)(error.into()));
    }
    fault::reached(KillPoint::QdiscMade);
    Ok(())
}

/// The filters of a hook, the first in front.
pub(super) fn filters(ifindex: u32, hook: Hook) -> Result<Vec<Filter>, DatapathError> {
    netlink::filters(ifindex, hook.parent())
}

/// Whether a filter is of this or an earlier daemon, by what it is called.
pub(super) fn is_ours(filter: &Filter) -> bool {
    let ours = attach::programs(false).map(|(name, ..)| name);
    filter.priority == PRIORITY && filter.name.as_deref().is_some_and(|name| ours.contains(&name))
}

/// Removes our filters of both hooks, and the qdisc if this instance made it and nothing else uses it. Says what
/// it removed.
pub(super) fn detach(folder: &PinFolder, ifindex: u32) -> Result<Vec<String>, DatapathError> {
    let mut removed = Vec::new();
    for hook in Hook::BOTH {
        for filter in filters(ifindex, hook)?.iter().filter(|filter| is_ours(filter)) {
            if netlink::remove_filter(ifindex, hook.parent(), PRIORITY, filter.handle)? {
                removed.push(format!("{hook:?} filter of interface {ifindex}"));
            }
        }
    }
    let mark = mark_of(ifindex);
    if folder.has(&mark) {
        if is_unused(ifindex)? && netlink::remove_clsact(ifindex)? {
            removed.push(format!("clsact qdisc of interface {ifindex}"));
        }
        folder.remove(&mark)?;
    }
    Ok(removed)
}

fn is_unused(ifindex: u32) -> Result<bool, DatapathError> {
    Ok(filters(ifindex, Hook::Ingress)?.is_empty() && filters(ifindex, Hook::Egress)?.is_empty())
}
