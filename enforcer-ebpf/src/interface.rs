//! Whose interface a packet is on.

use enforcer_common::abi::{INTERFACE_SLOTS, InterfaceValue};

use crate::{
    maps::{INTERFACES, SLOTS},
    scratch::Scratch,
};

/// Puts the value of interface `s.ifindex` into the scratch; `false` if it has none.
#[inline(always)]
pub fn find(s: &mut Scratch) -> bool {
    if let Some(slot) = SLOTS.get(s.ifindex & (INTERFACE_SLOTS - 1))
        && slot.holds(s.ifindex)
    {
        s.interface = slot.value;
        return true;
    }
    // SAFETY: read only; the daemon replaces the value whole.
    let found = unsafe { INTERFACES.get(&s.ifindex) };
    s.interface = found.map_or_else(InterfaceValue::default, |value| *value);
    found.is_some()
}
