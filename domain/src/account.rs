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
use crate::session::RevocationCause;
use crate::values::{AccountId, RoleName, SessionId};

/// What happened to an account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AccountEvent {
    /// The account exists from here on; sealed: e-mail, display name.
    #[serde(rename = "account.registered")]
    Registered {},
    /// Who it is was written anew; sealed: e-mail, display name.
    #[serde(rename = "account.profile_changed")]
    ProfileChanged {},
    /// The password is another one.
    #[serde(rename = "account.password_changed")]
    PasswordChanged {
        /// What led to it.
        how: PasswordChangeCause,
    },
    /// The password must be changed before anything else; sealed: reason.
    #[serde(rename = "account.password_expired")]
    PasswordExpired {},
    /// Somebody who may began to set up a second factor; it counts from its confirmation on.
    #[serde(rename = "account.second_factor_enrolment_started")]
    SecondFactorEnrolmentStarted {},
    /// From here on a login asks for a second factor, and no session of before counts as one with it, but the one in which
    /// a code of it was right.
    #[serde(rename = "account.second_factor_enabled")]
    SecondFactorEnabled {
        /// The session in which it was confirmed; none in a login that led to this step alone.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        session: Option<SessionId>,
    },
    /// From here on it does not, and no session of before counts as one with a second factor; sealed: reason, when an
    /// administrator did it.
    #[serde(rename = "account.second_factor_disabled")]
    SecondFactorDisabled {
        /// Who took it away.
        by: Initiator,
    },
    /// These recovery codes replace all earlier ones.
    #[serde(rename = "account.recovery_codes_issued")]
    RecoveryCodesIssued {
        /// How many.
        count: u32,
    },
    /// A recovery code stood in for the second factor, and never will again.
    #[serde(rename = "account.recovery_code_used")]
    RecoveryCodeUsed {
        /// How many are left.
        remaining: u32,
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
    /// Whoever reads mail to the account's address followed a link in it.
    #[serde(rename = "account.email_verified")]
    EmailVerified {},
    /// Nobody logs in any more; sealed: reason.
    #[serde(rename = "account.suspended")]
    Suspended {},
    /// The account can be used again; sealed: reason.
    #[serde(rename = "account.reinstated")]
    Reinstated {},
    /// No session that began before is good any more. That each of them has ended (`session.revoked`) is recorded later.
    #[serde(rename = "account.sessions_revoked")]
    SessionsRevoked {
        /// By whom or what.
        by: RevocationCause,
        /// The one that stays.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        kept: Option<SessionId>,
    },
}

impl AccountEvent {
    /// Whether no device is known from here on: whoever was trusted before was so by other factors, or too much.
    #[must_use]
    pub const fn forgets_devices(&self) -> bool {
        match self {
            Self::PasswordChanged { how: PasswordChangeCause::Rehash }
            | Self::Registered {}
            | Self::ProfileChanged {}
            | Self::SecondFactorEnrolmentStarted {}
            | Self::RecoveryCodeUsed { .. }
            | Self::RoleGranted { .. }
            | Self::RoleRevoked { .. }
            | Self::EmailVerified {}
            | Self::Reinstated {}
            | Self::SessionsRevoked { .. } => false,
            Self::PasswordChanged { .. }
            | Self::PasswordExpired {}
            | Self::SecondFactorEnabled { .. }
            | Self::SecondFactorDisabled { .. }
            | Self::RecoveryCodesIssued { .. }
            | Self::Suspended {} => true,
        }
    }
}

/// What led to a new password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PasswordChangeCause {
    /// Its owner chose a new one.
    Owner,
    /// Its owner had to choose a new one: the old one was too old, or an administrator said so.
    Expired,
    /// The same password, hashed anew at the configured cost.
    Rehash,
    /// Its owner followed a link that was mailed to them.
    Reset,
    /// Its owner said that somebody else got in: nobody knows the new one, until it is reset.
    Disputed,
}

/// Who took a second factor away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Initiator {
    /// Its owner.
    Owner,
    /// An administrator.
    Admin,
}

