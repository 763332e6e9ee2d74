//! An account: its roles, its second factor and the state of its password. The personal data (e-mail address, display
//! name) is sealed alongside the log.
//!
//! ```text
//! (nothing) --registered--> [ open ] --suspended--> [ suspended ]
//!                               ^                        |
//!                               +------ reinstated ------+
//! [ open ], [ suspended ] --erased--> [ erased ]
//! ```
//! A suspended account keeps its roles and its password, but nobody can use them. Login attempts have a stream of their
//! own, so that a flood of wrong passwords never conflicts with a command of the owner or an administrator.
//!
//! The owner asks for erasure and may withdraw that until it is due. An erased account has no role, no session and nothing
//! sealed; its id remains, and nothing can happen to it any more.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::Aggregate;
use crate::erasure::{CopyHolders, DestroyedData};
use crate::session::RevocationCause;
use crate::values::{AccountId, RoleName, SessionId};

/// An event in the life of an account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AccountEvent {
    /// The account was registered; sealed: e-mail address, display name.
    #[serde(rename = "account.registered")]
    Registered {},
    /// The profile changed; sealed: e-mail address, display name.
    #[serde(rename = "account.profile_changed")]
    ProfileChanged {},
    /// The password changed.
    #[serde(rename = "account.password_changed")]
    PasswordChanged {
        /// The cause of the change.
        how: PasswordChangeCause,
    },
    /// The password must be changed at the next login; sealed: reason.
    #[serde(rename = "account.password_expired")]
    PasswordExpired {},
    /// The owner started to enrol a second factor. The factor counts only after its confirmation.
    #[serde(rename = "account.second_factor_enrolment_started")]
    SecondFactorEnrolmentStarted {},
    /// The second factor is in force: each login asks for it. Earlier sessions do not count as two-factor sessions,
    /// except the one in which the owner entered a correct code.
    #[serde(rename = "account.second_factor_enabled")]
    SecondFactorEnabled {
        /// The session in which the owner confirmed the factor; `None` if a login consisted of this step alone.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        session: Option<SessionId>,
    },
    /// The second factor was removed: logins do not ask for it, and earlier sessions do not count as two-factor
    /// sessions. Sealed if an administrator removed it: reason.
    #[serde(rename = "account.second_factor_disabled")]
    SecondFactorDisabled {
        /// The party that removed it.
        by: Initiator,
    },
    /// A new set of recovery codes replaced all earlier ones.
    #[serde(rename = "account.recovery_codes_issued")]
    RecoveryCodesIssued {
        /// The number of codes.
        count: u32,
    },
    /// A recovery code replaced the second factor once, and is spent.
    #[serde(rename = "account.recovery_code_used")]
    RecoveryCodeUsed {
        /// The number of codes left.
        remaining: u32,
    },
    /// The account received this role; sealed: reason.
    #[serde(rename = "account.role_granted")]
    RoleGranted {
        /// The role.
        role: RoleName,
    },
    /// The account lost this role; sealed: reason.
    #[serde(rename = "account.role_revoked")]
    RoleRevoked {
        /// The role.
        role: RoleName,
    },
    /// A recipient of mail to the account's address followed a link in it.
    #[serde(rename = "account.email_verified")]
    EmailVerified {},
    /// Logins and sessions of the account are refused; sealed: reason.
    #[serde(rename = "account.suspended")]
    Suspended {},
    /// The account can be used again; sealed: reason.
    #[serde(rename = "account.reinstated")]
    Reinstated {},
    /// All earlier sessions of the account are void from here on. A later `session.revoked` records the end of each.
    #[serde(rename = "account.sessions_revoked")]
    SessionsRevoked {
        /// The cause of the revocation.
        by: RevocationCause,
        /// The session that remains.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        except_session: Option<SessionId>,
    },
    /// The owner asked for the erasure of the account, and can withdraw that until it is due.
    #[serde(rename = "account.erasure_started")]
    ErasureStarted {
        /// The time from which on the account is erased.
        #[serde(with = "crate::leaf::micros")]
        due_at: DateTime<Utc>,
    },
    /// The owner withdrew the erasure.
    #[serde(rename = "account.erasure_withdrawn")]
    ErasureWithdrawn {},
    /// The account was erased: the key of its personal data was destroyed with this event, and its address released. Sealed
    /// under the actor's key if an administrator erased it: reason.
    #[serde(rename = "account.erased")]
    Erased {
        /// The party that wanted it.
        by: Initiator,
    },
    /// Everything that was sealed under the destroyed key is deleted. This event is the receipt of the erasure.
    #[serde(rename = "account.erasure_completed")]
    ErasureCompleted {
        /// The numbers of rows that were destroyed.
        destroyed: DestroyedData,
        /// The id of the wrapping key under which the destroyed key was stored; `None` if there was none. Older copies of the
        /// database stay readable to its holders until it is destroyed, too.
        wrapping_key: Option<String>,
        /// `true` if the server has begun another segment of its write-ahead log, and written a checkpoint, since.
        log_switched: bool,
        /// Those who took copies of events that may have the person's: nothing that was sealed.
        #[serde(default, skip_serializing_if = "CopyHolders::is_empty")]
        copies: CopyHolders,
    },
}

