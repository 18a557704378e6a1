//! Boot time, which the kernel's deadlines are in, and wall time, which credentials are in.

use nix::time::{ClockId, clock_gettime};

const NS_PER_SECOND: i128 = 1_000_000_000;

/// A change of the wall clock beyond this is a step; less is slewing or the reading itself.
const STEP_NS: i128 = NS_PER_SECOND;

/// Nanoseconds since boot, time asleep included (`CLOCK_BOOTTIME`): the clock of every deadline in
/// the maps (`bpf_ktime_get_boot_ns`).
#[must_use]
pub fn boot_ns() -> u64 {
    u64::try_from(read(ClockId::CLOCK_BOOTTIME)).unwrap_or(0)
}

/// How wall time and boot time relate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    /// Nanoseconds of wall time (since 1970) at boot.
    origin_ns: i128,
}

impl Clock {
    /// Reads both clocks.
    #[must_use]
    pub fn read() -> Self {
        let before = read(ClockId::CLOCK_BOOTTIME);
        let wall = read(ClockId::CLOCK_REALTIME);
        let after = read(ClockId::CLOCK_BOOTTIME);
        Self { origin_ns: wall - i128::midpoint(before, after) }
    }

    /// Boot time of a wall time in seconds since 1970; 0 for times before boot, so that a deadline
    /// made of it has passed.
    #[must_use]
    pub fn boot_ns_at(&self, unix_seconds: i64) -> u64 {
        let ns = i128::from(unix_seconds) * NS_PER_SECOND - self.origin_ns;
        u64::try_from(ns.max(0)).unwrap_or(u64::MAX)
    }

    /// Wall time, in whole seconds since 1970, of a boot time.
    #[must_use]
    pub fn unix_seconds_at(&self, boot_ns: u64) -> i64 {
        let seconds = (i128::from(boot_ns) + self.origin_ns).div_euclid(NS_PER_SECOND);
        i64::try_from(seconds).unwrap_or(i64::MAX)
    }

    /// Compares with a later reading and takes it over. `Some` says by how many nanoseconds the
    /// wall clock was set forward (negative: back): deadlines made before must be made anew.
    pub fn follow(&mut self, later: Self) -> Option<i128> {
        let by = later.origin_ns - self.origin_ns;
        if by.abs() < STEP_NS {
            return None;
        }
        *self = later;
        Some(by)
    }
}

fn read(clock: ClockId) -> i128 {
    // Both clocks exist since Linux 2.6.39; the call fails only for unknown ones.
    clock_gettime(clock)
        .map_or(0, |time| i128::from(time.tv_sec()) * NS_PER_SECOND + i128::from(time.tv_nsec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLOCK: Clock = Clock { origin_ns: 1_700_000_000 * NS_PER_SECOND + 5 };

    #[test]
    fn there_and_back() {
        assert_eq!(CLOCK.boot_ns_at(1_700_000_010), 9_999_999_995);
        assert_eq!(CLOCK.unix_seconds_at(9_999_999_995), 1_700_000_010);
        assert_eq!(CLOCK.unix_seconds_at(9_999_999_994), 1_700_000_009);
    }

    #[test]
    fn before_boot_has_passed_and_the_far_future_does_not_overflow() {
        assert_eq!(CLOCK.boot_ns_at(0), 0);
        assert_eq!(CLOCK.boot_ns_at(i64::MIN), 0);
        assert_eq!(CLOCK.boot_ns_at(i64::MAX), u64::MAX);
        assert!(CLOCK.unix_seconds_at(u64::MAX) > 1_700_000_000);
    }

    #[test]
    fn only_a_step_is_told_and_slewing_adds_up_to_one() {
        let mut clock = CLOCK;
        let slewed = Clock { origin_ns: CLOCK.origin_ns + STEP_NS / 2 };
        assert_eq!(clock.follow(slewed), None);
        let more = Clock { origin_ns: CLOCK.origin_ns - STEP_NS };
        assert_eq!(clock.follow(more), Some(-STEP_NS));
        assert_eq!(clock, more);
        assert_eq!(clock.follow(more), None);
    }

    #[test]
    fn the_system_clocks_agree_with_themselves() {
        let clock = Clock::read();
        let now = boot_ns();
        assert!(now > 0);
        let wall = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let error = clock.unix_seconds_at(now) - i64::try_from(wall.as_secs()).unwrap();
        assert!(error.abs() <= 60, "{error}");
    }
}
