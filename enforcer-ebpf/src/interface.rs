//! Whose interface a packet is on.

use enforcer_common::abi::{INTERFACE_SLOTS, InterfaceSlot, InterfaceValue};

use crate::{
    maps::{INTERFACES, SLOTS},
    scratch::Scratch,
};

const SLOT_WORDS: usize = size_of::<InterfaceSlot>() / 8;

/// Puts the value of interface `s.ifindex` into the scratch; `false` if it has none.
#[inline(always)]
pub fn find(s: &mut Scratch) -> bool {
    if let Some(slot) = SLOTS.get_ptr(s.ifindex & (INTERFACE_SLOTS - 1)) {
        // SAFETY: a live array value. Read once, word by word: what is looked at below and what is used are the same,
        // whatever the daemon writes meanwhile. Every bit pattern is a value.
        let slot: InterfaceSlot =
            unsafe { core::mem::transmute(slot.cast::<[u64; SLOT_WORDS]>().read_volatile()) };
        if slot.holds(s.ifindex) {
            s.interface = slot.value;
            return true;
        }
    }
    // SAFETY: read only; the daemon replaces the value whole.
    let found = unsafe { INTERFACES.get(&s.ifindex) };
    s.interface = found.map_or_else(InterfaceValue::default, |value| *value);
    found.is_some()
}
