//! Programs in links of the kernel's multi-program hooks: first in the chain, and swapped within the link where an
//! earlier daemon's are.

use std::io;
use std::path::Path;

use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::{LinkOrder, ProgramError, SchedClassifier};

use super::attach::{Hook, NEXT_SUFFIX, link_pin};
use super::error::DatapathError;
use super::folder::PinFolder;
use super::load::program_error;
use super::netlink::LinkFacts;
use super::sys;
use crate::fault::{self, KillPoint};

/// Attaches a program in front of all others, or puts it into the link of an earlier daemon.
pub(super) fn attach(
    folder: &PinFolder,
    classifier: &mut SchedClassifier,
    program: &'static str,
    suffix: &str,
    facts: &LinkFacts,
    hook: Hook,
) -> Result<(), DatapathError> {
    let pin = link_pin(facts.ifindex, suffix);
    let next = format!("{pin}{NEXT_SUFFIX}");
    // One that a daemon made and did not live to name is all that enforces here.
    if !folder.has(&pin) && folder.has(&next) {
        rename(folder, &next, &pin)?;
    }
    // A link whose interface is gone, or that sits on another hook or in another namespace since
    // the configuration changed, cannot be taken over: it is replaced once the new one is there.
    // One behind another program stays: the kernel takes a program once in a chain, and taking
    // it off first would enforce nothing for a moment.
    let adopted = folder.has(&pin)
        && swap(folder, classifier, &pin).is_ok()
        && position(classifier, program, facts, hook)?.is_some();
    if adopted {
        fault::reached(KillPoint::LinkSwapped);
        return Ok(());
    }
    folder.remove(&next)?;
    let link = attach_first(classifier, program, facts, hook)?;
    fault::reached(KillPoint::LinkMade);
    let pinned = link
        .pin(folder.pin(&next))
        .map_err(|e| DatapathError::file(&folder.pin(&next), "pin", io::Error::other(e)))?;
    fault::reached(KillPoint::LinkPinned);
    rename(folder, &next, &pin)?;
    drop(pinned);
    fault::reached(KillPoint::LinkRenamed);
    Ok(())
}

fn rename(folder: &PinFolder, from: &str, to: &str) -> Result<(), DatapathError> {
    std::fs::rename(folder.pin(from), folder.pin(to))
        .map_err(|e| DatapathError::file(&folder.pin(to), "rename", e))
}

/// Puts the new program into a pinned link, in one step of the kernel.
pub(super) fn swap(
    folder: &PinFolder,
    classifier: &mut SchedClassifier,
    pin: &str,
) -> Result<(), ProgramError> {
    let link = open_link(&folder.pin(pin)).map_err(link_failed)?;
    let id = classifier.attach_to_link(link)?;
    // Only this descriptor of the link is closed; the pin keeps it.
    classifier.take_link(id).map(drop)
}

fn link_failed(error: LinkError) -> ProgramError {
    ProgramError::IOError(io::Error::other(error))
}

fn attach_first(
    classifier: &mut SchedClassifier,
    program: &'static str,
    facts: &LinkFacts,
    hook: Hook,
) -> Result<FdLink, DatapathError> {
    let options = TcAttachOptions::TcxOrder(LinkOrder::first());
    let attach = || {
        let id = classifier.attach_with_options(&facts.name, hook.tc(), options)?;
        FdLink::try_from(classifier.take_link(id)?).map_err(link_failed)
    };
    attach().map_err(program_error(program, format!("attach to {}", facts.name)))
}

/// Where in the chain of a hook the program stands; 0 is first.
fn position(
    classifier: &SchedClassifier,
    program: &'static str,
    facts: &LinkFacts,
    hook: Hook,
) -> Result<Option<usize>, DatapathError> {
    let id = classifier.info().map_err(program_error(program, "read its number"))?.id();
    let chain = chain(program, &facts.name, facts.ifindex, hook)?;
    Ok(chain.iter().position(|other| *other == id))
}

/// The numbers of the programs of a hook, in the order in which they run.
pub(super) fn chain(
    program: &'static str,
    interface: &str,
    ifindex: u32,
    hook: Hook,
) -> Result<Vec<u32>, DatapathError> {
    let action = format!("query the chain of {interface}");
    sys::query_chain(ifindex, hook.tcx()).map_err(|e| program_error(program, action)(e.into()))
}

fn open_link(path: &Path) -> Result<SchedClassifierLink, LinkError> {
    SchedClassifierLink::try_from(FdLink::from(PinnedLink::from_pin(path)?))
}
