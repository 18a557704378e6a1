//! Rounds of figures, their medians and their spread.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::stage::Setting;

/// The figures of one round: by what was measured, then by setting.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Figures(BTreeMap<String, BTreeMap<Setting, f64>>);

impl Figures {
    /// Notes a figure.
    pub fn note(&mut self, measure: &str, setting: Setting, value: f64) {
        self.0.entry(measure.to_owned()).or_default().insert(setting, value);
    }

    /// A figure.
    #[must_use]
    pub fn figure(&self, measure: &str, setting: Setting) -> Option<f64> {
        self.0.get(measure)?.get(&setting).copied()
    }
}

/// A measure over all rounds.
#[derive(Debug, Clone, Copy)]
pub struct Samples<'a> {
    /// The rounds.
    pub rounds: &'a [Figures],
    /// What was measured.
    pub measure: &'a str,
}

impl Samples<'_> {
    /// Whether any round has some.
    #[must_use]
    pub fn are_there(&self) -> bool {
        self.rounds.iter().any(|round| round.0.contains_key(self.measure))
    }

    /// The median over the rounds.
    #[must_use]
    pub fn median(&self, setting: Setting) -> f64 {
        let each = self.rounds.iter().filter_map(|round| round.figure(self.measure, setting));
        Spread::of(each.collect()).median
    }

    /// The ratio of two settings in each round.
    #[must_use]
    pub fn ratio(&self, of: Setting, to: Setting) -> Spread {
        let ratio = |round: &Figures| {
            Some(round.figure(self.measure, of)? / round.figure(self.measure, to)?)
        };
        Spread::of(self.rounds.iter().filter_map(ratio).collect())
    }
}

/// Median and extremes of figures; not-a-number without any.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Spread {
    /// The smallest.
    pub least: f64,
    /// The middle one; of an even number the mean of the two.
    pub median: f64,
    /// The largest.
    pub most: f64,
}

impl Spread {
    /// Of these.
    #[must_use]
    pub fn of(mut values: Vec<f64>) -> Self {
        values.sort_unstable_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        let last = values.len().saturating_sub(1);
        Self {
            least: at(0),
            median: f64::midpoint(at(last / 2), at(last.div_ceil(2))),
            most: at(last),
        }
    }
}

/// The 99th percentile of some values: the least that no more than one in a hundred exceeds.
#[must_use]
pub fn percentile_99(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) * 99 / 100).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        let spread = Spread::of(vec![4.0, 1.0, 3.0, 2.0]);
        assert!((spread.median - 2.5).abs() < 1e-9);
        assert!((spread.least - 1.0).abs() < 1e-9);
        assert!((spread.most - 4.0).abs() < 1e-9);
        assert!((Spread::of(vec![7.0]).median - 7.0).abs() < 1e-9);
        assert!(Spread::of(Vec::new()).median.is_nan());
    }

    #[test]
    fn ratios_are_of_the_same_round() {
        let round = |native: f64, enforced: f64| {
            let mut figures = Figures::default();
            figures.note("rate", Setting::Native, native);
            figures.note("rate", Setting::Enforced, enforced);
            figures
        };
        let rounds = [round(100.0, 90.0), round(10.0, 9.0), round(50.0, 45.0)];
        let samples = Samples { rounds: &rounds, measure: "rate" };
        let ratio = samples.ratio(Setting::Enforced, Setting::Native);
        assert!((ratio.least - 0.9).abs() < 1e-9 && (ratio.most - 0.9).abs() < 1e-9);
        assert!((samples.median(Setting::Native) - 50.0).abs() < 1e-9);
    }
}
