//! The preview of a lockout policy: the recorded attempts, counted again under the proposed policy.
//!
//! The preview uses the same [`AttemptCounter`] as the service. It reports the limit of its knowledge: an attempt that
//! was refused without evaluation (`locked`, `too_many_concurrent`) may have been correct, but counts as incorrect.

use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Utc};

use crate::authentication::{AuthenticationEvent, Factor, FailureReason, UnlockCause};
use crate::event::{Event, RecordedEvent};
use crate::lockout::{AttemptCounter, AttemptReservation, Lockout};
use crate::policy::LockoutPolicy;
use crate::values::AccountId;

/// The identity of one counter.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LockoutTarget {
    /// The account.
    pub account: AccountId,
    /// The factor.
    pub factor: Factor,
    /// The device with a counter of its own, as the log names it; `None` for the counter of the account.
    pub device: Option<String>,
    /// `true` if it counts over all devices of the account, known and unknown.
    pub all_devices: bool,
}

/// A lock under the proposed policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PredictedLockout {
    /// The start of the lock.
    pub at: DateTime<Utc>,
    /// The end of the lock.
    pub until: DateTime<Utc>,
    /// The number of the lock in a row, starting with 1.
    pub nth: u32,
}

/// A run of refused attempts on one counter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attack {
    /// The counter attacked.
    pub target: LockoutTarget,
    /// The time of the first attempt.
    pub started_at: DateTime<Utc>,
    /// The time of the last attempt.
    pub ended_at: DateTime<Utc>,
    /// The number of attempts.
    pub attempts: u64,
    /// The number of attempts that the service evaluated.
    pub evaluated_recorded: u64,
    /// The number of attempts that the proposed policy would have evaluated.
    pub evaluated: u64,
    /// The time of the first lock under the proposed policy; `None` if it would not have stopped the attack.
    pub stopped_at: Option<DateTime<Utc>>,
}

/// Totals over all attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AttemptTotals {
    /// The number of locks.
    pub locks: u64,
    /// The number of attempts that were evaluated, correct or not.
    pub evaluated: u64,
    /// The number of attempts that were refused without evaluation.
    pub refused: u64,
}

/// The effect of the proposed policy on one counter.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LockoutComparison {
    /// The first locks under the proposed policy, in order.
    pub locks: Vec<PredictedLockout>,
    /// The number of locks under the proposed policy.
    pub total: u64,
    /// The number of correct attempts that a lock would have refused. Most of them are likely the owner's.
    pub correct_refused: u64,
    /// The number of recorded locks.
    pub recorded: u64,
}

impl LockoutComparison {
    /// Records a lock, if any; returns the number of locks added.
    fn note(&mut self, lock: Option<Lockout>, at: DateTime<Utc>) -> u64 {
        let Some(Lockout { until, nth }) = lock else { return 0 };
        self.total += 1;
        if self.locks.len() < MAX_LISTED_LOCKS {
            self.locks.push(PredictedLockout { at, until, nth });
        }
        1
    }
}

/// The result of a preview.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PreviewReport {
    /// The number of attempts replayed.
    pub attempts: u64,
    /// The totals as decided by the service.
    pub recorded: AttemptTotals,
    /// The totals as the proposed policy would have decided.
    pub proposed: AttemptTotals,
    /// The counters with a lock, recorded or proposed; those with the most locks first.
    pub locked: Vec<(LockoutTarget, LockoutComparison)>,
    /// The attacks, longest first.
    pub attacks: Vec<Attack>,
    /// `true` if the lists are incomplete.
    pub truncated: bool,
}

/// The minimum number of attempts in an attack.
pub const MIN_ATTACK_ATTEMPTS: u64 = 10;
/// The minimum gap between two runs of refused attempts.
pub const RUN_GAP: TimeDelta = TimeDelta::hours(1);
/// The maximum number of locks listed per counter.
const MAX_LISTED_LOCKS: usize = 20;

/// The maximum number of counters in memory. Beyond it the preview drops idle ones; if all are in use, it fails.
const MAX_COUNTERS: usize = 1_000_000;

/// The attempts need more counters at a time than a preview keeps in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many accounts had attempts at the same time")]
pub struct PreviewTooLarge;

/// A replay under a proposed policy.
pub struct Preview {
    policy: LockoutPolicy,
    counters: HashMap<LockoutTarget, TargetState>,
    report: PreviewReport,
    limit: usize,
}

#[derive(Default)]
struct TargetState {
    counter: AttemptCounter,
    comparison: LockoutComparison,
    run: Option<Attack>,
}

