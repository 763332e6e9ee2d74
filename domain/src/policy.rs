//! The security policy: the figures that decisions depend on. It is an aggregate itself, one stream in all, and its
//! version stands in every leaf, so that a decision can be explained by the policy it was made under.
//!
//! Version 1 is no event: the security document's figures, as far as the configuration does not say otherwise.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock};

use chrono::TimeDelta;
use serde::{Deserialize, Serialize};

use crate::Aggregate;
use crate::values::RoleName;

/// The figures; the security document's, as defaults.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Counts changes of the policy; 1 is the one the service starts with.
    pub version: u32,
    /// When an account is locked, and for how long.
    pub lockout: LockoutPolicy,
    /// How long sessions live, and what they need.
    pub sessions: SessionPolicy,
    /// What holds of passwords beside their strength.
    pub passwords: PasswordPolicy,
    /// Who needs a second factor.
    pub second_factor: SecondFactorPolicy,
    /// How far API keys are on their own.
    #[serde(default, skip_serializing_if = "ApiKeyPolicy::is_default")]
    pub api_keys: ApiKeyPolicy,
}

/// When an account is locked, and for how long.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockoutPolicy {
    /// Whether guesses are limited at all.
    pub enabled: bool,
    /// Failures that lock; no more guesses than these are ever evaluated within one window.
    pub threshold: u32,
    /// The same of an account over all its devices together; one below `threshold` counts as that.
    #[serde(default = "account_threshold", skip_serializing_if = "is_account_threshold")]
    pub account_threshold: u32,
    /// Failures further apart than this do not add up.
    #[serde(rename = "window_seconds", with = "seconds")]
    pub window: TimeDelta,
    /// The length of the first lock.
    #[serde(rename = "duration_seconds", with = "seconds")]
    pub duration: TimeDelta,
    /// Each lock in a row doubles the last, up to this.
    #[serde(rename = "longest_seconds", with = "seconds")]
    pub longest: TimeDelta,
}

/// How long sessions live, and what they need.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionPolicy {
    /// A refresh token's life; each use starts it anew, so it is the idle timeout of the session.
    #[serde(rename = "idle_seconds", with = "seconds")]
    pub idle_lifetime: TimeDelta,
    /// The end of a session however much it is used.
    #[serde(rename = "absolute_seconds", with = "seconds")]
    pub absolute_lifetime: TimeDelta,
    /// How long the refresh token just spent still answers with its successor (two tabs, a lost response).
    #[serde(rename = "refresh_grace_seconds", with = "seconds")]
    pub refresh_grace: TimeDelta,
    /// How long a session counts as elevated after a login or a step-up.
    #[serde(rename = "elevation_seconds", with = "seconds")]
    pub elevation: TimeDelta,
    /// What a refresh from somewhere that looks different leads to.
    pub fingerprint: FingerprintPolicy,
    /// Sessions of an account at once: where one more begins, one ends, those past their end first, then the oldest.
    #[serde(default = "most_live", skip_serializing_if = "is_most_live")]
    pub most_live: u32,
}

/// Of policies that do not say; never another figure, for the log says it by saying nothing.
const fn most_live() -> u32 {
    100
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
const fn is_most_live(figure: &u32) -> bool {
    *figure == most_live()
}

/// What a refresh from somewhere that looks different leads to. It is recorded in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FingerprintPolicy {
    /// Nothing else.
    Record,
    /// The session is of no use until its owner has proved themselves once more.
    RequireStepUp,
    /// The session ends.
    Revoke,
}

/// What holds of passwords beside their strength.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PasswordPolicy {
    /// How many previous passwords may not come back, the current one included.
    pub history: u32,
    /// A password older than this is changed at the next login; none: it may grow old.
    pub max_age_days: Option<u32>,
}

/// Who needs a second factor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecondFactorPolicy {
    /// These roles allow nothing in a session without one, and a login of their holders leads to its enrolment.
    pub required_for: BTreeSet<RoleName>,
}

/// How far API keys are on their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKeyPolicy {
    /// Whether a key is refused while the account that made it is suspended.
    pub end_with_suspension: bool,
}