/// What is asked of an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccountCommand {
    /// Open the account, with these roles from the first moment. Whether there are such roles is the caller's to know.
    Register {
        /// Usually `customer` alone.
        roles: Vec<RoleName>,
    },
    /// Record that its owner is to be called otherwise; the name itself never comes here.
    ChangeProfile,
    /// Record that the password changed; the verifier itself never comes here.
    ChangePassword {
        /// What led to it.
        how: PasswordChangeCause,
    },
    /// Have the password changed before anything else.
    ExpirePassword,
    /// Begin to set up a second factor, the first or another one.
    StartEnrolment,
    /// A code of the factor that was begun was right: it counts from now on.
    ConfirmEnrolment {
        /// How many recovery codes come with it.
        codes: u32,
        /// The session in which it was, if it was in one.
        session: Option<SessionId>,
    },
    /// Ask for no second factor any more.
    DisableSecondFactor {
        /// Who takes it away.
        by: Initiator,
    },
    /// Replace the recovery codes.
    IssueRecoveryCodes {
        /// How many.
        count: u32,
    },
    /// A recovery code was presented, and spent.
    UseRecoveryCode,
    /// Give the account a role. Whether there is such a role is the caller's to know.
    GrantRole {
        /// The role.
        role: RoleName,
    },
    /// Take a role away.
    RevokeRole {
        /// The role.
        role: RoleName,
    },
    /// A link that was mailed to its address was followed. Following another changes nothing.
    VerifyEmail,
    /// Stop all use of it.
    Suspend,
    /// Allow its use again.
    Reinstate,
    /// End every session but one. Whether there is one to end is the caller's to know.
    RevokeSessions {
        /// By whom or what.
        by: RevocationCause,
        /// The one that stays.
        kept: Option<SessionId>,
    },
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
    /// Nobody uses it, its owner neither.
    #[error("the account is suspended")]
    Suspended,
    /// Not suspended, so it cannot be reinstated.
    #[error("the account is not suspended")]
    NotSuspended,
    /// There is no second factor that this could be done to.
    #[error("the account has no second factor")]
    NoSecondFactor,
    /// Nobody began to set one up.
    #[error("no enrolment of a second factor was started")]
    NotEnrolling,
    /// Not granted, so it cannot be taken away.
    #[error("the account does not hold this role")]
    RoleNotHeld,
}

