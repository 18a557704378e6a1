//! The two clocks that every input brings along. The engine itself reads none.

/// Nanoseconds of a second.
pub const SECOND_NS: u64 = 1_000_000_000;

/// What time it is. Deadlines in maps are boot time; credentials and policies speak of wall time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// `CLOCK_BOOTTIME` in nanoseconds.
    pub boot_ns: u64,
    /// `CLOCK_REALTIME` in nanoseconds since 1970-01-01T00:00:00Z.
    pub unix_ns: u64,
}

impl Now {
    /// Wall time in whole seconds.
    #[must_use]
    pub fn unix_seconds(&self) -> u64 {
        self.unix_ns / SECOND_NS
    }

    /// The boot time at which the wall clock, if nobody sets it, shows `unix_seconds`. A second
    /// that is over gives the present moment, at which a deadline has passed.
    #[must_use]
    pub fn boot_deadline(&self, unix_seconds: u64) -> u64 {
        let left = unix_seconds.saturating_mul(SECOND_NS).saturating_sub(self.unix_ns);
        self.boot_ns.saturating_add(left)
    }

    /// The wall-clock second, rounded up, at which boot time is `boot_ns`.
    #[must_use]
    pub fn unix_at(&self, boot_ns: u64) -> u64 {
        let left = boot_ns.saturating_sub(self.boot_ns);
        self.unix_ns.saturating_add(left).div_ceil(SECOND_NS)
    }

    /// `seconds` from now, in boot time.
    #[must_use]
    pub fn after(&self, seconds: u64) -> u64 {
        self.boot_ns.saturating_add(seconds.saturating_mul(SECOND_NS))
    }

    /// How far wall time runs ahead of boot time, in nanoseconds. It changes only when the wall
    /// clock is set.
    #[must_use]
    pub fn offset_ns(&self) -> i128 {
        i128::from(self.unix_ns) - i128::from(self.boot_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Now = Now { boot_ns: 5 * SECOND_NS, unix_ns: 1_000 * SECOND_NS + 1 };

    #[test]
    fn a_deadline_never_comes_after_its_second() {
        assert_eq!(NOW.boot_deadline(1_001), 6 * SECOND_NS - 1);
        assert_eq!(NOW.boot_deadline(999), NOW.boot_ns);
        assert_eq!(NOW.boot_deadline(u64::MAX), u64::MAX - NOW.unix_ns + NOW.boot_ns);
    }

    #[test]
    fn a_deadline_reads_back() {
        assert_eq!(NOW.unix_at(NOW.boot_deadline(1_777)), 1_777);
    }
}
