//! The account lockout: a pure function of counted attempts.
//!
//! Each attempt counts twice: against the counter of its device, or of all unknown devices, and against the counter of
//! the account over all devices. The service evaluates the attempt only if neither is full. A counter holds the times
//! of the attempts in the window, evaluated or in progress, and the lock that they caused. The service counts an
//! attempt before its evaluation, so that parallel guesses cannot exceed the threshold: at most `threshold` attempts
//! per window are ever evaluated.
//!
//! The write side keeps the same counter in a row of PostgreSQL and updates it in one statement; tests compare the two.
//! It also knows the attempts in progress. While these fill a counter, another attempt waits for a moment before it is
//! refused.

use chrono::{DateTime, TimeDelta, Utc};

use crate::policy::LockoutPolicy;

/// The counter of one device of an account, of all its unknown devices, or of the account over all devices.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AttemptCounter {
    /// The times of the attempts in this window; at most `threshold` of them.
    pub recent: Vec<DateTime<Utc>>,
    /// The end of the last lock; `None` after the next attempt.
    pub locked_until: Option<DateTime<Utc>>,
    /// The number of locks in a row.
    pub locks: u32,
    /// The end of the window of the last attempt, counted or refused.
    pub window_ends_at: Option<DateTime<Utc>>,
}

/// The idle time, after its window and its lock, for which a counter is kept. A later lock is the first in a row again.
pub const COUNTER_RETENTION: TimeDelta = TimeDelta::hours(24);

/// The answer of a counter to one more attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptReservation {
    /// The attempt may be evaluated.
    Granted {
        /// The number of the attempt in the window, starting with 1.
        number: u32,
        /// `true` if it is the first attempt after an expired lock.
        lock_expired: bool,
    },
    /// The attempt must not be evaluated.
    Locked,
}

/// The reason for which a counter lets no attempt be evaluated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptBarrier {
    /// Too many attempts failed.
    Locked {
        /// The end of the lock.
        until: DateTime<Utc>,
    },
    /// As many attempts as the threshold allows are in the window, and caused no lock: they are in progress, or the
    /// threshold was higher.
    Full {
        /// The time of the last of them.
        since: DateTime<Utc>,
        /// The time at which another attempt may be evaluated, unless one is counted before.
        until: DateTime<Utc>,
    },
}

impl AttemptCounter {
    /// `true` if the counter was idle for so long that it equals a new one.
    #[must_use]
    pub fn is_expired(&self, now: DateTime<Utc>) -> bool {
        self.window_ends_at.max(self.locked_until).is_none_or(|since| now >= since + COUNTER_RETENTION)
    }

    /// Counts one more attempt, unless it must not be evaluated: a refused attempt is not a guess.
    pub fn reserve(&mut self, now: DateTime<Utc>, policy: &LockoutPolicy) -> AttemptReservation {
        if !policy.enabled {
            return AttemptReservation::Granted { number: 1, lock_expired: false };
        }
        if self.is_expired(now) {
            *self = Self::default();
        }
        self.window_ends_at = Some(now + policy.window);
        let mut lock_expired = false;
        match self.locked_until {
            Some(until) if now < until => return AttemptReservation::Locked,
            Some(_) => {
                self.locked_until = None;
                lock_expired = true;
                self.recent.clear();
            }
            None => {}
        }
        self.recent.retain(|at| *at > now - policy.window);
        if self.recent.len() >= policy.threshold as usize {
            return AttemptReservation::Locked;
        }
        self.recent.push(now);
        AttemptReservation::Granted { number: u32::try_from(self.recent.len()).unwrap_or(u32::MAX), lock_expired }
    }

    /// The reason for which an attempt would not be evaluated now; `None` if it would be. Counts nothing.
    #[must_use]
    pub fn barrier(&self, now: DateTime<Utc>, policy: &LockoutPolicy) -> Option<AttemptBarrier> {
        let mut counter = self.clone();
        if counter.reserve(now, policy) != AttemptReservation::Locked {
            return None;
        }
        if let Some(until) = counter.locked_until {
            return Some(AttemptBarrier::Locked { until });
        }
        // It opens when so many of these are older than the window that fewer than the threshold remain.
        let excess = counter.recent.len().saturating_sub(policy.threshold as usize);
        counter.recent.sort_unstable();
        let until = counter.recent.get(excess).map_or(now, |at| *at + policy.window);
        Some(AttemptBarrier::Full { since: counter.recent.last().copied().unwrap_or(now), until })
    }