/// The account as its events leave it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccountState {
    /// Whether it was ever registered.
    pub registered: bool,
    /// Whether all use of it is stopped.
    pub suspended: bool,
    /// The roles it holds.
    pub roles: BTreeSet<RoleName>,
    /// Whether a login asks for a second factor.
    pub second_factor: bool,
    /// Whether a second factor was begun that is not confirmed yet.
    pub enrolling: bool,
    /// Recovery codes left.
    pub recovery_codes: u32,
    /// Whether the password must be changed before anything else.
    pub password_expired: bool,
    /// Whether mail to its address reached its owner.
    pub email_verified: bool,
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
        // For what its owner alone does.
        let in_use = || open().and(if state.suspended { Err(AccountError::Suspended) } else { Ok(()) });
        match command {
            AccountCommand::Register { roles } => {
                if state.registered {
                    return Err(AccountError::AlreadyRegistered);
                }
                let grants = roles.into_iter().map(|role| AccountEvent::RoleGranted { role });
                Ok([AccountEvent::Registered {}].into_iter().chain(grants).collect())
            }
            AccountCommand::ChangeProfile => {
                open()?;
                Ok(vec![AccountEvent::ProfileChanged {}])
            }
            AccountCommand::ChangePassword { how } => {
                match how {
                    PasswordChangeCause::Owner | PasswordChangeCause::Expired | PasswordChangeCause::Reset => in_use()?,
                    // It gives nobody a password.
                    PasswordChangeCause::Rehash | PasswordChangeCause::Disputed => open()?,
                }
                Ok(vec![AccountEvent::PasswordChanged { how }])
            }
            AccountCommand::ExpirePassword => {
                open()?;
                Ok(if state.password_expired { vec![] } else { vec![AccountEvent::PasswordExpired {}] })
            }
            AccountCommand::StartEnrolment => {
                in_use()?;
                // Begun again it is another seed, so another event; and so it is with other recovery codes.
                Ok(vec![AccountEvent::SecondFactorEnrolmentStarted {}])
            }
            AccountCommand::ConfirmEnrolment { codes, session } => {
                in_use()?;
                if !state.enrolling {
                    return Err(AccountError::NotEnrolling);
                }
                let issued = AccountEvent::RecoveryCodesIssued { count: codes };
                Ok(vec![AccountEvent::SecondFactorEnabled { session }, issued])
            }
            AccountCommand::DisableSecondFactor { by } => {
                match by {
                    Initiator::Owner => in_use()?,
                    Initiator::Admin => open()?,
                }
                let disabled = AccountEvent::SecondFactorDisabled { by };
                if state.second_factor { Ok(vec![disabled]) } else { Err(AccountError::NoSecondFactor) }
            }
            AccountCommand::IssueRecoveryCodes { count } => {
                in_use()?;
                let issued = AccountEvent::RecoveryCodesIssued { count };
                if state.second_factor { Ok(vec![issued]) } else { Err(AccountError::NoSecondFactor) }
            }
            AccountCommand::UseRecoveryCode => {
                // A new set may have come between its spending and this.
                let remaining = state.recovery_codes.saturating_sub(1);
                Ok(vec![AccountEvent::RecoveryCodeUsed { remaining }])
            }
            AccountCommand::GrantRole { role } => {
                open()?;
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
            AccountCommand::VerifyEmail => {
                in_use()?;
                Ok(if state.email_verified { vec![] } else { vec![AccountEvent::EmailVerified {}] })
            }
            AccountCommand::Suspend => {
                open()?;
                if state.suspended { Err(AccountError::AlreadySuspended) } else { Ok(vec![AccountEvent::Suspended {}]) }
            }
            AccountCommand::Reinstate => {
                open()?;
                if state.suspended { Ok(vec![AccountEvent::Reinstated {}]) } else { Err(AccountError::NotSuspended) }
            }
            AccountCommand::RevokeSessions { by, kept } => {
                open()?;
                Ok(vec![AccountEvent::SessionsRevoked { by, kept }])
            }
        }
    }

    fn apply_event(mut state: AccountState, event: AccountEvent) -> AccountState {
        match event {
            AccountEvent::Registered {} => state.registered = true,
            AccountEvent::ProfileChanged {}
            | AccountEvent::PasswordChanged { how: PasswordChangeCause::Rehash }
            | AccountEvent::SessionsRevoked { .. } => {}
            AccountEvent::PasswordChanged {
                how:
                    PasswordChangeCause::Owner
                    | PasswordChangeCause::Expired
                    | PasswordChangeCause::Reset
                    | PasswordChangeCause::Disputed,
            } => state.password_expired = false,
            AccountEvent::EmailVerified {} => state.email_verified = true,
            AccountEvent::PasswordExpired {} => state.password_expired = true,
            AccountEvent::SecondFactorEnrolmentStarted {} => state.enrolling = true,
            AccountEvent::SecondFactorEnabled { session: _ } => {
                state.enrolling = false;
                state.second_factor = true;
            }
            AccountEvent::SecondFactorDisabled { by: _ } => {
                state.enrolling = false;
                state.second_factor = false;
                state.recovery_codes = 0;
            }
            AccountEvent::RecoveryCodesIssued { count } => state.recovery_codes = count,
            AccountEvent::RecoveryCodeUsed { remaining } => state.recovery_codes = remaining,
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
    fn a_second_factor_counts_from_its_confirmation_on() {
        let started = || AccountEvent::SecondFactorEnrolmentStarted {};
        let enabled = || AccountEvent::SecondFactorEnabled { session: None };
        let issued = || AccountEvent::RecoveryCodesIssued { count: 10 };
        let confirm = || AccountCommand::ConfirmEnrolment { codes: 10, session: None };
        let disable = || AccountCommand::DisableSecondFactor { by: Initiator::Owner };
        given::<Account>([registered()]).when(confirm()).refused(AccountError::NotEnrolling);
        given::<Account>([registered(), started()]).when(disable()).refused(AccountError::NoSecondFactor);
        given::<Account>([registered(), started()]).when(confirm()).then([enabled(), issued()]);
        given::<Account>([registered(), started(), enabled(), issued()])
            .when(AccountCommand::UseRecoveryCode)
            .then([AccountEvent::RecoveryCodeUsed { remaining: 9 }]);
        given::<Account>([registered(), started(), enabled(), issued(), started()])
            .when(disable())
            .then([AccountEvent::SecondFactorDisabled { by: Initiator::Owner }]);
        let after = [started(), enabled(), started(), AccountEvent::SecondFactorDisabled { by: Initiator::Admin }];
        given::<Account>([registered()].into_iter().chain(after)).when(confirm()).refused(AccountError::NotEnrolling);
    }

    #[test]
    fn an_expired_password_is_so_until_its_owner_changes_it() {
        let changed = |how| AccountEvent::PasswordChanged { how };
        let expired = || AccountEvent::PasswordExpired {};
        given::<Account>([registered()]).when(AccountCommand::ExpirePassword).then([expired()]);
        given::<Account>([registered(), expired(), changed(PasswordChangeCause::Rehash)])
            .when(AccountCommand::ExpirePassword)
            .then([]);
        given::<Account>([registered(), expired(), changed(PasswordChangeCause::Expired)])
            .when(AccountCommand::ExpirePassword)
            .then([expired()]);
    }

    #[test]
    fn an_address_is_verified_once() {
        let verified = || AccountEvent::EmailVerified {};
        given::<Account>([registered()]).when(AccountCommand::VerifyEmail).then([verified()]);
        given::<Account>([registered(), verified()]).when(AccountCommand::VerifyEmail).then([]);
        given::<Account>([]).when(AccountCommand::VerifyEmail).refused(AccountError::Unknown);
    }

    #[test]
    fn a_role_is_granted_once() {
        let grant = |name| AccountCommand::GrantRole { role: role(name) };
        given::<Account>([registered()]).when(grant("admin")).then([AccountEvent::RoleGranted { role: role("admin") }]);
        given::<Account>([registered(), AccountEvent::RoleGranted { role: role("admin") }])
            .when(grant("admin"))
            .refused(AccountError::RoleHeld);
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
    fn nobody_but_administrators_changes_a_suspended_account() {
        let suspended = || [registered(), AccountEvent::SecondFactorEnrolmentStarted {}, AccountEvent::Suspended {}];
        let change = |how| AccountCommand::ChangePassword { how };
        for command in [
            change(PasswordChangeCause::Owner),
            change(PasswordChangeCause::Expired),
            change(PasswordChangeCause::Reset),
            AccountCommand::StartEnrolment,
            AccountCommand::ConfirmEnrolment { codes: 10, session: None },
            AccountCommand::DisableSecondFactor { by: Initiator::Owner },
            AccountCommand::IssueRecoveryCodes { count: 10 },
            AccountCommand::VerifyEmail,
        ] {
            given::<Account>(suspended()).when(command).refused(AccountError::Suspended);
        }
        given::<Account>(suspended())
            .when(change(PasswordChangeCause::Disputed))
            .then([AccountEvent::PasswordChanged { how: PasswordChangeCause::Disputed }]);
        given::<Account>(suspended()).when(AccountCommand::ExpirePassword).then([AccountEvent::PasswordExpired {}]);
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
    fn sessions_are_revoked_as_often_as_it_is_asked_for() {
        let kept = Some(SessionId(uuid::Uuid::from_u128(7)));
        let revoke = || AccountCommand::RevokeSessions { by: RevocationCause::Owner, kept };
        let revoked = || AccountEvent::SessionsRevoked { by: RevocationCause::Owner, kept };
        given::<Account>([]).when(revoke()).refused(AccountError::Unknown);
        given::<Account>([registered()]).when(revoke()).then([revoked()]);
        given::<Account>([registered(), revoked()]).when(revoke()).then([revoked()]);
    }

    #[test]
    fn nothing_happens_to_an_account_that_was_never_registered() {
        given::<Account>([])
            .when(AccountCommand::ChangePassword { how: PasswordChangeCause::Owner })
            .refused(AccountError::Unknown);
        given::<Account>([]).when(AccountCommand::GrantRole { role: role("admin") }).refused(AccountError::Unknown);
        given::<Account>([]).when(AccountCommand::RevokeRole { role: role("admin") }).refused(AccountError::Unknown);
    }
}
