//! Sequence number arithmetic (RFC 9293 3.4).

/// Whether `a` comes after `b`, modulo 2^32.
#[must_use]
#[inline(always)]
pub fn after(a: u32, b: u32) -> bool {
    (b.wrapping_sub(a) as i32) < 0
}

/// The later of both.
#[must_use]
#[inline(always)]
pub fn later(a: u32, b: u32) -> u32 {
    if after(a, b) { a } else { b }
}

/// Whether `value` lies in `[start, start + length)`, modulo 2^32.
#[must_use]
#[inline(always)]
pub fn within(value: u32, start: u32, length: u32) -> bool {
    value.wrapping_sub(start) < length
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wraps() {
        assert!(after(1, u32::MAX));
        assert!(!after(u32::MAX, 1));
        assert!(!after(5, 5));
        assert_eq!(later(2, u32::MAX - 1), 2);
        assert!(within(3, u32::MAX, 8));
        assert!(!within(u32::MAX - 1, u32::MAX, 8));
    }
}
