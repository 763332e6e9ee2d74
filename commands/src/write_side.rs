//! The parts that every command works with.

use std::sync::Arc;
use std::time::Instant;

use fulexo_domain::account::AccountState;
use fulexo_domain::policy::{InForce, Policy};
use fulexo_domain::record::AccountRecord;
use fulexo_domain::values::{AccountId, Epoch};
use sqlx::PgPool;
use tokio::sync::{Notify, watch};

use crate::authentication::attempt_queues::AttemptQueues;
use crate::authentication::password_hash::PasswordHasher;
use crate::budget::Budget;
use crate::context::Context;
use crate::error::CommandError;
use crate::log::EventLog;
use crate::sessions::access_token::KeyRing;
use crate::unit::Unit;
use crate::vault::Vault;

/// The write side of this node: the log, the vault, keys, threads that hash, and what its composition root says of the node.
pub struct WriteSide {
    pub(crate) pool: PgPool,
    pub(crate) log: EventLog,
    pub(crate) vault: Vault,
    pub(crate) hasher: PasswordHasher,
    pub(crate) keys: KeyRing,
    pub(crate) first_policy: Policy,
    pub(crate) policy: Arc<InForce>,
    pub(crate) is_current: IsCurrent,
    pub(crate) epoch: Epoch,
    pub(crate) pulse: Pulse,
    pub(crate) mails: bool,
    /// Woken when sessions were taken away whose ends are not recorded yet.
    pub(crate) ends_due: Notify,
    pub(crate) budget: Option<Arc<dyn Budget>>,
    pub(crate) attempt_queues: Arc<AttemptQueues>,
}

/// Whether this node follows the log closely enough to believe its memory; given by the composition root.
pub type IsCurrent = Arc<dyn Fn() -> bool + Send + Sync>;

/// When the database last acknowledged a commit; nothing where nobody looks.
pub type Pulse = watch::Sender<Option<Instant>>;

impl WriteSide {
    /// The policy in force.
    pub(crate) fn policy(&self) -> Arc<Policy> {
        self.policy.get()
    }

    /// An append of this request, under the policy in force.
    pub(crate) fn unit<'a>(&self, context: &'a Context) -> Unit<'a> {
        Unit::new(context, self.policy().version)
    }

    /// The policy in force, also on a node that cannot follow the log: that one asks the database.
    pub(crate) async fn current_policy(&self) -> Result<Arc<Policy>, CommandError> {
        if !(self.is_current)() {
            let text = sqlx::query_scalar!("select policy from access.policy").fetch_optional(&self.pool).await?;
            if let Some(text) = text {
                self.policy.learn(&serde_json::from_str(&text)?);
            }
        }
        Ok(self.policy())
    }

    /// An account as the log has it, and its version.
    pub(crate) async fn account_state(&self, account: AccountId) -> Result<(AccountState, u64), CommandError> {
        let loaded = self.log.record::<AccountRecord>(account.0).await?;
        Ok((loaded.record.state, loaded.version))
    }
}
