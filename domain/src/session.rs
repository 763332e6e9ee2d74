//! A session: the use of an account from one device, from login to its end. Exactly one refresh token is current at any
//! time.
//!
//! ```text
//!                 refreshed (generation + 1)
//!                  +------+
//!                  v      |
//! --started--> [ live ] --+--revoked---> ended
//!                  |------------expired--> ended
//!                  |--refresh_reused, revoked--> ended
//! ```
//! A refresh from another client fingerprint is recorded (`fingerprint_mismatched`). Depending on the policy, the
//! session then requires a step-up (`elevated`), or ends.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::Aggregate;
use crate::authentication::AuthenticationMethod;
use crate::policy::{FingerprintPolicy, SessionPolicy};
use crate::values::AccountId;

/// An event in the life of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SessionEvent {
    /// The session started; sealed: address, user agent, device.
    #[serde(rename = "session.started")]
    Started {
        /// The account that logged in.
        account: AccountId,
        /// The methods presented at login.
        methods: Vec<AuthenticationMethod>,
        /// The keyed digest of user agent family, accepted languages and device.
        fingerprint: String,
        /// The end of the session, unless it is used before.
        #[serde(with = "crate::leaf::micros")]
        idle_expires_at: DateTime<Utc>,
        /// The end of the session, regardless of its use.
        #[serde(with = "crate::leaf::micros")]
        expires_at: DateTime<Utc>,
    },
    /// The refresh token of this generation replaced its predecessor; sealed: address, user agent.
    #[serde(rename = "session.refreshed")]
    Refreshed {
        /// The generation of the token, starting with 1 at login.
        generation: u32,
        /// The end of the grace period, during which the predecessor still leads to this generation.
        #[serde(with = "crate::leaf::micros")]
        grace_until: DateTime<Utc>,
        /// The end of the session, unless it is used before.
        #[serde(with = "crate::leaf::micros")]
        idle_expires_at: DateTime<Utc>,
    },
    /// A spent refresh token was presented again: somebody else has a copy.
    #[serde(rename = "session.refresh_reused")]
    RefreshReused {
        /// The generation of the presented token.
        generation: u32,
    },
    /// The owner stepped up: sensitive calls are allowed for a limited time.
    #[serde(rename = "session.elevated")]
    Elevated {
        /// The methods presented.
        methods: Vec<AuthenticationMethod>,
        /// The end of the elevation.
        #[serde(with = "crate::leaf::micros")]
        until: DateTime<Utc>,
        /// `true` if the session required this step-up; then the step-up restores its use.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        restored: bool,
    },
    /// A refresh came from another client fingerprint.
    #[serde(rename = "session.fingerprint_mismatched")]
    FingerprintMismatched {
        /// The action taken.
        action: FingerprintPolicy,
        /// The new fingerprint. The service compares later refreshes with it.
        fingerprint: String,
    },
    /// The session was revoked. Its tokens are refused from this position on.
    #[serde(rename = "session.revoked")]
    Revoked {
        /// The cause of the revocation.
        by: RevocationCause,
    },
    /// The session had passed its end.
    #[serde(rename = "session.expired")]
    Expired {},
}

/// The cause of a revocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RevocationCause {
    /// The owner logged out, or signed this device out from another one.
    Owner,
    /// An administrator revoked the session.
    Admin,
    /// A spent refresh token was presented again.
    Reuse,
    /// The account's password changed in another session.
    PasswordChange,
    /// The account was suspended.
    Suspension,
    /// An administrator removed the account's second factor.
    SecondFactorReset,
    /// An administrator expired the account's password.
    PasswordExpired,
    /// A refresh came from another client fingerprint.
    FingerprintMismatch,
    /// The account has more sessions than the policy allows.
    SessionLimit,
    /// The account was erased.
    Erasure,
}

