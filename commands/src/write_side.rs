//! The parts that every command works with.

use std::sync::Arc;
use std::time::Instant;

use fulexo_domain::account::AccountState;
use fulexo_domain::policy::{ActivePolicy, Policy};
use fulexo_domain::snapshot::AccountSnapshot;
use fulexo_domain::values::{AccountId, Epoch};
use sqlx::PgPool;
use tokio::sync::{Notify, watch};

use crate::authentication::attempt_queues::AttemptQueues;
use crate::authentication::password_hash::PasswordHasher;
use crate::context::Context;
use crate::error::CommandError;
use crate::log::{EventLog, LoadedStream};
use crate::quotas::CommandQuotas;
use crate::sessions::access_token::KeyRing;
use crate::unit_of_work::UnitOfWork;
use crate::vault::Vault;

/// The parts of a node's write side, as its composition root supplies them to [`Commands`](crate::Commands).
pub struct WriteSide {
    /// The database pool that commands use for the log, the vault and the access tables.
    pub pool: PgPool,
    /// The log that commands append to.
    pub log: EventLog,
    /// The vault.
    pub vault: Vault,
    /// The threads that hash passwords.
    pub hasher: PasswordHasher,
    /// The keys that sign access tokens, and verify them.
    pub keys: KeyRing,
    /// The policy in force until the log contains a policy event.
    pub first_policy: Policy,
    /// The policy in force, as far as this node has followed the log.
    pub policy: Arc<ActivePolicy>,
    /// Returns `true` if this node has followed the log far enough to use `policy` and the rest of its memory.
    pub is_current: FreshnessCheck,
    /// The epoch of the log. Tokens are issued in it.
    pub epoch: Epoch,
    /// The time of the last commit that the database acknowledged. The registry of nodes reads it.
    pub commit_heartbeat: CommitHeartbeat,
    /// `true` if the owners of accounts receive mail. A worker has to send it:
    /// [`Commands::next_mail`](crate::Commands::next_mail).
    pub sends_mail: bool,
    /// The quotas that commands spend; `None` without limits.
    pub quotas: Option<Arc<dyn CommandQuotas>>,
    /// The in-memory queues of this node.
    pub queues: NodeQueues,
}

/// The in-memory queues of a node, which are lost with it. A node starts with `NodeQueues::default()`.
#[derive(Default)]
pub struct NodeQueues {
    /// Notified when sessions were revoked whose ends are not recorded yet.
    pub(crate) ends_due: Notify,
    /// Notified when an account was erased of which something is left to delete.
    pub(crate) erasures: Notify,
    /// The attempts that wait for earlier ones on the same counter.
    pub(crate) attempts: Arc<AttemptQueues>,
}

/// Returns `true` if this node follows the log closely enough to trust its memory. The composition root supplies it.
pub type FreshnessCheck = Arc<dyn Fn() -> bool + Send + Sync>;

/// The time of the last commit that the database acknowledged; `None` if nothing measures it.
pub type CommitHeartbeat = watch::Sender<Option<Instant>>;

impl WriteSide {
    /// Returns the policy in force, from memory.
    pub(crate) fn policy(&self) -> Arc<Policy> {
        self.policy.get()
    }

    /// Starts a unit of work of this request, under the policy in force.
    pub(crate) fn unit_of_work<'a>(&self, context: &'a Context) -> UnitOfWork<'a> {
        UnitOfWork::new(context, self.policy().version)
    }

    /// Returns the policy in force. A node that does not follow the log closely asks the database.
    pub(crate) async fn current_policy(&self) -> Result<Arc<Policy>, CommandError> {
        if !(self.is_current)() {
            let text = sqlx::query_scalar!("select policy from access.policy").fetch_optional(&self.pool).await?;
            if let Some(text) = text {
                self.policy.update(&serde_json::from_str(&text)?);
            }
        }
        Ok(self.policy())
    }

    /// Returns the state of an account in the log, and its version.
    pub(crate) async fn account_state(&self, account: AccountId) -> Result<(AccountState, u64), CommandError> {
        let loaded = self.account(account).await?;
        Ok((loaded.snapshot.state, loaded.version))
    }

    /// Returns an account as the log has it.
    pub(crate) async fn account(&self, account: AccountId) -> Result<LoadedStream<AccountSnapshot>, CommandError> {
        Ok(self.log.snapshot(account.0).await?)
    }
}
