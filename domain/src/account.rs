//! An account: who it is (sealed, beside the log), which roles it holds, when its password changed.
//!
//! ```text
//! (nothing) --registered--> [ open ] --suspended--> [ suspended ]
//!                               ^                        |
//!                               +------ reinstated ------+
//! ```
//! A suspended account keeps its roles and its password; nobody can use them.
//! Attempts to log in are not here: they have a stream of their own, so that a flood of wrong passwords never
//! stands in the way of the owner or an administrator.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::Aggregate;
use crate::permission::permissions_of;
use crate::values::{AccountId, RoleName};

/// What happened to an account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AccountEvent {
    /// The account exists from here on; sealed: e-mail, display name.
    #[serde(rename = "account.registered")]
    Registered {},
    /// The password is another one.
    #[serde(rename = "account.password_changed")]
    PasswordChanged {
        /// What led to it.
        how: PasswordChange,
    },
    /// The account holds this role; sealed: reason.
    #[serde(rename = "account.role_granted")]
    RoleGranted {
        /// The role.
        role: RoleName,
    },
    /// The account no longer holds this role; sealed: reason.
    #[serde(rename = "account.role_revoked")]
    RoleRevoked {
        /// The role.
        role: RoleName,
    },
    /// Nobody logs in any more; sealed: reason.
    #[serde(rename = "account.suspended")]
    Suspended {},
    /// The account can be used again; sealed: reason.
    #[serde(rename = "account.reinstated")]
    Reinstated {},
}

/// What led to a new password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PasswordChange {
    /// Its owner chose a new one.
    Owner,
    /// The same password, hashed anew at the configured cost.
    Rehash,
}

/// What is asked of an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccountCommand {
    /// Open the account, with these roles from the first moment.
    Register {
        /// Usually `customer` alone.
        roles: Vec<RoleName>,
    },
    /// Record that the password changed; the verifier itself never comes here.
    ChangePassword {
        /// What led to it.
        how: PasswordChange,
    },
    /// Give the account a role.
    GrantRole {
        /// The role, which must exist.
        role: RoleName,
    },
    /// Take a role away.
    RevokeRole {
        /// The role.
        role: RoleName,
    },
    /// Stop all use of it.
    Suspend,
    /// Allow its use again.
    Reinstate,
}

/// Why nothing was recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AccountError {
    /// Registered before.
    #[error("the account is registered already")]
    AlreadyRegistered,
    /// Never registered.
    #[error("there is no such account")]
    Unknown,
    /// The role to grant does not exist.
    #[error("there is no such role")]
    NoSuchRole,
    /// Granted before.
    #[error("the account holds this role already")]
    RoleHeld,
    /// Suspended before.
    #[error("the account is suspended already")]
    AlreadySuspended,
    /// Not suspended, so it cannot be reinstated.
    #[error("the account is not suspended")]
    NotSuspended,
    /// Not granted, so it cannot be taken away.
    #[error("the account does not hold this role")]
    RoleNotHeld,
}

/// The account as its events leave it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AccountState {
    /// Whether it was ever registered.
    pub registered: bool,
    /// Whether all use of it is stopped.
    pub suspended: bool,
    /// The roles it holds.
    pub roles: BTreeSet<RoleName>,
}

/// The aggregate.
pub struct Account;

impl Aggregate for Account {
    const NAME: &'static str = "account";
    type State = AccountState;
    type Command = AccountCommand;
    type Event = AccountEvent;
    type Error = AccountError;

