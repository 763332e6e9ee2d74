//! Login attempts and their outcomes. Each account has one such stream, and one stream holds attempts on unregistered
//! addresses.
//!
//! A refusal is a decision like any other and records an event. The caller never learns its reason.
//!
//! Each attempt counts against the counter of the account, or against that of a known device. `device` in an event is a
//! keyed digest of that device, so that a replay of the log counts as the service did. Each attempt also counts against
//! a counter over all devices of the account, which has its own threshold and locks (`scope`).
//!
//! The devices that an account knows also follow from the log. `succeeded` adds a device (`trusted_device`) or uses a
//! known one (`device`). Of more than [`MAX_KNOWN_DEVICES`], the account forgets the least recently used. It also
//! forgets a device by `device_forgotten` and after [`DEVICE_LIFETIME`], and all devices after each change of its
//! factors ([`AccountEvent::forgets_devices`]). The use of an unknown device does not make it known again.
//!
//! [`AccountEvent::forgets_devices`]: crate::account::AccountEvent::forgets_devices

use std::convert::Infallible;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::Aggregate;
use crate::lockout::{Lockout, lockout_after};
use crate::policy::LockoutPolicy;
use crate::values::SessionId;

/// The maximum number of devices that an account knows.
pub const MAX_KNOWN_DEVICES: i64 = 10;
/// The time from its first login for which a device is known, regardless of its use.
pub const DEVICE_LIFETIME: TimeDelta = TimeDelta::days(400);

/// The outcome of a login attempt. Sealed: address, user agent; in `succeeded` also the device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AuthenticationEvent {
    /// Every required factor was correct.
    #[serde(rename = "authentication.succeeded")]
    Succeeded {
        /// The methods presented, by their RFC 8176 names (`pwd`, `otp`).
        methods: Vec<AuthenticationMethod>,
        /// The session that the login started.
        session: SessionId,
        /// The device that has the counter; `None` for the counter of the account.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        device: Option<String>,
        /// The device that is known from here on; `None` if it was known before.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        trusted_device: Option<String>,
    },
    /// The password was correct. The login continues with a second factor.
    #[serde(rename = "authentication.second_factor_required")]
    SecondFactorRequired {
        /// `true` if the account has a second factor; otherwise the login continues with its enrolment.
        enrolled: bool,
        /// The device that has the counter; `None` for the counter of the account.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        device: Option<String>,
    },
    /// Every factor was correct. The login continues with a password change.
    #[serde(rename = "authentication.password_change_required")]
    PasswordChangeRequired {
        /// The last factor presented.
        factor: Factor,
        /// The device that has the counter; `None` for the counter of the account.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        device: Option<String>,
    },
    /// A logged-in owner authenticated again, for a sensitive call.
    #[serde(rename = "authentication.confirmed")]
    Confirmed {
        /// The factor presented.
        factor: Factor,
        /// The device that has the counter; `None` for the counter of the account.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        device: Option<String>,
    },
    /// The attempt was refused.
    #[serde(rename = "authentication.failed")]
    Failed {
        /// The factor tried.
        factor: Factor,
        /// The reason for the refusal, which only the log contains.
        reason: FailureReason,
        /// The device that has the counter; `None` for the counter of the account.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        device: Option<String>,
    },
    /// Too many attempts failed. The service evaluates no further ones for a limited time.
    #[serde(rename = "authentication.locked_out")]
    LockedOut {
        /// The locked factor.
        factor: Factor,
        /// The number of counted attempts, including the failure that caused the lock. An attempt that a busy node does
        /// not evaluate counts until the node releases it.
        failures: u32,
        /// The number of this lock in a row, starting with 1.
        nth: u32,
        /// The end of the lock.
        #[serde(with = "crate::leaf::micros")]
        until: DateTime<Utc>,
        /// The locked device; `None` if all unknown devices are locked.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        device: Option<String>,
        /// The scope of a lock on all devices, known and unknown; `None` if `device` gives the scope.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        scope: Option<LockScope>,
    },
    /// A password reset was requested for a registered account. The owner receives a link by e-mail.
    #[serde(rename = "authentication.password_reset_requested")]
    PasswordResetRequested {},
    /// A new password was presented with a reset link, and is one of the account's recent passwords. Each comparison
    /// counts against the link, which allows only a few.
    #[serde(rename = "authentication.password_reset_refused")]
    PasswordResetRefused {
        /// The number of this comparison for the link, starting with 1.
        attempt: u32,
    },
    /// A session started on an unknown device, for an account with earlier logins.
    #[serde(rename = "authentication.new_device_seen")]
    NewDeviceSeen {
        /// The session.
        session: SessionId,
    },
    /// A lock ended. The first attempt after a lock records its expiry.
    #[serde(rename = "authentication.lock_lifted")]
    LockLifted {
        /// The factor that was locked.
        factor: Factor,
        /// The cause of the end; sealed for `admin`: reason.
        by: UnlockCause,
        /// The device that was locked; `None` if all unknown devices were locked.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        device: Option<String>,
        /// The scope of an expired lock on all devices; `None` if `device` gives the scope. Each cause other than
        /// `expired` ends all locks of the factor.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        scope: Option<LockScope>,
    },
    /// The owner removed a known device.
    #[serde(rename = "authentication.device_forgotten")]
    DeviceForgotten {
        /// The device.
        device: String,
    },
}

