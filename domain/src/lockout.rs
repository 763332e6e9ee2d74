//! When guesses are no longer evaluated: a pure function of what was counted. Counting is the caller's.

use chrono::{DateTime, TimeDelta, Utc};

use crate::policy::LockoutPolicy;

/// What one more attempt meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lockout {
    /// The attempt may be evaluated.
    Open,
    /// It may not, before this time.
    Locked {
        /// When the lock lifts by itself.
        until: DateTime<Utc>,
    },
}

/// How long the `nth` lock in a row lasts (the first is 1): doubled each time, up to the longest.
#[must_use]
pub fn lock_duration(nth: u32, policy: &LockoutPolicy) -> TimeDelta {
    let doublings = nth.saturating_sub(1).min(20);
    let scaled = policy.duration.checked_mul(1_i32 << doublings).unwrap_or(policy.longest);
    scaled.min(policy.longest)
}

/// Whether the attempt that would be number `attempts` in the current window may be evaluated.
///
/// `attempts` counts those evaluated or under way, this one included: an attempt is counted before its
/// password is hashed, so parallel guesses cannot slip past the threshold.
#[must_use]
pub fn judge(
    attempts: u32,
    locked_until: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
    policy: &LockoutPolicy,
) -> Lockout {
    match locked_until {
        Some(until) if now < until => Lockout::Locked { until },
        Some(_) | None if attempts > policy.threshold => Lockout::Locked { until: now + policy.window },
        Some(_) | None => Lockout::Open,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Policy;

    #[test]
    fn the_attempt_after_the_last_allowed_one_is_refused() {
        let (policy, now) = (Policy::default().lockout, DateTime::UNIX_EPOCH);
        assert_eq!(judge(5, None, now, &policy), Lockout::Open);
        assert!(matches!(judge(6, None, now, &policy), Lockout::Locked { .. }));
    }

    #[test]
    fn a_lock_lifts_by_itself() {
        let (policy, now) = (Policy::default().lockout, DateTime::UNIX_EPOCH);
        let until = now + policy.duration;
        assert_eq!(judge(1, Some(until), now, &policy), Lockout::Locked { until });
        assert_eq!(judge(1, Some(until), until, &policy), Lockout::Open);
    }

    #[test]
    fn locks_double_up_to_a_day() {
        let policy = Policy::default().lockout;
        let minutes: Vec<_> = (1..=9).map(|nth| lock_duration(nth, &policy).num_minutes()).collect();
        assert_eq!(minutes, [15, 30, 60, 120, 240, 480, 960, 1440, 1440]);
        assert_eq!(lock_duration(u32::MAX, &policy), policy.longest);
    }
}
