//! Holds what is pinned by descriptors too, so that what is in force does not hang on names: a pin
//! that somebody removes, or a bpf file system that somebody unmounts, detaches nothing as long as the
//! daemon lives, and it pins everything again for the daemon after it.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd as _, OwnedFd};

use super::attach::ifindex_of_pin;
use super::clsact;
use super::error::DatapathError;
use super::folder::PinFolder;
use super::sys;

/// Maps, programs and links by the names of their pins, and the interfaces whose clsact qdisc is this instance's.
#[derive(Debug, Default)]
pub(super) struct Keeper {
    held: BTreeMap<String, OwnedFd>,
    marked: BTreeSet<u32>,
}

impl Keeper {
    /// Holds what is pinned under a name, in place of what was held for it.
    pub(super) fn hold(&mut self, folder: &PinFolder, name: &str) -> Result<(), DatapathError> {
        let path = folder.pin(name);
        let held = sys::pinned(&path).map_err(|e| DatapathError::file(&path, "open", e))?;
        self.held.insert(name.to_owned(), held);
        Ok(())
    }

    /// Notes whose the clsact qdisc of an interface is, as the folder says it.
    pub(super) fn hold_mark(&mut self, folder: &PinFolder, ifindex: u32) {
        if folder.has(&clsact::mark_of(ifindex)) {
            self.marked.insert(ifindex);
        }
    }

    /// Lets go of an interface's links and of its mark.
    pub(super) fn forget(&mut self, ifindex: u32) {
        self.held.retain(|name, _| ifindex_of_pin(name) != Some(ifindex));
        self.marked.remove(&ifindex);
    }

    /// Lets go of what is pinned under a name.
    pub(super) fn forget_pin(&mut self, name: &str) {
        self.held.remove(name);
    }

    /// Pins again what is not pinned any more; says what that was.
    pub(super) fn restore(&self, folder: &mut PinFolder) -> Result<Vec<String>, DatapathError> {
        folder.reclaim()?;
        let mut restored = Vec::new();
        for (name, held) in self.held.iter().filter(|(name, _)| !folder.has(name)) {
            let path = folder.pin(name);
            sys::pin(held.as_fd(), &path).map_err(|e| DatapathError::file(&path, "pin", e))?;
            restored.push(name.clone());
        }
        for mark in self.marked.iter().map(|ifindex| clsact::mark_of(*ifindex)) {
            if !folder.has(&mark) {
                folder.mark(&mark)?;
                restored.push(mark);
            }
        }
        Ok(restored)
    }
}
