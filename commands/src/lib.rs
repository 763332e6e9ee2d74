//! Makes things happen. [`Commands`] has one method per use case, named like the command: it gathers facts, asks the
//! domain, appends to the log. Secrets live here, in the vault, and go nowhere else.
//!
//! It knows nothing of HTTP, and nothing of what readers see.

mod accounts;
mod administration;
pub mod api_keys;
mod attempt_queues;
mod attempts;
mod challenge;
pub mod context;
mod devices;
mod error;
mod execute;
mod lockdown;
pub mod log;
mod login;
mod mail;
pub mod password_hash;
mod policy;
mod rate_limit;
mod recovery;
mod refresh;
mod refresh_token;
mod retention;
mod roles;
mod second_factor;
mod session_ends;
mod sessions;
mod sign_out;
mod step_up;
pub mod token;
pub mod vault;

use std::sync::Arc;
use std::time::Instant;

use fulexo_domain::policy::{InForce, Policy};
use fulexo_domain::values::Epoch;
use sqlx::PgPool;
use tokio::sync::{Notify, watch};

pub use self::accounts::{Member, NewAccount, NewMember, Owner, Profile};
pub use self::challenge::{Challenged, HalfWay, Purpose};
pub use self::devices::KnownDevice;
pub use self::error::{CommandError, is_unavailable};
pub use self::login::{Credentials, LoggedIn};
pub use self::mail::{MailKind, Outgoing};
pub use self::rate_limit::{Budget, Payer, SharedCount, Violation};
pub use self::retention::{Retention, Swept};
pub use self::second_factor::{Enrolment, RecoveryCodes};
pub use self::sessions::Tokens;
pub use self::step_up::Evidence;
use crate::attempt_queues::AttemptQueues;
use crate::log::EventLog;
use crate::password_hash::{Party, PasswordHasher};
use crate::token::KeyRing;
use crate::vault::Vault;

/// Every use case that changes something.
pub struct Commands {
    pool: PgPool,
    log: EventLog,
    vault: Vault,
    hasher: PasswordHasher,
    keys: KeyRing,
    first_policy: Policy,
    policy: Arc<InForce>,
    is_current: IsCurrent,
    epoch: Epoch,
    pulse: Pulse,
    mails: bool,
    /// Woken when sessions were taken away whose ends are not recorded yet.
    ends_due: Notify,
    budget: Option<Arc<dyn Budget>>,
    attempt_queues: Arc<AttemptQueues>,
}

/// Whether this node follows the log closely enough to believe its memory; given by the composition root.
pub type IsCurrent = Arc<dyn Fn() -> bool + Send + Sync>;

/// When the database last acknowledged a commit; nothing where nobody looks.
pub type Pulse = watch::Sender<Option<Instant>>;

/// What a command gave, and where in the log it stands: a reader that asks for this position sees it.
pub struct Done<T> {
    /// What it gave.
    pub value: T,
    /// The position of its last event, when it recorded any.
    pub position: Option<u64>,
}

impl<T> Done<T> {
    /// The same, of what it gave.
    fn map<U>(self, change: impl FnOnce(T) -> U) -> Done<U> {
        Done { value: change(self.value), position: self.position }
    }
}

impl Commands {
    /// Puts the write side together. `first_policy` is in force until an event says otherwise; `policy` is the one that is,
    /// as long as this node `is_current`. Tokens are issued in the log's `epoch`.
    #[must_use]
    pub fn new(
        pool: PgPool,
        log: EventLog,
        vault: Vault,
        hasher: PasswordHasher,
        keys: KeyRing,
        first_policy: Policy,
        policy: Arc<InForce>,
        is_current: IsCurrent,
        epoch: Epoch,
    ) -> Self {
        Self {
            pool,
            log,
            vault,
            hasher,
            keys,
            first_policy,
            policy,
            is_current,
            epoch,
            pulse: Pulse::default(),
            mails: false,
            ends_due: Notify::new(),
            budget: None,
            attempt_queues: Arc::default(),
        }
    }

    /// Of a node that looks several times a second whether commits are acknowledged.
    #[must_use]
    pub fn with_pulse(self, pulse: Pulse) -> Self {
        Self { pulse, ..self }
    }

    /// With mail to the owners of accounts, which somebody has to send ([`Commands::next_mail`]).
    #[must_use]
    pub fn with_mail(self, mails: bool) -> Self {
        Self { mails, ..self }
    }

    /// With quotas of what commands spend.
    #[must_use]
    pub fn with_budget(self, budget: Option<Arc<dyn Budget>>) -> Self {
        Self { budget, ..self }
    }

    /// How many places of the hashing pool are taken for an address, or for an account.
    #[must_use]
    pub fn places_held(&self, party: Party) -> usize {
        self.hasher.held(party)
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
    pub fn policy(&self) -> Arc<Policy> {
        self.policy.get()
    }
}