impl RevocationCause {
    /// The name in leaves, tables and the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Admin => "admin",
            Self::Reuse => "reuse",
            Self::PasswordChange => "password_change",
            Self::Suspension => "suspension",
            Self::SecondFactorReset => "second_factor_reset",
            Self::PasswordExpired => "password_expired",
            Self::FingerprintMismatch => "fingerprint_mismatch",
            Self::SessionLimit => "session_limit",
            Self::Erasure => "erasure",
        }
    }

    /// Reads a name; `None` if this build does not know it.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        const ALL: [RevocationCause; 10] = [
            RevocationCause::Owner,
            RevocationCause::Admin,
            RevocationCause::Reuse,
            RevocationCause::PasswordChange,
            RevocationCause::Suspension,
            RevocationCause::SecondFactorReset,
            RevocationCause::PasswordExpired,
            RevocationCause::FingerprintMismatch,
            RevocationCause::SessionLimit,
            RevocationCause::Erasure,
        ];
        ALL.into_iter().find(|by| by.as_str() == name)
    }
}

/// A command to a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionCommand {
    /// Start the session.
    Start {
        /// The account that logs in.
        account: AccountId,
        /// The methods presented.
        methods: Vec<AuthenticationMethod>,
        /// See [`SessionEvent::Started`].
        fingerprint: String,
        /// The current time.
        at: DateTime<Utc>,
        /// The policy in force.
        policy: SessionPolicy,
    },
    /// Refresh the session, with an authentic refresh token of it.
    Refresh {
        /// The generation of the token.
        generation: u32,
        /// The fingerprint of the client that presents it; see [`SessionEvent::Started`].
        fingerprint: String,
        /// The current time.
        at: DateTime<Utc>,
        /// The policy in force.
        policy: SessionPolicy,
    },
    /// Elevate the session, after its owner authenticated again.
    Elevate {
        /// The methods presented.
        methods: Vec<AuthenticationMethod>,
        /// `true` if the access token presented requires a step-up. A step-up with another token, perhaps an older one
        /// of the owner, does not restore the session.
        step_up_required: bool,
        /// The current time.
        at: DateTime<Utc>,
        /// The policy in force.
        policy: SessionPolicy,
    },
    /// Revoke the session. Has no effect on an ended session.
    Revoke {
        /// The cause of the revocation.
        by: RevocationCause,
    },
}

/// The refusal of a command to a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// The session was started before.
    #[error("the session has already started")]
    AlreadyStarted,
    /// The session never started, or has ended.
    #[error("the session has ended")]
    Ended,
}

/// The state of a session, derived from its events.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionState {
    /// The session never started.
    #[default]
    None,
    /// The session is in use.
    Live(LiveSession),
    /// The session was revoked, or has expired.
    Ended,
}

/// A session in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LiveSession {
    /// The account that logged in.
    pub account: AccountId,
    /// The methods presented, at login and since.
    pub methods: Vec<AuthenticationMethod>,
    /// The fingerprint of the client at its last refresh.
    pub fingerprint: String,
    /// `true` if the session cannot be used until its owner steps up.
    pub step_up_required: bool,
    /// The generation of the current refresh token.
    pub generation: u32,
    /// The end of the grace period of the preceding token.
    pub grace_until: Option<DateTime<Utc>>,
    /// The end of the session, unless it is used before.
    pub idle_expires_at: DateTime<Utc>,
    /// The end of the session, regardless of its use.
    pub expires_at: DateTime<Utc>,
}

/// The aggregate of a session.
pub struct Session;

impl Aggregate for Session {
    const NAME: &'static str = "session";
    type State = SessionState;
    type Command = SessionCommand;
    type Event = SessionEvent;
    type Error = SessionError;

