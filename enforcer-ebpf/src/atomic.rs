//! Atomic additions. The target declares no read-modify-write atomics, so `core::sync::atomic` has no
//! `fetch_add` for it.

use core::arch::asm;

/// `atomic_fetch_add` of one (Linux 5.12).
///
/// # Safety
/// `at` points to a live, aligned value that nothing else accesses without an atomic.
#[inline(always)]
pub unsafe fn fetch_increment(at: *mut u64) -> u64 {
    let mut value = 1u64;
    // SAFETY: the caller's contract; the instruction touches nothing but the value and a register.
    unsafe {
        asm!(
            "{value} = atomic_fetch_add((u64 *)({at} + 0), {value})",
            at = in(reg) at,
            value = inout(reg) value,
        );
    }
    value
}

/// Adds `value`, wrapping.
///
/// # Safety
/// `at` points to a live, aligned value that is otherwise only read.
#[inline(always)]
pub unsafe fn add(at: *mut u64, value: u64) {
    // SAFETY: as in `fetch_increment`.
    unsafe {
        asm!(
            "lock *(u64 *)({at} + 0) += {value}",
            at = in(reg) at,
            value = in(reg) value,
        );
    }
}
