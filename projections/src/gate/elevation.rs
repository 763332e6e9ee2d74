//! The grounds on which a session may make sensitive calls, and the effect of a second factor on them.

use chrono::{DateTime, TimeDelta, Utc};
use fulexo_domain::policy::SessionPolicy;
use fulexo_domain::values::SessionId;

/// A step-up of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Elevation {
    /// The position of its event.
    pub position: u64,
    /// The end of the time in which sensitive calls are allowed.
    pub until: DateTime<Utc>,
    /// The position of the last step-up that restored the session. Tokens issued before it no longer require a step-up.
    pub restored: Option<u64>,
}

/// The position from which a presented second factor is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SecondFactorValidity {
    /// The position of the event that ended or replaced the previous second factor.
    pub valid_from: u64,
    /// The session in which the new second factor was proved. Its claim stays valid.
    pub except_session: Option<SessionId>,
    /// `true` if the account has a second factor.
    pub enabled: bool,
}

/// The grounds on which a session may make sensitive calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionElevation {
    /// The time after login in which sensitive calls are allowed; `None` if the login does not count.
    pub after_login: Option<TimeDelta>,
    /// The end of the time that the last valid step-up allows; `None` if there is no recent one.
    pub until: Option<DateTime<Utc>>,
    /// The position of the last required step-up, which restored the session.
    pub restored: Option<u64>,
}

impl SecondFactorValidity {
    /// `true` if a second factor claimed by a token of this session, issued at this position, is still valid.
    #[must_use]
    pub fn is_valid_for(&self, session: SessionId, position: u64) -> bool {
        position >= self.valid_from || self.except_session == Some(session)
    }

    /// The grounds on which a session is elevated. On an account with a second factor, neither a login without a valid
    /// second factor nor a step-up from before the current second factor counts.
    #[must_use]
    pub fn session_elevation(
        &self,
        session: SessionId,
        second_factor: bool,
        step_up: Option<Elevation>,
        policy: &SessionPolicy,
    ) -> SessionElevation {
        let is_valid = |step_up: &Elevation| !self.enabled || self.is_valid_for(session, step_up.position);
        SessionElevation {
            after_login: (!self.enabled || second_factor).then_some(policy.elevation),
            until: step_up.filter(is_valid).map(|step_up| step_up.until),
            restored: step_up.and_then(|step_up| step_up.restored),
        }
    }
}
