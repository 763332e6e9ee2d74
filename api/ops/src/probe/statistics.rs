//! Two groups of times compared by rank: the test of Mann and Whitney, which no outlier of a busy machine sways much.

use std::time::Duration;

/// The least difference of the medians that counts, whatever the machine does.
const LEAST: Duration = Duration::from_millis(5);
/// The least part of the shorter median by which they differ.
const LEAST_PART: f64 = 0.5;
/// The quantile of the normal distribution for a two-sided level of 0.005. Two rounds in one direction happen by chance once in
/// 80,000 tests.
const LEVEL: f64 = 2.81;

/// The difference between two groups of times.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// The median of the first group.
    pub first: Duration,
    /// The median of the second group.
    pub second: Duration,
    /// The standard score of the ranks: positive if the first group takes longer.
    pub score: f64,
}

impl Difference {
    /// Compares two groups.
    #[must_use]
    pub fn between(first: &[Duration], second: &[Duration]) -> Self {
        let (n, m) = (first.len() as f64, second.len() as f64);
        let wins = first.iter().flat_map(|a| second.iter().map(move |b| a.cmp(b)));
        let u: f64 = wins.map(|order| f64::from(i8::from(order.is_gt()) * 2 + i8::from(order.is_eq())) / 2.0).sum();
        let deviation = (n * m * (n + m + 1.0) / 12.0).sqrt();
        let score = if deviation > 0.0 { (u - n * m / 2.0) / deviation } else { 0.0 };
        Self { first: median(first), second: median(second), score }
    }

    /// `true` if the groups can be told apart: by rank, and by an amount that does not come from the machine.
    #[must_use]
    pub fn is_distinct(&self) -> bool {
        let (short, long) = (self.first.min(self.second), self.first.max(self.second));
        let amount = long - short;
        self.score.abs() > LEVEL && amount >= LEAST && amount.as_secs_f64() >= short.as_secs_f64() * LEAST_PART
    }

    /// `true` if both differences are distinct, in the same direction.
    #[must_use]
    pub fn confirms(&self, other: &Self) -> bool {
        self.is_distinct() && other.is_distinct() && self.score.signum() == other.score.signum()
    }
}

fn median(times: &[Duration]) -> Duration {
    let mut times = times.to_vec();
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(milliseconds: &[u64]) -> Vec<Duration> {
        milliseconds.iter().copied().map(Duration::from_millis).collect()
    }

    #[test]
    fn groups_that_lie_apart_are_distinct_and_one_outlier_does_not_hide_it() {
        let known = times(&[80, 82, 79, 85, 90, 81, 78, 84, 86, 83, 80, 5]);
        let unknown = times(&[5, 6, 4, 7, 5, 6, 900, 5, 4, 6, 5, 7]);
        let difference = Difference::between(&known, &unknown);
        assert!(difference.is_distinct() && difference.score > 0.0, "{difference:?}");
        let reversed = Difference::between(&unknown, &known);
        assert!(reversed.is_distinct() && reversed.score < 0.0 && !difference.confirms(&reversed));
    }

    #[test]
    fn groups_of_one_distribution_are_not() {
        let one = times(&[5, 6, 4, 7, 5, 6, 9, 5, 4, 6, 5, 7]);
        assert_eq!(Difference::between(&one, &one).score, 0.0);
        let slower = times(&[6, 7, 5, 8, 6, 7, 10, 6, 5, 7, 6, 8]);
        assert!(!Difference::between(&one, &slower).is_distinct(), "a millisecond of the machine's");
        assert!(!Difference::between(&[], &[]).is_distinct());
    }

    #[test]
    fn a_difference_that_is_small_beside_the_time_itself_does_not_count() {
        let one: Vec<_> = (0..12).map(|i| Duration::from_millis(500 + i)).collect();
        let other: Vec<_> = (0..12).map(|i| Duration::from_millis(550 + i)).collect();
        let difference = Difference::between(&one, &other);
        assert!(difference.score.abs() > LEVEL && !difference.is_distinct(), "{difference:?}");
    }
}
