//! The security policy: the figures that decisions depend on. Its version stands in every leaf, so that a
//! decision can be explained by the policy it was made under.

use chrono::TimeDelta;

/// The figures of the security document, as defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Counts changes of the policy; 1 is the built-in one.
    pub version: u32,
    /// When an account is locked, and for how long.
    pub lockout: LockoutPolicy,
    /// How long sessions and their tokens live.
    pub sessions: SessionPolicy,
    /// How many previous passwords may not come back, the current one included.
    pub password_history: usize,
}

/// When an account is locked, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockoutPolicy {
    /// Failures that lock; no more guesses than these are ever evaluated in one window.
    pub threshold: u32,
    /// Failures further apart than this do not add up.
    pub window: TimeDelta,
    /// The length of the first lock.
    pub duration: TimeDelta,
    /// Each lock in a row doubles the last, up to this.
    pub longest: TimeDelta,
}

/// How long sessions and their tokens live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionPolicy {
    /// An access token's life.
    pub access_lifetime: TimeDelta,
    /// A refresh token's life; each use starts it anew, so it is the idle timeout of the session.
    pub refresh_lifetime: TimeDelta,
    /// The end of a session however much it is used.
    pub absolute_lifetime: TimeDelta,
    /// How long the refresh token just spent still answers with its successor (two tabs, a lost response).
    pub refresh_grace: TimeDelta,
    /// How long a session counts as elevated after a login or a step-up.
    pub elevation: TimeDelta,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            version: 1,
            lockout: LockoutPolicy {
                threshold: 5,
                window: TimeDelta::minutes(15),
                duration: TimeDelta::minutes(15),
                longest: TimeDelta::hours(24),
            },
            sessions: SessionPolicy {
                access_lifetime: TimeDelta::hours(1),
                refresh_lifetime: TimeDelta::days(7),
                absolute_lifetime: TimeDelta::days(30),
                refresh_grace: TimeDelta::seconds(10),
                elevation: TimeDelta::minutes(10),
            },
            password_history: 5,
        }
    }
}
