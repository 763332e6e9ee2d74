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

/// Positions looked at in one read. A stretch of positions, not a number of attempts: so it is one walk of the primary
/// key, whatever the planner believes of the table.
const STRETCH: u64 = 4_000;

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
    let (mut next, end) = (begin(pool, from).await?, feed::size(&mut *pool.acquire().await?).await?);
    let mut ahead = fetch(pool, next);
    while next < end {
        let events = ahead.await.map_err(|_| FeedError::Gap { position: next })??;
        next += STRETCH;
        ahead = fetch(pool, next);
        replayed += events.len() as u64;
        if replayed > most {
            break;
        }
        events.iter().for_each(|event| preview.observe(event));
        if let Some(last) = events.last()
            && preview.tidy(last.recorded_at).is_err()
        {
            ahead.abort();
            return Ok(None);
        }
    }
    ahead.abort();
    Ok((replayed <= most).then(|| preview.finish()))
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
             where position >= $1 and position < $2 and category = 'authentication' order by position",
            to_i64(from),
            to_i64(from + STRETCH)
        )
        .fetch_all(&pool)
        .await?;
        rows.iter().map(|row| row.verify(row.position.unsigned_abs())).collect()
    })
}
