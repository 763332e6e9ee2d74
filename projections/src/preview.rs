//! The recorded login attempts, replayed under another lockout policy. The preview reads the leaves themselves and
//! checks each against its hash, so it is never behind the log.

use chrono::{DateTime, Utc};
use fulexo_domain::event::RecordedEvent;
use fulexo_domain::policy::LockoutPolicy;
use fulexo_domain::preview::{Preview, PreviewReport};
use sqlx::PgPool;
use tokio::task::JoinHandle;

use crate::as_of::first_position;
use crate::feed::{self, FeedError, LogEventRow};
use crate::to_i64;

/// The number of positions per read. It limits positions rather than attempts, so each read is one scan of the primary
/// key regardless of the planner's estimates.
const POSITIONS_PER_READ: u64 = 4_000;

/// The effect that the policy would have had on the attempts recorded at or after `from`. It replays at most `most`
/// events, oldest first, and returns `None` if there are more.
///
/// # Errors
/// [`FeedError`].
pub async fn replay_attempts(
    pool: &PgPool,
    policy: LockoutPolicy,
    from: DateTime<Utc>,
    most: u64,
    listed: usize,
) -> Result<Option<PreviewReport>, FeedError> {
    let mut preview = Preview::new(policy, listed);
    let mut replayed = 0;
    // The next batch is read while this one is counted.
    let (mut next, end) = (
        first_position(pool, |recorded_at| recorded_at >= from).await?,
        feed::size(&mut *pool.acquire().await?).await?,
    );
    let mut ahead = fetch(pool, next);
    while next < end {
        let events = ahead.await??;
        next += POSITIONS_PER_READ;
        ahead = fetch(pool, next);
        replayed += events.len() as u64;
        if replayed > most {
            break;
        }
        events.iter().for_each(|event| preview.observe(event));
        if let Some(last) = events.last()
            && preview.evict_idle(last.recorded_at).is_err()
        {
            ahead.abort();
            return Ok(None);
        }
    }
    ahead.abort();
    Ok((replayed <= most).then(|| preview.finish()))
}

fn fetch(pool: &PgPool, from: u64) -> JoinHandle<Result<Vec<RecordedEvent>, FeedError>> {
    let pool = pool.clone();
    tokio::spawn(async move {
        let rows = sqlx::query_as!(
            LogEventRow,
            "select position, stream_id, category, version, leaf, leaf_hash from log.event
             where position >= $1 and position < $2 and category = 'authentication' order by position",
            to_i64(from),
            to_i64(from + POSITIONS_PER_READ)
        )
        .fetch_all(&pool)
        .await?;
        rows.iter().map(LogEventRow::verify).collect()
    })
}
