//! Boot time, which the kernel's deadlines are in.

use nix::time::{ClockId, clock_gettime};

const NS_PER_SECOND: i128 = 1_000_000_000;

/// Nanoseconds since boot, time asleep included (`CLOCK_BOOTTIME`): the clock of every deadline in
/// the maps (`bpf_ktime_get_boot_ns`).
#[must_use]
pub fn boot_ns() -> u64 {
    // The clock exists since Linux 2.6.39; the call fails only for unknown ones.
    let ns = clock_gettime(ClockId::CLOCK_BOOTTIME)
        .map_or(0, |time| i128::from(time.tv_sec()) * NS_PER_SECOND + i128::from(time.tv_nsec()));
    u64::try_from(ns).unwrap_or(0)
}
