//! What a row of samples says: percentiles, quantiles of histograms, growth. Pure.

use std::collections::BTreeMap;

/// Two sides of the normal distribution that leave 5 % outside.
const Z_95: f64 = 1.959_963_985;

/// Points that a slope is taken from at most: every pair of them counts, and their number is the square.
const MOST_POINTS: usize = 1_000;

/// Returns the smallest of the values that at least this part of them (0 to 1) does not exceed; nothing of none.
pub(super) fn percentile(values: &[f64], part: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().checked_sub(1)?;
    sorted.get(rank(part * sorted.len() as f64).saturating_sub(1).min(last)).copied()
}

/// Least, middle and greatest of some values.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub(super) struct Spread {
    #[serde(rename = "min")]
    pub(super) least: f64,
    pub(super) median: f64,
    #[serde(rename = "max")]
    pub(super) greatest: f64,
}

impl Spread {
    /// Returns nothing of no values.
    pub(super) fn of(values: &[f64]) -> Option<Self> {
        Some(Self {
            least: percentile(values, 0.0)?,
            median: percentile(values, 0.5)?,
            greatest: percentile(values, 1.0)?,
        })
    }
}

/// The slope of a line through points, by Theil and Sen, which a few outliers do not bend.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub(super) struct Slope {
    /// The median of the slopes of all pairs.
    pub(super) median: f64,
    /// The upper end of the interval that has the true slope in 95 of 100 cases, by Sen's rank method. It takes the
    /// points to be independent.
    pub(super) upper: f64,
}

/// Returns the slope of y over x; nothing of fewer than two different x.
pub(super) fn theil_sen(points: &[(f64, f64)]) -> Option<Slope> {
    let step = points.len().div_ceil(MOST_POINTS).max(1);
    let points: Vec<(f64, f64)> = points.iter().step_by(step).copied().collect();
    let mut slopes = Vec::new();
    for (index, (x, y)) in points.iter().enumerate() {
        let later = points.iter().skip(index + 1).filter(|(other, _)| (other - x).abs() > f64::EPSILON);
        slopes.extend(later.map(|(other_x, other_y)| (other_y - y) / (other_x - x)));
    }
    slopes.sort_by(f64::total_cmp);
    let last = slopes.len().checked_sub(1)?;
    let n = points.len() as f64;
    // The variance of Kendall's S without ties; the upper bound is the slope of rank (N + z·σ) / 2 + 1.
    let sigma = (n * (n - 1.0) * (2.0 * n + 5.0) / 18.0).sqrt();
    let upper = rank(f64::midpoint(slopes.len() as f64, Z_95 * sigma)).min(last);
    Some(Slope { median: percentile(&slopes, 0.5)?, upper: *slopes.get(upper)? })
}

/// Returns how much a counter grew over these readings. One that fell began anew, as it does with its process.
pub(super) fn increase(readings: impl IntoIterator<Item = f64>) -> f64 {
    let mut readings = readings.into_iter();
    let Some(mut before) = readings.next() else { return 0.0 };
    let mut total = 0.0;
    for now in readings {
        total += if now < before { now } else { now - before };
        before = now;
    }
    total
}

/// A histogram as Prometheus exposes one: how many values do not exceed each bound.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Histogram {
    /// By the bits of the bound, whose order is that of the bounds since none is negative.
    buckets: BTreeMap<u64, f64>,
}

impl Histogram {
    /// Adds values to the bucket up to this bound.
    pub(super) fn add(&mut self, bound: f64, values: f64) {
        *self.buckets.entry(bound.max(0.0).to_bits()).or_default() += values;
    }

    /// Returns the number of values.
    pub(super) fn count(&self) -> f64 {
        self.buckets.values().next_back().copied().unwrap_or_default()
    }

    /// Returns what came since an earlier reading; all of it when the process behind it began anew.
    pub(super) fn since(&self, earlier: &Self) -> Self {
        let value = |bound: &u64| earlier.buckets.get(bound).copied().unwrap_or_default();
        if self.buckets.iter().any(|(bound, now)| *now < value(bound)) {
            return self.clone();
        }
        Self { buckets: self.buckets.iter().map(|(bound, now)| (*bound, now - value(bound))).collect() }
    }

    /// Adds all values of another histogram.
    pub(super) fn merge(&mut self, other: &Self) {
        for (bound, values) in &other.buckets {
            *self.buckets.entry(*bound).or_default() += values;
        }
    }

    /// Returns the value that this part of all (0 to 1) does not exceed, taken to lie evenly within its bucket; the last
    /// finite bound for what lies beyond. Nothing of none.
    pub(super) fn quantile(&self, part: f64) -> Option<f64> {
        let wanted = part * self.count();
        if self.count() <= 0.0 {
            return None;
        }
        let (mut lower, mut below) = (0.0, 0.0);
        for (bits, values) in &self.buckets {
            let bound = f64::from_bits(*bits);
            if *values >= wanted {
                let inside = values - below;
                let fits = bound.is_finite() && inside > 0.0;
                return Some(if fits { lower + (bound - lower) * (wanted - below) / inside } else { lower });
            }
            (lower, below) = (bound, *values);
        }
        Some(lower)
    }
}

