//! The security policy: the settings that decisions depend on. The policy is an aggregate with a single stream. Each
//! leaf names the policy version in force, so that every decision can be explained.
//!
//! Version 1 is not an event: it consists of the defaults of the security document and of the configuration.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock};

use chrono::TimeDelta;
use serde::{Deserialize, Serialize};

use crate::Aggregate;
use crate::values::RoleName;

/// The settings of the policy. Their defaults are those of the security document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// The version of the policy. Version 1 is the initial one.
    pub version: u32,
    /// The rules for the lockout of accounts.
    pub lockout: LockoutPolicy,
    /// The rules for sessions.
    pub sessions: SessionPolicy,
    /// The rules for passwords, apart from their strength.
    pub passwords: PasswordPolicy,
    /// The rules for second factors.
    pub second_factor: SecondFactorPolicy,
    /// The rules for API keys.
    #[serde(default, skip_serializing_if = "ApiKeyPolicy::is_default")]
    pub api_keys: ApiKeyPolicy,
    /// The rules for the erasure of accounts.
    #[serde(default, skip_serializing_if = "ErasurePolicy::is_default")]
    pub erasure: ErasurePolicy,
}

/// The rules for the lockout of accounts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockoutPolicy {
    /// `true` if the number of guesses is limited.
    pub enabled: bool,
    /// The number of failures that causes a lock, and the maximum number of guesses evaluated per window.
    pub threshold: u32,
    /// The threshold of an account over all its devices together. A value below `threshold` counts as `threshold`.
    #[serde(default = "account_threshold", skip_serializing_if = "is_account_threshold")]
    pub account_threshold: u32,
    /// The length of the window. Failures further apart do not add up.
    #[serde(rename = "window_seconds", with = "seconds")]
    pub window: TimeDelta,
    /// The duration of the first lock.
    #[serde(rename = "duration_seconds", with = "seconds")]
    pub duration: TimeDelta,
    /// The maximum duration of a lock. Each lock in a row doubles the duration of the one before.
    #[serde(rename = "max_duration_seconds", with = "seconds")]
    pub max_duration: TimeDelta,
}

/// The rules for sessions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionPolicy {
    /// The lifetime of a refresh token. Each use starts the lifetime again, so it is the idle timeout of the session.
    #[serde(rename = "idle_timeout_seconds", with = "seconds")]
    pub idle_timeout: TimeDelta,
    /// The absolute lifetime of a session, regardless of its use.
    #[serde(rename = "absolute_timeout_seconds", with = "seconds")]
    pub absolute_timeout: TimeDelta,
    /// The time for which a spent refresh token still leads to its successor (two tabs, a lost answer).
    #[serde(rename = "refresh_grace_seconds", with = "seconds")]
    pub refresh_grace: TimeDelta,
    /// The duration of the elevation after a login or a step-up.
    #[serde(rename = "elevation_seconds", with = "seconds")]
    pub elevation: TimeDelta,
    /// The action for a refresh from another client fingerprint.
    pub fingerprint: FingerprintPolicy,
    /// The maximum number of sessions per account. A new session beyond it ends another: an expired one first, then the
    /// oldest.
    #[serde(default = "max_per_account", skip_serializing_if = "is_default_max_per_account")]
    pub max_per_account: u32,
}

/// The default. It must never change: the log omits the member for this value.
const fn max_per_account() -> u32 {
    100
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
const fn is_default_max_per_account(value: &u32) -> bool {
    *value == max_per_account()
}

/// The action for a refresh from another client fingerprint. The service records such a refresh in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FingerprintPolicy {
    /// No further action.
    Record,
    /// The session requires a step-up.
    RequireStepUp,
    /// The session ends.
    Revoke,
}

/// The rules for passwords, apart from their strength.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PasswordPolicy {
    /// The number of recent passwords, including the current one, that cannot be used again.
    pub history: u32,
    /// The maximum age of a password, which is changed at the next login after it; `None` for no maximum.
    pub max_age_days: Option<u32>,
}

/// The rules for second factors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecondFactorPolicy {
    /// The roles that need a second factor: without one they grant no permission in a session, and a login of their
    /// holders continues with an enrolment.
    pub required_for: BTreeSet<RoleName>,
}

/// The rules for API keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKeyPolicy {
    /// `true` if a key is refused while the account that created it is suspended.
    pub suspend_with_creator: bool,
}

impl ApiKeyPolicy {
    /// Tests for the default. It must never change: the log omits the member for this value.
    const fn is_default(&self) -> bool {
        self.suspend_with_creator
    }
}

impl Default for ApiKeyPolicy {
    fn default() -> Self {
        Self { suspend_with_creator: true }
    }
}

/// The rules for the erasure of accounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErasurePolicy {
    /// The time in which owners can withdraw the erasure that they asked for, in days.
    pub withdrawal_days: u32,
}

