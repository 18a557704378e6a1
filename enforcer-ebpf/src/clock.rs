//! The time at which a packet is judged: boot time, read from the hardware once a tick on each CPU.

use aya_ebpf::helpers::generated::{bpf_jiffies64, bpf_ktime_get_boot_ns};

use crate::scratch::Scratch;

/// Brings `s.now_ns` up to date. A clock read costs as much as a look-up, and nothing here is decided by less than a
/// tick (1 to 10 ms): within one the time stands still. CPUs differ by as much.
#[inline(always)]
pub fn read(s: &mut Scratch) {
    // SAFETY: helpers without preconditions. The JIT makes the first a single load.
    unsafe {
        let tick = bpf_jiffies64();
        if s.tick != tick {
            s.tick = tick;
            s.now_ns = bpf_ktime_get_boot_ns();
        }
    }
}
