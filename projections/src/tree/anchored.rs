//! The newest checkpoint that enough witnesses have cosigned, and the witnesses as they were found.

use std::time::Duration;

use chrono::{DateTime, Utc};
use fulexo_database::begin;
use sqlx::{PgConnection, PgPool};

use crate::to_i64;

/// A checkpoint that enough witnesses have cosigned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnchoredCheckpoint {
    /// The number of leaves that it vouches for.
    pub size: u64,
    /// The signed note, with the cosignatures.
    pub note: String,
    /// The time at which the last cosignature that was needed arrived.
    pub anchored_at: DateTime<Utc>,
}

/// A witness, as the last round found it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WitnessStatus {
    /// The name in the policy.
    pub name: String,
    /// The size of the checkpoint that it cosigned last; 0 for none.
    pub size: u64,
    /// The time of its last cosignature.
    pub cosigned_at: Option<DateTime<Utc>>,
    /// The reason why it did not cosign in the last round.
    pub failure: Option<String>,
    /// `true` if the witness has seen a larger tree of this log, or another one.
    pub is_contradiction: bool,
}

impl AnchoredCheckpoint {
    /// Reads it, with the witnesses in the order of their names; `None` before the first one.
    ///
    /// # Errors
    /// [`sqlx::Error`].
    pub async fn read(pool: &PgPool) -> Result<(Option<Self>, Vec<WitnessStatus>), sqlx::Error> {
        let mut connection = pool.acquire().await?;
        let row = sqlx::query!("select size, note, anchored_at from tree.anchor").fetch_one(&mut *connection).await?;
        let anchored = row.note.zip(row.anchored_at).map(|(note, anchored_at)| Self {
            size: row.size.unsigned_abs(),
            note,
            anchored_at,
        });
        let rows = sqlx::query!(
            "select name, size, cosigned_at, failure, is_contradiction from tree.witness order by name limit 1000"
        )
        .fetch_all(&mut *connection)
        .await?;
        let witnesses = rows.into_iter().map(|row| WitnessStatus {
            name: row.name,
            size: row.size.unsigned_abs(),
            cosigned_at: row.cosigned_at,
            failure: row.failure,
            is_contradiction: row.is_contradiction,
        });
        Ok((anchored, witnesses.collect()))
    }

    /// Takes the next round of questions to witnesses. `false` if it is not due yet, or another node has taken it.
    ///
    /// # Errors
    /// [`sqlx::Error`].
    pub async fn take_round(pool: &PgPool, interval: Duration) -> Result<bool, sqlx::Error> {
        // By the clock of the database alone. A clock that was set back does not stop the rounds.
        let taken = sqlx::query!(
            "update tree.anchor set next_round_at = clock_timestamp() + make_interval(secs => $1)
             where next_round_at <= clock_timestamp()
                or next_round_at > clock_timestamp() + make_interval(secs => $1)",
            interval.as_secs_f64()
        )
        .execute(pool)
        .await?;
        Ok(taken.rows_affected() == 1)
    }

    /// Puts it in the place of an older one; of a larger one, too, if that `is_invalid`.
    ///
    /// # Errors
    /// [`sqlx::Error`].
    pub async fn publish(&self, pool: &PgPool, is_invalid: bool) -> Result<(), sqlx::Error> {
        let mut transaction = begin(pool).await?;
        sqlx::query!(
            "update tree.anchor set size = $1, note = $2, anchored_at = $3 where size <= $1 or $4",
            to_i64(self.size),
            self.note,
            self.anchored_at,
            is_invalid
        )
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await
    }
}

impl WitnessStatus {
    /// Writes what a round has found.
    ///
    /// # Errors
    /// [`sqlx::Error`].
    pub async fn write(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        sqlx::query!(
            "insert into tree.witness (name, size, cosigned_at, failure, is_contradiction) values ($1, $2, $3, $4, $5)
             on conflict (name) do update
             set size = $2, cosigned_at = $3, failure = $4, is_contradiction = $5",
            self.name,
            to_i64(self.size),
            self.cosigned_at,
            self.failure,
            self.is_contradiction
        )
        .execute(connection)
        .await?;
        Ok(())
    }
}