impl ErasurePolicy {
    /// Tests for the default. It must never change: the log omits the member for this value.
    const fn is_default(&self) -> bool {
        self.withdrawal_days == 7
    }
}

impl Default for ErasurePolicy {
    fn default() -> Self {
        Self { withdrawal_days: 7 }
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            version: 1,
            lockout: LockoutPolicy {
                enabled: true,
                threshold: 5,
                account_threshold: account_threshold(),
                window: TimeDelta::minutes(15),
                duration: TimeDelta::minutes(15),
                max_duration: TimeDelta::hours(24),
            },
            sessions: SessionPolicy {
                idle_timeout: TimeDelta::days(7),
                absolute_timeout: TimeDelta::days(30),
                refresh_grace: TimeDelta::seconds(10),
                elevation: TimeDelta::minutes(10),
                fingerprint: FingerprintPolicy::RequireStepUp,
                max_per_account: max_per_account(),
            },
            passwords: PasswordPolicy { history: 5, max_age_days: None },
            second_factor: SecondFactorPolicy { required_for: BTreeSet::new() },
            api_keys: ApiKeyPolicy::default(),
            erasure: ErasurePolicy::default(),
        }
    }
}

/// The policy in force, as far as a node knows, shared by all its decisions.
#[derive(Debug)]
pub struct ActivePolicy(RwLock<Arc<Policy>>);

impl ActivePolicy {
    /// Starts with this policy.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        Self(RwLock::new(Arc::new(policy)))
    }

    /// The policy.
    #[must_use]
    pub fn get(&self) -> Arc<Policy> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces the policy with a later version. Has no effect for an earlier one.
    pub fn update(&self, policy: &Policy) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if policy.version > known.version {
            *known = Arc::new(policy.clone());
        }
    }
}

/// A setting that is out of bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoundsViolation {
    /// The JSON Pointer (RFC 6901) to the setting.
    pub pointer: &'static str,
    /// The bounds, in words.
    pub bounds: String,
}

impl Policy {
    /// Returns every setting that is out of bounds. Within the bounds no setting overflows, and no policy locks
    /// everybody out.
    #[must_use]
    pub fn bounds_violations(&self) -> Vec<BoundsViolation> {
        let mut found = self.lockout.bounds_violations();
        let mut check = |pointer, value: i64, least: i64, most: i64| check(&mut found, pointer, value, least, most);
        let sessions = &self.sessions;
        let idle = sessions.idle_timeout.num_seconds();
        check("/sessions/idle_timeout_seconds", idle, 5 * MINUTE, 90 * DAY);
        check(
            "/sessions/absolute_timeout_seconds",
            sessions.absolute_timeout.num_seconds(),
            idle.max(5 * MINUTE),
            365 * DAY,
        );
        check("/sessions/refresh_grace_seconds", sessions.refresh_grace.num_seconds(), 0, MINUTE);
        check("/sessions/elevation_seconds", sessions.elevation.num_seconds(), MINUTE, 60 * MINUTE);
        check("/sessions/max_per_account", i64::from(sessions.max_per_account), 1, 1_000);
        check("/passwords/history", i64::from(self.passwords.history), 1, 24);
        if let Some(days) = self.passwords.max_age_days {
            check("/passwords/max_age_days", i64::from(days), 1, 3_650);
        }
        // A month is the longest that the law gives (GDPR, article 12).
        check("/erasure/withdrawal_days", i64::from(self.erasure.withdrawal_days), 0, 30);
        if self.second_factor.required_for.len() > 50 {
            let bounds = "must have at most 50 roles".to_owned();
            found.push(BoundsViolation { pointer: "/second_factor/required_for", bounds });
        }
        found
    }
}

/// The default. It must never change: the log omits the member for this value.
const fn account_threshold() -> u32 {
    20
}

const fn is_account_threshold(value: &u32) -> bool {
    *value == account_threshold()
}

impl LockoutPolicy {
    /// The policy for the counter of an account over all its devices. Its locks do not grow, because they exclude the
    /// owner on every device.
    #[must_use]
    pub fn for_account(&self) -> Self {
        Self { threshold: self.account_threshold.max(self.threshold), max_duration: self.duration, ..self.clone() }
    }

    /// See [`Policy::bounds_violations`].
    #[must_use]
    pub fn bounds_violations(&self) -> Vec<BoundsViolation> {
        let mut found = Vec::new();
        let duration = self.duration.num_seconds();
        check(&mut found, "/lockout/threshold", i64::from(self.threshold), 1, 100);
        // A value below the threshold of a device counts as that threshold.
        check(&mut found, "/lockout/account_threshold", i64::from(self.account_threshold), 1, 1_000);
        check(&mut found, "/lockout/window_seconds", self.window.num_seconds(), MINUTE, DAY);
        check(&mut found, "/lockout/duration_seconds", duration, MINUTE, DAY);
        check(
            &mut found,
            "/lockout/max_duration_seconds",
            self.max_duration.num_seconds(),
            duration.max(MINUTE),
            7 * DAY,
        );
        found
    }
}

