//! A clock that was read over a network: the difference, and by how much that may be wrong.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

/// The difference that is too large, in seconds.
const MOST: f64 = 1.0;

/// A clock that was read over a network.
#[derive(Clone, Copy, Debug)]
pub struct ClockReading {
    /// The seconds by which it is ahead of this machine's.
    pub ahead: f64,
    /// The seconds by which that may be wrong, to either side.
    pub error: f64,
}

impl ClockReading {
    /// Compares a clock that showed `shown`, in steps of `step`, at some moment of the `took` since `asked`.
    pub fn new(asked: DateTime<Utc>, took: Duration, shown: DateTime<Utc>, step: Duration) -> Self {
        let seconds = |delta: TimeDelta| delta.as_seconds_f64();
        let (took, step) = (took.as_secs_f64(), step.as_secs_f64());
        Self { ahead: seconds(shown - asked) + step / 2.0 - took / 2.0, error: f64::midpoint(took, step) }
    }

    /// `true` if both may show the same.
    pub fn agrees_with(self, other: Self) -> bool {
        (self.ahead - other.ahead).abs() <= MOST + self.error + other.error
    }
}

/// This machine's own clock.
pub const HERE: ClockReading = ClockReading { ahead: 0.0, error: 0.0 };

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_of_whole_seconds_and_a_slow_answer_are_no_difference() {
        let asked = DateTime::from_timestamp(1_000, 900_000_000).unwrap();
        let at = |seconds| DateTime::from_timestamp(seconds, 0).unwrap();
        let step = Duration::from_secs(1);
        let agrees = |took: u64, seconds| {
            ClockReading::new(asked, Duration::from_millis(took), at(seconds), step).agrees_with(HERE)
        };
        assert!(agrees(10, 999) && agrees(10, 1_000) && agrees(10, 1_001));
        assert!(!agrees(10, 998) && !agrees(10, 1_002));
        assert!(agrees(4_000, 1_005), "the answer took four seconds");
    }
}
