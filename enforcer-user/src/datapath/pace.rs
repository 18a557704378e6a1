//! How often tables are walked: an empty one is looked through as a full one is, bucket by bucket, so a walk that had
//! little to see is followed by a rest that grows with what it cost.

use std::time::{Duration, Instant};

/// A rest is so many times what the walk took: walks over nearly empty tables cost a four hundredth of a processor, until
/// the longest rest is too short for it (tables for half a million flows).
const RESTS: u32 = 400;
/// The longest rest: what is over may stay that much longer.
const LONGEST: Duration = Duration::from_secs(2);

/// Of the walks over one kind of tables.
#[derive(Debug, Default)]
pub(super) struct Pace {
    worked: Duration,
    steps: u32,
    rests_until_ns: u64,
}

impl Pace {
    /// Whether the next step is to be made. `now_ns` is boot time.
    pub(super) fn is_due(&self, now_ns: u64) -> bool {
        now_ns >= self.rests_until_ns
    }

    /// A step was made, which began at `begun`. A walk that ends with its first step found few; one that took several
    /// is followed by the next at once.
    pub(super) fn stepped(&mut self, begun: Instant, walked: bool, now_ns: u64) {
        self.add(begun.elapsed(), walked, now_ns);
    }

    fn add(&mut self, took: Duration, walked: bool, now_ns: u64) {
        self.worked += took;
        self.steps += 1;
        if !walked {
            return;
        }
        if self.steps == 1 {
            let rest = self.worked.saturating_mul(RESTS).min(LONGEST);
            let rest_ns = u64::try_from(rest.as_nanos()).unwrap_or(u64::MAX);
            self.rests_until_ns = now_ns.saturating_add(rest_ns);
        }
        (self.worked, self.steps) = Default::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const MS_NS: u64 = 1_000_000;

    #[test]
    fn a_walk_of_one_step_is_followed_by_a_rest_that_is_bounded() {
        let mut pace = Pace::default();
        assert!(pace.is_due(0));
        pace.add(MS, true, 1000 * MS_NS);
        assert!(!pace.is_due(1399 * MS_NS));
        assert!(pace.is_due(1400 * MS_NS));
        pace.add(1000 * MS, true, 2000 * MS_NS);
        assert!(!pace.is_due(3999 * MS_NS));
        assert!(pace.is_due(4000 * MS_NS));
    }

    #[test]
    fn a_walk_of_several_steps_is_followed_by_the_next() {
        let mut pace = Pace::default();
        pace.add(MS, false, 0);
        assert!(pace.is_due(0));
        pace.add(MS, true, 0);
        assert!(pace.is_due(0));
        pace.add(MS, true, 0);
        assert!(!pace.is_due(0));
    }
}