const MINUTE: i64 = 60;
const DAY: i64 = 86_400;

fn check(found: &mut Vec<BoundsViolation>, pointer: &'static str, value: i64, least: i64, most: i64) {
    if !(least..=most).contains(&value) {
        found.push(BoundsViolation { pointer, bounds: format!("must be from {least} to {most}") });
    }
}

/// An event of the security policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PolicyEvent {
    /// Another policy is in force; sealed: reason.
    #[serde(rename = "policy.changed")]
    Changed {
        /// The previous policy.
        before: Box<Policy>,
        /// The new policy.
        after: Box<Policy>,
    },
}

/// A command to change the policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangePolicy {
    /// The initial policy, in force if no event says otherwise.
    pub initial: Policy,
    /// The expected version, if the author of the proposal gives one.
    pub expected_version: Option<u32>,
    /// The proposed policy. Its own version has no meaning.
    pub proposed: Policy,
}

/// The refusal of a policy change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// The policy has changed since the proposal was made.
    #[error("the policy in force is version {0}")]
    VersionConflict(u32),
    /// Some settings are out of bounds.
    #[error("some settings of the policy are out of bounds")]
    OutOfBounds(Vec<BoundsViolation>),
}

/// The aggregate of the security policy.
pub struct SecurityPolicy;

impl Aggregate for SecurityPolicy {
    const NAME: &'static str = "policy";
    type State = Option<Policy>;
    type Command = ChangePolicy;
    type Event = PolicyEvent;
    type Error = PolicyError;

    fn handle_command(state: &Option<Policy>, command: ChangePolicy) -> Result<Vec<PolicyEvent>, PolicyError> {
        let ChangePolicy { initial, expected_version, proposed } = command;
        let before = state.clone().unwrap_or(initial);
        if expected_version.is_some_and(|version| version != before.version) {
            return Err(PolicyError::VersionConflict(before.version));
        }
        let found = proposed.bounds_violations();
        if !found.is_empty() {
            return Err(PolicyError::OutOfBounds(found));
        }
        if proposed == (Policy { version: proposed.version, ..before.clone() }) {
            return Ok(vec![]);
        }
        let after = Policy { version: before.version.saturating_add(1), ..proposed };
        Ok(vec![PolicyEvent::Changed { before: Box::new(before), after: Box::new(after) }])
    }

    fn apply_event(_: Option<Policy>, PolicyEvent::Changed { after, .. }: PolicyEvent) -> Option<Policy> {
        Some(*after)
    }
}

/// The encoding of a duration as whole seconds.
mod seconds {
    use chrono::TimeDelta;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(span: &TimeDelta, serializer: S) -> Result<S::Ok, S::Error> {
        span.num_seconds().serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<TimeDelta, D::Error> {
        let seconds = i64::deserialize(deserializer)?;
        TimeDelta::try_seconds(seconds).ok_or_else(|| serde::de::Error::custom("is not a duration in seconds"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::given;

    fn proposal(change: impl FnOnce(&mut Policy)) -> ChangePolicy {
        let mut proposed = Policy::default();
        change(&mut proposed);
        ChangePolicy { initial: Policy::default(), expected_version: None, proposed }
    }

    #[test]
    fn a_change_counts_up_and_keeps_what_was_before() {
        let change = proposal(|policy| policy.lockout.threshold = 3);
        let after = Policy { version: 2, ..change.proposed.clone() };
        let changed = PolicyEvent::Changed { before: Box::default(), after: Box::new(after) };
        given::<SecurityPolicy>([]).when(change.clone()).then([changed.clone()]);
        given::<SecurityPolicy>([changed.clone()]).when(change.clone()).then([]);
        given::<SecurityPolicy>([changed])
            .when(ChangePolicy { expected_version: Some(1), ..change })
            .refused(PolicyError::VersionConflict(2));
    }

    #[test]
    fn every_bounds_violation_is_returned() {
        let policy = proposal(|policy| {
            policy.lockout.threshold = 0;
            policy.lockout.max_duration = TimeDelta::minutes(1);
            policy.sessions.absolute_timeout = TimeDelta::days(1);
            policy.passwords.max_age_days = Some(0);
        });
        let pointers: Vec<_> = policy.proposed.bounds_violations().into_iter().map(|found| found.pointer).collect();
        let expected = [
            "/lockout/threshold",
            "/lockout/max_duration_seconds",
            "/sessions/absolute_timeout_seconds",
            "/passwords/max_age_days",
        ];
        assert_eq!(pointers, expected);
        assert_eq!(Policy::default().bounds_violations(), []);
    }
}