impl ApiKeyPolicy {
    /// What policies mean that do not say; never anything else, for the log says it by saying nothing.
    const fn is_default(&self) -> bool {
        self.end_with_suspension
    }
}

impl Default for ApiKeyPolicy {
    fn default() -> Self {
        Self { end_with_suspension: true }
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
                longest: TimeDelta::hours(24),
            },
            sessions: SessionPolicy {
                idle_lifetime: TimeDelta::days(7),
                absolute_lifetime: TimeDelta::days(30),
                refresh_grace: TimeDelta::seconds(10),
                elevation: TimeDelta::minutes(10),
                fingerprint: FingerprintPolicy::RequireStepUp,
                most_live: most_live(),
            },
            passwords: PasswordPolicy { history: 5, max_age_days: None },
            second_factor: SecondFactorPolicy { required_for: BTreeSet::new() },
            api_keys: ApiKeyPolicy::default(),
        }
    }
}

/// The policy that a node knows to be in force; shared by all that decide.
#[derive(Debug)]
pub struct ActivePolicy(RwLock<Arc<Policy>>);

impl ActivePolicy {
    /// Until another one is learnt of.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        Self(RwLock::new(Arc::new(policy)))
    }

    /// The policy.
    #[must_use]
    pub fn get(&self) -> Arc<Policy> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Learns of a policy; of an older one than is known there is nothing to learn.
    pub fn learn(&self, policy: &Policy) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if policy.version > known.version {
            *known = Arc::new(policy.clone());
        }
    }
}

/// A figure out of its bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoundsViolation {
    /// JSON Pointer (RFC 6901) into the policy.
    pub pointer: &'static str,
    /// The bounds.
    pub bounds: String,
}

impl Policy {
    /// Every figure that is out of bounds. Within them no figure overflows, and no policy locks everybody out.
    #[must_use]
    pub fn out_of_bounds(&self) -> Vec<BoundsViolation> {
        let mut found = self.lockout.out_of_bounds();
        let mut check = |pointer, value: i64, least: i64, most: i64| check(&mut found, pointer, value, least, most);
        let sessions = &self.sessions;
        let idle = sessions.idle_lifetime.num_seconds();
        check("/sessions/idle_seconds", idle, 5 * MINUTE, 90 * DAY);
        check("/sessions/absolute_seconds", sessions.absolute_lifetime.num_seconds(), idle.max(5 * MINUTE), 365 * DAY);
        check("/sessions/refresh_grace_seconds", sessions.refresh_grace.num_seconds(), 0, MINUTE);
        check("/sessions/elevation_seconds", sessions.elevation.num_seconds(), MINUTE, 60 * MINUTE);
        check("/sessions/most_live", i64::from(sessions.most_live), 1, 1_000);
        check("/passwords/history", i64::from(self.passwords.history), 1, 24);
        if let Some(days) = self.passwords.max_age_days {
            check("/passwords/max_age_days", i64::from(days), 1, 3_650);
        }
        if self.second_factor.required_for.len() > 50 {
            let bounds = "must have at most 50 roles".to_owned();
            found.push(BoundsViolation { pointer: "/second_factor/required_for", bounds });
        }
        found
    }
}

/// Of a policy that does not say.
const fn account_threshold() -> u32 {
    20
}

const fn is_account_threshold(figure: &u32) -> bool {
    *figure == account_threshold()
}

impl LockoutPolicy {
    /// The same, for what is counted of an account over all its devices together. Its locks do not grow: they keep the owner
    /// out of every device.
    #[must_use]
    pub fn of_account(&self) -> Self {
        Self { threshold: self.account_threshold.max(self.threshold), longest: self.duration, ..self.clone() }
    }

