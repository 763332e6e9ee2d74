//! A lockdown: while an incident is contained, only those who respond to it get in. One stream, the nil one.
//!
//! Who responds is who may manage lockdowns; what everybody else may still do is said by its scope.

use serde::{Deserialize, Serialize};

use crate::Aggregate;
use crate::values::InvalidValue;

/// What is closed to everybody who does not respond.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LockdownScope {
    /// Nobody gets in: no login, no refresh, no registration. Who is in stays in, as long as their access token lives.
    Logins,
    /// Nobody does anything: requests of those who are in are refused, too.
    All,
}

impl LockdownScope {
    /// Every scope.
    pub const ALL: [Self; 2] = [Self::Logins, Self::All];

    /// # Errors
    /// There is no such scope.
    pub fn parse(name: &str) -> Result<Self, InvalidValue> {
        let known = Self::ALL.into_iter().find(|scope| scope.as_str() == name);
        known.ok_or(InvalidValue("must be logins or all"))
    }

    /// The name clients see.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Logins => "logins",
            Self::All => "all",
        }
    }
}

/// What happened. Sealed in each: reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LockdownEvent {
    /// From here on this is closed, whatever was before.
    #[serde(rename = "lockdown.started")]
    Started {
        /// What is.
        scope: LockdownScope,
    },
    /// Nothing is closed any more.
    #[serde(rename = "lockdown.lifted")]
    Lifted {},
}

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockdownCommand {
    /// Close this, and nothing else.
    Start(LockdownScope),
    /// Open everything.
    Lift,
}

/// Why nothing was recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LockdownError {
    /// There is one of this scope.
    #[error("there is a lockdown of this scope already")]
    AlreadyStarted,
    /// There is none.
    #[error("there is no lockdown")]
    NotStarted,
}

/// The aggregate; its state is what is closed.
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
            (LockdownCommand::Start(scope), _) => Ok(vec![LockdownEvent::Started { scope }]),
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
        given::<Lockdown>([STARTED]).when(LockdownCommand::Lift).then([LockdownEvent::Lifted {}]);
        given::<Lockdown>([]).when(LockdownCommand::Lift).refused(LockdownError::NotStarted);
        given::<Lockdown>([STARTED, LockdownEvent::Lifted {}])
            .when(LockdownCommand::Lift)
            .refused(LockdownError::NotStarted);
    }
}
