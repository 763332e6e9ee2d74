//! The reasons for which a command recorded nothing. A refusal that is recorded, such as a wrong password, is an
//! outcome and not listed here.

use std::error::Error;

use fulexo_database::DatabaseFailure;
use fulexo_domain::account::AccountError;
use fulexo_domain::api_key::ApiKeyError;
use fulexo_domain::incident::IncidentError;
use fulexo_domain::leaf::LeafError;
use fulexo_domain::lockdown::LockdownError;
use fulexo_domain::password::PasswordViolation;
use fulexo_domain::policy::PolicyError;
use fulexo_domain::rate_limit::QuotaExceeded;
use fulexo_domain::role::RoleError;
use fulexo_domain::session::SessionError;

use crate::authentication::password_hash::PoolFull;
use crate::log::{AppendError, ReadError};
use crate::vault::{RandomnessError, UnsealError, VaultError};

/// The reason for which a command did nothing.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The credentials are unknown, wrong or locked; the caller is not told which.
    #[error("the credentials are not valid")]
    InvalidCredentials,
    /// Another account has this e-mail address.
    #[error("the e-mail address is taken")]
    EmailTaken,
    /// The password violates these rules.
    #[error("the password violates the policy")]
    Password(Vec<PasswordViolation>),
    /// The account refuses.
    #[error(transparent)]
    Account(#[from] AccountError),
    /// The session refuses.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The role refuses.
    #[error(transparent)]
    Role(#[from] RoleError),
    /// The policy refuses.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The API key refuses.
    #[error(transparent)]
    ApiKey(#[from] ApiKeyError),
    /// The lockdown refuses.
    #[error(transparent)]
    Lockdown(#[from] LockdownError),
    /// The incident refuses.
    #[error(transparent)]
    Incident(#[from] IncidentError),
    /// The owner of an incident must be an account.
    #[error("the owner of an incident must be an account")]
    NoSuchOwner,
    /// A lockdown excludes everybody who does not respond to it.
    #[error("a lockdown is in force")]
    LockedDown,
    /// A caller may grant, revoke or overrule only permissions that they hold themselves.
    #[error("the caller does not hold every permission involved")]
    GrantExceedsOwn,
    /// Accounts still hold the role.
    #[error("accounts still hold the role")]
    RoleInUse,
    /// The expiry of an API key must be in the future, and within a year.
    #[error("the expiry of an API key must be in the future, and within a year")]
    ApiKeyExpiry,
    /// The limit for this kind of object is reached.
    #[error("the limit for this kind of object is reached")]
    LimitReached,
    /// The account does not know the device.
    #[error("the account does not know the device")]
    NoSuchDevice,
    /// The log has no event at the position.
    #[error("the log has no event at the position")]
    NoSuchEvent,
    /// Nothing is sealed alongside the event, or it was destroyed.
    #[error("nothing is sealed alongside the event, or it was destroyed")]
    NothingSealed,
    /// The code is wrong or has expired.
    #[error("the code is not valid")]
    WrongCode,
    /// A role of the account requires a second factor.
    #[error("a role of the account requires a second factor")]
    SecondFactorRequired,
    /// The change would leave no account in use that may grant roles.
    #[error("no other account in use may grant roles")]
    LastAdministrator,
    /// The idempotency key was used for another request.
    #[error("the idempotency key was used for another request")]
    IdempotencyKeyReused,
    /// The command's tokens or secrets are not disclosed again: too much time has passed, or the account's factors have
    /// changed since.
    #[error("the outcome is not disclosed again")]
    OutcomeExpired,
    /// The account has a second factor, so a password alone is not enough.
    #[error("a code of the second factor is required")]
    CodeRequired,
    /// Concurrent changes of the same streams defeated every retry.
    #[error("too many concurrent changes")]
    Conflict,
    /// A quota is exhausted: retry later.
    #[error("a quota is exhausted")]
    QuotaExceeded(Box<QuotaExceeded>),
    /// Too many requests are waiting: retry later.
    #[error("too many requests are waiting")]
    Overloaded,
    /// The log is unreachable: retry later. The cause is for the log, if this command saw it.
    #[error("the log is unreachable")]
    Unavailable(#[source] Option<sqlx::Error>),
    /// An internal error. The cause is for the log.
    #[error(transparent)]
    Internal(Box<dyn Error + Send + Sync>),
}

impl CommandError {
    /// An internal error with this cause.
    pub(crate) fn internal(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Internal(cause.into())
    }
}

impl From<AppendError> for CommandError {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Conflict { .. } | AppendError::PreconditionViolated => Self::Conflict,
            AppendError::KeyTaken { scope: "email" } => Self::EmailTaken,
            AppendError::IdempotencyKeyReused => Self::IdempotencyKeyReused,
            AppendError::Overloaded => Self::Overloaded,
            // One cause fails many appends. The sequencer has already logged it.
            AppendError::Unavailable | AppendError::ClockAhead => Self::Unavailable(None),
            AppendError::KeyTaken { .. } | AppendError::Rejected(_) | AppendError::TooLarge => Self::internal(error),
        }
    }
}

impl From<sqlx::Error> for CommandError {
    fn from(error: sqlx::Error) -> Self {
        if DatabaseFailure::of(&error).is_unavailable() {
            Self::Unavailable(Some(error))
        } else {
            Self::internal(error)
        }
    }
}

impl From<ReadError> for CommandError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Database(error) => error.into(),
            ReadError::Leaf(error) => error.into(),
            ReadError::Altered { .. } => Self::internal(error),
        }
    }
}

impl From<VaultError> for CommandError {
    fn from(error: VaultError) -> Self {
        match error {
            VaultError::Database(error) => error.into(),
            VaultError::WrongKey(_)
            | VaultError::MissingKey(_)
            | VaultError::NoKey
            | VaultError::Unseal(_)
            | VaultError::Randomness(_) => Self::internal(error),
        }
    }
}

impl From<RandomnessError> for CommandError {
    fn from(error: RandomnessError) -> Self {
        Self::internal(error)
    }
}

impl From<UnsealError> for CommandError {
    fn from(error: UnsealError) -> Self {
        Self::internal(error)
    }
}

impl From<LeafError> for CommandError {
    fn from(error: LeafError) -> Self {
        Self::internal(error)
    }
}

impl From<serde_json::Error> for CommandError {
    fn from(error: serde_json::Error) -> Self {
        Self::internal(error)
    }
}

impl From<PoolFull> for CommandError {
    fn from(_: PoolFull) -> Self {
        Self::Overloaded
    }
}

#[cfg(test)]
mod tests {
    use fulexo_database::chain;
    use fulexo_domain::leaf;

    use super::*;

    #[test]
    fn an_error_keeps_its_cause() {
        let unavailable = CommandError::from(sqlx::Error::PoolTimedOut);
        assert!(matches!(unavailable, CommandError::Unavailable(Some(sqlx::Error::PoolTimedOut))));
        let cause = sqlx::Error::PoolTimedOut;
        assert_eq!(chain(&unavailable).to_string(), format!("the log is unreachable: {cause}"));
        let internal = CommandError::from(leaf::decode(4, b"{}").unwrap_err());
        let text = chain(&internal).to_string();
        assert!(text.starts_with("the leaf at position 4 cannot be read: missing field"), "{text}");
    }
}
