//! The recorded attempts, replayed under another lockout policy. It reads the leaves themselves, each checked against
//! its hash; the audit index only says which ones are attempts.

use chrono::{DateTime, Utc};
use fulexo_domain::event::Recorded;
use fulexo_domain::policy::LockoutPolicy;
use fulexo_domain::preview::{Found, Preview};
use sqlx::PgPool;
use tokio::task::JoinHandle;

use crate::feed::{FeedError, Row};
use crate::to_i64;

/// Events read at once.
const BATCH: i64 = 4_000;

/// What the policy would have done to the attempts recorded at or after `from`, and the position up to which they were
/// replayed. At most `most` events are replayed, from the oldest on; `None` when there are more.
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
    let Some(first) = first_attempt(pool, from).await? else {
        return Ok(Some(Preview::new(policy, listed).finish()));
    };
    let mut preview = Preview::new(policy, listed);
    let mut replayed = 0;
    // While one batch is counted, the next is on its way.
    let mut ahead = fetch(pool, first);
    loop {
        let events = ahead.await.map_err(|_| FeedError::Gap { position: first.unsigned_abs() })??;
        let Some(last) = events.last() else { return Ok(Some(preview.finish())) };
        ahead = fetch(pool, to_i64(last.position) + 1);
        replayed += events.len() as u64;
        if replayed > most {
            ahead.abort();
            return Ok(None);
        }
        events.iter().for_each(|event| preview.observe(event));
    }
}

/// Where the attempts recorded at or after `from` begin.
async fn first_attempt(pool: &PgPool, from: DateTime<Utc>) -> Result<Option<i64>, sqlx::Error> {
    // Times never go back in the log, so the first event of that time is the first position, too.
    sqlx::query_scalar!(
        "select position from read.audit where recorded_at >= $1 order by recorded_at, position limit 1",
        from
    )
    .fetch_optional(pool)
    .await
}

fn fetch(pool: &PgPool, from: i64) -> JoinHandle<Result<Vec<Recorded>, FeedError>> {
    let pool = pool.clone();
    tokio::spawn(async move {
        let rows = sqlx::query_as!(
            Row,
            "select e.position, e.stream_id, e.category, e.version, e.leaf, e.leaf_hash
             from read.audit a join log.event e on e.position = a.position
             where a.category = 'authentication' and a.position >= $1 order by a.position limit $2",
            from,
            BATCH
        )
        .fetch_all(&pool)
        .await?;
        rows.iter().map(|row| row.verify(row.position.unsigned_abs())).collect()
    })
}