    /// See [`Policy::out_of_bounds`].
    #[must_use]
    pub fn out_of_bounds(&self) -> Vec<BoundsViolation> {
        let mut found = Vec::new();
        let duration = self.duration.num_seconds();
        check(&mut found, "/lockout/threshold", i64::from(self.threshold), 1, 100);
        // One below the threshold of a device counts as that.
        check(&mut found, "/lockout/account_threshold", i64::from(self.account_threshold), 1, 1_000);
        check(&mut found, "/lockout/window_seconds", self.window.num_seconds(), MINUTE, DAY);
        check(&mut found, "/lockout/duration_seconds", duration, MINUTE, DAY);
        check(&mut found, "/lockout/longest_seconds", self.longest.num_seconds(), duration.max(MINUTE), 7 * DAY);
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

/// What happened to the policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PolicyEvent {
    /// Another one is in force; sealed: reason.
    #[serde(rename = "policy.changed")]
    Changed {
        /// The policy until now.
        before: Box<Policy>,
        /// The policy from here on.
        after: Box<Policy>,
    },
}

/// A policy to put in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangePolicy {
    /// The one in force when no event says otherwise.
    pub first: Policy,
    /// The version that the proposal was made from, when its maker says so.
    pub replaces: Option<u32>,
    /// The proposal; its own version does not matter.
    pub proposed: Policy,
}

/// Why nothing was recorded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// It was changed since the proposal was made.
    #[error("the policy in force is version {0}")]
    Replaced(u32),
    /// Some figures are out of bounds.
    #[error("the policy is out of bounds")]
    OutOfBounds(Vec<BoundsViolation>),
}

/// The aggregate.
pub struct SecurityPolicy;

impl Aggregate for SecurityPolicy {
    const NAME: &'static str = "policy";
    type State = Option<Policy>;
    type Command = ChangePolicy;
    type Event = PolicyEvent;
    type Error = PolicyError;

    fn handle_command(state: &Option<Policy>, command: ChangePolicy) -> Result<Vec<PolicyEvent>, PolicyError> {
        let ChangePolicy { first, replaces, proposed } = command;
        let before = state.clone().unwrap_or(first);
        if replaces.is_some_and(|version| version != before.version) {
            return Err(PolicyError::Replaced(before.version));
        }
        let found = proposed.out_of_bounds();
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

/// A span of time as whole seconds.
mod seconds {
    use chrono::TimeDelta;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(span: &TimeDelta, serializer: S) -> Result<S::Ok, S::Error> {
        span.num_seconds().serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<TimeDelta, D::Error> {
        let seconds = i64::deserialize(deserializer)?;
        TimeDelta::try_seconds(seconds).ok_or_else(|| serde::de::Error::custom("is no span of time"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::given;

    fn proposal(change: impl FnOnce(&mut Policy)) -> ChangePolicy {
        let mut proposed = Policy::default();
        change(&mut proposed);
        ChangePolicy { first: Policy::default(), replaces: None, proposed }
    }

    #[test]
    fn a_change_counts_up_and_keeps_what_was_before() {
        let change = proposal(|policy| policy.lockout.threshold = 3);
        let after = Policy { version: 2, ..change.proposed.clone() };
        let changed = PolicyEvent::Changed { before: Box::default(), after: Box::new(after) };
        given::<SecurityPolicy>([]).when(change.clone()).then([changed.clone()]);
        given::<SecurityPolicy>([changed.clone()]).when(change.clone()).then([]);
        given::<SecurityPolicy>([changed])
            .when(ChangePolicy { replaces: Some(1), ..change })
            .refused(PolicyError::Replaced(2));
    }

    #[test]
    fn every_figure_out_of_bounds_is_named_at_once() {
        let policy = proposal(|policy| {
            policy.lockout.threshold = 0;
            policy.lockout.longest = TimeDelta::minutes(1);
            policy.sessions.absolute_lifetime = TimeDelta::days(1);
            policy.passwords.max_age_days = Some(0);
        });
        let pointers: Vec<_> = policy.proposed.out_of_bounds().into_iter().map(|found| found.pointer).collect();
        let expected =
            ["/lockout/threshold", "/lockout/longest_seconds", "/sessions/absolute_seconds", "/passwords/max_age_days"];
        assert_eq!(pointers, expected);
        assert_eq!(Policy::default().out_of_bounds(), []);
    }
}
