//! The recorded attempts, replayed under another lockout policy. It reads the leaves themselves, each checked against
//! its hash, and so is never behind the log.

use chrono::{DateTime, Utc};
use fulexo_domain::event::Recorded;
use fulexo_domain::policy::LockoutPolicy;
use fulexo_domain::preview::{Found, Preview};
use sqlx::PgPool;
use tokio::task::JoinHandle;

use crate::as_of::first;
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
    let (mut next, end) =
        (first(pool, |recorded_at| recorded_at >= from).await?, feed::size(&mut *pool.acquire().await?).await?);
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
        rows.iter().map(Row::verify).collect()
    })
}
