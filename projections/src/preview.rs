//! The recorded attempts, replayed under another lockout policy. It reads the leaves themselves, each checked against
//! its hash, and so is never behind the log.

use chrono::{DateTime, Utc};
use fulexo_domain::event::Recorded;
use fulexo_domain::policy::LockoutPolicy;
use fulexo_domain::preview::{Found, Preview};
use sqlx::PgPool;
use tokio::task::JoinHandle;

use crate::feed::{self, FeedError, Row};
use crate::to_i64;

/// Events read at once.
const BATCH: i64 = 4_000;

/// What the policy would have done to the attempts recorded at or after `from`. At most `most` events are replayed, from the oldest on; `None` when there are more.
///
/// # Errors
/// [`FeedError`].
pub async fn replay(
    pool: &PgPool,
    policy: LockoutPolicy,
    from: DateTime<Utc>,
    most: u64,
    listed: usize,
) -> Result<Option<Found>, FeedError> {
    let mut preview = Preview::new(policy, listed);
    let mut replayed = 0;
    // While one batch is counted, the next is on its way.
    let mut next = begin(pool, from).await?;
    let mut ahead = fetch(pool, next);
    loop {
        let events = ahead.await.map_err(|_| FeedError::Gap { position: next })??;
        let Some(last) = events.last() else { return Ok(Some(preview.finish())) };
        next = last.position + 1;
        ahead = fetch(pool, next);
        replayed += events.len() as u64;
        if replayed > most {
            ahead.abort();
            return Ok(None);
        }
        events.iter().for_each(|event| preview.observe(event));
    }
}

/// Where the events recorded at or after `from` begin. Times never go back in the log, so a few looks at it do.
async fn begin(pool: &PgPool, from: DateTime<Utc>) -> Result<u64, FeedError> {
    let mut connection = pool.acquire().await?;
    let (mut least, mut most) = (0, feed::size(&mut connection).await?);
    while least < most {
        let middle = u64::midpoint(least, most);
        let event = feed::read(&mut connection, middle, 1).await?;
        let event = event.first().ok_or(FeedError::Gap { position: middle })?;
        if event.recorded_at < from { least = middle + 1 } else { most = middle }
    }
    Ok(least)
}

fn fetch(pool: &PgPool, from: u64) -> JoinHandle<Result<Vec<Recorded>, FeedError>> {
    let pool = pool.clone();
    tokio::spawn(async move {
        let rows = sqlx::query_as!(
            Row,
            "select position, stream_id, category, version, leaf, leaf_hash from log.event
             where position >= $1 and category = 'authentication' order by position limit $2",
            to_i64(from),
            BATCH
        )
        .fetch_all(&pool)
        .await?;
        rows.iter().map(|row| row.verify(row.position.unsigned_abs())).collect()
    })
}