impl AccountEvent {
    /// `true` if the event makes the account forget all its devices: the factors that established their trust have
    /// changed, or that trust was too great.
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
            | Self::SessionsRevoked { .. }
            | Self::ErasureStarted { .. }
            | Self::ErasureWithdrawn {}
            | Self::ErasureCompleted { .. } => false,
            Self::PasswordChanged { .. }
            | Self::PasswordExpired {}
            | Self::SecondFactorEnabled { .. }
            | Self::SecondFactorDisabled { .. }
            | Self::RecoveryCodesIssued { .. }
            | Self::Suspended {}
            | Self::Erased { .. } => true,
        }
    }
}

/// The cause of a password change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PasswordChangeCause {
    /// The owner chose a new password.
    Owner,
    /// The owner had to choose a new password: the old one was too old, or an administrator expired it.
    Expired,
    /// The same password was hashed again, at the configured cost.
    Rehash,
    /// The owner followed a password reset link.
    Reset,
    /// The owner reported an intrusion. Nobody knows the new password; only a reset leads to a usable one.
    Reported,
}

/// The party that wanted a change which the owner and administrators can make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Initiator {
    /// The owner of the account.
    Owner,
    /// An administrator.
    Admin,
}

/// A command to an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccountCommand {
    /// Register the account, with these initial roles. The caller ensures that the roles exist.
    Register {
        /// The initial roles, usually `customer` alone.
        roles: Vec<RoleName>,
    },
    /// Record a change of the profile. The command does not carry the profile itself.
    ChangeProfile,
    /// Record a change of the password. The command does not carry the verifier.
    ChangePassword {
        /// The cause of the change.
        how: PasswordChangeCause,
    },
    /// Require a password change at the next login.
    ExpirePassword,
    /// Start to enrol a second factor, the first or a replacement.
    StartEnrolment,
    /// Confirm the pending second factor, after a correct code of it.
    ConfirmEnrolment {
        /// The number of recovery codes issued with it.
        codes: u32,
        /// The session in which the owner entered the code, if any.
        session: Option<SessionId>,
    },
    /// Remove the second factor.
    DisableSecondFactor {
        /// The party that removes it.
        by: Initiator,
    },
    /// Replace the recovery codes.
    IssueRecoveryCodes {
        /// The number of codes.
        count: u32,
    },
    /// Record that a recovery code was presented and spent.
    UseRecoveryCode,
    /// Grant the account a role. The caller ensures that the role exists.
    GrantRole {
        /// The role.
        role: RoleName,
    },
    /// Revoke a role of the account.
    RevokeRole {
        /// The role.
        role: RoleName,
    },
    /// Record that a link mailed to the account's address was followed. Has no effect on a verified address.
    VerifyEmail,
    /// Suspend the account.
    Suspend,
    /// Reinstate the account.
    Reinstate,
    /// Revoke all sessions of the account but one. The caller ensures that at least one such session exists.
    RevokeSessions {
        /// The cause of the revocation.
        by: RevocationCause,
        /// The session that remains.
        except_session: Option<SessionId>,
    },
    /// Start the erasure of the account. Has no effect if it has been started.
    StartErasure {
        /// The time from which on the account is erased.
        due_at: DateTime<Utc>,
    },
    /// Withdraw the erasure.
    WithdrawErasure,
    /// Erase the account. The caller destroys its key in the same transaction.
    Erase {
        /// The party that wants it.
        by: Initiator,
    },
    /// Record that everything is deleted. The caller has seen to that. Has no effect if it was recorded before.
    CompleteErasure {
        /// See [`AccountEvent::ErasureCompleted`].
        destroyed: DestroyedData,
        /// See [`AccountEvent::ErasureCompleted`].
        wrapping_key: Option<String>,
        /// See [`AccountEvent::ErasureCompleted`].
        log_switched: bool,
        /// See [`AccountEvent::ErasureCompleted`].
        copies: CopyHolders,
    },
}

