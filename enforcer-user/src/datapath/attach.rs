//! Attaches the programs to interfaces: first in the chain, and swapped in place where an earlier
//! daemon's are attached, so that no packet passes unenforced.

use std::io;
use std::os::fd::AsFd as _;

use aya::programs::tc::{TcAttachOptions, TcAttachType};
use aya::programs::{LinkOrder, ProgramError};
use aya_obj::generated::bpf_attach_type;

use super::error::DatapathError;
use super::folder::PinFolder;
use super::load::{LINK_PREFIX, Loaded, PROGRAM_PREFIX, PROGRAMS, program_error};
use super::netlink::{self, EGRESS_PARENT, INGRESS_PARENT, LinkFacts};
use super::{clsact, sys, tcx};
use crate::fault::{self, KillPoint};

/// The number of `lo` in every network namespace.
const LOOPBACK: u32 = 1;

/// Suffix of the pin under which a link waits to take the place of another.
pub(super) const NEXT_SUFFIX: &str = "_next";

/// A hook of an interface, from the host's side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hook {
    Ingress,
    Egress,
}

impl Hook {
    pub(super) const BOTH: [Self; 2] = [Self::Ingress, Self::Egress];

    pub(super) const fn tc(self) -> TcAttachType {
        match self {
            Self::Ingress => TcAttachType::Ingress,
            Self::Egress => TcAttachType::Egress,
        }
    }

    pub(super) const fn tcx(self) -> bpf_attach_type {
        match self {
            Self::Ingress => bpf_attach_type::BPF_TCX_INGRESS,
            Self::Egress => bpf_attach_type::BPF_TCX_EGRESS,
        }
    }

    pub(super) const fn parent(self) -> u32 {
        match self {
            Self::Ingress => INGRESS_PARENT,
            Self::Egress => EGRESS_PARENT,
        }
    }
}

/// The programs of a workload's interface, what their pins are called, and the hook of each. What
/// a workload sends leaves by the egress hook of its own interface, and arrives at the ingress
/// hook of the host's side of its veth.
pub(super) fn programs(host_side: bool) -> [(&'static str, &'static str, Hook); 2] {
    let (from, to) =
        if host_side { (Hook::Ingress, Hook::Egress) } else { (Hook::Egress, Hook::Ingress) };
    [("from_workload", "from", from), ("to_workload", "to", to)]
}

/// How programs are attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mechanism {
    /// Links of the kernel's multi-program hooks (Linux 6.6, commit e420bed02507).
    Tcx,
    /// Filters of a clsact qdisc.
    Clsact,
}

impl Mechanism {
    /// Asks the kernel what it has: one without TCX does not know the query.
    #[must_use]
    pub fn probe() -> Self {
        match sys::query_chain(LOOPBACK, Hook::Ingress.tcx()) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Self::Clsact,
            // Whatever else went wrong will go wrong again when programs are attached, and be told.
            _ => Self::Tcx,
        }
    }

    /// The word for status and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }

    /// Attaches both programs of a workload's interface, or swaps those that are attached.
    pub(super) fn attach(
        self,
        folder: &PinFolder,
        loaded: &mut Loaded,
        facts: &LinkFacts,
        host_side: bool,
    ) -> Result<Attachment, DatapathError> {
        let mut hooks = Vec::with_capacity(2);
        for (program, suffix, hook) in programs(host_side) {
            let classifier = loaded.program(program)?;
            match self {
                Self::Tcx => tcx::attach(folder, classifier, program, suffix, facts, hook)?,
                Self::Clsact => clsact::attach(folder, classifier, program, facts, hook)?,
            }
            let info = classifier.info().map_err(program_error(program, "read its number"))?;
            hooks.push(AttachedHook { program, hook, program_id: info.id() });
        }
        Ok(Attachment {
            interface: facts.name.clone(),
            ifindex: facts.ifindex,
            host_side,
            mechanism: self,
            hooks,
        })
    }

    /// Attaches a program for as long as it is loaded.
    pub(super) fn attach_for_life(
        self,
        loaded: &mut Loaded,
        program: &'static str,
        facts: &LinkFacts,
        hook: Hook,
    ) -> Result<(), DatapathError> {
        let options = match self {
            Self::Tcx => TcAttachOptions::TcxOrder(LinkOrder::first()),
            Self::Clsact => {
                clsact::add_qdisc(None, facts, program)?;
                clsact::new_filter()
            }
        };
        loaded
            .program(program)?
            .attach_with_options(&facts.name, hook.tc(), options)
            .map(drop)
            .map_err(program_error(program, format!("attach to {}", facts.name)))
    }
}

