//! Why a command left no trace. A refusal that is recorded, such as a wrong password, is an outcome and not here.

use fulexo_domain::account::AccountError;
use fulexo_domain::api_key::ApiKeyError;
use fulexo_domain::leaf::LeafError;
use fulexo_domain::lockdown::LockdownError;
use fulexo_domain::password::Violation;
use fulexo_domain::policy::PolicyError;
use fulexo_domain::rate_limit::Spent;
use fulexo_domain::role::RoleError;
use fulexo_domain::session::SessionError;

use crate::log::{AppendError, ReadError};
use crate::vault::VaultError;

/// Why a command did nothing.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// Unknown, wrong, locked: the caller is told no more than this.
    #[error("the credentials are not valid")]
    InvalidCredentials,
    /// Another account has this e-mail address.
    #[error("the e-mail address is taken")]
    EmailTaken,
    /// The password breaks these rules.
    #[error("the password breaks the policy")]
    Password(Vec<Violation>),
    /// The account says no.
    #[error(transparent)]
    Account(#[from] AccountError),
    /// The session says no.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The role says no.
    #[error(transparent)]
    Role(#[from] RoleError),
    /// The policy says no.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The API key says no.
    #[error(transparent)]
    ApiKey(#[from] ApiKeyError),
    /// The lockdown says no.
    #[error(transparent)]
    Lockdown(#[from] LockdownError),
    /// A lockdown keeps out everybody who does not respond.
    #[error("there is a lockdown")]
    LockedDown,
    /// Nobody grants, takes away or overrules what they do not hold.
    #[error("this takes somebody who holds all the permissions concerned")]
    GrantExceedsOwn,
    /// Accounts hold the role.
    #[error("accounts hold the role")]
    RoleInUse,
    /// An API key ends in the future, and within a year.
    #[error("an API key must end in the future, and within a year")]
    ApiKeyLife,
    /// There is no room for more of these.
    #[error("there are too many of these already")]
    TooMany,
    /// The account knows no such device.
    #[error("the account knows no such device")]
    NoSuchDevice,
    /// The code is not, or no longer, the one that is asked for.
    #[error("the code is not valid")]
    WrongCode,
    /// A role of the account requires a second factor.
    #[error("a role of the account requires a second factor")]
    SecondFactorRequired,
    /// Nobody would be left who may grant roles.
    #[error("this is the last account in use that may grant roles")]
    LastAdministrator,
    /// The idempotency key was used for another request.
    #[error("the idempotency key was used for another request")]
    IdempotencyKeyReused,
    /// What the command handed out is not handed out again: it is too long ago, or the factors that earned it have changed.
    #[error("the outcome is no longer disclosed")]
    OutcomeExpired,
    /// The account has a second factor, and a password alone does not do.
    #[error("a code of the second factor is required")]
    CodeRequired,
    /// Others kept changing the same thing.
    #[error("too many concurrent changes of the same thing")]
    Contended,
    /// A quota is spent: come back when there is room.
    #[error("a quota is spent")]
    QuotaSpent(Box<Spent>),
    /// Too much to do: come back later.
    #[error("too many requests are waiting")]
    Overloaded,
    /// The log cannot be reached: come back later.
    #[error("the log cannot be reached")]
    Unavailable,
    /// Something is broken; the text is for the log.
    #[error("{0}")]
    Internal(String),
}

impl From<AppendError> for CommandError {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Conflict { .. } | AppendError::Overtaken => Self::Contended,
            AppendError::KeyTaken { scope: "email" } => Self::EmailTaken,
            AppendError::CommandReused => Self::IdempotencyKeyReused,
            AppendError::Overloaded => Self::Overloaded,
            // The sequencer says so in the log.
            AppendError::Unavailable | AppendError::ClockAhead => Self::Unavailable,
            AppendError::KeyTaken { .. } | AppendError::Rejected(_) | AppendError::TooLarge => {
                Self::Internal(error.to_string())
            }
        }
    }
}

/// Whether the database is not there, or is about to go or come: trying again may help. Everything else is a bug.
#[must_use]
pub fn is_unavailable(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::WorkerCrashed
        // A proxy whose server is gone closes what it has just accepted, which the driver takes for an answer to its
        // question about TLS.
        | sqlx::Error::Protocol(_) => true,
        // PostgreSQL's documentation, appendix A: connection, resources, intervention; a standby that was the primary; a
        // transaction that was silent for too long.
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            ["25006", "25P03"].contains(&&*code) || ["08", "53", "57"].iter().any(|class| code.starts_with(class))
        }),
        _ => false,
    }
}

impl From<sqlx::Error> for CommandError {
    fn from(error: sqlx::Error) -> Self {
        if is_unavailable(&error) { Self::Unavailable } else { Self::Internal(error.to_string()) }
    }
}

impl From<ReadError> for CommandError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Database(error) => error.into(),
            ReadError::Leaf(error) => error.into(),
            ReadError::Altered { .. } => Self::Internal(error.to_string()),
        }
    }
}

impl From<VaultError> for CommandError {
    fn from(error: VaultError) -> Self {
        match error {
            VaultError::Database(error) => error.into(),
            VaultError::WrongKey(_) | VaultError::NoKey | VaultError::Unopenable(_) | VaultError::NoRandomness(_) => {
                Self::Internal(error.to_string())
            }
        }
    }
}

impl From<crate::vault::RandomnessError> for CommandError {
    fn from(error: crate::vault::RandomnessError) -> Self {
        Self::Internal(error.to_string())
    }
}

impl From<crate::vault::UnsealError> for CommandError {
    fn from(error: crate::vault::UnsealError) -> Self {
        Self::Internal(error.to_string())
    }
}

impl From<LeafError> for CommandError {
    fn from(error: LeafError) -> Self {
        Self::Internal(error.to_string())
    }
}

impl From<serde_json::Error> for CommandError {
    fn from(error: serde_json::Error) -> Self {
        Self::Internal(error.to_string())
    }
}
