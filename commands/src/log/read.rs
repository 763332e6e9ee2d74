//! The reads that commands need: one stream, the size of the log, the outcome of a command. The feed (`projections`)
//! reads all events in order.
//!
//! A stream is read from its latest snapshot on, so that its length does not matter. A snapshot stores a record as of
//! one event and names that event. If `log.event` does not have exactly that event there, the stream is read from its
//! beginning.

use std::collections::HashMap;

use fulexo_database::chain;
use fulexo_domain::event::{RecordedEvent, Stream};
use fulexo_domain::leaf::{self, LeafError};
use fulexo_domain::snapshot::Snapshot;
use uuid::Uuid;

use super::event_log::EventLog;

/// The number of events after the latest snapshot at which a load writes a new one. A shorter stream has no snapshot.
const SNAPSHOT_INTERVAL: usize = 32;

/// A stream, loaded from the log.
pub struct LoadedStream<R> {
    /// The record that its events add up to.
    pub snapshot: R,
    /// The number of events.
    pub version: u64,
    /// The position of the last event; `None` if there are none.
    pub last_position: Option<u64>,
}

struct StreamRow {
    version: i64,
    position: i64,
    leaf: Vec<u8>,
    leaf_hash: Vec<u8>,
    /// The text of the snapshot that was taken at this event.
    snapshot: Option<String>,
}

/// The reason for which the log could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The database failed.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    /// This build cannot decode a leaf.
    #[error(transparent)]
    Leaf(#[from] LeafError),
    /// A leaf does not match its hash or its place: somebody altered the log.
    #[error("the event at position {position} was altered after it was recorded")]
    Altered {
        /// The position of the event.
        position: u64,
    },
}

/// The stored outcome of a command.
pub(crate) struct StoredOutcome {
    pub request_hash: Vec<u8>,
    pub result: String,
    /// The age in seconds, by the database's clock.
    pub age: i64,
}

