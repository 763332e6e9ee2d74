//! Attempts to log in, each with its outcome. A stream of its own, one an account, and one for attempts on
//! addresses that nobody registered.
//!
//! A refusal is a decision like any other and leaves an event; the caller is told nothing of its reason.
//!
//! Each attempt is counted, by the account's counter or by that of a known device; `device` in an event is a keyed digest
//! of that device, so that who replays the log counts as the service did. Each is counted over all devices of the account,
//! too, with its own threshold and locks (`scope`).
//!
//! Which devices an account knows follows from the log as well: `succeeded` begins to know one (`trusted`) or uses it again
//! (`device`), and of more than [`KNOWN_DEVICES`] the least recently used is forgotten. One is forgotten by
//! `device_forgotten`, after [`DEVICE_KNOWN_FOR`], and with all others by every change of what the account is guarded by
//! ([`AccountEvent::forgets_devices`]). A device that is not known when it is used stays so.
//!
//! [`AccountEvent::forgets_devices`]: crate::account::AccountEvent::forgets_devices

use std::convert::Infallible;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::Aggregate;
use crate::lockout::{Lockout, lock_after};
use crate::policy::LockoutPolicy;
use crate::values::SessionId;

/// Most devices that an account knows.
pub const KNOWN_DEVICES: i64 = 10;
/// How long after its first login a device is known, however often it is used.
pub const DEVICE_KNOWN_FOR: TimeDelta = TimeDelta::days(400);

/// What became of an attempt. Sealed in each: address, user agent; in `succeeded` also the device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AuthenticationEvent {
    /// Every factor asked for was right.
    #[serde(rename = "authentication.succeeded")]
    Succeeded {
        /// What was presented, as RFC 8176 names it (`pwd`, `otp`).
        methods: Vec<AuthenticationMethod>,
        /// The session that it started.
        session: SessionId,
        /// The device whose counter it was; none: the account's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        device: Option<String>,
        /// The device that is known from here on; none: it was before.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        trusted: Option<String>,
    },
    /// The password was right, and a second factor is asked for before anything begins.
    #[serde(rename = "authentication.second_factor_required")]
    SecondFactorRequired {
        /// Whether the account has one; if not, the login leads to its enrolment.
        enrolled: bool,
        /// The device whose counter it was; none: the account's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        device: Option<String>,
    },
    /// Every factor was right, and the password must be changed before anything begins.
    #[serde(rename = "authentication.password_change_required")]
    PasswordChangeRequired {
        /// Which factor it was that came last.
        factor: Factor,
        /// The device whose counter it was; none: the account's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        device: Option<String>,
    },
    /// Somebody who is logged in proved themselves once more, for a sensitive call.
    #[serde(rename = "authentication.confirmed")]
    Confirmed {
        /// Which factor it was.
        factor: Factor,
        /// The device whose counter it was; none: the account's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        device: Option<String>,
    },
    /// Refused.
    #[serde(rename = "authentication.failed")]
    Failed {
        /// Which factor was tried.
        factor: Factor,
        /// Why it was refused; for the log alone.
        reason: FailureReason,
        /// The device whose counter it was; none: the account's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        device: Option<String>,
    },
    /// Enough failures: nothing more is evaluated for a while.
    #[serde(rename = "authentication.locked_out")]
    LockedOut {
        /// Which factor is locked.
        factor: Factor,
        /// Attempts counted by then, the last one a failure: one that a node is too busy to judge counts until it is given
        /// back.
        failures: u32,
        /// Which lock in a row this is, from 1.
        nth: u32,
        /// When it lifts by itself.
        #[serde(with = "crate::leaf::micros")]
        until: DateTime<Utc>,
        /// The device that is locked; none: every other one is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        device: Option<String>,
        /// That all devices are, known or not; none: it is as `device` says.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        scope: Option<LockScope>,
    },
    /// A way to a new password was asked for, of an account that there is; it is mailed to its owner.
    #[serde(rename = "authentication.password_reset_requested")]
    PasswordResetRequested {},
    /// A new password was offered with a mailed link, and is one of the account's last ones. Each comparison counts
    /// against the link, which is good for a few.
    #[serde(rename = "authentication.password_reset_refused")]
    PasswordResetRefused {
        /// Which comparison of this link it was, from 1.
        number: u32,
    },
    /// A session began on a device that was not known, of an account that had been logged in to before.
    #[serde(rename = "authentication.new_device_seen")]
    NewDeviceSeen {
        /// The session.
        session: SessionId,
    },
    /// A lock is over. One that passed by itself is noted by the first attempt after it.
    #[serde(rename = "authentication.lock_lifted")]
    LockLifted {
        /// Which factor was locked.
        factor: Factor,
        /// What ended it; sealed beside an administrator's act: reason.
        by: UnlockCause,
        /// The device that was locked; none: every other one was.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        device: Option<String>,
        /// That it was the lock of all devices that passed; none: it is as `device` says. What is not `expired` ends every
        /// lock of the factor.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        scope: Option<LockScope>,
    },
    /// Its owner has a device forgotten.
    #[serde(rename = "authentication.device_forgotten")]
    DeviceForgotten {
        /// Which.
        device: String,
    },
}