    fn handle_command(state: &AccountState, command: AccountCommand) -> Result<Vec<AccountEvent>, AccountError> {
        let open = || if state.registered { Ok(()) } else { Err(AccountError::Unknown) };
        match command {
            AccountCommand::Register { roles } => {
                if state.registered {
                    return Err(AccountError::AlreadyRegistered);
                }
                if roles.iter().any(|role| permissions_of(role).is_none()) {
                    return Err(AccountError::NoSuchRole);
                }
                let grants = roles.into_iter().map(|role| AccountEvent::RoleGranted { role });
                Ok([AccountEvent::Registered {}].into_iter().chain(grants).collect())
            }
            AccountCommand::ChangePassword { how } => {
                open()?;
                Ok(vec![AccountEvent::PasswordChanged { how }])
            }
            AccountCommand::GrantRole { role } => {
                open()?;
                if permissions_of(&role).is_none() {
                    return Err(AccountError::NoSuchRole);
                }
                if state.roles.contains(&role) {
                    return Err(AccountError::RoleHeld);
                }
                Ok(vec![AccountEvent::RoleGranted { role }])
            }
            AccountCommand::RevokeRole { role } => {
                open()?;
                if !state.roles.contains(&role) {
                    return Err(AccountError::RoleNotHeld);
                }
                Ok(vec![AccountEvent::RoleRevoked { role }])
            }
            AccountCommand::Suspend => {
                open()?;
                if state.suspended { Err(AccountError::AlreadySuspended) } else { Ok(vec![AccountEvent::Suspended {}]) }
            }
            AccountCommand::Reinstate => {
                open()?;
                if state.suspended { Ok(vec![AccountEvent::Reinstated {}]) } else { Err(AccountError::NotSuspended) }
            }
        }
    }

    fn apply_event(mut state: AccountState, event: AccountEvent) -> AccountState {
        match event {
            AccountEvent::Registered {} => state.registered = true,
            AccountEvent::PasswordChanged { how: _ } => {}
            AccountEvent::Suspended {} => state.suspended = true,
            AccountEvent::Reinstated {} => state.suspended = false,
            AccountEvent::RoleGranted { role } => {
                state.roles.insert(role);
            }
            AccountEvent::RoleRevoked { role } => {
                state.roles.remove(&role);
            }
        }
        state
    }
}

impl AccountId {
    /// Roles every account starts with.
    #[must_use]
    pub fn first_roles() -> Vec<RoleName> {
        RoleName::parse("customer").into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::given;

    fn role(name: &str) -> RoleName {
        RoleName::parse(name).unwrap()
    }

    fn registered() -> AccountEvent {
        AccountEvent::Registered {}
    }

    #[test]
    fn an_account_is_registered_once() {
        given::<Account>([])
            .when(AccountCommand::Register { roles: vec![role("customer")] })
            .then([registered(), AccountEvent::RoleGranted { role: role("customer") }]);
        given::<Account>([registered()])
            .when(AccountCommand::Register { roles: vec![] })
            .refused(AccountError::AlreadyRegistered);
    }

    #[test]
    fn a_role_is_granted_once_and_must_exist() {
        let grant = |name| AccountCommand::GrantRole { role: role(name) };
        given::<Account>([registered()]).when(grant("admin")).then([AccountEvent::RoleGranted { role: role("admin") }]);
        given::<Account>([registered(), AccountEvent::RoleGranted { role: role("admin") }])
            .when(grant("admin"))
            .refused(AccountError::RoleHeld);
        given::<Account>([registered()]).when(grant("root")).refused(AccountError::NoSuchRole);
    }

    #[test]
    fn only_a_held_role_is_revoked() {
        let revoke = || AccountCommand::RevokeRole { role: role("admin") };
        given::<Account>([registered()]).when(revoke()).refused(AccountError::RoleNotHeld);
        given::<Account>([registered(), AccountEvent::RoleGranted { role: role("admin") }])
            .when(revoke())
            .then([AccountEvent::RoleRevoked { role: role("admin") }]);
    }

    #[test]
    fn an_account_is_suspended_and_reinstated_in_turn() {
        given::<Account>([registered()]).when(AccountCommand::Suspend).then([AccountEvent::Suspended {}]);
        given::<Account>([registered(), AccountEvent::Suspended {}])
            .when(AccountCommand::Suspend)
            .refused(AccountError::AlreadySuspended);
        given::<Account>([registered(), AccountEvent::Suspended {}])
            .when(AccountCommand::Reinstate)
            .then([AccountEvent::Reinstated {}]);
        given::<Account>([registered()]).when(AccountCommand::Reinstate).refused(AccountError::NotSuspended);
    }

    #[test]
    fn nothing_happens_to_an_account_that_was_never_registered() {
        given::<Account>([])
            .when(AccountCommand::ChangePassword { how: PasswordChange::Owner })
            .refused(AccountError::Unknown);
        given::<Account>([]).when(AccountCommand::GrantRole { role: role("admin") }).refused(AccountError::Unknown);
        given::<Account>([]).when(AccountCommand::RevokeRole { role: role("admin") }).refused(AccountError::Unknown);
    }
}
