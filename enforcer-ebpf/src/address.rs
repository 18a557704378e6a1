//! Whether a frame's source is the workload's own.

use aya_ebpf::bindings::__sk_buff;
use core::ptr::from_ref;
use enforcer_common::abi::{
    Address, AddressKey, DropReason, FlowValue, WorkloadValue, interface_flags, mapped,
    workload_flags,
};

use crate::{
    maps::{ADDRESSES, WORKLOADS},
    scratch::Scratch,
    skb::load,
    workload,
};

/// Whether the workload may use `address`, where its addresses are enforced.
#[inline(always)]
pub fn check(s: &Scratch, address: &Address) -> Result<(), DropReason> {
    found_in(s, address).map(|_| ())
}

/// The same; tells in which set of the workload's addresses it was found: 0, which is none, while they change or
/// where they are not enforced.
#[inline(always)]
pub fn found_in(s: &Scratch, address: &Address) -> Result<u32, DropReason> {
    let workload = workload::find(s)?;
    let is_enforced = workload.flags & workload_flags::CHECK_ADDRESS != 0;
    if !is_enforced || cfg!(feature = "mutate-source-address") {
        return Ok(0);
    }
    let set = set_of(workload.value);
    let key = AddressKey { address: *address, workload: s.interface.workload, zero: [0; 6] };
    // SAFETY: only its presence matters.
    match unsafe { ADDRESSES.get(&key) } {
        Some(_) => Ok(set),
        None => Err(DropReason::SpoofedSource),
    }
}

/// Which addresses the workload has. One program sees no change of both number and addresses: the daemon waits
/// between them until every program has ended that had begun.
#[inline(always)]
fn set_of(workload: &WorkloadValue) -> u32 {
    // SAFETY: a field of a live value. Volatile, as the daemon writes it in place.
    unsafe { from_ref(&workload.address_set).read_volatile() }
}

/// Whether the local address of a flow without connections was found among those that the workload has now.
#[inline(always)]
pub fn is_known(flow: &FlowValue, workload: u16) -> bool {
    let set = WORKLOADS.get(u32::from(workload)).map_or(0, set_of);
    set != 0 && (flow.address_set() == set || cfg!(feature = "mutate-address-set"))
}

/// An ARP packet for IPv4 over Ethernet (RFC 826), as far as it is read.
///
/// ```text
/// offset 0 hardware type(2)  2 protocol type(2)  4 lengths(2)  6 operation(2)
///        8 sender link address(6)  14 sender address(4)  18 target link address(6)  24 target(4)
/// ```
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Arp {
    head: [u8; 8],
    sender_mac: [u8; 6],
    sender: [u8; 4],
}

/// An ARP packet of the workload must speak for its own addresses; a probe has none (RFC 5227).
#[inline(never)]
pub fn arp(skb: *mut __sk_buff, s: &Scratch) -> u32 {
    let mut arp = Arp::default();
    if let Err(reason) = load(skb, 14, &mut arp) {
        return reason as u32;
    }
    let own_mac =
        s.interface.flags & interface_flags::CHECK_MAC == 0 || arp.sender_mac == s.interface.mac;
    if !own_mac {
        return DropReason::SpoofedSource as u32;
    }
    if arp.sender == [0; 4] {
        return 0;
    }
    match check(s, &mapped(arp.sender)) {
        Ok(()) => 0,
        Err(reason) => reason as u32,
    }
}
