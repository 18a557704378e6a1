//! Counts what a part of a thread's work holds of the heap.
//!
//! The program that wants it told makes [`Counting`] its allocator; without it nothing is counted. What is
//! allocated in one part and freed in another is not told apart, so inputs are made and outputs dropped where
//! they are counted.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static COUNTS: Cell<bool> = const { Cell::new(false) };
    static HELD: Cell<i64> = const { Cell::new(0) };
}

/// The system's allocator, and a count of bytes beside it.
#[derive(Debug)]
pub struct Counting;

// SAFETY: every call goes on to the system's allocator unchanged; beside it two thread-local cells without
// destructors are read and written, which allocates nothing and cannot panic.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 1);
        // SAFETY: the caller keeps to the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(layout.size(), -1);
        // SAFETY: `pointer` came from the system's allocator with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Does something, and counts what it allocates and frees.
pub fn counted<T>(work: impl FnOnce() -> T) -> T {
    switched(true, work)
}

/// Does something in the middle of it that is not to be counted.
pub fn uncounted<T>(work: impl FnOnce() -> T) -> T {
    switched(false, work)
}

/// Bytes that this thread holds of what was counted; none if [`Counting`] is not the allocator.
#[must_use]
pub fn held() -> Option<i64> {
    let before = HELD.get();
    drop(counted(|| std::hint::black_box(Box::new(0_u8))));
    let probe = counted(|| std::hint::black_box(Box::new(0_u8)));
    let counts = HELD.get() != before;
    counted(|| drop(probe));
    counts.then_some(before)
}

fn switched<T>(on: bool, work: impl FnOnce() -> T) -> T {
    let before = COUNTS.replace(on);
    let done = work();
    COUNTS.set(before);
    done
}

fn count(bytes: usize, sign: i64) {
    if COUNTS.get() {
        HELD.set(HELD.get() + sign * i64::try_from(bytes).unwrap_or(i64::MAX));
    }
}
