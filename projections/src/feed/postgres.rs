//! The log in PostgreSQL, which is the authority. Each row is verified against its leaf, in one batch or over a whole
//! range of positions.

use std::collections::VecDeque;
use std::ops::Range;

use fulexo_domain::event::{RecordedEvent, Stream};
use fulexo_domain::leaf;
use futures_util::TryStreamExt;
use sqlx::{PgConnection, PgPool};
use tokio::task::JoinHandle;
use tokio::task::coop::consume_budget;
use uuid::Uuid;

use super::read::{Feed, FeedError, ReadFuture};
use crate::to_i64;

/// The number of events in the log. Every position below it is committed and visible.
///
/// # Errors
/// [`sqlx::Error`].
pub async fn size(connection: &mut PgConnection) -> Result<u64, sqlx::Error> {
    Ok(sqlx::query_scalar!("select position from log.head").fetch_one(connection).await?.unsigned_abs())
}

/// The events from position `from` on, at most `most`, each verified against its hash.
///
/// # Errors
/// [`FeedError`].
pub async fn read(connection: &mut PgConnection, from: u64, most: u32) -> Result<Vec<RecordedEvent>, FeedError> {
    let mut rows = sqlx::query_as!(
        LogEventRow,
        "select position, stream_id, category, version, leaf, leaf_hash from log.event
         where position >= $1 and position < $2",
        to_i64(from),
        to_i64(from.saturating_add(u64::from(most)))
    )
    .fetch(connection);
    let mut read = Vec::new();
    while let Some(row) = rows.try_next().await? {
        // Verified at once, while the row is in the processor's cache.
        let position = row.position.unsigned_abs();
        read.push((position, row.verify()));
        // The driver does not yield while the socket has data.
        consume_budget().await;
    }
    // The rows arrive almost in order. On a partition too new to have statistics, the database would sort them on disk,
    // which takes ten times as long as reading them.
    read.sort_unstable_by_key(|(position, _)| *position);
    let in_order = read
        .into_iter()
        .zip(from..)
        .map(|((found, event), position)| if found == position { event } else { Err(FeedError::Gap { position }) });
    in_order.collect()
}

/// The feed that reads PostgreSQL.
pub struct PostgresFeed;

impl Feed for PostgresFeed {
    fn read<'a>(&'a self, connection: &'a mut PgConnection, from: u64, most: u32) -> ReadFuture<'a> {
        Box::pin(read(connection, from, most))
    }
}

/// Reads a range of the log from one end to the other. While one batch is applied, tasks read and decode the next ones.
pub struct LogReader {
    pool: PgPool,
    next: u64,
    end: u64,
    batch: u32,
    ahead: VecDeque<JoinHandle<Result<Vec<RecordedEvent>, FeedError>>>,
}

/// The number of events per batch.
const BATCH: u32 = 4_000;
/// The maximum number of batches read ahead; each takes a connection.
const AHEAD: usize = 2;

impl LogReader {
    /// Starts reading these positions, all of which must exist.
    #[must_use]
    pub fn over(pool: &PgPool, positions: Range<u64>) -> Self {
        Self::in_batches(pool, positions, BATCH)
    }

    /// Starts reading in batches of this size.
    pub(crate) fn in_batches(pool: &PgPool, positions: Range<u64>, batch: u32) -> Self {
        let ahead = VecDeque::with_capacity(AHEAD);
        let mut replay = Self { pool: pool.clone(), next: positions.start, end: positions.end, batch, ahead };
        while replay.ahead.len() < AHEAD && replay.fetch() {}
        replay
    }

    /// The next batch; `None` at the end.
    ///
    /// # Errors [`FeedError`]; the reader cannot continue after it.
    pub async fn next(&mut self) -> Result<Option<Vec<RecordedEvent>>, FeedError> {
        let Some(batch) = self.ahead.pop_front() else { return Ok(None) };
        let events = batch.await??;
        self.fetch();
        Ok(Some(events))
    }

    /// Starts reading another batch; returns `false` if there is none.
    fn fetch(&mut self) -> bool {
        let from = self.next;
        let most = u32::try_from(self.end.saturating_sub(from)).map_or(self.batch, |left| left.min(self.batch));
        if most == 0 {
            return false;
        }
        self.next += u64::from(most);
        let pool = self.pool.clone();
        self.ahead.push_back(tokio::spawn(async move {
            let events = read(&mut *pool.acquire().await?, from, most).await?;
            // The log's head counted these events, so a missing one was lost.
            if events.len() as u64 == u64::from(most) {
                Ok(events)
            } else {
                Err(FeedError::Gap { position: from + events.len() as u64 })
            }
        }));
        true
    }
}

pub(crate) struct LogEventRow {
    pub position: i64,
    pub stream_id: Uuid,
    pub category: String,
    pub version: i64,
    pub leaf: Vec<u8>,
    pub leaf_hash: Vec<u8>,
}

impl LogEventRow {
    /// Checks the row against its leaf, which is the authority.
    pub fn verify(&self) -> Result<RecordedEvent, FeedError> {
        let position = self.position.unsigned_abs();
        if leaf::hash(&self.leaf) != self.leaf_hash.as_slice() {
            return Err(FeedError::WrongHash { position });
        }
        let recorded = leaf::decode(position, &self.leaf)?;
        let Stream { category, id } = recorded.stream;
        if id != self.stream_id || category.as_str() != self.category || recorded.version != self.version.unsigned_abs()
        {
            return Err(FeedError::Disagrees { position });
        }
        Ok(recorded)
    }
}