/// The refusal of a command to an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AccountError {
    /// The account was registered before.
    #[error("the account is already registered")]
    AlreadyRegistered,
    /// The account was never registered.
    #[error("the account does not exist")]
    NotFound,
    /// The role to grant does not exist.
    #[error("the role does not exist")]
    RoleNotFound,
    /// The account has this role already.
    #[error("the account already has this role")]
    RoleAlreadyGranted,
    /// The account is suspended already.
    #[error("the account is already suspended")]
    AlreadySuspended,
    /// The account is suspended: nobody can use it, including its owner.
    #[error("the account is suspended")]
    Suspended,
    /// The account is not suspended, so it cannot be reinstated.
    #[error("the account is not suspended")]
    NotSuspended,
    /// The account has no second factor to act on.
    #[error("the account has no second factor")]
    NoSecondFactor,
    /// No enrolment was started.
    #[error("the enrolment of a second factor has not been started")]
    EnrolmentNotStarted,
    /// The account does not have this role, so the role cannot be revoked.
    #[error("the account does not have this role")]
    RoleNotGranted,
    /// The account was erased: nothing can happen to it any more.
    #[error("the account was erased")]
    Erased,
    /// Nobody asked for the erasure of the account.
    #[error("the erasure of the account has not been started")]
    ErasureNotStarted,
}

/// The state of an account, derived from its events.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccountState {
    /// `true` if the account was ever registered.
    pub registered: bool,
    /// `true` if the account is suspended.
    pub suspended: bool,
    /// The roles of the account.
    pub roles: BTreeSet<RoleName>,
    /// `true` if a login asks for a second factor.
    pub second_factor_enabled: bool,
    /// `true` if an enrolment was started and is not confirmed.
    pub enrolment_pending: bool,
    /// The number of recovery codes left.
    pub recovery_codes: u32,
    /// `true` if the password must be changed at the next login.
    pub password_expired: bool,
    /// `true` if mail to the account's address is known to reach its owner.
    pub email_verified: bool,
    /// The time from which on the account is erased; `None` if nobody asked for that.
    pub erasure_due: Option<DateTime<Utc>>,
    /// `true` if the account was erased.
    pub erased: bool,
    /// `true` if everything of an erased account is deleted.
    pub erasure_completed: bool,
}

/// The aggregate of an account.
pub struct Account;

impl Aggregate for Account {
    const NAME: &'static str = "account";
    type State = AccountState;
    type Command = AccountCommand;
    type Event = AccountEvent;
    type Error = AccountError;

