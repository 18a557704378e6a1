//! The TC programs of the enforcer: they count what passes, by hook.

#![no_std]
#![no_main]

use aya_ebpf::bindings::TC_ACT_UNSPEC;
use aya_ebpf::btf_maps::PerCpuArray;
use aya_ebpf::macros::{btf_map, classifier};
use aya_ebpf::programs::TcContext;

/// Packets seen, one entry a hook.
#[btf_map]
static PACKETS: PerCpuArray<u64, 2> = PerCpuArray::new();

const INGRESS: u32 = 0;
const EGRESS: u32 = 1;

/// Counts what enters the interface.
#[classifier]
fn ingress(_packet: TcContext) -> i32 {
    count(INGRESS);
    TC_ACT_UNSPEC
}

/// Counts what leaves the interface.
#[classifier]
fn egress(_packet: TcContext) -> i32 {
    count(EGRESS);
    TC_ACT_UNSPEC
}

fn count(hook: u32) {
    if let Some(packets) = PACKETS.get_ptr_mut(hook) {
        // SAFETY: the pointer is this CPU's own slot, and a TC program is not preempted by
        // another that writes it.
        unsafe { *packets += 1 };
    }
}

/// The licence that the kernel checks before it lets a program call GPL-only helpers.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // A panic that survives optimisation must fail in the verifier, which refuses endless loops.
    loop {}
}
