//! Loop state that the kernel's verifier does not follow.

/// A number that lives in memory of a map. The verifier walks every way through a loop whose states
/// differ, but it does not follow what maps hold: with its state here, all rounds look alike to it,
/// and it walks one of them.
#[repr(transparent)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Opaque(u32);

impl Opaque {
    /// Stores a value.
    #[inline(always)]
    pub fn set(&mut self, value: u32) {
        // SAFETY: a live, aligned place; volatile so that it is really stored.
        unsafe { core::ptr::write_volatile(&raw mut self.0, value) };
    }

    /// Loads the value.
    #[must_use]
    #[inline(always)]
    pub fn value(&self) -> u32 {
        // SAFETY: a live, aligned place; volatile so that it is really loaded.
        unsafe { core::ptr::read_volatile(&raw const self.0) }
    }
}