    fn handle_command(state: &AccountState, command: AccountCommand) -> Result<Vec<AccountEvent>, AccountError> {
        let require_registered = || match (state.registered, state.erased) {
            (false, _) => Err(AccountError::NotFound),
            (true, true) => Err(AccountError::Erased),
            (true, false) => Ok(()),
        };
        // Guards commands of the owner.
        let require_active =
            || require_registered().and(if state.suspended { Err(AccountError::Suspended) } else { Ok(()) });
        match command {
            AccountCommand::Register { roles } => {
                if state.registered {
                    return Err(AccountError::AlreadyRegistered);
                }
                let grants = roles.into_iter().map(|role| AccountEvent::RoleGranted { role });
                Ok([AccountEvent::Registered {}].into_iter().chain(grants).collect())
            }
            AccountCommand::ChangeProfile => {
                require_registered()?;
                Ok(vec![AccountEvent::ProfileChanged {}])
            }
            AccountCommand::ChangePassword { how } => {
                match how {
                    PasswordChangeCause::Owner | PasswordChangeCause::Expired | PasswordChangeCause::Reset => {
                        require_active()?
                    }
                    // These causes give nobody a usable password.
                    PasswordChangeCause::Rehash | PasswordChangeCause::Reported => require_registered()?,
                }
                Ok(vec![AccountEvent::PasswordChanged { how }])
            }
            AccountCommand::ExpirePassword => {
                require_registered()?;
                Ok(if state.password_expired { vec![] } else { vec![AccountEvent::PasswordExpired {}] })
            }
            AccountCommand::StartEnrolment => {
                require_active()?;
                // Each start has another seed, so it is another event. The same holds for each set of recovery codes.
                Ok(vec![AccountEvent::SecondFactorEnrolmentStarted {}])
            }
            AccountCommand::ConfirmEnrolment { codes, session } => {
                require_active()?;
                if !state.enrolment_pending {
                    return Err(AccountError::EnrolmentNotStarted);
                }
                let issued = AccountEvent::RecoveryCodesIssued { count: codes };
                Ok(vec![AccountEvent::SecondFactorEnabled { session }, issued])
            }
            AccountCommand::DisableSecondFactor { by } => {
                match by {
                    Initiator::Owner => require_active()?,
                    Initiator::Admin => require_registered()?,
                }
                let disabled = AccountEvent::SecondFactorDisabled { by };
                if state.second_factor_enabled { Ok(vec![disabled]) } else { Err(AccountError::NoSecondFactor) }
            }
            AccountCommand::IssueRecoveryCodes { count } => {
                require_active()?;
                let issued = AccountEvent::RecoveryCodesIssued { count };
                if state.second_factor_enabled { Ok(vec![issued]) } else { Err(AccountError::NoSecondFactor) }
            }
            AccountCommand::UseRecoveryCode => {
                require_registered()?;
                // A new set may have replaced the codes between the check of this one and here.
                let remaining = state.recovery_codes.saturating_sub(1);
                Ok(vec![AccountEvent::RecoveryCodeUsed { remaining }])
            }
            AccountCommand::GrantRole { role } => {
                require_registered()?;
                if state.roles.contains(&role) {
                    return Err(AccountError::RoleAlreadyGranted);
                }
                Ok(vec![AccountEvent::RoleGranted { role }])
            }
            AccountCommand::RevokeRole { role } => {
                require_registered()?;
                if !state.roles.contains(&role) {
                    return Err(AccountError::RoleNotGranted);
                }
                Ok(vec![AccountEvent::RoleRevoked { role }])
            }
            AccountCommand::VerifyEmail => {
                require_active()?;
                Ok(if state.email_verified { vec![] } else { vec![AccountEvent::EmailVerified {}] })
            }
            AccountCommand::Suspend => {
                require_registered()?;
                if state.suspended { Err(AccountError::AlreadySuspended) } else { Ok(vec![AccountEvent::Suspended {}]) }
            }
            AccountCommand::Reinstate => {
                require_registered()?;
                if state.suspended { Ok(vec![AccountEvent::Reinstated {}]) } else { Err(AccountError::NotSuspended) }
            }
            AccountCommand::RevokeSessions { by, except_session } => {
                require_registered()?;
                Ok(vec![AccountEvent::SessionsRevoked { by, except_session }])
            }
            AccountCommand::StartErasure { due_at } => {
                require_active()?;
                Ok(if state.erasure_due.is_some() { vec![] } else { vec![AccountEvent::ErasureStarted { due_at }] })
            }
            AccountCommand::WithdrawErasure => {
                require_registered()?;
                match state.erasure_due {
                    Some(_) => Ok(vec![AccountEvent::ErasureWithdrawn {}]),
                    None => Err(AccountError::ErasureNotStarted),
                }
            }
            AccountCommand::Erase { by } => {
                require_registered()?;
                let roles = state.roles.iter().map(|role| AccountEvent::RoleRevoked { role: role.clone() });
                let sessions = AccountEvent::SessionsRevoked { by: RevocationCause::Erasure, except_session: None };
                Ok(roles.chain([sessions, AccountEvent::Erased { by }]).collect())
            }
            AccountCommand::CompleteErasure { destroyed, wrapping_key, log_switched, copies } => {
                if !state.erased {
                    return Err(AccountError::ErasureNotStarted);
                }
                let completed = AccountEvent::ErasureCompleted { destroyed, wrapping_key, log_switched, copies };
                Ok(if state.erasure_completed { vec![] } else { vec![completed] })
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
                    | PasswordChangeCause::Reported,
            } => state.password_expired = false,
            AccountEvent::EmailVerified {} => state.email_verified = true,
            AccountEvent::PasswordExpired {} => state.password_expired = true,
            AccountEvent::SecondFactorEnrolmentStarted {} => state.enrolment_pending = true,
            AccountEvent::SecondFactorEnabled { session: _ } => {
                state.enrolment_pending = false;
                state.second_factor_enabled = true;
            }
            AccountEvent::SecondFactorDisabled { by: _ } => {
                state.enrolment_pending = false;
                state.second_factor_enabled = false;
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
            AccountEvent::ErasureStarted { due_at } => state.erasure_due = Some(due_at),
            AccountEvent::ErasureWithdrawn {} => state.erasure_due = None,
            AccountEvent::Erased { by: _ } => {
                state = AccountState { registered: true, erased: true, ..AccountState::default() };
            }
            AccountEvent::ErasureCompleted { .. } => state.erasure_completed = true,
        }
        state
    }
}

impl AccountId {
    /// Returns the roles that every new account receives.
    #[must_use]
    pub fn initial_roles() -> Vec<RoleName> {
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
        given::<Account>([registered()]).when(confirm()).refused(AccountError::EnrolmentNotStarted);
        given::<Account>([registered(), started()]).when(disable()).refused(AccountError::NoSecondFactor);
        given::<Account>([registered(), started()]).when(confirm()).then([enabled(), issued()]);
        given::<Account>([registered(), started(), enabled(), issued()])
            .when(AccountCommand::UseRecoveryCode)
            .then([AccountEvent::RecoveryCodeUsed { remaining: 9 }]);
        given::<Account>([registered(), started(), enabled(), issued(), started()])
            .when(disable())
            .then([AccountEvent::SecondFactorDisabled { by: Initiator::Owner }]);
        let after = [started(), enabled(), started(), AccountEvent::SecondFactorDisabled { by: Initiator::Admin }];
        given::<Account>([registered()].into_iter().chain(after))
            .when(confirm())
            .refused(AccountError::EnrolmentNotStarted);
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
        given::<Account>([]).when(AccountCommand::VerifyEmail).refused(AccountError::NotFound);
    }

