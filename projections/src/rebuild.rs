//! A projection made again from the log, in one transaction: readers see the old view until the new one is whole, and
//! an interrupted rebuild leaves everything as it was. The worker waits meanwhile, and goes on from where it ends.

use sqlx::PgPool;

use crate::feed::{self, FeedError, Replay};
use crate::projection::{self, Fingerprint, Projection};
use crate::to_i64;

/// What a rebuild came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rebuilt {
    /// Events applied, from position 0.
    pub events: u64,
    /// The view before, as far as it had got.
    pub before: Fingerprint,
    /// The view after, at the position where the one before had stopped.
    pub at_same_position: Fingerprint,
}

impl Rebuilt {
    /// Whether the log says the same as the view said.
    #[must_use]
    pub fn is_same(&self) -> bool {
        self.before == self.at_same_position
    }
}

/// Rebuilds, telling `progress` how many events of how many are applied.
///
/// # Errors
/// [`FeedError`]; then nothing has changed.
pub async fn rebuild(
    pool: &PgPool,
    projection: Projection,
    mut progress: impl FnMut(u64, u64),
) -> Result<Rebuilt, FeedError> {
    let name = projection.as_str();
    let mut transaction = pool.begin().await?;
    projection::use_schema(&mut transaction, "read").await?;
    // The bounds that requests work under are not for this.
    sqlx::query!(
        "select set_config('statement_timeout', '0', true) as statement,
                set_config('idle_in_transaction_session_timeout', '0', true) as idle"
    )
    .fetch_one(&mut *transaction)
    .await?;
    let checkpoint = sqlx::query_scalar!("select position from projection.checkpoint where name = $1 for update", name)
        .fetch_one(&mut *transaction)
        .await?
        .unsigned_abs();
    let before = projection.fingerprint(&mut transaction).await?;
    projection.clear(&mut transaction).await?;
    let mut at_same_position = projection.fingerprint(&mut transaction).await?;
    let size = feed::size(&mut transaction).await?;
    // In two stretches, so that like is compared with like: the view before had got as far as its checkpoint.
    let mut position = 0;
    for stretch in [0..checkpoint, checkpoint..size] {
        let mut replay = Replay::over(pool, stretch);
        while let Some(events) = replay.next().await? {
            projection.apply(&mut transaction, &events).await?;
            position += events.len() as u64;
            progress(position, size);
        }
        if position == checkpoint {
            at_same_position = projection.fingerprint(&mut transaction).await?;
        }
    }
    sqlx::query!(
        "update projection.checkpoint set position = $2, stopped_because = null, updated_at = now() where name = $1",
        name,
        to_i64(position)
    )
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(Rebuilt { events: position, before, at_same_position })
}
