//! The parts that all rotations share: one at a time, the wait for other nodes, and what the operator is told.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fulexo_commands::CommandError;
use fulexo_commands::vault::key_epochs::{self, KeyEpoch};
use fulexo_commands::vault::{RandomnessError, VaultError};
use fulexo_domain::key::{KeyLabel, KeyPurpose};
use fulexo_projections::nodes::{NodeHoldings, RegistryUnavailable};
use fulexo_tlog::key::{SignerKeyError, SignerKeyTextError};
use sqlx::Postgres;
use sqlx::pool::PoolConnection;
use tokio::time::sleep;

use super::announcement::is_of;
pub use super::key_file::KeyFileError;
use super::node_keys::NodeKeys;
use crate::config::ConfigErrors;
use crate::signer::SignerError;
use crate::state::App;

/// The key of the advisory lock that one rotation at a time holds: "keys" in ASCII.
const LOCK: i64 = 0x6b65_7973;
/// The pause between two looks at the other nodes.
pub(super) const LOOK: Duration = Duration::from_millis(100);

/// The failure of a rotation. It can be run again, and continues where it was.
#[derive(Debug, thiserror::Error)]
pub enum RotationError {
    /// Another rotation is running.
    #[error("another rotation is running")]
    Running,
    /// No key is in use that could be replaced.
    #[error("no {0} key is in use: start a node first")]
    NothingInUse(&'static str),
    /// There is no file to which a new key could be added, and no new key in the variables.
    #[error("there is no new key: {0}")]
    NoNewKey(&'static str),
    /// Nodes lack the key.
    #[error(
        "these nodes do not have the key {key} yet: {nodes}. Copy {source_name} to their machines, and run this again"
    )]
    Lacking {
        /// The key.
        key: KeyLabel,
        /// The names of the nodes.
        nodes: String,
        /// The file, or the variables.
        source_name: String,
    },
    /// Nodes do not use the key.
    #[error("these nodes do not use the key {key} yet: {nodes}. Run this again")]
    NotUsed {
        /// The key.
        key: KeyLabel,
        /// The names of the nodes.
        nodes: String,
    },
    /// Nodes still have the replaced key.
    #[error(
        "nothing needs the key {key} any more, but it is not destroyed: {nodes} still have it. Remove it from {source_name}, on \
         every machine, and run this again"
    )]
    Kept {
        /// The key.
        key: KeyLabel,
        /// The names of the nodes, or this machine.
        nodes: String,
        /// The file, or the variables.
        source_name: String,
    },
    /// Something still needs the replaced key.
    #[error("keys are still wrapped by {0} that others hold: run this again")]
    StillNeeded(KeyLabel),
    /// The registry of nodes cannot be read.
    #[error(transparent)]
    Registry(#[from] RegistryUnavailable),
    /// The vault failed.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// The database failed.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    /// The event could not be recorded.
    #[error("the change of keys could not be recorded")]
    Record(#[from] CommandError),
    /// A file could not be changed.
    #[error(transparent)]
    File(#[from] KeyFileError),
    /// The keys cannot be read.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// The operating system returned no random bytes.
    #[error(transparent)]
    Randomness(#[from] RandomnessError),
    /// The signer of the log does not answer.
    #[error("the signer does not answer")]
    Signer(#[from] SignerError),
    /// The library made no key of the log.
    #[error(transparent)]
    LogKey(#[from] SignerKeyError),
    /// The file has something else than keys of the log.
    #[error("the file of the log's keys cannot be read")]
    LogKeyText(#[from] SignerKeyTextError),
}

/// A step of a rotation, for the operator.
#[derive(Debug)]
pub enum RotationStep {
    /// Something was done, or is waited for.
    Note(String),
    /// So many of all keys are wrapped again.
    Rewrapped {
        /// The number that is done.
        done: u64,
        /// The number of all.
        all: u64,
    },
}

/// A rotation under way: what it works with, and whom it tells.
pub struct Rotation<'a> {
    pub(super) app: &'a App,
    pub(super) keys: &'a NodeKeys,
    /// The time that other nodes have for each step.
    pub(super) patience: Duration,
    pub(super) tell: &'a mut (dyn FnMut(RotationStep) + Send),
    /// The lock ends with its connection.
    _lock: PoolConnection<Postgres>,
}

impl<'a> Rotation<'a> {
    /// Begins a rotation, if no other one is running on this database.
    ///
    /// # Errors
    /// [`RotationError::Running`].
    pub async fn begin(
        app: &'a App,
        patience: Duration,
        tell: &'a mut (dyn FnMut(RotationStep) + Send),
    ) -> Result<Self, RotationError> {
        let mut lock = app.pool.acquire().await?;
        lock.close_on_drop();
        let is_alone = sqlx::query_scalar!(r#"select pg_try_advisory_lock($1) as "is_alone!""#, LOCK);
        if !is_alone.fetch_one(&mut *lock).await? {
            return Err(RotationError::Running);
        }
        Ok(Self { app, keys: &app.keys, patience, tell, _lock: lock })
    }

    pub(super) fn note(&mut self, text: impl Into<String>) {
        (self.tell)(RotationStep::Note(text.into()));
    }

    /// Returns the lives of the keys of this purpose.
    pub(super) async fn lives(&self, kind: KeyPurpose) -> Result<Vec<KeyEpoch>, sqlx::Error> {
        let lives = key_epochs::list(&self.keys.pool).await?;
        Ok(lives.into_iter().filter(|life| life.kind == kind).collect())
    }

    /// Returns the key in use, and the one to put in its place: one that an interrupted rotation left, or a new one. `None` if an
    /// interrupted rotation has put it in use, and the one before is not destroyed yet. One that was left and is neither on this
    /// machine nor at any node was lost with its file: it is forgotten.
    pub(super) async fn keys_to_exchange(
        &mut self,
        kind: KeyPurpose,
        is_here: impl FnOnce(&Self, &KeyLabel) -> bool,
        new_key: impl FnOnce(&mut Self, &[KeyEpoch]) -> Result<KeyLabel, RotationError>,
    ) -> Result<(KeyLabel, Option<KeyLabel>), RotationError> {
        self.keys.refresh().await?;
        let lives = self.lives(kind).await?;
        let in_use = lives.iter().find(|life| life.is_in_use()).ok_or(RotationError::NothingInUse(kind.as_str()))?;
        let coming = lives.iter().find(|life| life.is_coming());
        let coming = match coming {
            Some(coming) if is_here(self, &coming.id) || self.is_anywhere(kind, &coming.id).await? => Some(coming),
            Some(lost) => {
                self.forget(kind, &lost.id).await?;
                None
            }
            None => None,
        };
        let coming = if let Some(coming) = coming {
            self.note(format!("continuing with the key {}", coming.id));
            Some(coming.id.clone())
        } else if lives.iter().any(KeyEpoch::is_leaving) {
            self.note(format!("continuing: the key {} is in use", in_use.id));
            None
        } else {
            let new = new_key(self, &lives)?;
            key_epochs::add(&self.keys.pool, kind, &new).await?;
            Some(new)
        };
        Ok((in_use.id.clone(), coming))
    }

    /// Returns `true` if a node has announced the key, also one that is down.
    pub(super) async fn is_anywhere(&self, kind: KeyPurpose, id: &KeyLabel) -> Result<bool, RegistryUnavailable> {
        let nodes = self.app.nodes.holdings().await?;
        Ok(nodes.iter().any(|node| node.keys.iter().any(|key| is_of(key, kind, id.as_str()))))
    }

    /// Forgets a key that was to come into use, and is nowhere any more: nothing was ever wrapped or signed with it.
    pub(super) async fn forget(&mut self, kind: KeyPurpose, id: &KeyLabel) -> Result<(), RotationError> {
        if key_epochs::forget(&self.keys.pool, kind, id).await? {
            self.note(format!("the key {id}, which was to come into use, is nowhere any more: it is forgotten"));
        }
        Ok(())
    }

    /// Waits until every node that is up has announced what is asked for. Returns the names of the nodes that have not: those
    /// of `Ok` are down, those of `Err` are up.
    pub(super) async fn announced(
        &self,
        asked: impl Fn(&[String]) -> bool,
    ) -> Result<Result<String, String>, RegistryUnavailable> {
        let began = Instant::now();
        loop {
            let nodes = self.app.nodes.holdings().await?;
            let others: Vec<&NodeHoldings> = nodes.iter().filter(|node| !asked(&node.keys)).collect();
            if others.iter().all(|node| !node.is_up) {
                return Ok(Ok(names(others)));
            }
            if began.elapsed() > self.patience {
                return Ok(Err(names(others.into_iter().filter(|node| node.is_up))));
            }
            sleep(LOOK).await;
        }
    }

    /// Says that nodes are down that may have other keys.
    pub(super) fn mention_down(&mut self, down: &str) {
        if !down.is_empty() {
            self.note(format!("these nodes are down, and are not waited for: {down}"));
        }
    }
}

fn names<'n>(nodes: impl IntoIterator<Item = &'n NodeHoldings>) -> String {
    nodes.into_iter().map(|node| Arc::clone(&node.name)).collect::<Vec<_>>().join(", ")
}