    #[test]
    fn a_role_is_granted_once() {
        let grant = |name| AccountCommand::GrantRole { role: role(name) };
        given::<Account>([registered()]).when(grant("admin")).then([AccountEvent::RoleGranted { role: role("admin") }]);
        given::<Account>([registered(), AccountEvent::RoleGranted { role: role("admin") }])
            .when(grant("admin"))
            .refused(AccountError::RoleAlreadyGranted);
    }

    #[test]
    fn only_a_held_role_is_revoked() {
        let revoke = || AccountCommand::RevokeRole { role: role("admin") };
        given::<Account>([registered()]).when(revoke()).refused(AccountError::RoleNotGranted);
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
            .when(change(PasswordChangeCause::Reported))
            .then([AccountEvent::PasswordChanged { how: PasswordChangeCause::Reported }]);
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
        let except_session = Some(SessionId(uuid::Uuid::from_u128(7)));
        let revoke = || AccountCommand::RevokeSessions { by: RevocationCause::Owner, except_session };
        let revoked = || AccountEvent::SessionsRevoked { by: RevocationCause::Owner, except_session };
        given::<Account>([]).when(revoke()).refused(AccountError::NotFound);
        given::<Account>([registered()]).when(revoke()).then([revoked()]);
        given::<Account>([registered(), revoked()]).when(revoke()).then([revoked()]);
    }

