//! Makes things happen. [`Commands`] has one method per use case, named like the command: it gathers facts, asks the
//! domain, appends to the log. Secrets live here, in the vault, and go nowhere else.
//!
//! It knows nothing of HTTP, and nothing of what readers see.

mod accounts;
mod administration;
mod attempts;
pub mod context;
mod error;
mod execute;
pub mod log;
mod login;
pub mod password_hash;
mod refresh_token;
mod retention;
mod roles;
mod sessions;
mod step_up;
pub mod token;
pub mod vault;

use fulexo_domain::policy::Policy;
use sqlx::PgPool;

pub use self::accounts::{NewAccount, Profile};
pub use self::error::CommandError;
pub use self::login::Credentials;
pub use self::retention::{Retention, Swept};
pub use self::sessions::Tokens;
use crate::log::EventLog;
use crate::password_hash::PasswordHasher;
use crate::token::KeyRing;
use crate::vault::Vault;

/// Every use case that changes something.
pub struct Commands {
    pool: PgPool,
    log: EventLog,
    vault: Vault,
    hasher: PasswordHasher,
    keys: KeyRing,
    policy: Policy,
}

/// What a command gave, and where in the log it stands: a reader that asks for this position sees it.
pub struct Done<T> {
    /// What it gave.
    pub value: T,
    /// The position of its last event, when it recorded any.
    pub position: Option<u64>,
}

impl Commands {
    /// Puts the write side together.
    #[must_use]
    pub const fn new(
        pool: PgPool,
        log: EventLog,
        vault: Vault,
        hasher: PasswordHasher,
        keys: KeyRing,
        policy: Policy,
    ) -> Self {
        Self { pool, log, vault, hasher, keys, policy }
    }

    /// The log itself, for those who read it.
    #[must_use]
    pub const fn log(&self) -> &EventLog {
        &self.log
    }

    /// The vault, for those who may open what is sealed.
    #[must_use]
    pub const fn vault(&self) -> &Vault {
        &self.vault
    }

    /// The keys that access tokens are verified with.
    #[must_use]
    pub const fn keys(&self) -> &KeyRing {
        &self.keys
    }

    /// The policy in force.
    #[must_use]
    pub const fn policy(&self) -> &Policy {
        &self.policy
    }
}
