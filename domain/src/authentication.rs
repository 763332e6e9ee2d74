//! Attempts to log in, each with its outcome. A stream of its own, one an account, and one for attempts on
//! addresses that nobody registered.
//!
//! A refusal is a decision like any other and leaves an event; the caller is told nothing of its reason.

use std::convert::Infallible;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::Aggregate;
use crate::lockout::lock_duration;
use crate::policy::LockoutPolicy;
use crate::values::SessionId;

/// What became of an attempt. Sealed in each: address, user agent; in `succeeded` also the device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AuthenticationEvent {
    /// Every factor asked for was right.
    #[serde(rename = "authentication.succeeded")]
    Succeeded {
        /// What was presented, as RFC 8176 names it (`pwd`, `otp`).
        methods: Vec<Method>,
        /// The session that it started.
        session: SessionId,
    },
    /// Refused.
    #[serde(rename = "authentication.failed")]
    Failed {
        /// Which factor was tried.
        factor: Factor,
        /// Why it was refused; for the log alone.
        reason: FailureReason,
    },
    /// Enough failures: nothing more is evaluated for a while.
    #[serde(rename = "authentication.locked_out")]
    LockedOut {
        /// Which factor is locked.
        factor: Factor,
        /// How many failures led to it.
        failures: u32,
        /// Which lock in a row this is, from 1.
        nth: u32,
        /// When it lifts by itself.
        #[serde(with = "crate::leaf::micros")]
        until: DateTime<Utc>,
    },
    /// A lock ended before its time.
    #[serde(rename = "authentication.lock_lifted")]
    LockLifted {
        /// Which factor was locked.
        factor: Factor,
        /// What ended it; sealed beside an administrator's act: reason.
        by: LiftedBy,
    },
}

/// What was presented (RFC 8176, section 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Method {
    /// A password.
    #[serde(rename = "pwd")]
    Password,
}

impl Method {
    /// The RFC 8176 name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Password => "pwd",
        }
    }
}

/// What is counted and locked separately.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Factor {
    /// The password.
    Password,
}

/// What ended a lock before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LiftedBy {
    /// An administrator.
    Admin,
}

/// Why an attempt was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureReason {
    /// Nobody registered this address.
    UnknownAccount,
    /// The password was evaluated and is another one.
    WrongPassword,
    /// Not evaluated: too many failures before.
    Locked,
    /// The password was right, but the account is suspended.
    Suspended,
}

/// An attempt that was evaluated, or deliberately not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Which factor was tried.
    pub factor: Factor,
    /// What the evaluation said.
    pub verdict: Verdict,
    /// When.
    pub at: DateTime<Utc>,
    /// The policy in force.
    pub policy: LockoutPolicy,
}

/// What the evaluation of an attempt said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Nobody registered this address.
    UnknownAccount,
    /// Locked before this attempt; it was not evaluated.
    Locked,
    /// Evaluated and right, of an account that nobody may use.
    Suspended,
    /// Evaluated and wrong.
    Wrong {
        /// Failures in this window, this one included.
        failures: u32,
        /// Locks in a row so far.
        locks: u32,
    },
    /// Evaluated and right.
    Right {
        /// What was presented.
        methods: Vec<Method>,
        /// The session it is to start.
        session: SessionId,
    },
}

/// The aggregate. It keeps no state: what counts against an attempt is counted before it is evaluated.
pub struct Authentication;

impl Aggregate for Authentication {
    const NAME: &'static str = "authentication";
    type State = ();
    type Command = Attempt;
    type Event = AuthenticationEvent;
    type Error = Infallible;

    fn handle_command((): &(), attempt: Attempt) -> Result<Vec<AuthenticationEvent>, Infallible> {
        let Attempt { factor, verdict, at, policy } = attempt;
        let failed = |reason| AuthenticationEvent::Failed { factor, reason };
        Ok(match verdict {
            Verdict::UnknownAccount => vec![failed(FailureReason::UnknownAccount)],
            Verdict::Locked => vec![failed(FailureReason::Locked)],
            Verdict::Suspended => vec![failed(FailureReason::Suspended)],
            Verdict::Wrong { failures, locks } if failures >= policy.threshold => {
                let nth = locks.saturating_add(1);
                let until = at + lock_duration(nth, &policy);
                vec![
                    failed(FailureReason::WrongPassword),
                    AuthenticationEvent::LockedOut { factor, failures, nth, until },
                ]
            }
            Verdict::Wrong { .. } => vec![failed(FailureReason::WrongPassword)],
            Verdict::Right { methods, session } => vec![AuthenticationEvent::Succeeded { methods, session }],
        })
    }

    fn apply_event((): (), _: AuthenticationEvent) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Policy;
    use crate::testing::given;

    fn attempt(verdict: Verdict) -> Attempt {
        Attempt { factor: Factor::Password, verdict, at: DateTime::UNIX_EPOCH, policy: Policy::default().lockout }
    }

    fn failed(reason: FailureReason) -> AuthenticationEvent {
        AuthenticationEvent::Failed { factor: Factor::Password, reason }
    }

    #[test]
    fn each_refusal_keeps_its_reason_in_the_log() {
        given::<Authentication>([])
            .when(attempt(Verdict::UnknownAccount))
            .then([failed(FailureReason::UnknownAccount)]);
        given::<Authentication>([]).when(attempt(Verdict::Locked)).then([failed(FailureReason::Locked)]);
        given::<Authentication>([])
            .when(attempt(Verdict::Wrong { failures: 4, locks: 0 }))
            .then([failed(FailureReason::WrongPassword)]);
    }

    #[test]
    fn the_fifth_failure_locks_and_the_next_lock_is_twice_as_long() {
        for (locks, minutes) in [(0, 15), (1, 30)] {
            given::<Authentication>([]).when(attempt(Verdict::Wrong { failures: 5, locks })).then([
                failed(FailureReason::WrongPassword),
                AuthenticationEvent::LockedOut {
                    factor: Factor::Password,
                    failures: 5,
                    nth: locks + 1,
                    until: DateTime::UNIX_EPOCH + chrono::TimeDelta::minutes(minutes),
                },
            ]);
        }
    }
}