    #[test]
    fn an_erasure_is_withdrawn_while_it_is_not_carried_out() {
        let due_at = DateTime::UNIX_EPOCH;
        let started = || AccountEvent::ErasureStarted { due_at };
        let start = || AccountCommand::StartErasure { due_at };
        given::<Account>([registered()]).when(start()).then([started()]);
        // The time that was said first remains.
        given::<Account>([registered(), started()]).when(start()).then([]);
        given::<Account>([registered(), AccountEvent::Suspended {}]).when(start()).refused(AccountError::Suspended);
        given::<Account>([registered(), started()])
            .when(AccountCommand::WithdrawErasure)
            .then([AccountEvent::ErasureWithdrawn {}]);
        given::<Account>([registered(), started(), AccountEvent::ErasureWithdrawn {}])
            .when(AccountCommand::WithdrawErasure)
            .refused(AccountError::ErasureNotStarted);
    }

    #[test]
    fn an_erased_account_has_nothing_and_nothing_happens_to_it() {
        let erase = || AccountCommand::Erase { by: Initiator::Admin };
        let sessions = || AccountEvent::SessionsRevoked { by: RevocationCause::Erasure, except_session: None };
        let erased = || AccountEvent::Erased { by: Initiator::Admin };
        let granted = || AccountEvent::RoleGranted { role: role("admin") };
        given::<Account>([registered(), granted(), AccountEvent::Suspended {}]).when(erase()).then([
            AccountEvent::RoleRevoked { role: role("admin") },
            sessions(),
            erased(),
        ]);
        for command in [
            erase(),
            AccountCommand::Register { roles: vec![] },
            AccountCommand::ChangeProfile,
            AccountCommand::ChangePassword { how: PasswordChangeCause::Reported },
            AccountCommand::ExpirePassword,
            AccountCommand::StartEnrolment,
            AccountCommand::UseRecoveryCode,
            AccountCommand::GrantRole { role: role("admin") },
            AccountCommand::VerifyEmail,
            AccountCommand::Suspend,
            AccountCommand::Reinstate,
            AccountCommand::RevokeSessions { by: RevocationCause::Admin, except_session: None },
            AccountCommand::StartErasure { due_at: DateTime::UNIX_EPOCH },
            AccountCommand::WithdrawErasure,
        ] {
            let refusal = match command {
                AccountCommand::Register { .. } => AccountError::AlreadyRegistered,
                _ => AccountError::Erased,
            };
            given::<Account>([registered(), granted(), erased()]).when(command).refused(refusal);
        }
        let complete = || AccountCommand::CompleteErasure {
            destroyed: DestroyedData::default(),
            wrapping_key: Some("default".to_owned()),
            log_switched: true,
            copies: CopyHolders::default(),
        };
        let completed = || AccountEvent::ErasureCompleted {
            destroyed: DestroyedData::default(),
            wrapping_key: Some("default".to_owned()),
            log_switched: true,
            copies: CopyHolders::default(),
        };
        given::<Account>([registered()]).when(complete()).refused(AccountError::ErasureNotStarted);
        given::<Account>([registered(), erased()]).when(complete()).then([completed()]);
        given::<Account>([registered(), erased(), completed()]).when(complete()).then([]);
    }

    #[test]
    fn nothing_happens_to_an_account_that_was_never_registered() {
        given::<Account>([])
            .when(AccountCommand::ChangePassword { how: PasswordChangeCause::Owner })
            .refused(AccountError::NotFound);
        given::<Account>([]).when(AccountCommand::GrantRole { role: role("admin") }).refused(AccountError::NotFound);
        given::<Account>([]).when(AccountCommand::RevokeRole { role: role("admin") }).refused(AccountError::NotFound);
    }
}