/// The recorded outcome of an attempt, as far as counting depends on it.
enum RecordedOutcome {
    /// Evaluated, and correct.
    Correct,
    /// Evaluated, and incorrect.
    Incorrect,
    /// Refused without evaluation.
    NotEvaluated,
    /// Correct, but refused for another reason: the attempt counts, and changes nothing.
    CorrectButRefused,
}

impl Preview {
    /// Starts a preview that lists at most `limit` counters and attacks.
    #[must_use]
    pub fn new(policy: LockoutPolicy, limit: usize) -> Self {
        Self { policy, counters: HashMap::new(), report: PreviewReport::default(), limit }
    }

    /// Drops idle counters, if there are many. Call it between batches.
    ///
    /// # Errors
    /// [`PreviewTooLarge`].
    pub fn evict_idle(&mut self, now: DateTime<Utc>) -> Result<(), PreviewTooLarge> {
        if self.counters.len() <= MAX_COUNTERS {
            return Ok(());
        }
        let Self { counters, report, limit, .. } = self;
        counters.retain(|_, counted| {
            if counted.run.as_ref().is_some_and(|run| now >= run.ended_at + RUN_GAP) {
                list_attack(report, counted.run.take(), *limit);
            }
            counted.run.is_some()
                || counted.comparison != LockoutComparison::default()
                || !counted.counter.is_expired(now)
        });
        if counters.len() <= MAX_COUNTERS { Ok(()) } else { Err(PreviewTooLarge) }
    }

    /// Observes one more event, in the order of the log. Events of categories other than `authentication` have no
    /// effect.
    pub fn observe(&mut self, recorded: &RecordedEvent) {
        let Some(subject) = recorded.subject else { return };
        let Event::Authentication(event) = &recorded.event else { return };
        let at = recorded.recorded_at;
        let target = |factor, device: &Option<String>| LockoutTarget {
            account: AccountId(subject),
            factor,
            device: device.clone(),
            all_devices: false,
        };
        match event {
            AuthenticationEvent::SecondFactorRequired { device, .. } => {
                self.attempt(target(Factor::Password, device), RecordedOutcome::Correct, at);
            }
            AuthenticationEvent::PasswordChangeRequired { factor, device }
            | AuthenticationEvent::Confirmed { factor, device } => {
                self.attempt(target(*factor, device), RecordedOutcome::Correct, at);
            }
            AuthenticationEvent::Succeeded { methods, device, session: _, trusted_device: _ } => {
                // If the login asked for both factors, an event of its own recorded the password.
                let factor = if methods.len() > 1 { Factor::SecondFactor } else { Factor::Password };
                self.attempt(target(factor, device), RecordedOutcome::Correct, at);
            }
            AuthenticationEvent::Failed { factor, reason, device } => {
                let outcome = match reason {
                    FailureReason::WrongPassword | FailureReason::WrongCode => RecordedOutcome::Incorrect,
                    FailureReason::Locked | FailureReason::TooManyConcurrent => RecordedOutcome::NotEvaluated,
                    FailureReason::Suspended | FailureReason::Lockdown => RecordedOutcome::CorrectButRefused,
                    FailureReason::UnknownAccount | FailureReason::ExpiredChallenge => return,
                };
                self.attempt(target(*factor, device), outcome, at);
            }
            AuthenticationEvent::LockedOut { factor, device, scope, .. } => {
                self.report.recorded.locks += 1;
                let target = LockoutTarget { all_devices: scope.is_some(), ..target(*factor, device) };
                self.counters.entry(target).or_default().comparison.recorded += 1;
            }
            AuthenticationEvent::LockLifted { by: UnlockCause::Expired, .. }
            | AuthenticationEvent::PasswordResetRequested {}
            | AuthenticationEvent::PasswordResetRefused { .. }
            | AuthenticationEvent::NewDeviceSeen { .. }
            | AuthenticationEvent::DeviceForgotten { .. } => {}
            // The proposed policy would have lifted the lock at the same time, on every device of the account.
            AuthenticationEvent::LockLifted { factor, by: UnlockCause::Admin | UnlockCause::Reset, .. } => {
                let forgotten = self
                    .counters
                    .iter_mut()
                    .filter(|(target, _)| target.account.0 == subject && target.factor == *factor);
                forgotten.for_each(|(_, counted)| counted.counter = AttemptCounter::default());
            }
        }
    }