    fn handle_command(state: &SessionState, command: SessionCommand) -> Result<Vec<SessionEvent>, SessionError> {
        match (command, state) {
            (SessionCommand::Start { account, methods, fingerprint, at, policy }, SessionState::None) => {
                let expires_at = at + policy.absolute_timeout;
                let idle_expires_at = (at + policy.idle_timeout).min(expires_at);
                Ok(vec![SessionEvent::Started { account, methods, fingerprint, idle_expires_at, expires_at }])
            }
            (SessionCommand::Start { .. }, SessionState::Live(_) | SessionState::Ended) => {
                Err(SessionError::AlreadyStarted)
            }
            (SessionCommand::Refresh { generation, fingerprint, at, policy }, SessionState::Live(live)) => {
                Ok(refresh(live, generation, fingerprint, at, &policy))
            }
            (SessionCommand::Elevate { methods, step_up_required, at, policy }, SessionState::Live(_)) => {
                Ok(vec![SessionEvent::Elevated { methods, until: at + policy.elevation, restored: step_up_required }])
            }
            (
                SessionCommand::Refresh { .. } | SessionCommand::Elevate { .. },
                SessionState::None | SessionState::Ended,
            ) => Err(SessionError::Ended),
            (SessionCommand::Revoke { by }, SessionState::Live(_)) => Ok(vec![SessionEvent::Revoked { by }]),
            (SessionCommand::Revoke { .. }, SessionState::Ended) => Ok(vec![]),
            (SessionCommand::Revoke { .. }, SessionState::None) => Err(SessionError::Ended),
        }
    }

    fn apply_event(state: SessionState, event: SessionEvent) -> SessionState {
        match (event, state) {
            (SessionEvent::Started { account, methods, fingerprint, idle_expires_at, expires_at }, _) => {
                SessionState::Live(LiveSession {
                    account,
                    methods,
                    fingerprint,
                    step_up_required: false,
                    generation: 1,
                    grace_until: None,
                    idle_expires_at,
                    expires_at,
                })
            }
            (SessionEvent::Refreshed { generation, grace_until, idle_expires_at }, SessionState::Live(live)) => {
                SessionState::Live(LiveSession { generation, grace_until: Some(grace_until), idle_expires_at, ..live })
            }
            (SessionEvent::FingerprintMismatched { action, fingerprint }, SessionState::Live(live)) => {
                let step_up_required = live.step_up_required || action == FingerprintPolicy::RequireStepUp;
                SessionState::Live(LiveSession { fingerprint, step_up_required, ..live })
            }
            (SessionEvent::Elevated { methods, until: _, restored }, SessionState::Live(mut live)) => {
                live.methods.extend(methods);
                live.methods.sort_unstable();
                live.methods.dedup();
                SessionState::Live(LiveSession { step_up_required: live.step_up_required && !restored, ..live })
            }
            (SessionEvent::Revoked { by: _ } | SessionEvent::Expired {}, _) => SessionState::Ended,
            (
                SessionEvent::RefreshReused { .. }
                | SessionEvent::Refreshed { .. }
                | SessionEvent::FingerprintMismatched { .. }
                | SessionEvent::Elevated { .. },
                state,
            ) => state,
        }
    }
}

