//! The optional guard (XDP) of a workload's own interface. Nothing that is enforced hangs on it: where it
//! cannot be, the TC programs see what it would have dropped.

use std::collections::BTreeMap;
use std::io;

use aya::programs::ProgramError;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::{Xdp, XdpLink, XdpLinkId, XdpMode};

use super::attach::{self, link_pin};
use super::error::DatapathError;
use super::folder::PinFolder;
use super::load::{Loaded, PROGRAM_PREFIX, program_error};
use super::netlink::{self, LinkFacts};

/// Suffix of the pins of its links.
const SUFFIX: &str = "guard";

/// Where in the kernel it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuardMode {
    /// In the driver, in front of the kernel's buffers: what it is for.
    Native,
    /// Behind them, since the driver has no XDP: it spares the stack, not the buffer.
    Generic,
}

impl GuardMode {
    /// The word for status and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }

    /// The function of its program, which the kernel treats differently in the two.
    const fn program(self) -> &'static str {
        match self {
            Self::Native => "guard",
            Self::Generic => "guard_generic",
        }
    }

    const fn xdp(self) -> XdpMode {
        match self {
            Self::Native => XdpMode::Driver,
            Self::Generic => XdpMode::Skb,
        }
    }
}

/// A guard that was attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Guard {
    pub(super) ifindex: u32,
    pub(super) mode: GuardMode,
    program_id: u32,
}

impl Guard {
    /// Whether it is still where it was put.
    pub(super) fn is_in_place(&self) -> Result<bool, DatapathError> {
        let facts = netlink::link_of(self.ifindex)?;
        Ok(facts.and_then(|facts| facts.xdp) == Some(self.program_id))
    }
}

/// The name under which the link of an interface's guard is pinned.
pub(super) fn pin_of(ifindex: u32) -> String {
    link_pin(ifindex, SUFFIX)
}

/// Attaches the guard to an interface, or puts it in the place of an earlier daemon's.
///
/// # Errors
/// [`DatapathError::Guarded`] if another XDP program is there: there is room for one.
pub(super) fn attach(
    folder: &PinFolder,
    loaded: &mut Loaded,
    facts: &LinkFacts,
) -> Result<Guard, DatapathError> {
    let pin = pin_of(facts.ifindex);
    // A link whose interface is gone, or that somebody detached, holds no place any more.
    if folder.has(&pin) {
        let mode = mode_of(facts);
        let program = loaded.guard(mode.program())?;
        if swap(folder, program, &pin).is_ok()
            && let Some(guard) = found(program, facts, mode)?
        {
            return Ok(guard);
        }
        attach::remove_link(folder, &pin)?;
    }
    let mode = attach_anew(folder, loaded, facts, &pin)?;
    let guard = found(loaded.guard(mode.program())?, facts, mode)?;
    guard.ok_or_else(|| DatapathError::NoInterface(facts.name.clone()))
}

/// Where the XDP program of an interface runs; where ours would, if it has none.
fn mode_of(facts: &LinkFacts) -> GuardMode {
    if facts.xdp_is_generic { GuardMode::Generic } else { GuardMode::Native }
}

/// The guard, if the interface has it.
fn found(
    program: &Xdp,
    facts: &LinkFacts,
    mode: GuardMode,
) -> Result<Option<Guard>, DatapathError> {
    let info = program.info().map_err(program_error(mode.program(), "read its number"))?;
    let guard = Guard { ifindex: facts.ifindex, mode, program_id: info.id() };
    Ok(guard.is_in_place()?.then_some(guard))
}

fn attach_anew(
    folder: &PinFolder,
    loaded: &mut Loaded,
    facts: &LinkFacts,
    pin: &str,
) -> Result<GuardMode, DatapathError> {
    let native = GuardMode::Native;
    let failed = match make_link(loaded.guard(native.program())?, facts, native) {
        Ok(link) => return keep(folder, link, pin).map(|()| native),
        Err(error) => error,
    };
    if let Some(taken) = taken(facts, &failed)? {
        return Err(taken);
    }
    let (interface, generic) = (&facts.name, GuardMode::Generic);
    let problem = format!("{:#}", anyhow::Error::new(failed));
    tracing::warn!(interface, problem, "no native XDP for the guard; trying generic XDP");
    match make_link(loaded.guard(generic.program())?, facts, generic) {
        Ok(link) => keep(folder, link, pin).map(|()| generic),
        Err(error) => match taken(facts, &error)? {
            Some(taken) => Err(taken),
            None => Err(program_error(generic.program(), format!("attach to {interface}"))(error)),
        },
    }
}