pub(super) fn link_pin(ifindex: u32, suffix: &str) -> String {
    format!("{LINK_PREFIX}{ifindex}_{suffix}")
}

/// The interface number in the name of a link's pin.
pub(super) fn ifindex_of_pin(name: &str) -> Option<u32> {
    name.strip_prefix(LINK_PREFIX)?.split('_').next()?.parse().ok()
}

/// Both programs of a workload's interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// Name of the interface.
    pub interface: String,
    /// Its number.
    pub ifindex: u32,
    /// Whether it is the host side of the workload's veth.
    pub host_side: bool,
    /// How the programs are attached.
    pub mechanism: Mechanism,
    hooks: Vec<AttachedHook>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct AttachedHook {
    program: &'static str,
    hook: Hook,
    program_id: u32,
}

/// What became of an attachment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// Both programs are attached and first in their chains.
    InPlace,
    /// Another program stands before ours and may have let packets pass.
    Displaced {
        /// Our program.
        program: &'static str,
        /// Name of the program in front, or `number` and its number.
        by: String,
    },
    /// A program is not attached any more: its traffic is not enforced.
    Detached {
        /// Our program.
        program: &'static str,
    },
    /// The interface is gone.
    InterfaceGone,
    /// Another interface has the name now: it is not enforced.
    InterfaceRecreated {
        /// Its number.
        ifindex: u32,
    },
}

impl Attachment {
    /// The names under which its links are pinned; none for filters.
    pub(super) fn link_pins(&self) -> Vec<String> {
        match self.mechanism {
            Mechanism::Tcx => programs(self.host_side)
                .iter()
                .map(|(_, suffix, _)| link_pin(self.ifindex, suffix))
                .collect(),
            Mechanism::Clsact => Vec::new(),
        }
    }

    /// Looks whether both programs are still attached, and first in their chains.
    pub fn check_first(&self) -> Result<Health, DatapathError> {
        let Some(facts) = netlink::link(&self.interface)? else {
            return Ok(Health::InterfaceGone);
        };
        if facts.ifindex != self.ifindex {
            return Ok(Health::InterfaceRecreated { ifindex: facts.ifindex });
        }
        for hook in &self.hooks {
            let health = match self.mechanism {
                Mechanism::Tcx => self.check_tcx(hook)?,
                Mechanism::Clsact => self.check_clsact(hook)?,
            };
            if health != Health::InPlace {
                return Ok(health);
            }
        }
        Ok(Health::InPlace)
    }

    /// The same for the chains alone, and without asking what is cheaper to be told: filters of a
    /// clsact qdisc do not change without a note of the kernel's.
    pub(super) fn looks_first(&self) -> bool {
        self.mechanism == Mechanism::Clsact
            || self.hooks.iter().all(|hook| {
                sys::query_chain(self.ifindex, hook.hook.tcx())
                    .is_ok_and(|chain| chain.first() == Some(&hook.program_id))
            })
    }

    fn check_tcx(&self, hook: &AttachedHook) -> Result<Health, DatapathError> {
        let program = hook.program;
        let chain = tcx::chain(program, &self.interface, self.ifindex, hook.hook)?;
        if !chain.contains(&hook.program_id) {
            return Ok(Health::Detached { program });
        }
        match chain.first() {
            Some(first) if *first != hook.program_id => {
                // Its name is for those with CAP_SYS_ADMIN: `bpftool prog show id` tells it.
                Ok(Health::Displaced { program, by: format!("number {first}") })
            }
            _ => Ok(Health::InPlace),
        }
    }

    fn check_clsact(&self, hook: &AttachedHook) -> Result<Health, DatapathError> {
        let program = hook.program;
        let filters = clsact::filters(self.ifindex, hook.hook)?;
        let is_this = |filter: &netlink::Filter| filter.program_id == Some(hook.program_id);
        if !filters.iter().any(is_this) {
            return Ok(Health::Detached { program });
        }
        match filters.first() {
            Some(first) if !is_this(first) => {
                let by = first.name.clone().unwrap_or_else(|| "without a name".to_owned());
                Ok(Health::Displaced { program, by })
            }
            _ => Ok(Health::InPlace),
        }
    }
}

