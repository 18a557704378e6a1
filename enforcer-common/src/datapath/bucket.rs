//! Token buckets.

use crate::abi::BucketValue;

const MILLI: u64 = 1000;
const NS_PER_SECOND: u64 = 1_000_000_000;

/// Takes one token; `false` when none is left. A bucket starts full and holds one second's worth,
/// and one token at least.
#[must_use]
#[inline(always)]
pub fn take(bucket: &mut BucketValue, now_ns: u64, per_second: u32) -> bool {
    let rate = u64::from(per_second);
    let full = if rate == 0 { 0 } else { rate * MILLI };
    let elapsed = now_ns.saturating_sub(bucket.refilled_ns);
    if bucket.refilled_ns == 0 || elapsed >= NS_PER_SECOND {
        bucket.millitokens = full;
        bucket.refilled_ns = now_ns;
    } else {
        // Below a second and with a 32-bit rate the product stays far from overflow in
        // microseconds; refills of less than a millitoken are left to a later call.
        let earned = (elapsed / 1000) * rate / 1000;
        if earned > 0 {
            let filled = bucket.millitokens + earned;
            bucket.millitokens = if filled > full { full } else { filled };
            bucket.refilled_ns = now_ns;
        }
    }
    if bucket.millitokens < MILLI {
        return false;
    }
    bucket.millitokens -= MILLI;
    true
}

/// Whether [`take`] would find no token left.
#[must_use]
#[inline(always)]
pub fn is_dry(mut bucket: BucketValue, now_ns: u64, per_second: u32) -> bool {
    !take(&mut bucket, now_ns, per_second)
}

/// Gives back a token that was taken for something that turned out well.
#[inline(always)]
pub fn give_back(bucket: &mut BucketValue, per_second: u32) {
    let full = u64::from(per_second) * MILLI;
    let filled = bucket.millitokens + MILLI;
    bucket.millitokens = if filled > full { full } else { filled };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_of_a_second_then_the_rate() {
        let mut b = BucketValue::default();
        let start = 1_000_000_000_000;
        let burst = (0..100).filter(|_| take(&mut b, start, 10)).count();
        assert_eq!(burst, 10);
        assert!(!take(&mut b, start + 50_000_000, 10));
        assert!(take(&mut b, start + 100_000_000, 10));
        let over = (0..5_000u64)
            .filter(|ms| take(&mut b, start + 200_000_000 + ms * 1_000_000, 10))
            .count();
        assert!((48..=52).contains(&over), "{over}");
    }

    #[test]
    fn a_rate_of_zero_gives_nothing() {
        let mut b = BucketValue::default();
        assert!(!take(&mut b, 5, 0));
        assert!(!take(&mut b, 5_000_000_000, 0));
    }

    #[test]
    fn what_is_given_back_can_be_taken_again_and_no_more() {
        let mut b = BucketValue::default();
        let now = 5_000_000_000;
        assert!(take(&mut b, now, 2) && take(&mut b, now, 2) && !take(&mut b, now, 2));
        give_back(&mut b, 2);
        assert!(take(&mut b, now, 2) && !take(&mut b, now, 2));
        (0..10).for_each(|_| give_back(&mut b, 2));
        assert!(take(&mut b, now, 2) && take(&mut b, now, 2) && !take(&mut b, now, 2));
    }

    #[test]
    fn a_look_takes_nothing() {
        let mut b = BucketValue::default();
        let now = 5_000_000_000;
        assert!(!is_dry(b, now, 1) && !is_dry(b, now, 1));
        assert!(take(&mut b, now, 1) && is_dry(b, now, 1));
        assert!(!is_dry(b, now + 1_000_000_000, 1));
    }

    #[test]
    fn a_clock_that_steps_back_gives_nothing_extra() {
        let mut b = BucketValue::default();
        assert!(take(&mut b, 9_000_000_000, 1));
        assert!(!take(&mut b, 8_000_000_000, 1));
    }
}