/// Another program's is the place, in either mode (Linux, `dev_xdp_attach`).
fn taken(facts: &LinkFacts, error: &ProgramError) -> Result<Option<DatapathError>, DatapathError> {
    if !matches!(errno(error), Some(libc::EBUSY | libc::EEXIST)) {
        return Ok(None);
    }
    let by = netlink::link_of(facts.ifindex)?.and_then(|now| now.xdp);
    let interface = facts.name.clone();
    Ok(Some(DatapathError::Guarded { interface, by: by.unwrap_or_default() }))
}

fn errno(error: &ProgramError) -> Option<i32> {
    match error {
        ProgramError::SyscallError(error) => error.io_error.raw_os_error(),
        _ => None,
    }
}

fn make_link(
    program: &mut Xdp,
    facts: &LinkFacts,
    mode: GuardMode,
) -> Result<FdLink, ProgramError> {
    let id = program.attach_to_if_index(facts.ifindex, mode.xdp())?;
    take(program, id)
}

fn take(program: &mut Xdp, id: XdpLinkId) -> Result<FdLink, ProgramError> {
    // Without links of XDP (before Linux 5.9) it would be the library's to detach.
    FdLink::try_from(program.take_link(id)?).map_err(link_failed)
}

fn link_failed(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ProgramError {
    ProgramError::IOError(io::Error::other(error))
}

fn keep(folder: &PinFolder, link: FdLink, pin: &str) -> Result<(), DatapathError> {
    let path = folder.pin(pin);
    let pinned = link.pin(&path);
    pinned.map(drop).map_err(|e| DatapathError::file(&path, "pin", io::Error::other(e)))
}

/// Puts the program into a pinned link, in one step of the kernel.
fn swap(folder: &PinFolder, program: &mut Xdp, pin: &str) -> Result<(), ProgramError> {
    let link = PinnedLink::from_pin(folder.pin(pin)).map_err(link_failed)?;
    let link = XdpLink::try_from(FdLink::from(link)).map_err(link_failed)?;
    let id = program.attach_to_link(link)?;
    take(program, id).map(drop)
}

/// Takes the guard off an interface; `false` if there was none.
pub(super) fn detach(folder: &PinFolder, ifindex: u32) -> Result<bool, DatapathError> {
    attach::remove_link(folder, &pin_of(ifindex))
}

/// Pins the program in place of an earlier daemon's, for inspection; returns the pin.
pub(super) fn pin_program(
    folder: &PinFolder,
    loaded: &mut Loaded,
    mode: GuardMode,
) -> Result<String, DatapathError> {
    let pin = program_pin(mode);
    folder.remove(&pin)?;
    let path = folder.pin(&pin);
    let pinned = loaded.guard(mode.program())?.pin(&path);
    pinned.map_err(|e| DatapathError::file(&path, "pin", io::Error::other(e)))?;
    Ok(pin)
}

/// The name under which the program is pinned.
fn program_pin(mode: GuardMode) -> String {
    format!("{PROGRAM_PREFIX}{}", mode.program())
}

/// Removes the pins of programs that no guard uses.
pub(super) fn unpin_unused(
    folder: &PinFolder,
    guards: &BTreeMap<u16, Guard>,
) -> Result<(), DatapathError> {
    for mode in [GuardMode::Native, GuardMode::Generic] {
        if !guards.values().any(|guard| guard.mode == mode) {
            folder.remove(&program_pin(mode))?;
        }
    }
    Ok(())
}

/// Puts the guard where that of the layout before stands, or takes that one off: it would judge by maps
/// that nobody writes any more.
pub(super) fn replace_everywhere(
    folder: &PinFolder,
    loaded: &mut Loaded,
) -> Result<(), DatapathError> {
    for pin in folder.names()? {
        let Some(ifindex) = attach::ifindex_of_pin(&pin).filter(|at| pin == pin_of(*at)) else {
            continue;
        };
        let mode = netlink::link_of(ifindex)?.map_or(GuardMode::Native, |facts| mode_of(&facts));
        if let Err(error) = swap(folder, loaded.guard(mode.program())?, &pin) {
            let problem = format!("{:#}", anyhow::Error::new(error));
            tracing::warn!(pin, problem, "the guard of the version before is taken off");
            attach::remove_link(folder, &pin)?;
        }
    }
    Ok(())
}