/// An authentication method (RFC 8176, section 2).
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

/// A factor, with counters and locks of its own.
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

/// The scope of a lock on more than one device, or more than all unknown ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LockScope {
    /// Every device of the account, known and unknown.
    Account,
}

/// The cause of the end of a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnlockCause {
    /// The lock expired.
    Expired,
    /// An administrator lifted the lock.
    Admin,
    /// The factor was removed or replaced.
    Reset,
}

/// The reason for refusing an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureReason {
    /// No account has this address.
    UnknownAccount,
    /// The password is incorrect.
    WrongPassword,
    /// The code is not, or no longer, valid for the account.
    WrongCode,
    /// The factor is locked after too many failures. The attempt was not evaluated.
    Locked,
    /// As many attempts as the threshold allows were in progress, and did not end in time. The attempt was not
    /// evaluated.
    TooManyConcurrent,
    /// The factor was correct, but the account is suspended.
    Suspended,
    /// The challenge that the code answers has expired.
    ExpiredChallenge,
    /// The factor was correct, but a lockdown admits only incident responders.
    Lockdown,
}

/// A login attempt, evaluated or deliberately not evaluated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The factor tried.
    pub factor: Factor,
    /// The device that has the counter; `None` for the counter of the account.
    pub device: Option<String>,
    /// `true` if it is the first attempt after a lock of that counter expired.
    pub lock_expired: bool,
    /// `true` if it is the first attempt after a lock on all devices expired.
    pub account_lock_expired: bool,
    /// The outcome of the evaluation.
    pub outcome: AttemptOutcome,
    /// The current time.
    pub at: DateTime<Utc>,
    /// The policy in force.
    pub policy: LockoutPolicy,
}

/// The outcome of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttemptOutcome {
    /// No account has this address.
    UnknownAccount,
    /// The factor was locked before this attempt, which was not evaluated.
    Locked,
    /// As many attempts as the threshold allows were in progress. This one was not evaluated.
    TooManyConcurrent,
    /// The factor is correct, but the account is suspended.
    Suspended,
    /// The challenge has expired. The attempt was not evaluated.
    ExpiredChallenge,
    /// The factor is correct, but a lockdown excludes the caller.
    Lockdown,
    /// The factor is incorrect.
    Incorrect {
        /// The count of the attempt's own counter.
        own: AttemptCount,
        /// The count of the counter over all devices of the account.
        account: AttemptCount,
    },
    /// The password is correct. A second factor must follow.
    SecondFactorRequired {
        /// `true` if the account has a second factor.
        enrolled: bool,
    },
    /// The factor is correct. A password change must follow.
    PasswordChangeRequired,
    /// Every required factor is correct.
    Succeeded {
        /// The methods presented.
        methods: Vec<AuthenticationMethod>,
        /// The session to start.
        session: SessionId,
        /// The device that becomes known; `None` if it was known before.
        trusted_device: Option<String>,
    },
    /// The factor is correct, and the caller was logged in already.
    Confirmed,
}

