//! The TC programs of the enforcer. `from_workload` sees what a workload sends, `to_workload` what
//! it is about to receive; which hook of an interface that is depends on which end of a veth it
//! sits on, and the daemon attaches accordingly. `reinject` serves the daemon's helper interface.
//! `guard` is the one XDP program: where it is asked for, it drops early what `to_workload` would.
//!
//! The order of every packet: entry -> cursor -> parse -> flow (established path), else handshake,
//! network rule or reset -> verdict.

#![no_std]
#![no_main]
// Inline assembly for bpf, for the one atomic instruction that core does not offer there.
#![feature(asm_experimental_arch)]
// In the kernel every call costs a frame of a 512-byte stack, and helpers must vanish in callers.
#![allow(clippy::inline_always)]
// By value, a key or value that lies in the scratch would be copied to the stack first.
#![allow(clippy::needless_borrows_for_generic_args)]
// The programs' documented functions are wrapped by a macro that generates undocumented ones.
#![allow(missing_docs)]
// Eight bytes in two registers, or a pointer to where they lie: the latter is cheaper here. And the
// context is what the macro hands over.
#![allow(clippy::trivially_copy_pass_by_ref, clippy::needless_pass_by_value)]
// Widths are those of packet fields, checked before the cast; a checked cast would add a branch
// that the verifier has to walk.
#![allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap, clippy::cast_sign_loss)]

mod address;
mod atomic;
mod attempt;
mod checksum;
mod clock;
mod counter;
mod cursor;
mod entry;
mod flow;
mod guard;
mod handshake;
mod hold;
mod interface;
mod mac;
mod maps;
mod network;
mod outcome;
mod proof;
mod quota;
mod reset;
mod scratch;
mod segment;
mod skb;
mod verdict;
mod workload;

use aya_ebpf::{
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};

/// Hook of segments that a workload sends.
#[classifier]
pub fn from_workload(ctx: TcContext) -> i32 {
    entry::run::<true>(ctx.skb.skb)
}

/// Hook of segments towards a workload.
#[classifier]
pub fn to_workload(ctx: TcContext) -> i32 {
    entry::run::<false>(ctx.skb.skb)
}

/// Hook in a driver. It reads the first buffer of a frame alone, so it can say that it bears several, as
/// jumbo frames and large receive offload need.
#[xdp(frags)]
pub fn guard(ctx: XdpContext) -> u32 {
    guard::run(ctx.ctx)
}

/// The same behind a driver (generic XDP), without that word: for programs that have it Linux copies the
/// skb and forgets the length of its link header (`skb_pp_cow_data`, seen in 6.18), so that TC reads
/// every frame from the wrong place. For others it makes the skb linear in place.
#[xdp]
pub fn guard_generic(ctx: XdpContext) -> u32 {
    guard::run(ctx.ctx)
}

/// Hook of the daemon's helper interface.
#[classifier]
pub fn reinject(ctx: TcContext) -> i32 {
    hold::reinject(ctx.skb.skb)
}

/// A panic that survives optimisation becomes an endless loop, which the verifier refuses: the
/// object does not load.
#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Some helpers are GPL only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