impl EventLog {
    /// Loads the events of one stream, in order.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn load(&self, stream: Stream) -> Result<Vec<RecordedEvent>, ReadError> {
        let rows = sqlx::query!(
            "select position, leaf, leaf_hash from log.event where stream_id = $1 and category = $2 order by version",
            stream.id,
            stream.category.as_str()
        )
        .fetch_all(&self.pool)
        .await?;
        rows.iter()
            .zip(1..)
            .map(|(row, version)| verify_event(stream, version, row.position, &row.leaf, &row.leaf_hash))
            .collect()
    }

    /// Loads the event at a position; `None` if the log has none there.
    ///
    /// # Errors
    /// [`ReadError`].
    pub(crate) async fn event(&self, position: u64) -> Result<Option<RecordedEvent>, ReadError> {
        let Ok(position) = i64::try_from(position) else { return Ok(None) };
        let row = sqlx::query!("select leaf, leaf_hash from log.event where position = $1", position);
        let Some(row) = row.fetch_optional(&self.pool).await? else { return Ok(None) };
        verify_leaf(position, &row.leaf, &row.leaf_hash).map(Some)
    }

    /// Loads the events at these positions, as far as the log has them.
    ///
    /// # Errors
    /// [`ReadError`].
    pub(crate) async fn events_at(&self, positions: &[u64]) -> Result<HashMap<u64, RecordedEvent>, ReadError> {
        let positions: Vec<i64> = positions.iter().filter_map(|position| i64::try_from(*position).ok()).collect();
        let rows = sqlx::query!("select position, leaf, leaf_hash from log.event where position = any($1)", &positions);
        let rows = rows.fetch_all(&self.pool).await?;
        rows.iter()
            .map(|row| Ok((row.position.unsigned_abs(), verify_leaf(row.position, &row.leaf, &row.leaf_hash)?)))
            .collect()
    }

    /// Loads the record of one stream, from its snapshot if there is one.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn snapshot<R: Snapshot>(&self, id: Uuid) -> Result<LoadedStream<R>, ReadError> {
        let stream = Stream { category: R::CATEGORY, id };
        let rows = self.since_snapshot(stream, R::FORMAT).await?;
        let snapshot = rows.first().and_then(|first| first.snapshot.as_deref());
        let (rows, started) = match snapshot.map(R::from_text) {
            Some(Ok(snapshot)) => (rows, Some(snapshot)),
            None if rows.first().is_some_and(|first| first.version == 1) => (rows, None),
            // There is no such stream, or its snapshot is unusable: the log does not have its event there.
            Some(Err(_)) | None => (self.since_beginning(stream).await?, None),
        };

        let first = rows.first().map_or(1, |first| first.version.unsigned_abs());
        let skipped = usize::from(started.is_some());
        let mut loaded = LoadedStream { snapshot: started.unwrap_or_default(), version: 0, last_position: None };
        for (index, (row, version)) in rows.iter().zip(first..).enumerate() {
            let recorded = verify_event(stream, version, row.position, &row.leaf, &row.leaf_hash)?;
            (loaded.version, loaded.last_position) = (version, Some(recorded.position));
            // The snapshot already includes the first event.
            if index >= skipped {
                loaded.snapshot = loaded.snapshot.apply(recorded);
            }
        }
        if let Some(last) = rows.last()
            && rows.len() - skipped >= SNAPSHOT_INTERVAL
        {
            self.store_snapshot(stream, last, &loaded.snapshot).await;
        }
        Ok(loaded)
    }

    /// Loads the event of the stream's snapshot and all later ones, or all events if there is no snapshot.
    async fn since_snapshot(&self, stream: Stream, format: i16) -> Result<Vec<StreamRow>, sqlx::Error> {
        sqlx::query_as!(
            StreamRow,
            r#"with snapshot as materialized (
                   select version, leaf_hash, state from log.snapshot
                   where stream_id = $1 and category = $2 and format = $3
               )
               select e.version, e.position, e.leaf, e.leaf_hash,
                      (select s.state from snapshot s
                       where s.version = e.version and s.leaf_hash = e.leaf_hash) as "snapshot?"
               from log.event e
               where e.stream_id = $1 and e.category = $2 and e.version >= coalesce((select version from snapshot), 1)
               order by e.version"#,
            stream.id,
            stream.category.as_str(),
            format
        )
        .fetch_all(&self.pool)
        .await
    }

    async fn since_beginning(&self, stream: Stream) -> Result<Vec<StreamRow>, sqlx::Error> {
        sqlx::query_as!(
            StreamRow,
            r#"select version, position, leaf, leaf_hash, null::text as "snapshot?"
               from log.event where stream_id = $1 and category = $2 order by version"#,
            stream.id,
            stream.category.as_str()
        )
        .fetch_all(&self.pool)
        .await
    }

    /// Stores a snapshot of the record at the stream's last event. Events never change, so the snapshot stays correct,
    /// even if others append or store another one. A failure loses nothing.
    async fn store_snapshot<R: Snapshot>(&self, stream: Stream, last: &StreamRow, snapshot: &R) {
        let Ok(state) = snapshot.to_text() else { return };
        let kept = sqlx::query!(
            "select log.keep_snapshot($1, $2, $3, $4, $5, $6)",
            stream.id,
            stream.category.as_str(),
            R::FORMAT,
            last.version,
            last.leaf_hash.as_slice(),
            state
        );
        if let Err(error) = kept.execute(&self.pool).await {
            tracing::warn!(error = %chain(&error), "a snapshot could not be stored");
        }
    }

    /// Returns the number of events in the log, which is the next position.
    ///
    /// # Errors
    /// [`ReadError::Database`].
    pub async fn size(&self) -> Result<u64, ReadError> {
        Ok(sqlx::query_scalar!("select position from log.head").fetch_one(&self.pool).await?.unsigned_abs())
    }

    /// Returns the stored outcome of a command that came with an idempotency key.
    pub(crate) async fn outcome(&self, command_id: &[u8; 32]) -> Result<Option<StoredOutcome>, sqlx::Error> {
        sqlx::query_as!(
            StoredOutcome,
            r#"select request_hash, result, extract(epoch from clock_timestamp() - recorded_at)::bigint as "age!"
               from log.command where command_id = $1"#,
            command_id
        )
        .fetch_optional(&self.pool)
        .await
    }
}

/// Decodes an event, and checks its leaf against the hash.
fn verify_leaf(position: i64, leaf: &[u8], leaf_hash: &[u8]) -> Result<RecordedEvent, ReadError> {
    let position = position.unsigned_abs();
    let recorded = leaf::decode(position, leaf)?;
    if leaf::hash(leaf) == leaf_hash { Ok(recorded) } else { Err(ReadError::Altered { position }) }
}

/// Decodes an event, and checks its leaf against the hash, the stream and the version.
fn verify_event(
    stream: Stream,
    version: u64,
    position: i64,
    leaf: &[u8],
    leaf_hash: &[u8],
) -> Result<RecordedEvent, ReadError> {
    let recorded = verify_leaf(position, leaf, leaf_hash)?;
    if recorded.stream == stream && recorded.version == version {
        Ok(recorded)
    } else {
        Err(ReadError::Altered { position: position.unsigned_abs() })
    }
}
