//! A custom role: a name for a set of permissions, defined by administrators. Built-in roles (`permission`) have no
//! stream.
//!
//! A retired role grants no permission, and its name cannot be used again: its remaining holders would hold the new
//! role.

use serde::{Deserialize, Serialize};

use crate::Aggregate;
use crate::permission::{Permission, Permissions, built_in_permissions};
use crate::values::RoleName;

/// An event of a role. Sealed in each: reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RoleEvent {
    /// The role was defined.
    #[serde(rename = "role.defined")]
    Defined {
        /// The name of the role.
        role: RoleName,
        /// The permissions of its holders.
        permissions: Vec<Permission>,
    },
    /// The permissions of its holders changed, with immediate effect.
    #[serde(rename = "role.permissions_changed")]
    PermissionsChanged {
        /// The name of the role.
        role: RoleName,
        /// The previous permissions.
        before: Vec<Permission>,
        /// The new permissions.
        after: Vec<Permission>,
    },
    /// The role was retired. It never grants a permission again.
    #[serde(rename = "role.retired")]
    Retired {
        /// The name of the role.
        role: RoleName,
    },
}

/// A command to a role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RoleCommand {
    /// Define the role, or replace its permissions.
    Define {
        /// The name of the role.
        role: RoleName,
        /// The permissions of its holders.
        permissions: Permissions,
    },
    /// Retire the role permanently.
    Retire {
        /// The name of the role.
        role: RoleName,
    },
}

/// The refusal of a command to a role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RoleError {
    /// The role is built in, and cannot be changed.
    #[error("the role is built in")]
    BuiltIn,
    /// The name belongs to a retired role.
    #[error("the name belongs to a retired role")]
    Retired,
    /// The role was never defined.
    #[error("the role does not exist")]
    NotFound,
}

/// The state of a role, derived from its events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RoleState {
    /// The role was never defined.
    #[default]
    None,
    /// The role is in use.
    Defined(Permissions),
    /// The role is retired.
    Retired,
}

/// The aggregate of a custom role.
pub struct Role;

impl Aggregate for Role {
    const NAME: &'static str = "role";
    type State = RoleState;
    type Command = RoleCommand;
    type Event = RoleEvent;
    type Error = RoleError;

    fn handle_command(state: &RoleState, command: RoleCommand) -> Result<Vec<RoleEvent>, RoleError> {
        let (RoleCommand::Define { role, .. } | RoleCommand::Retire { role }) = &command;
        if built_in_permissions(role).is_some() {
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
            (RoleCommand::Retire { .. }, RoleState::None) => Err(RoleError::NotFound),
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
    fn a_role_is_defined_changed_and_retired_permanently() {
        given::<Role>([]).when(define("support", &[Permission::AccountsRead])).then([defined()]);
        given::<Role>([defined()]).when(define("support", &[Permission::AccountsRead])).then([]);
        given::<Role>([defined()]).when(define("support", &[])).then([RoleEvent::PermissionsChanged {
            role: role("support"),
            before: vec![Permission::AccountsRead],
            after: vec![],
        }]);
        let retire = || RoleCommand::Retire { role: role("support") };
        let retired = || RoleEvent::Retired { role: role("support") };
        given::<Role>([]).when(retire()).refused(RoleError::NotFound);
        given::<Role>([defined()]).when(retire()).then([retired()]);
        given::<Role>([defined(), retired()]).when(define("support", &[])).refused(RoleError::Retired);
    }

    #[test]
    fn a_built_in_role_cannot_be_changed() {
        given::<Role>([]).when(define("customer", &[Permission::AuditRead])).refused(RoleError::BuiltIn);
        given::<Role>([]).when(RoleCommand::Retire { role: role("admin") }).refused(RoleError::BuiltIn);
    }
}