/// What was presented (RFC 8176, section 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum AuthenticationMethod {
    /// A password.
    #[serde(rename = "pwd")]
    Password,
    /// A one-time password: a TOTP code (RFC 6238), or a recovery code in its place.
    #[serde(rename = "otp")]
    OneTime,
}

impl AuthenticationMethod {
    /// The RFC 8176 name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Password => "pwd",
            Self::OneTime => "otp",
        }
    }
}

/// What is counted and locked separately.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Factor {
    /// The password.
    Password,
    /// A code of the second factor, or a recovery code in its place.
    SecondFactor,
}

impl Factor {
    /// The name in leaves and tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Password => "password",
            Self::SecondFactor => "second_factor",
        }
    }
}

/// What more than one device, or all but the known ones, is locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LockScope {
    /// Every device of the account, known or not.
    Account,
}

/// What ended a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnlockCause {
    /// Its time had come.
    Expired,
    /// An administrator.
    Admin,
    /// The factor was taken away or set anew.
    Reset,
}

/// Why an attempt was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureReason {
    /// Nobody registered this address.
    UnknownAccount,
    /// The password was evaluated and is another one.
    WrongPassword,
    /// The code was evaluated and is not, or no longer, one of the account's.
    WrongCode,
    /// Not evaluated: too many failures before.
    Locked,
    /// Not evaluated: as many attempts as may be evaluated were under way, and not over in time.
    Pending,
    /// The factor was right, but the account is suspended.
    Suspended,
    /// The login that the code belongs to is too long ago.
    ExpiredChallenge,
    /// The factor was right, but a lockdown lets nobody in but those who respond.
    Lockdown,
}

/// An attempt that was evaluated, or deliberately not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Which factor was tried.
    pub factor: Factor,
    /// The device whose counter it was; none: the account's.
    pub device: Option<String>,
    /// Whether it is the first after a lock of that counter that passed by itself.
    pub lock_passed: bool,
    /// The same of the lock of all devices.
    pub account_lock_passed: bool,
    /// What the evaluation said.
    pub verdict: AttemptOutcome,
    /// When.
    pub at: DateTime<Utc>,
    /// The policy in force.
    pub policy: LockoutPolicy,
}

/// What the evaluation of an attempt said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttemptOutcome {
    /// Nobody registered this address.
    UnknownAccount,
    /// Locked before this attempt; it was not evaluated.
    Locked,
    /// As many attempts as may be evaluated were under way; it was not evaluated.
    Pending,
    /// Evaluated and right, of an account that nobody may use.
    Suspended,
    /// Too late: not evaluated.
    ExpiredChallenge,
    /// Evaluated and right, of somebody whom a lockdown keeps out.
    Lockdown,
    /// Evaluated and wrong.
    Wrong {
        /// What its counter says.
        own: AttemptCount,
        /// What that of the account over all devices says.
        account: AttemptCount,
    },
    /// The password is right; a second factor is asked for.
    SecondFactorRequired {
        /// Whether the account has one.
        enrolled: bool,
    },
    /// The password is right, and must be changed.
    PasswordChangeRequired,
    /// Evaluated and right.
    Right {
        /// What was presented.
        methods: Vec<AuthenticationMethod>,
        /// The session it is to start.
        session: SessionId,
        /// The device that is known from here on, where it was not before.
        trusted: Option<String>,
    },
    /// Evaluated and right, of somebody who is logged in.
    Confirmed,
}

