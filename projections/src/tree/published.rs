//! The checkpoint that nodes publish. One node at a time publishes the next one.

use chrono::{DateTime, Utc};
use fulexo_database::begin;
use fulexo_domain::checkpoint::CheckpointRefusal;
use sqlx::{PgConnection, PgPool, PgTransaction};

use crate::to_i64;

/// The published checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PublishedCheckpoint {
    /// The number of leaves that it vouches for; 0 before the first one.
    pub size: u64,
    /// The signed note; `None` before the first one.
    pub note: Option<String>,
    /// The public key of the log, as a vkey.
    pub vkey: Option<String>,
    /// The time at which it was published.
    pub published_at: Option<DateTime<Utc>>,
    /// The reason why the signer does not sign the tree as it is now, if it does not.
    pub refused_because: Option<String>,
}

/// A time for which the signer refused to sign the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndedRefusal {
    /// The reason of the last refusal.
    pub reason: CheckpointRefusal,
    /// The time of the first refusal.
    pub started_at: DateTime<Utc>,
    /// The time since which the signer signs again.
    pub ended_at: DateTime<Utc>,
}

/// The right to publish the next checkpoint. Dropping it gives it up.
pub struct PublishingTurn {
    transaction: PgTransaction<'static>,
    /// The checkpoint that the next one follows.
    pub published: PublishedCheckpoint,
}

impl PublishedCheckpoint {
    /// Reads it, and the size of the tree, which may have grown since.
    ///
    /// # Errors
    /// [`sqlx::Error`].
    pub async fn read(pool: &PgPool) -> Result<(Self, u64), sqlx::Error> {
        let row = sqlx::query!(
            "select c.size, c.note, c.vkey, c.published_at, c.refused_because, h.size as tree_size from tree.checkpoint c, tree.head h"
        )
        .fetch_one(pool)
        .await?;
        let published = Self {
            size: row.size.unsigned_abs(),
            note: row.note,
            vkey: row.vkey,
            published_at: row.published_at,
            refused_because: row.refused_because,
        };
        Ok((published, row.tree_size.unsigned_abs()))
    }
}

impl PublishingTurn {
    /// Takes the turn; `None` if another one has it.
    ///
    /// # Errors
    /// [`sqlx::Error`].
    pub async fn take(pool: &PgPool) -> Result<Option<Self>, sqlx::Error> {
        let mut transaction = begin(pool).await?;
        // SKIP LOCKED rather than an advisory lock: the row is free the moment its holder dies.
        let held = sqlx::query!(
            "select size, note, vkey, published_at, refused_because from tree.checkpoint for update skip locked"
        )
        .fetch_optional(&mut *transaction)
        .await?;
        Ok(held.map(|row| Self {
            transaction,
            published: PublishedCheckpoint {
                size: row.size.unsigned_abs(),
                note: row.note,
                vkey: row.vkey,
                published_at: row.published_at,
                refused_because: row.refused_because,
            },
        }))
    }

    /// The connection that holds the turn.
    pub fn connection(&mut self) -> &mut PgConnection {
        &mut self.transaction
    }

    /// Publishes a checkpoint, and returns it.
    ///
    /// # Errors
    /// [`sqlx::Error`].
    pub async fn publish(
        mut self,
        size: u64,
        note: String,
        vkey: String,
        now: DateTime<Utc>,
    ) -> Result<PublishedCheckpoint, sqlx::Error> {
        sqlx::query!(
            "update tree.checkpoint
             set size = $1, note = $2, vkey = $3, published_at = $4, refused_because = null,
                 resumed_at = case when refused_since is not null then coalesce(resumed_at, $4) end",
            to_i64(size),
            note,
            vkey,
            now
        )
        .execute(&mut *self.transaction)
        .await?;
        self.transaction.commit().await?;
        Ok(PublishedCheckpoint {
            size,
            note: Some(note),
            vkey: Some(vkey),
            published_at: Some(now),
            refused_because: None,
        })
    }

    /// Records that the signer refused, for all nodes to see, and for the log to tell once it is over.
    ///
    /// # Errors
    /// [`sqlx::Error`].
    pub async fn refuse(
        mut self,
        because: String,
        refusal: CheckpointRefusal,
        now: DateTime<Utc>,
    ) -> Result<PublishedCheckpoint, sqlx::Error> {
        if self.published.refused_because.as_ref() != Some(&because) {
            sqlx::query!(
                "update tree.checkpoint
                 set refused_because = $1, refusal = $2, refused_since = coalesce(refused_since, $3), resumed_at = null",
                because,
                refusal.as_str(),
                now
            )
            .execute(&mut *self.transaction)
            .await?;
        }
        self.transaction.commit().await?;
        Ok(PublishedCheckpoint { refused_because: Some(because), ..self.published })
    }
}

impl EndedRefusal {
    /// Reads it, if the signer has signed again since before `resumed_by`, and the log does not tell of it yet.
    ///
    /// # Errors
    /// [`sqlx::Error`].
    pub async fn read(pool: &PgPool, resumed_by: DateTime<Utc>) -> Result<Option<Self>, sqlx::Error> {
        let row = sqlx::query!(
            r#"select refusal as "refusal!", refused_since as "refused_since!", resumed_at as "resumed_at!"
               from tree.checkpoint where refused_since is not null and resumed_at <= $1"#,
            resumed_by
        )
        .fetch_optional(pool)
        .await?;
        Ok(row.and_then(|row| {
            let reason = CheckpointRefusal::ALL.into_iter().find(|reason| reason.as_str() == row.refusal)?;
            Some(Self { reason, started_at: row.refused_since, ended_at: row.resumed_at })
        }))
    }

    /// Forgets it, once the log tells of it.
    ///
    /// # Errors
    /// [`sqlx::Error`].
    pub async fn forget(&self, pool: &PgPool) -> Result<(), sqlx::Error> {
        sqlx::query!(
            "update tree.checkpoint set refusal = null, refused_since = null, resumed_at = null
             where refused_since = $1 and resumed_at = $2",
            self.started_at,
            self.ended_at
        )
        .execute(pool)
        .await?;
        Ok(())
    }
}
