//! The size of the log and its last backups, for questions about health: anybody may ask, as often as they like, so the database is
//! asked once a second at most, on one connection.

use std::sync::Arc;
use std::time::Duration;

use fulexo_projections::feed;
use fulexo_projections::read_models::backups::{self, BackupTimes};
use sqlx::PgPool;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

/// The longest that an answer is used.
const FRESH: Duration = Duration::from_secs(1);
/// The time that the database has to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// The log, as the database tells of it.
#[derive(Debug, Clone, Copy)]
pub struct LogAnswer {
    /// The number of events.
    pub size: u64,
    /// The times of its last backups; `None` if they cannot be read.
    pub backups: Option<BackupTimes>,
}

/// The size as it was when it was last asked for.
pub struct LogSize {
    pool: PgPool,
    last: Arc<Mutex<Option<Answer>>>,
}

/// The database's answer and its time; none when it did not answer.
type Answer = (Instant, Option<LogAnswer>);

impl LogSize {
    pub(crate) fn new(pool: PgPool) -> Self {
        Self { pool, last: Arc::default() }
    }

    /// The number of events in the log, not more than a second ago; none when the database does not answer.
    pub async fn get(&self) -> Option<u64> {
        self.answer().await.map(|answer| answer.size)
    }

    /// The log, not more than a second ago; none when the database does not answer.
    pub async fn answer(&self) -> Option<LogAnswer> {
        let mut last = Arc::clone(&self.last).lock_owned().await;
        if let Some((at, answer)) = *last
            && at.elapsed() < FRESH
        {
            return answer;
        }
        let pool = self.pool.clone();
        // In a task of its own: the caller may go away, and the next one must not ask at the same time.
        let asked = tokio::spawn(async move {
            let size = timeout(PATIENCE, log_size(&pool)).await.ok().and_then(Result::ok);
            let answer = match size {
                Some(size) => {
                    let backups = timeout(PATIENCE, backups::times(&pool)).await.ok().and_then(Result::ok);
                    Some(LogAnswer { size, backups })
                }
                None => None,
            };
            *last = Some((Instant::now(), answer));
            answer
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