/// Pins the loaded programs in place of those of an earlier daemon, for inspection.
pub(super) fn pin_programs(folder: &PinFolder, loaded: &mut Loaded) -> Result<(), DatapathError> {
    for name in PROGRAMS {
        let pin = format!("{PROGRAM_PREFIX}{name}");
        folder.remove(&pin)?;
        let path = folder.pin(&pin);
        let pinned = loaded.program(name)?.pin(&path);
        pinned.map_err(|e| DatapathError::file(&path, "pin", io::Error::other(e)))?;
    }
    Ok(())
}

/// Puts a program where an earlier daemon's of that name stands, at every interface, each in one step of
/// the kernel. Nothing is attached where nothing was.
pub(super) fn replace_everywhere(
    folder: &PinFolder,
    loaded: &mut Loaded,
    program: &'static str,
    interfaces: &[u32],
) -> Result<(), DatapathError> {
    let classifier = loaded.program(program)?;
    for pin in folder.names()?.iter().filter(|pin| program_of_pin(pin) == Some(program)) {
        match tcx::swap(folder, classifier, pin) {
            // The interface is gone, and the link's place with it.
            Err(error) if is_gone(&error) => continue,
            other => other.map_err(program_error(program, format!("put into {pin}")))?,
        }
        fault::reached(KillPoint::PlaceTaken);
    }
    for ifindex in interfaces {
        let Some(facts) = netlink::link_of(*ifindex)? else { continue };
        for hook in Hook::BOTH {
            let filters = clsact::filters(*ifindex, hook)?;
            let is_same = |filter: &netlink::Filter| filter.name.as_deref() == Some(program);
            if filters.iter().any(|filter| clsact::is_ours(filter) && is_same(filter)) {
                clsact::attach(folder, classifier, program, &facts, hook)?;
                fault::reached(KillPoint::PlaceTaken);
            }
        }
    }
    Ok(())
}

/// The program in a pinned link, by the pin's name; also of one that waits to take another's place.
fn program_of_pin(pin: &str) -> Option<&'static str> {
    ifindex_of_pin(pin)?;
    let name = pin.strip_suffix(NEXT_SUFFIX).unwrap_or(pin);
    let mut all = programs(false).into_iter();
    all.find(|(_, suffix, _)| name.rsplit('_').next() == Some(suffix)).map(|(program, ..)| program)
}

fn is_gone(error: &ProgramError) -> bool {
    matches!(error, ProgramError::SyscallError(e) if e.io_error.raw_os_error() == Some(libc::ENOLINK))
}

/// Takes our programs off an interface: links by their pins, filters, and the qdisc if this
/// instance made it and nothing else uses it. Says what it removed.
pub(super) fn detach(folder: &PinFolder, ifindex: u32) -> Result<Vec<String>, DatapathError> {
    let mut removed = Vec::new();
    for name in folder.names()? {
        if ifindex_of_pin(&name) == Some(ifindex) && remove_link(folder, &name)? {
            removed.push(format!("link {name}"));
        }
    }
    removed.extend(clsact::detach(folder, ifindex)?);
    Ok(removed)
}

/// Detaches a pinned link of either kind, TCX or XDP, and removes the pin; `false` if there is none.
pub(super) fn remove_link(folder: &PinFolder, pin: &str) -> Result<bool, DatapathError> {
    let path = folder.pin(pin);
    if let Ok(link) = sys::pinned(&path) {
        match sys::detach_link(link.as_fd()) {
            // No link, or its interface is gone and its place with it.
            Err(e) if !matches!(e.raw_os_error(), Some(libc::EINVAL | libc::ENOLINK)) => {
                return Err(DatapathError::file(&path, "detach", e));
            }
            _ => {}
        }
    }
    folder.remove(pin)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_workload_sends_is_seen_on_the_right_hook() {
        let [from, to] = programs(false);
        assert_eq!(
            (from.0, from.2, to.0, to.2),
            ("from_workload", Hook::Egress, "to_workload", Hook::Ingress)
        );
        let [from, to] = programs(true);
        assert_eq!((from.2, to.2), (Hook::Ingress, Hook::Egress));
    }

    #[test]
    fn pins_name_their_interface() {
        assert_eq!(ifindex_of_pin(&link_pin(42, "from")), Some(42));
        assert_eq!(ifindex_of_pin("link_42_to_next"), Some(42));
        assert_eq!(program_of_pin(&link_pin(42, "from")), Some("from_workload"));
        assert_eq!(program_of_pin("link_42_to_next"), Some("to_workload"));
        assert_eq!(program_of_pin("program_reinject"), None);
        assert_eq!(ifindex_of_pin("program_reinject"), None);
        assert_eq!(ifindex_of_pin("link_x_from"), None);
    }
}