/// The reading of a counter at an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttemptCount {
    /// The number of the attempt in the window.
    pub number: u32,
    /// The number of locks in a row so far.
    pub locks: u32,
}

/// The aggregate of login attempts. It has no state: counters outside the log count each attempt before its evaluation.
pub struct Authentication;

impl Aggregate for Authentication {
    const NAME: &'static str = "authentication";
    type State = ();
    type Command = Attempt;
    type Event = AuthenticationEvent;
    type Error = Infallible;

    fn handle_command((): &(), attempt: Attempt) -> Result<Vec<AuthenticationEvent>, Infallible> {
        let Attempt { factor, device, lock_expired, account_lock_expired, outcome, at, policy } = attempt;
        let mut events = Vec::new();
        let by = UnlockCause::Expired;
        if lock_expired {
            events.push(AuthenticationEvent::LockLifted { factor, by, device: device.clone(), scope: None });
        }
        if account_lock_expired {
            let scope = Some(LockScope::Account);
            events.push(AuthenticationEvent::LockLifted { factor, by, device: None, scope });
        }
        let failed = |reason| AuthenticationEvent::Failed { factor, reason, device: device.clone() };
        match outcome {
            AttemptOutcome::UnknownAccount => events.push(failed(FailureReason::UnknownAccount)),
            AttemptOutcome::Locked => events.push(failed(FailureReason::Locked)),
            AttemptOutcome::TooManyConcurrent => events.push(failed(FailureReason::TooManyConcurrent)),
            AttemptOutcome::Suspended => events.push(failed(FailureReason::Suspended)),
            AttemptOutcome::ExpiredChallenge => events.push(failed(FailureReason::ExpiredChallenge)),
            AttemptOutcome::Lockdown => events.push(failed(FailureReason::Lockdown)),
            AttemptOutcome::Incorrect { own, account } => {
                events.push(failed(match factor {
                    Factor::Password => FailureReason::WrongPassword,
                    Factor::SecondFactor => FailureReason::WrongCode,
                }));
                let mut locked = |counted: AttemptCount, policy: &LockoutPolicy, device, scope| {
                    let Some(Lockout { until, nth }) = lockout_after(counted.number, counted.locks, at, policy) else {
                        return;
                    };
                    let failures = counted.number;
                    events.push(AuthenticationEvent::LockedOut { factor, failures, nth, until, device, scope });
                };
                locked(own, &policy, device, None);
                locked(account, &policy.for_account(), None, Some(LockScope::Account));
            }
            AttemptOutcome::SecondFactorRequired { enrolled } => {
                events.push(AuthenticationEvent::SecondFactorRequired { enrolled, device });
            }
            AttemptOutcome::PasswordChangeRequired => {
                events.push(AuthenticationEvent::PasswordChangeRequired { factor, device });
            }
            AttemptOutcome::Succeeded { methods, session, trusted_device } => {
                events.push(AuthenticationEvent::Succeeded { methods, session, device, trusted_device });
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

    fn attempt(outcome: AttemptOutcome) -> Attempt {
        Attempt {
            factor: Factor::Password,
            device: None,
            lock_expired: false,
            account_lock_expired: false,
            outcome,
            at: DateTime::UNIX_EPOCH,
            policy: Policy::default().lockout,
        }
    }

    /// An incorrect attempt: this number on its own counter, and the first over all devices.
    fn wrong(number: u32, locks: u32) -> AttemptOutcome {
        AttemptOutcome::Incorrect { own: AttemptCount { number, locks }, account: AttemptCount { number: 1, locks: 0 } }
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
        given::<Authentication>([])
            .when(attempt(AttemptOutcome::TooManyConcurrent))
            .then([failed(FailureReason::TooManyConcurrent)]);
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
        let first = Attempt { lock_expired: true, device: Some("d".into()), ..attempt(wrong(1, 1)) };
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
        let outcome = AttemptOutcome::Incorrect {
            own: AttemptCount { number: 2, locks: 0 },
            account: AttemptCount { number: 20, locks: 1 },
        };
        let twentieth = Attempt { device: Some("d".into()), account_lock_expired: true, ..attempt(outcome) };
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
