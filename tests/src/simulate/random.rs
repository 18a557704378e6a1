//! Random numbers that are the same for the same seed, whatever is asked for in between.

/// A source for one purpose and one thing of it.
pub fn source(seed: u64, purpose: u64, number: u64) -> fastrand::Rng {
    fastrand::Rng::with_seed(mix(mix(mix(seed) ^ purpose) ^ number))
}

/// SplitMix64's finaliser (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014).
fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Time to the next event of so many a second, in whole seconds, at least one; never if there are none.
pub fn wait(random: &mut fastrand::Rng, per_second: f64) -> Option<u64> {
    (per_second > 0.0)
        .then(|| {
            let seconds = -(1.0 - random.f64()).ln() / per_second;
            // Past any run, and no cast of what does not fit.
            seconds.clamp(1.0, 1e9)
        })
        .map(whole)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is clamped")]
fn whole(seconds: f64) -> u64 {
    seconds as u64
}

/// How many events there are in a time in which `expected` are to be expected; `none` is the chance of none,
/// `exp(-expected)`.
pub fn events(random: &mut fastrand::Rng, none: f64) -> u32 {
    let (mut count, mut chance) = (0, random.f64());
    while chance > none && count < 1000 {
        count += 1;
        chance *= random.f64();
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_gives_one_course() {
        let draw = |seed, purpose, number| source(seed, purpose, number).u64(..);
        assert_eq!(draw(1, 2, 3), draw(1, 2, 3));
        assert!(draw(1, 2, 3) != draw(2, 2, 3) && draw(1, 2, 3) != draw(1, 3, 2));
    }

    #[test]
    fn waits_and_counts_have_the_mean_that_was_asked_for() {
        let mut random = source(7, 0, 0);
        let waited: u64 = (0..10_000).filter_map(|_| wait(&mut random, 0.01)).sum();
        assert!((950_000..1_050_000).contains(&waited), "{waited}");
        assert_eq!(wait(&mut random, 0.0), None);
        let none = (-0.25_f64).exp();
        let counted: u32 = (0..40_000).map(|_| events(&mut random, none)).sum();
        assert!((9_500..10_500).contains(&counted), "{counted}");
    }
}
