//! Grounds on which a session makes sensitive calls, and how a second factor bears on them.

use chrono::{DateTime, TimeDelta, Utc};
use fulexo_domain::policy::SessionPolicy;
use fulexo_domain::values::SessionId;

/// A step-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Elevation {
    /// Where in the log.
    pub position: u64,
    /// Until when sensitive calls are allowed.
    pub until: DateTime<Utc>,
    /// Where its owner last proved themselves while it was held: tokens that are held, and older, no longer are.
    pub released: Option<u64>,
}

/// From where on a second factor counts that was presented.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SecondFactorMark {
    /// The event that ended, or replaced, the one of before.
    pub from: u64,
    /// The session in which the new one was proved, and which therefore stays as it was.
    pub kept: Option<SessionId>,
    /// True where there is a new one.
    pub enabled: bool,
}

/// Grounds for sensitive calls in a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionElevation {
    /// Time after its login; `None` if the login does not count, whatever a clock says of when it was.
    pub after_login: Option<TimeDelta>,
    /// End of what its last step-up allows; `None` if there was none lately that counts.
    pub until: Option<DateTime<Utc>>,
    /// Position at which its owner last proved themselves while it was held.
    pub released: Option<u64>,
}

impl SecondFactorMark {
    /// Whether it counts what a token says of a second factor that was issued at this position.
    #[must_use]
    pub fn counts(&self, session: SessionId, position: u64) -> bool {
        position >= self.from || self.kept == Some(session)
    }

    /// What a session is elevated by. Where there is a second factor, what was done without it counts no longer: its login,
    /// if no second factor was presented in it that counts, and a step-up from before.
    #[must_use]
    pub fn elevated(
        &self,
        session: SessionId,
        second_factor: bool,
        step_up: Option<Elevation>,
        policy: &SessionPolicy,
    ) -> SessionElevation {
        let counts = |step_up: &Elevation| !self.enabled || self.counts(session, step_up.position);
        SessionElevation {
            after_login: (!self.enabled || second_factor).then_some(policy.elevation),
            until: step_up.filter(counts).map(|step_up| step_up.until),
            released: step_up.and_then(|step_up| step_up.released),
        }
    }
}