    fn attempt(&mut self, target: LockoutTarget, outcome: RecordedOutcome, at: DateTime<Utc>) {
        let Self { policy, counters, report, limit } = self;
        report.attempts += 1;
        let all_devices = LockoutTarget { device: None, all_devices: true, ..target.clone() };
        // Removed from the map for a moment, because both entries change together.
        let mut account_state = counters.remove(&all_devices).unwrap_or_default();
        let counted = counters.entry(target.clone()).or_default();
        let evaluated_recorded = !matches!(outcome, RecordedOutcome::NotEvaluated);
        let totals = &mut report.recorded;
        *(if evaluated_recorded { &mut totals.evaluated } else { &mut totals.refused }) += 1;

        let account_policy = policy.for_account();
        let numbers = match counted.counter.reserve(at, policy) {
            AttemptReservation::Locked => None,
            AttemptReservation::Granted { number, .. } => match account_state.counter.reserve(at, &account_policy) {
                AttemptReservation::Granted { number: of_all, .. } => Some((number, of_all)),
                AttemptReservation::Locked => {
                    counted.counter.release(at);
                    None
                }
            },
        };
        let (mut lock, mut lock_of_all) = (None, None);
        match (numbers, &outcome) {
            (Some(_), RecordedOutcome::Correct) => {
                counted.counter = AttemptCounter::default();
                account_state.counter.release(at);
            }
            (Some((number, of_all)), RecordedOutcome::Incorrect | RecordedOutcome::NotEvaluated) => {
                lock = counted.counter.record_failure(number, at, policy);
                lock_of_all = account_state.counter.record_failure(of_all, at, &account_policy);
            }
            (Some(_), RecordedOutcome::CorrectButRefused)
            | (None, RecordedOutcome::Incorrect | RecordedOutcome::NotEvaluated) => {}
            (None, RecordedOutcome::Correct | RecordedOutcome::CorrectButRefused) => {
                counted.comparison.correct_refused += 1
            }
        }
        let evaluated = numbers.is_some();
        let totals = &mut report.proposed;
        *(if evaluated { &mut totals.evaluated } else { &mut totals.refused }) += 1;
        totals.locks += counted.comparison.note(lock, at) + account_state.comparison.note(lock_of_all, at);
        let lock = lock.or(lock_of_all);
        counters.insert(all_devices, account_state);
        let Some(counted) = counters.get_mut(&target) else { return };

        let correct = matches!(outcome, RecordedOutcome::Correct | RecordedOutcome::CorrectButRefused);
        if counted.run.as_ref().is_some_and(|run| correct || at >= run.ended_at + RUN_GAP) {
            list_attack(report, counted.run.take(), *limit);
        }
        if !correct {
            let run = counted.run.get_or_insert(Attack {
                target,
                started_at: at,
                ended_at: at,
                attempts: 0,
                evaluated_recorded: 0,
                evaluated: 0,
                stopped_at: None,
            });
            run.ended_at = at;
            run.attempts += 1;
            run.evaluated_recorded += u64::from(evaluated_recorded);
            run.evaluated += u64::from(evaluated);
            if lock.is_some() || !evaluated {
                run.stopped_at.get_or_insert(at);
            }
        }
    }

    /// Finishes the preview.
    #[must_use]
    pub fn finish(self) -> PreviewReport {
        let Self { counters, mut report, limit, .. } = self;
        for (target, counted) in counters {
            list_attack(&mut report, counted.run, limit);
            if counted.comparison.total > 0 || counted.comparison.recorded > 0 {
                report.locked.push((target, counted.comparison));
            }
        }
        report.truncated |= report.locked.len() > limit || report.attacks.len() > limit;
        report.locked.sort_by(|a, b| b.1.total.cmp(&a.1.total).then_with(|| a.0.cmp(&b.0)));
        report.locked.truncate(limit);
        keep_longest(&mut report.attacks, limit);
        report
    }
}

fn list_attack(report: &mut PreviewReport, run: Option<Attack>, limit: usize) {
    report.attacks.extend(run.filter(|run| run.attempts >= MIN_ATTACK_ATTEMPTS));
    // The bound on memory is the number of listed attacks, not the number of attempts.
    if report.attacks.len() >= limit.saturating_mul(2).saturating_add(1_000) {
        keep_longest(&mut report.attacks, limit);
        report.truncated = true;
    }
}

