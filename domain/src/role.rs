//! A role that administrators define: a name for a set of permissions. Built-in roles (`permission`) have no stream.
//!
//! A retired role allows nothing, and its name is never used again: whoever still held it would hold the new one.

use serde::{Deserialize, Serialize};

use crate::Aggregate;
use crate::permission::{Permission, Permissions, built_in};
use crate::values::RoleName;

/// What happened to a role. Sealed in each: reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RoleEvent {
    /// It exists from here on.
    #[serde(rename = "role.defined")]
    Defined {
        /// Its name.
        role: RoleName,
        /// What its holders may do.
        permissions: Vec<Permission>,
    },
    /// Its holders may do something else, at once.
    #[serde(rename = "role.permissions_changed")]
    PermissionsChanged {
        /// Its name.
        role: RoleName,
        /// What they could do.
        before: Vec<Permission>,
        /// What they may do.
        after: Vec<Permission>,
    },
    /// It allows nothing any more, for ever.
    #[serde(rename = "role.retired")]
    Retired {
        /// Its name.
        role: RoleName,
    },
}

/// What is asked of a role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RoleCommand {
    /// Let it allow exactly this, whether it exists or not.
    Define {
        /// Its name.
        role: RoleName,
        /// What its holders may do.
        permissions: Permissions,
    },
    /// Let it allow nothing, for ever.
    Retire {
        /// Its name.
        role: RoleName,
    },
}

/// Why nothing was recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RoleError {
    /// Nobody changes it.
    #[error("the role is built in")]
    BuiltIn,
    /// Its name was used before.
    #[error("a role of this name was retired")]
    Retired,
    /// Never defined.
    #[error("there is no such role")]
    Unknown,
}

/// A role as its events leave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RoleState {
    /// Never defined.
    #[default]
    None,
    /// In use.
    Defined(Permissions),
    /// Of no use any more.
    Retired,
}

/// The aggregate.
pub struct Role;

impl Aggregate for Role {
    const NAME: &'static str = "role";
    type State = RoleState;
    type Command = RoleCommand;
    type Event = RoleEvent;
    type Error = RoleError;

    fn handle_command(state: &RoleState, command: RoleCommand) -> Result<Vec<RoleEvent>, RoleError> {
        let (RoleCommand::Define { role, .. } | RoleCommand::Retire { role }) = &command;
        if built_in(role).is_some() {
            return Err(RoleError::BuiltIn);
        }
        match (command, *state) {
            (_, RoleState::Retired) => Err(RoleError::Retired),
            (RoleCommand::Define { role, permissions }, RoleState::None) => {
                Ok(vec![RoleEvent::Defined { role, permissions: permissions.iter().collect() }])
            }
            (RoleCommand::Define { permissions, .. }, RoleState::Defined(before)) if permissions == before => {
                Ok(vec![])
            }
            (RoleCommand::Define { role, permissions }, RoleState::Defined(before)) => {
                let (before, after) = (before.iter().collect(), permissions.iter().collect());
                Ok(vec![RoleEvent::PermissionsChanged { role, before, after }])
            }
            (RoleCommand::Retire { .. }, RoleState::None) => Err(RoleError::Unknown),
            (RoleCommand::Retire { role }, RoleState::Defined(_)) => Ok(vec![RoleEvent::Retired { role }]),
        }
    }

    fn apply_event(_: RoleState, event: RoleEvent) -> RoleState {
        match event {
            RoleEvent::Defined { permissions, .. } | RoleEvent::PermissionsChanged { after: permissions, .. } => {
                RoleState::Defined(Permissions::of(&permissions))
            }
            RoleEvent::Retired { .. } => RoleState::Retired,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::given;

    fn role(name: &str) -> RoleName {
        RoleName::parse(name).unwrap()
    }

    fn define(name: &str, permissions: &[Permission]) -> RoleCommand {
        RoleCommand::Define { role: role(name), permissions: Permissions::of(permissions) }
    }

    fn defined() -> RoleEvent {
        RoleEvent::Defined { role: role("support"), permissions: vec![Permission::AccountsRead] }
    }

    #[test]
    fn a_role_is_defined_changed_and_retired_for_ever() {
        given::<Role>([]).when(define("support", &[Permission::AccountsRead])).then([defined()]);
        given::<Role>([defined()]).when(define("support", &[Permission::AccountsRead])).then([]);
        given::<Role>([defined()]).when(define("support", &[])).then([RoleEvent::PermissionsChanged {
            role: role("support"),
            before: vec![Permission::AccountsRead],
            after: vec![],
        }]);
        let retire = || RoleCommand::Retire { role: role("support") };
        let retired = || RoleEvent::Retired { role: role("support") };
        given::<Role>([]).when(retire()).refused(RoleError::Unknown);
        given::<Role>([defined()]).when(retire()).then([retired()]);
        given::<Role>([defined(), retired()]).when(define("support", &[])).refused(RoleError::Retired);
    }

    #[test]
    fn a_built_in_role_is_nobodys_to_change() {
        given::<Role>([]).when(define("customer", &[Permission::AuditRead])).refused(RoleError::BuiltIn);
        given::<Role>([]).when(RoleCommand::Retire { role: role("admin") }).refused(RoleError::BuiltIn);
    }
}