/// Decides a refresh. Without [`SessionEvent::Refreshed`] among the events, and if the session lives on, the caller
/// presented the preceding token within its grace period. The caller then receives the successor that exists already.
fn refresh(
    live: &LiveSession,
    generation: u32,
    fingerprint: String,
    at: DateTime<Utc>,
    policy: &SessionPolicy,
) -> Vec<SessionEvent> {
    let fingerprint_differs = fingerprint != live.fingerprint;
    if at >= live.idle_expires_at || at >= live.expires_at {
        return vec![SessionEvent::Expired {}];
    }
    if generation != live.generation {
        // Causes are two tabs, a lost answer, or a page and its server, whose fingerprints may differ.
        let in_grace = generation.checked_add(1) == Some(live.generation)
            && live.grace_until.is_some_and(|grace_until| at < grace_until);
        return if !in_grace {
            vec![SessionEvent::RefreshReused { generation }, SessionEvent::Revoked { by: RevocationCause::Reuse }]
        } else if fingerprint_differs && !live.step_up_required && policy.fingerprint != FingerprintPolicy::Record {
            vec![SessionEvent::FingerprintMismatched { action: FingerprintPolicy::RequireStepUp, fingerprint }]
        } else {
            vec![]
        };
    }
    let mut events = Vec::new();
    if fingerprint_differs {
        events.push(SessionEvent::FingerprintMismatched { action: policy.fingerprint, fingerprint });
        if policy.fingerprint == FingerprintPolicy::Revoke {
            events.push(SessionEvent::Revoked { by: RevocationCause::FingerprintMismatch });
            return events;
        }
    }
    events.push(SessionEvent::Refreshed {
        generation: live.generation.saturating_add(1),
        grace_until: at + policy.refresh_grace,
        idle_expires_at: (at + policy.idle_timeout).min(live.expires_at),
    });
    events
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Policy;
    use crate::testing::given;
    use chrono::TimeDelta;
    use proptest::prelude::*;
    use uuid::Uuid;

    fn policy() -> SessionPolicy {
        Policy::default().sessions
    }

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::seconds(seconds)
    }

    fn started() -> SessionEvent {
        SessionEvent::Started {
            account: AccountId(Uuid::nil()),
            methods: vec![AuthenticationMethod::Password],
            fingerprint: String::new(),
            idle_expires_at: at(0) + policy().idle_timeout,
            expires_at: at(0) + policy().absolute_timeout,
        }
    }

    fn refreshed(generation: u32, seconds: i64) -> SessionEvent {
        SessionEvent::Refreshed {
            generation,
            grace_until: at(seconds) + policy().refresh_grace,
            idle_expires_at: at(seconds) + policy().idle_timeout,
        }
    }

    fn refresh(generation: u32, seconds: i64) -> SessionCommand {
        SessionCommand::Refresh { generation, fingerprint: String::new(), at: at(seconds), policy: policy() }
    }

    fn from_elsewhere(generation: u32, seconds: i64, fingerprint: FingerprintPolicy) -> SessionCommand {
        let policy = SessionPolicy { fingerprint, ..policy() };
        SessionCommand::Refresh { generation, fingerprint: "elsewhere".into(), at: at(seconds), policy }
    }

    fn mismatched(action: FingerprintPolicy) -> SessionEvent {
        SessionEvent::FingerprintMismatched { action, fingerprint: "elsewhere".into() }
    }

    #[test]
    fn a_refresh_from_elsewhere_is_recorded_holds_the_session_or_ends_it() {
        for action in [FingerprintPolicy::Record, FingerprintPolicy::RequireStepUp] {
            given::<Session>([started()])
                .when(from_elsewhere(1, 5, action))
                .then([mismatched(action), refreshed(2, 5)]);
        }
        given::<Session>([started()]).when(from_elsewhere(1, 5, FingerprintPolicy::Revoke)).then([
            mismatched(FingerprintPolicy::Revoke),
            SessionEvent::Revoked { by: RevocationCause::FingerprintMismatch },
        ]);
        let held = [started(), mismatched(FingerprintPolicy::RequireStepUp), refreshed(2, 5)];
        given::<Session>(held.clone())
            .when(from_elsewhere(2, 6, FingerprintPolicy::RequireStepUp))
            .then([refreshed(3, 6)]);
        let state = held.into_iter().fold(SessionState::None, Session::apply_event);
        assert!(matches!(&state, SessionState::Live(live) if live.step_up_required), "and stays held");
        let elevated =
            |restored| SessionEvent::Elevated { methods: vec![AuthenticationMethod::OneTime], until: at(9), restored };
        let state = Session::apply_event(state, elevated(false));
        assert!(
            matches!(&state, SessionState::Live(live) if live.step_up_required),
            "by a step-up elsewhere it is not freed"
        );
        let state = Session::apply_event(state, elevated(true));
        let both = [AuthenticationMethod::Password, AuthenticationMethod::OneTime];
        assert!(matches!(&state, SessionState::Live(live) if !live.step_up_required && live.methods == both));
    }

    #[test]
    fn within_the_grace_another_browser_holds_the_session_and_never_ends_it() {
        for action in [FingerprintPolicy::RequireStepUp, FingerprintPolicy::Revoke] {
            let events = [started(), refreshed(2, 5)];
            let held = mismatched(FingerprintPolicy::RequireStepUp);
            given::<Session>(events.clone()).when(from_elsewhere(1, 6, action)).then([held.clone()]);
            let [start, next] = events;
            given::<Session>([start, next, held]).when(refresh(1, 7)).then([]);
        }
        given::<Session>([started(), refreshed(2, 5)]).when(from_elsewhere(1, 6, FingerprintPolicy::Record)).then([]);
        given::<Session>([started(), refreshed(2, 5)]).when(from_elsewhere(1, 15, FingerprintPolicy::Record)).then([
            SessionEvent::RefreshReused { generation: 1 },
            SessionEvent::Revoked { by: RevocationCause::Reuse },
        ]);
    }

    #[test]
    fn the_current_token_is_rotated() {
        given::<Session>([started()]).when(refresh(1, 5)).then([refreshed(2, 5)]);
    }

    #[test]
    fn the_predecessor_is_answered_within_its_grace_and_ends_the_session_after() {
        given::<Session>([started(), refreshed(2, 5)]).when(refresh(1, 14)).then([]);
        given::<Session>([started(), refreshed(2, 5)]).when(refresh(1, 15)).then([
            SessionEvent::RefreshReused { generation: 1 },
            SessionEvent::Revoked { by: RevocationCause::Reuse },
        ]);
    }

    #[test]
    fn an_older_token_ends_the_session_at_once() {
        given::<Session>([started(), refreshed(2, 5), refreshed(3, 6)]).when(refresh(1, 7)).then([
            SessionEvent::RefreshReused { generation: 1 },
            SessionEvent::Revoked { by: RevocationCause::Reuse },
        ]);
    }

    #[test]
    fn a_live_session_is_elevated_for_ten_minutes_and_an_ended_one_is_not() {
        let elevate = || SessionCommand::Elevate {
            methods: vec![AuthenticationMethod::Password],
            step_up_required: false,
            at: at(5),
            policy: policy(),
        };
        given::<Session>([started()]).when(elevate()).then([SessionEvent::Elevated {
            methods: vec![AuthenticationMethod::Password],
            until: at(605),
            restored: false,
        }]);
        given::<Session>([started(), SessionEvent::Expired {}]).when(elevate()).refused(SessionError::Ended);
    }

    #[test]
    fn an_idle_session_expires_and_an_ended_one_refuses() {
        given::<Session>([started()]).when(refresh(1, 7 * 86_400)).then([SessionEvent::Expired {}]);
        given::<Session>([started(), SessionEvent::Revoked { by: RevocationCause::Owner }])
            .when(refresh(1, 5))
            .refused(SessionError::Ended);
    }

    proptest! {
        /// For any sequence of tokens, at most one generation is acceptable beyond the grace period: the newest.
        #[test]
        fn no_sequence_of_refreshes_and_revocations_leaves_two_live_tokens(
            steps in proptest::collection::vec((1_u32..6, 0_i64..30, any::<bool>()), 1..40)
        ) {
            let mut state = Session::apply_event(SessionState::None, started());
            let mut now = 0;
            for (generation, wait, revoke) in steps {
                now += wait;
                let command = if revoke && generation == 5 {
                    SessionCommand::Revoke { by: RevocationCause::Owner }
                } else {
                    refresh(generation, now)
                };
                let was_ended = state == SessionState::Ended;
                let Ok(events) = Session::handle_command(&state, command) else {
                    prop_assert!(was_ended);
                    continue;
                };
                state = events.into_iter().fold(state, Session::apply_event);
                prop_assert!(!was_ended || state == SessionState::Ended, "an ended session never lives again");
                if let SessionState::Live(live) = &state {
                    let late = now + 11;
                    let acceptable = (1..10).filter(|g| {
                        matches!(
                            Session::handle_command(&state, refresh(*g, late)).unwrap().first(),
                            None | Some(SessionEvent::Refreshed { .. })
                        )
                    });
                    prop_assert_eq!(acceptable.collect::<Vec<_>>(), vec![live.generation]);
                }
            }
        }
    }
}