fn keep_longest(attacks: &mut Vec<Attack>, limit: usize) {
    let order = |attack: &Attack| (std::cmp::Reverse(attack.attempts), attack.started_at);
    attacks.sort_by(|a, b| order(a).cmp(&order(b)).then_with(|| a.target.cmp(&b.target)));
    attacks.truncate(limit);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Actor, Category, Stream};
    use crate::policy::Policy;
    use uuid::Uuid;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::seconds(seconds)
    }

    fn event(seconds: i64, event: AuthenticationEvent) -> RecordedEvent {
        let id = Uuid::from_u128(1);
        RecordedEvent {
            position: 0,
            id,
            stream: Stream { category: Category::Authentication, id },
            version: 1,
            subject: Some(id),
            actor: Actor::Anonymous,
            correlation: id,
            causation: None,
            policy_version: 1,
            recorded_at: at(seconds),
            event_type: "".into(),
            event: event.into(),
            sealed: vec![],
        }
    }

    fn failed(seconds: i64, reason: FailureReason) -> RecordedEvent {
        event(seconds, AuthenticationEvent::Failed { factor: Factor::Password, reason, device: None })
    }

    fn right(seconds: i64) -> RecordedEvent {
        let confirmed = AuthenticationEvent::Confirmed { factor: Factor::Password, device: None };
        event(seconds, confirmed)
    }

    fn replay(policy: LockoutPolicy, events: impl IntoIterator<Item = RecordedEvent>) -> PreviewReport {
        let mut preview = Preview::new(policy, 100);
        events.into_iter().for_each(|event| preview.observe(&event));
        preview.finish()
    }

    /// A guess per minute for an hour: five are evaluated, then the lock refuses the rest.
    fn an_hour_of_guesses() -> Vec<RecordedEvent> {
        let policy = Policy::default().lockout;
        let (mut counter, mut events) = (AttemptCounter::default(), Vec::new());
        for minute in 0..60 {
            let now = at(minute * 60);
            match counter.reserve(now, &policy) {
                AttemptReservation::Granted { number, .. } => {
                    events.push(failed(minute * 60, FailureReason::WrongPassword));
                    if let Some(lock) = counter.record_failure(number, now, &policy) {
                        let (nth, until) = (lock.nth, lock.until);
                        let (factor, device) = (Factor::Password, None);
                        let locked = AuthenticationEvent::LockedOut {
                            factor,
                            failures: number,
                            nth,
                            until,
                            device,
                            scope: None,
                        };
                        events.push(event(minute * 60, locked));
                    }
                }
                AttemptReservation::Locked => events.push(failed(minute * 60, FailureReason::Locked)),
            }
        }
        events
    }

    #[test]
    fn the_policy_in_force_reproduces_the_record() {
        let report = replay(Policy::default().lockout, an_hour_of_guesses());
        assert_eq!(report.attempts, 60);
        assert_eq!(report.proposed, report.recorded);
        assert_eq!(report.locked.len(), 1);
        let attack = report.attacks.first().unwrap();
        assert_eq!((attack.attempts, attack.evaluated), (60, attack.evaluated_recorded));
        assert_eq!(attack.stopped_at, Some(at(240)));
    }

    #[test]
    fn a_stricter_policy_evaluates_fewer_and_none_at_all_stops_nothing() {
        let stricter = LockoutPolicy { threshold: 3, ..Policy::default().lockout };
        let report = replay(stricter, an_hour_of_guesses());
        assert!(report.proposed.evaluated < report.recorded.evaluated);
        assert_eq!(report.attacks.first().unwrap().stopped_at, Some(at(120)));
        let off = LockoutPolicy { enabled: false, ..Policy::default().lockout };
        let report = replay(off, an_hour_of_guesses());
        assert_eq!((report.proposed.evaluated, report.proposed.locks), (60, 0));
        assert_eq!(report.attacks.first().unwrap().stopped_at, None);
    }

    #[test]
    fn an_owner_who_would_have_been_refused_is_counted() {
        let mistakes = (0..3).map(|second| failed(second, FailureReason::WrongPassword));
        let stricter = LockoutPolicy { threshold: 3, ..Policy::default().lockout };
        let report = replay(stricter, mistakes.chain([right(10)]));
        let (_, outcome) = report.locked.first().unwrap();
        assert_eq!((outcome.total, outcome.recorded, outcome.correct_refused), (1, 0, 1));
        assert_eq!(report.attacks, []);
    }

    #[test]
    fn memory_is_bounded_by_the_counters_in_use() {
        let policy = Policy::default().lockout;
        let fill = |preview: &mut Preview, seconds: i64| {
            for account in 0..=MAX_COUNTERS as u128 {
                let subject = Some(Uuid::from_u128(account));
                preview.observe(&RecordedEvent { subject, ..failed(seconds, FailureReason::WrongPassword) });
            }
        };
        let mut preview = Preview::new(policy, 10);
        fill(&mut preview, 0);
        assert_eq!(preview.evict_idle(at(60)), Err(PreviewTooLarge), "all of them are under way");
        assert_eq!(preview.evict_idle(at(2 * 86_400)), Ok(()), "all of them are at rest");
        assert!(preview.counters.is_empty());
    }

    #[test]
    fn a_right_attempt_ends_a_run_and_forgives() {
        let mistakes = |from: i64| (from..from + 9).map(|second| failed(second * 1_000, FailureReason::WrongPassword));
        let events: Vec<_> = mistakes(0).chain([right(8_500)]).chain(mistakes(9)).collect();
        let report = replay(Policy::default().lockout, events);
        assert_eq!((report.attacks, report.locked), (vec![], vec![]));
    }
}
