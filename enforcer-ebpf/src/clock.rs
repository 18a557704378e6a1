//! The time at which a packet is judged: boot time.

use aya_ebpf::helpers::generated::{bpf_jiffies64, bpf_ktime_get_boot_ns};

use crate::scratch::Scratch;

/// Brings `s.now_ns` up to date, to a tick (1 to 10 ms): enough for the deadlines of an open flow, and a clock read
/// costs as much as a look-up. Within a tick the time of a CPU stands still, and CPUs differ by as much.
#[inline(always)]
pub fn read_tick(s: &mut Scratch) {
    // SAFETY: a helper without preconditions. The JIT makes it a single load.
    let tick = unsafe { bpf_jiffies64() };
    if s.tick != tick {
        s.tick = tick;
        read(s);
    }
}

/// Brings `s.now_ns` up to date. What begins is dated with it: an upgrade, and the daemon, tell by the dates what came
/// first.
#[inline(always)]
pub fn read(s: &mut Scratch) {
    // SAFETY: a helper without preconditions.
    s.now_ns = unsafe { bpf_ktime_get_boot_ns() };
}
