//! The workload of the packet's interface.

use core::ptr::from_ref;
use enforcer_common::abi::{DropReason, WorkloadValue, workload_flags};

use crate::{maps::WORKLOADS, scratch::Scratch};

/// A workload that is there.
#[derive(Clone, Copy)]
pub struct Workload {
    /// Its row. The daemon writes it in place, so fields may be of before and after each other; none depends on
    /// another.
    pub value: &'static WorkloadValue,
    /// Its flags, read once with the one that says that the row is a workload's: of a row that is being emptied
    /// nobody sees them cleared and believes the rest.
    pub flags: u32,
}

/// The workload that the packet is judged for.
#[inline(always)]
pub fn find(s: &Scratch) -> Result<Workload, DropReason> {
    let value = WORKLOADS.get(u32::from(s.interface.workload)).ok_or(DropReason::NoWorkload)?;
    // SAFETY: a field of a live value. Volatile, so that it is read once.
    let flags = unsafe { from_ref(&value.flags).read_volatile() };
    if flags & workload_flags::PRESENT == 0 {
        return Err(DropReason::NoWorkload);
    }
    Ok(Workload { value, flags })
}