/// Rounds up to a rank.
fn rank(value: f64) -> usize {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a part of a length is one")]
    let rank = value.max(0.0).ceil() as usize;
    rank
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(left: f64, right: f64) -> bool {
        (left - right).abs() < 1e-9
    }

    #[test]
    fn percentile_is_a_measured_value() {
        let values: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        for (part, value) in [(0.0, 1.0), (0.5, 100.0), (0.99, 198.0), (1.0, 200.0)] {
            assert!(near(percentile(&values, part).unwrap(), value), "{part}");
        }
        assert_eq!(percentile(&[], 0.99), None);
        assert_eq!(Spread::of(&[3.0, 1.0, 2.0]), Some(Spread { least: 1.0, median: 2.0, greatest: 3.0 }));
    }

    #[test]
    fn slope_of_a_line_is_that_of_the_line() {
        let points: Vec<(f64, f64)> = (0..50).map(|x| (f64::from(x), 3.0 + 0.5 * f64::from(x))).collect();
        let slope = theil_sen(&points).unwrap();
        assert!(near(slope.median, 0.5) && near(slope.upper, 0.5), "{slope:?}");
    }

    #[test]
    fn slope_passes_over_outliers_that_a_mean_would_follow() {
        let mut points: Vec<(f64, f64)> = (0..100).map(|x| (f64::from(x), f64::from(x % 3))).collect();
        for outlier in [80, 90] {
            points[outlier].1 = 1e6;
        }
        let slope = theil_sen(&points).unwrap();
        assert!(slope.median.abs() < 0.01, "{slope:?}");
        assert!((0.0..0.02).contains(&slope.upper), "{slope:?}");
    }

    #[test]
    fn upper_bound_is_that_of_sens_ranks() {
        // Ten points, 45 slopes, σ = √(10·9·25/18) = 11.18: rank (45 + 21.91) / 2 rounded up, and the one behind it.
        let noise = [0.3, -0.2, 0.5, -0.4, 0.1, -0.1, 0.4, -0.5, 0.2, -0.3];
        let points: Vec<(f64, f64)> = (0..10).map(|x| (f64::from(x), f64::from(x))).zip(noise).map(add).collect();
        let mut slopes: Vec<f64> = Vec::new();
        for (index, left) in points.iter().enumerate() {
            slopes.extend(points[index + 1..].iter().map(|right| (right.1 - left.1) / (right.0 - left.0)));
        }
        slopes.sort_by(f64::total_cmp);
        let slope = theil_sen(&points).unwrap();
        assert!(near(slope.upper, slopes[34]) && near(slope.median, slopes[22]), "{slope:?}");
    }

    fn add(((x, y), noise): ((f64, f64), f64)) -> (f64, f64) {
        (x, y + noise)
    }

    #[test]
    fn slope_takes_two_moments() {
        assert_eq!(theil_sen(&[]), None);
        assert_eq!(theil_sen(&[(1.0, 2.0)]), None);
        assert_eq!(theil_sen(&[(1.0, 2.0), (1.0, 3.0)]), None);
    }

    #[test]
    fn counter_that_fell_began_anew() {
        assert!(near(increase([5.0, 7.0, 7.0, 1.0, 4.0]), 6.0));
        assert!(near(increase([]), 0.0));
    }

    fn histogram(buckets: &[(f64, f64)]) -> Histogram {
        let mut histogram = Histogram::default();
        for (bound, values) in buckets {
            histogram.add(*bound, *values);
        }
        histogram
    }

    #[test]
    fn quantile_lies_within_its_bucket() {
        let histogram = histogram(&[(f64::INFINITY, 100.0), (0.1, 50.0), (1.0, 90.0)]);
        assert!(near(histogram.quantile(0.5).unwrap(), 0.1));
        assert!(near(histogram.quantile(0.7).unwrap(), 0.55));
        assert!(near(histogram.quantile(0.99).unwrap(), 1.0), "beyond the last bound nothing is known");
        assert_eq!(Histogram::default().quantile(0.5), None);
    }

    #[test]
    fn histogram_of_a_while_is_the_difference_of_two_readings() {
        let earlier = histogram(&[(0.1, 50.0), (1.0, 90.0), (f64::INFINITY, 90.0)]);
        let later = histogram(&[(0.1, 50.0), (1.0, 94.0), (f64::INFINITY, 94.0)]);
        let between = later.since(&earlier);
        assert!(near(between.count(), 4.0) && near(between.quantile(0.5).unwrap(), 0.55), "{between:?}");
        assert_eq!(earlier.since(&later), earlier, "a process that began anew has no past");
    }
}
