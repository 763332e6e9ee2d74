//! The size of the log, for questions about health: anybody may ask, as often as they like, so the database is asked
//! once a second at most, on one connection.

use std::sync::Arc;
use std::time::Duration;

use fulexo_projections::feed;
use sqlx::PgPool;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

/// The longest that an answer is used.
const FRESH: Duration = Duration::from_secs(1);
/// The time that the database has to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// The size as it was when it was last asked for.
pub struct LogSize {
    pool: PgPool,
    last: Arc<Mutex<Option<Answer>>>,
}

/// The database's answer and its time; none when it did not answer.
type Answer = (Instant, Option<u64>);

impl LogSize {
    pub(crate) fn new(pool: PgPool) -> Self {
        Self { pool, last: Arc::default() }
    }

    /// The number of events in the log, not more than a second ago; none when the database does not answer.
    pub async fn get(&self) -> Option<u64> {
        let mut last = Arc::clone(&self.last).lock_owned().await;
        if let Some((at, size)) = *last
            && at.elapsed() < FRESH
        {
            return size;
        }
        let pool = self.pool.clone();
        // In a task of its own: the caller may go away, and the next one must not ask at the same time.
        let asked = tokio::spawn(async move {
            let size = timeout(PATIENCE, log_size(&pool)).await.ok().and_then(Result::ok);
            *last = Some((Instant::now(), size));
            size
        });
        asked.await.ok().flatten()
    }
}

/// The number of events, from the log itself.
///
/// # Errors
/// The database.
pub async fn log_size(pool: &PgPool) -> Result<u64, sqlx::Error> {
    feed::size(&mut *pool.acquire().await?).await
}
