//! A lockdown: during an incident, only its responders have access. It has a single stream, the nil one.
//!
//! Responders are the callers who may manage lockdowns. The scope defines the access of all others.

use serde::{Deserialize, Serialize};

use crate::Aggregate;
use crate::values::InvalidValue;

/// The access that a lockdown denies to all but the responders, the least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LockdownScope {
    /// No login, no refresh, no registration. Logged-in callers keep their access until their access token expires.
    Logins,
    /// No access at all, including requests of logged-in callers.
    All,
}

impl LockdownScope {
    /// All scopes.
    pub const ALL: [Self; 2] = [Self::Logins, Self::All];

    /// Reads a scope by its name.
    ///
    /// # Errors
    /// The scope does not exist.
    pub fn parse(name: &str) -> Result<Self, InvalidValue> {
        let known = Self::ALL.into_iter().find(|scope| scope.as_str() == name);
        known.ok_or(InvalidValue("must be logins or all"))
    }

    /// The name in leaves, tables and the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Logins => "logins",
            Self::All => "all",
        }
    }
}

/// An event of a lockdown. Sealed in each: reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LockdownEvent {
    /// A lockdown of this scope started. It replaces the one before, if any.
    #[serde(rename = "lockdown.started")]
    Started {
        /// The scope.
        scope: LockdownScope,
    },
    /// The lockdown was lifted.
    #[serde(rename = "lockdown.lifted")]
    Lifted {},
}

/// A command to a lockdown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockdownCommand {
    /// Start a lockdown of this scope, in place of any other.
    Start(LockdownScope),
    /// Start a lockdown of this scope, unless one is in force that denies as much.
    Tighten(LockdownScope),
    /// Lift the lockdown.
    Lift,
}

/// The refusal of a command to a lockdown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LockdownError {
    /// A lockdown is in force that denies as much.
    #[error("a lockdown of this scope is already in force")]
    AlreadyStarted,
    /// No lockdown is in force.
    #[error("no lockdown is in force")]
    NotStarted,
}

/// The aggregate of lockdowns. Its state is the scope in force.
pub struct Lockdown;

impl Aggregate for Lockdown {
    const NAME: &'static str = "lockdown";
    type State = Option<LockdownScope>;
    type Command = LockdownCommand;
    type Event = LockdownEvent;
    type Error = LockdownError;

    fn handle_command(
        state: &Option<LockdownScope>,
        command: LockdownCommand,
    ) -> Result<Vec<LockdownEvent>, LockdownError> {
        match (command, state) {
            (LockdownCommand::Start(scope), now) if *now == Some(scope) => Err(LockdownError::AlreadyStarted),
            (LockdownCommand::Tighten(scope), now) if *now >= Some(scope) => Err(LockdownError::AlreadyStarted),
            (LockdownCommand::Start(scope) | LockdownCommand::Tighten(scope), _) => {
                Ok(vec![LockdownEvent::Started { scope }])
            }
            (LockdownCommand::Lift, None) => Err(LockdownError::NotStarted),
            (LockdownCommand::Lift, Some(_)) => Ok(vec![LockdownEvent::Lifted {}]),
        }
    }

    fn apply_event(_: Option<LockdownScope>, event: LockdownEvent) -> Option<LockdownScope> {
        match event {
            LockdownEvent::Started { scope } => Some(scope),
            LockdownEvent::Lifted {} => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::given;

    const STARTED: LockdownEvent = LockdownEvent::Started { scope: LockdownScope::Logins };

    #[test]
    fn a_lockdown_is_started_once_widened_and_lifted_once() {
        given::<Lockdown>([]).when(LockdownCommand::Start(LockdownScope::Logins)).then([STARTED]);
        given::<Lockdown>([STARTED])
            .when(LockdownCommand::Start(LockdownScope::Logins))
            .refused(LockdownError::AlreadyStarted);
        given::<Lockdown>([STARTED])
            .when(LockdownCommand::Start(LockdownScope::All))
            .then([LockdownEvent::Started { scope: LockdownScope::All }]);
        given::<Lockdown>([]).when(LockdownCommand::Tighten(LockdownScope::Logins)).then([STARTED]);
        given::<Lockdown>([STARTED])
            .when(LockdownCommand::Tighten(LockdownScope::All))
            .then([LockdownEvent::Started { scope: LockdownScope::All }]);
        for scope in LockdownScope::ALL {
            given::<Lockdown>([LockdownEvent::Started { scope: LockdownScope::All }])
                .when(LockdownCommand::Tighten(scope))
                .refused(LockdownError::AlreadyStarted);
        }
        given::<Lockdown>([STARTED]).when(LockdownCommand::Lift).then([LockdownEvent::Lifted {}]);
        given::<Lockdown>([]).when(LockdownCommand::Lift).refused(LockdownError::NotStarted);
        given::<Lockdown>([STARTED, LockdownEvent::Lifted {}])
            .when(LockdownCommand::Lift)
            .refused(LockdownError::NotStarted);
    }
}
