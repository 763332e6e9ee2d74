//! The keys of a node while it runs: read again each second, put in use when the database says so, and announced to the other
//! nodes.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::TimeDelta;
use fulexo_commands::Commands;
use fulexo_commands::vault::key_epochs::{self, KeyEpoch};
use fulexo_commands::vault::{KeyReload, VaultError};
use fulexo_database::chain;
use fulexo_domain::key::{KeyLabel, KeyPurpose};
use fulexo_projections::nodes::NodeRegistry;
use sqlx::PgPool;
use tokio::sync::watch;
use tokio::time::sleep;

use super::announcement::{holds_encryption, holds_signing, signs_with, wraps_with};
use crate::config::KeySources;

/// The pause between two looks at the keys.
const INTERVAL: Duration = Duration::from_secs(1);

/// The age of a key in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyAge {
    /// The purpose.
    pub kind: KeyPurpose,
    /// The seconds since it came into use.
    pub age: u64,
    /// `true` if it has been in use for longer than an epoch.
    pub is_due: bool,
    /// The number of replaced keys of this purpose that are not destroyed yet.
    pub leaving: u64,
}

/// The keys of this node.
pub struct NodeKeys {
    pub(super) sources: KeySources,
    commands: Arc<Commands>,
    nodes: Arc<NodeRegistry>,
    pub(super) pool: PgPool,
    epoch: TimeDelta,
    lives: watch::Sender<Arc<[KeyEpoch]>>,
    /// The last complaint in the log: each is written once.
    complaint: Mutex<String>,
}

impl NodeKeys {
    /// Takes the keys that `commands` was opened with, as they come from `sources`.
    #[must_use]
    pub fn new(
        sources: KeySources,
        epoch: TimeDelta,
        commands: Arc<Commands>,
        nodes: Arc<NodeRegistry>,
        pool: PgPool,
    ) -> Self {
        let lives = watch::Sender::new(Arc::default());
        Self { sources, commands, nodes, pool, epoch, lives, complaint: Mutex::default() }
    }

    /// Returns the age of each key in use, as this node last read it.
    #[must_use]
    pub fn ages(&self) -> Vec<KeyAge> {
        let lives = self.lives.borrow();
        let in_use = lives.iter().filter(|life| life.is_in_use());
        let age = |life: &KeyEpoch| {
            let age = life.age.and_then(|age| u64::try_from(age).ok()).unwrap_or_default();
            let leaving = lives.iter().filter(|other| other.kind == life.kind && other.is_leaving());
            KeyAge {
                kind: life.kind,
                age,
                is_due: age > self.epoch.num_seconds().unsigned_abs(),
                leaving: u64::try_from(leaving.count()).unwrap_or(u64::MAX),
            }
        };
        in_use.map(age).collect()
    }

    /// Makes the keys known that this node uses, if none is known.
    ///
    /// # Errors
    /// [`sqlx::Error`].
    pub async fn begin(&self) -> Result<(), sqlx::Error> {
        if let Ok(signs) = KeyLabel::parse(&self.commands.keys().signs_with()) {
            key_epochs::begin(&self.pool, KeyPurpose::Signing, &signs).await?;
        }
        Ok(())
    }

    /// Reads keys and their lives again, and announces them. Returns the keys in use that this node lacks.
    ///
    /// # Errors
    /// [`VaultError`]. Then the keys are as before.
    pub async fn refresh(&self) -> Result<Vec<String>, VaultError> {
        let lives = key_epochs::list(&self.pool).await?;
        let mut complaints = Vec::new();
        let mut read =
            |problem: &dyn std::fmt::Display| complaints.push(format!("keys cannot be read again: {problem}"));
        let keks = self.sources.encryption().map_err(|problem| read(&problem)).ok();
        let signing = self.sources.signing().map_err(|problem| read(&problem)).ok();

        let vault = self.commands.vault();
        let wrapping = vault.reload(keks).await?;
        let ring = self.commands.keys();
        let of_signing = || lives.iter().filter(|life| life.kind == KeyPurpose::Signing);
        let in_use = of_signing().find(|life| life.is_in_use()).map(|life| life.id.as_str());
        let distrusted = of_signing().filter(|life| life.is_refused()).map(|life| life.id.as_str());
        let distrusted: Vec<&str> = distrusted.collect();
        let verifying = of_signing().filter(|life| life.first_used_at.is_some() && life.retired_at.is_none());
        let verifying = verifying.filter(|life| !life.is_refused());
        let needed: Vec<&str> = verifying.map(|life| life.id.as_str()).collect();
        let signing = ring.reload(signing, in_use, &needed, &distrusted);
        for KeyReload { kept, missing } in [&wrapping, &signing] {
            complaints
                .extend(kept.iter().map(|id| format!("the key {id:?} is still needed, and no longer configured")));
            complaints
                .extend(missing.iter().map(|id| format!("the key {id:?} is needed, and this node does not have it")));
        }
        self.complain(complaints);

        let mut announced = Vec::new();
        announced.extend(vault.key_checks().into_iter().map(|(id, check)| holds_encryption(&id, &check)));
        announced.push(wraps_with(&vault.wraps_with()));
        announced.extend(ring.key_ids().iter().map(|id| holds_signing(id)));
        announced.push(signs_with(&ring.signs_with()));
        self.nodes.announce_keys(announced);
        let lacks_in_use = lives.iter().filter(|life| life.is_in_use() && life.kind == KeyPurpose::Encryption);
        let lacking = lacks_in_use.map(|life| life.id.to_string()).filter(|id| *id != vault.wraps_with()).collect();
        self.lives.send_replace(lives.into());
        Ok(lacking)
    }

    /// Writes what is wrong with the keys to the log, once.
    fn complain(&self, complaints: Vec<String>) {
        let text = complaints.join("; ");
        let mut last = self.complaint.lock().unwrap_or_else(PoisonError::into_inner);
        if *last != text {
            if !text.is_empty() {
                tracing::error!(reason = %text, "something is wrong with the keys of this node");
            }
            *last = text;
        }
    }

    /// Reads the keys again each second, until cancelled.
    pub async fn run(self: Arc<Self>) {
        loop {
            sleep(INTERVAL).await;
            if let Err(error) = self.refresh().await {
                tracing::warn!(error = %chain(&error), "the lives of keys cannot be read; trying again");
            }
        }
    }
}