    /// Releases the attempt of this time: it was correct, or was not evaluated after all.
    pub fn release(&mut self, at: DateTime<Utc>) {
        if let Some(index) = self.recent.iter().position(|counted| *counted == at) {
            self.recent.remove(index);
        }
    }

    /// Records the failure of the attempt with this number; returns the lock that it causes.
    pub fn record_failure(&mut self, number: u32, now: DateTime<Utc>, policy: &LockoutPolicy) -> Option<Lockout> {
        let lock = lockout_after(number, self.locks, now, policy)?;
        self.recent.clear();
        self.locked_until = Some(lock.until);
        self.locks = lock.nth;
        Some(lock)
    }
}

/// A lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lockout {
    /// The end of the lock.
    pub until: DateTime<Utc>,
    /// The number of the lock in a row, starting with 1.
    pub nth: u32,
}

/// The lock that a failed attempt of this number causes.
#[must_use]
pub fn lockout_after(number: u32, locks: u32, now: DateTime<Utc>, policy: &LockoutPolicy) -> Option<Lockout> {
    let nth = locks.saturating_add(1);
    (policy.enabled && number >= policy.threshold).then(|| Lockout { until: now + lockout_duration(nth, policy), nth })
}

/// The duration of the `nth` lock in a row (the first is 1). Each lock doubles the duration, up to the maximum.
#[must_use]
pub fn lockout_duration(nth: u32, policy: &LockoutPolicy) -> TimeDelta {
    let doublings = nth.saturating_sub(1).min(20);
    let scaled = policy.duration.checked_mul(1_i32 << doublings).unwrap_or(policy.max_duration);
    scaled.min(policy.max_duration)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Policy;
    use proptest::prelude::*;

    fn policy() -> LockoutPolicy {
        Policy::default().lockout
    }

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::seconds(seconds)
    }

    fn open(number: u32) -> AttemptReservation {
        AttemptReservation::Granted { number, lock_expired: false }
    }

    #[test]
    fn the_attempt_after_the_last_allowed_one_is_refused_even_before_any_verdict() {
        let mut counter = AttemptCounter::default();
        for number in 1..=5 {
            assert_eq!(counter.reserve(at(0), &policy()), open(number));
        }
        assert_eq!(counter.reserve(at(0), &policy()), AttemptReservation::Locked);
    }

    #[test]
    fn failures_further_apart_than_the_window_do_not_add_up() {
        let mut counter = AttemptCounter::default();
        for seconds in [0, 1, 2, 3] {
            counter.reserve(at(seconds), &policy());
        }
        assert_eq!(counter.reserve(at(901), &policy()), open(3), "two of the four are more than 15 minutes old");
    }

    #[test]
    fn a_lock_lifts_by_itself_and_the_next_is_twice_as_long() {
        let mut counter = AttemptCounter::default();
        let lock = counter.record_failure(5, at(0), &policy()).unwrap();
        assert_eq!(lock, Lockout { until: at(900), nth: 1 });
        assert_eq!(counter.reserve(at(899), &policy()), AttemptReservation::Locked);
        assert_eq!(counter.reserve(at(900), &policy()), AttemptReservation::Granted { number: 1, lock_expired: true });
        assert_eq!(counter.record_failure(5, at(900), &policy()), Some(Lockout { until: at(900 + 1_800), nth: 2 }));
    }

    #[test]
    fn a_day_of_rest_forgets_how_many_locks_there_were() {
        let day = 86_400;
        for (rest, nth) in [(day - 1, 2), (day, 1)] {
            let mut counter = AttemptCounter::default();
            counter.reserve(at(0), &policy());
            let until = counter.record_failure(5, at(0), &policy()).unwrap().until;
            let later = until + TimeDelta::seconds(rest);
            assert_eq!(
                counter.reserve(later, &policy()),
                AttemptReservation::Granted { number: 1, lock_expired: nth == 2 }
            );
            assert_eq!(counter.record_failure(5, later, &policy()).unwrap().nth, nth);
        }
    }

    #[test]
    fn locks_double_up_to_a_day() {
        let minutes: Vec<_> = (1..=9).map(|nth| lockout_duration(nth, &policy()).num_minutes()).collect();
        assert_eq!(minutes, [15, 30, 60, 120, 240, 480, 960, 1440, 1440]);
        assert_eq!(lockout_duration(u32::MAX, &policy()), policy().max_duration);
    }

    #[test]
    fn a_release_removes_exactly_one_attempt() {
        let mut counter = AttemptCounter::default();
        for seconds in [0, 1, 1, 2] {
            counter.reserve(at(seconds), &policy());
        }
        counter.release(at(1));
        assert_eq!(counter.recent, [at(0), at(1), at(2)]);
        counter.release(at(7));
        assert_eq!(counter.recent.len(), 3, "nothing was counted then, or a lock has forgotten it");
    }

    #[test]
    fn a_full_counter_opens_when_its_oldest_attempts_leave_the_window() {
        let mut counter = AttemptCounter::default();
        for seconds in [20, 0, 10, 30] {
            counter.reserve(at(seconds), &policy());
        }
        assert_eq!(counter.barrier(at(40), &policy()), None);
        let stricter = LockoutPolicy { threshold: 2, ..policy() };
        let full = AttemptBarrier::Full { since: at(30), until: at(20 + 900) };
        assert_eq!(counter.barrier(at(40), &stricter), Some(full));
        assert_eq!(counter.barrier(at(919), &stricter), Some(full));
        assert_eq!(counter.barrier(at(920), &stricter), None);
        assert_eq!(counter.barrier(at(40), &LockoutPolicy { enabled: false, ..stricter }), None);
    }

    #[test]
    fn switched_off_nothing_is_counted() {
        let policy = LockoutPolicy { enabled: false, ..policy() };
        let mut counter = AttemptCounter::default();
        for _ in 0..100 {
            assert_eq!(counter.reserve(at(0), &policy), open(1));
            assert_eq!(counter.record_failure(1, at(0), &policy), None);
        }
    }

    proptest! {
        /// Attempts start at any time. Their outcomes, all of them failures, arrive in any order and with any delay. No
        /// more attempts than the policy allows are evaluated within one window, and none during a lock.
        #[test]
        fn no_interleaving_of_attempts_and_times_evaluates_more_than_the_policy_allows(
            steps in proptest::collection::vec((0_i64..400, 0_usize..8, any::<bool>()), 1..200),
            threshold in 1_u32..7,
            window in 60_i64..1_200,
            duration in 60_i64..1_200,
        ) {
            let policy = LockoutPolicy {
                threshold,
                window: TimeDelta::seconds(window),
                duration: TimeDelta::seconds(duration),
                ..policy()
            };
            let (mut counter, mut now) = (AttemptCounter::default(), at(0));
            let (mut evaluated, mut under_way) = (Vec::new(), Vec::new());
            let mut locked_until = at(0);
            for (wait, which, begins) in steps {
                now += TimeDelta::seconds(wait);
                if begins || under_way.is_empty() {
                    let (before, barrier) = (counter.clone(), counter.barrier(now, &policy));
                    let reserved = counter.reserve(now, &policy);
                    prop_assert_eq!(barrier.is_some(), reserved == AttemptReservation::Locked);
                    if let Some(AttemptBarrier::Locked { until } | AttemptBarrier::Full { until, .. }) = barrier {
                        prop_assert!(until > now);
                        prop_assert_eq!(before.barrier(until - TimeDelta::microseconds(1), &policy), barrier);
                        prop_assert_eq!(before.barrier(until, &policy), None);
                    }
                    if let AttemptReservation::Granted { number, .. } = reserved {
                        prop_assert!(now >= locked_until, "evaluated during a lock");
                        evaluated.push(now);
                        under_way.push(number);
                    }
                } else {
                    let number = under_way.remove(which % under_way.len());
                    if let Some(lock) = counter.record_failure(number, now, &policy) {
                        locked_until = locked_until.max(lock.until);
                    }
                }
                let in_window = evaluated.iter().filter(|at| **at > now - policy.window).count();
                prop_assert!(in_window <= threshold as usize || locked_until > at(0), "{in_window} in one window");
            }
            // A lock clears the counted attempts, so only a lock shorter than the window lets two runs share one
            // window.
            if duration >= window {
                for (index, first) in evaluated.iter().enumerate() {
                    let within = evaluated.iter().skip(index).filter(|at| **at < *first + policy.window).count();
                    prop_assert!(within <= threshold as usize, "{within} within one window");
                }
            }
        }
    }
}