/// What a counter says of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttemptCount {
    /// Its number in this window.
    pub number: u32,
    /// Locks in a row so far.
    pub locks: u32,
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
        let Attempt { factor, device, lock_passed, account_lock_passed, verdict, at, policy } = attempt;
        let mut events = Vec::new();
        let by = UnlockCause::Expired;
        if lock_passed {
            events.push(AuthenticationEvent::LockLifted { factor, by, device: device.clone(), scope: None });
        }
        if account_lock_passed {
            let scope = Some(LockScope::Account);
            events.push(AuthenticationEvent::LockLifted { factor, by, device: None, scope });
        }
        let failed = |reason| AuthenticationEvent::Failed { factor, reason, device: device.clone() };
        match verdict {
            AttemptOutcome::UnknownAccount => events.push(failed(FailureReason::UnknownAccount)),
            AttemptOutcome::Locked => events.push(failed(FailureReason::Locked)),
            AttemptOutcome::Pending => events.push(failed(FailureReason::Pending)),
            AttemptOutcome::Suspended => events.push(failed(FailureReason::Suspended)),
            AttemptOutcome::ExpiredChallenge => events.push(failed(FailureReason::ExpiredChallenge)),
            AttemptOutcome::Lockdown => events.push(failed(FailureReason::Lockdown)),
            AttemptOutcome::Wrong { own, account } => {
                events.push(failed(match factor {
                    Factor::Password => FailureReason::WrongPassword,
                    Factor::SecondFactor => FailureReason::WrongCode,
                }));
                let mut locked = |counted: AttemptCount, policy: &LockoutPolicy, device, scope| {
                    let Some(Lockout { until, nth }) = lock_after(counted.number, counted.locks, at, policy) else {
                        return;
                    };
                    let failures = counted.number;
                    events.push(AuthenticationEvent::LockedOut { factor, failures, nth, until, device, scope });
                };
                locked(own, &policy, device, None);
                locked(account, &policy.of_account(), None, Some(LockScope::Account));
            }
            AttemptOutcome::SecondFactorRequired { enrolled } => {
                events.push(AuthenticationEvent::SecondFactorRequired { enrolled, device });
            }
            AttemptOutcome::PasswordChangeRequired => {
                events.push(AuthenticationEvent::PasswordChangeRequired { factor, device });
            }
            AttemptOutcome::Right { methods, session, trusted } => {
                events.push(AuthenticationEvent::Succeeded { methods, session, device, trusted });
            }
            AttemptOutcome::Confirmed => events.push(AuthenticationEvent::Confirmed { factor, device }),
        }
        Ok(events)
    }

    fn apply_event((): (), _: AuthenticationEvent) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Policy;
    use crate::testing::given;

    fn attempt(verdict: AttemptOutcome) -> Attempt {
        Attempt {
            factor: Factor::Password,
            device: None,
            lock_passed: false,
            account_lock_passed: false,
            verdict,
            at: DateTime::UNIX_EPOCH,
            policy: Policy::default().lockout,
        }
    }

    /// A wrong attempt of this number on a device, and the first one on the account.
    fn wrong(number: u32, locks: u32) -> AttemptOutcome {
        AttemptOutcome::Wrong { own: AttemptCount { number, locks }, account: AttemptCount { number: 1, locks: 0 } }
    }

    fn failed(reason: FailureReason) -> AuthenticationEvent {
        AuthenticationEvent::Failed { factor: Factor::Password, reason, device: None }
    }

    #[test]
    fn each_refusal_keeps_its_reason_in_the_log() {
        given::<Authentication>([])
            .when(attempt(AttemptOutcome::UnknownAccount))
            .then([failed(FailureReason::UnknownAccount)]);
        given::<Authentication>([]).when(attempt(AttemptOutcome::Locked)).then([failed(FailureReason::Locked)]);
        given::<Authentication>([]).when(attempt(AttemptOutcome::Pending)).then([failed(FailureReason::Pending)]);
        given::<Authentication>([]).when(attempt(wrong(4, 0))).then([failed(FailureReason::WrongPassword)]);
        let code = Attempt { factor: Factor::SecondFactor, ..attempt(wrong(1, 0)) };
        given::<Authentication>([]).when(code).then([AuthenticationEvent::Failed {
            factor: Factor::SecondFactor,
            reason: FailureReason::WrongCode,
            device: None,
        }]);
    }

    #[test]
    fn the_fifth_failure_locks_and_the_next_lock_is_twice_as_long() {
        for (locks, minutes) in [(0, 15), (1, 30)] {
            given::<Authentication>([]).when(attempt(wrong(5, locks))).then([
                failed(FailureReason::WrongPassword),
                AuthenticationEvent::LockedOut {
                    factor: Factor::Password,
                    failures: 5,
                    nth: locks + 1,
                    until: DateTime::UNIX_EPOCH + TimeDelta::minutes(minutes),
                    device: None,
                    scope: None,
                },
            ]);
        }
    }

    #[test]
    fn a_lock_that_passed_is_noted_by_the_next_attempt() {
        let first = Attempt { lock_passed: true, device: Some("d".into()), ..attempt(wrong(1, 1)) };
        given::<Authentication>([]).when(first).then([
            AuthenticationEvent::LockLifted {
                factor: Factor::Password,
                by: UnlockCause::Expired,
                device: Some("d".into()),
                scope: None,
            },
            AuthenticationEvent::Failed {
                factor: Factor::Password,
                reason: FailureReason::WrongPassword,
                device: Some("d".into()),
            },
        ]);
    }

    #[test]
    fn the_twentieth_failure_on_any_device_locks_all_of_them() {
        let verdict = AttemptOutcome::Wrong {
            own: AttemptCount { number: 2, locks: 0 },
            account: AttemptCount { number: 20, locks: 1 },
        };
        let twentieth = Attempt { device: Some("d".into()), account_lock_passed: true, ..attempt(verdict) };
        let scope = Some(LockScope::Account);
        let factor = Factor::Password;
        given::<Authentication>([]).when(twentieth).then([
            AuthenticationEvent::LockLifted { factor, by: UnlockCause::Expired, device: None, scope },
            AuthenticationEvent::Failed { factor, reason: FailureReason::WrongPassword, device: Some("d".into()) },
            AuthenticationEvent::LockedOut {
                factor,
                failures: 20,
                nth: 2,
                until: DateTime::UNIX_EPOCH + TimeDelta::minutes(15),
                device: None,
                scope,
            },
        ]);
    }
}
