//! What commands read of the log: one stream, its size, the outcome of a command. Reading everything in order is the
//! feed's business (`projections`).
//!
//! A stream is read from its last snapshot on, so that nobody pays for its length. A snapshot is a record as it was at one
//! event, and says at which: `log.event` must have that very event there, or the stream is read from its beginning.

use fulexo_domain::event::{Recorded, Stream};
use fulexo_domain::leaf::{self, LeafError};
use fulexo_domain::record::Record;
use uuid::Uuid;

use super::event_log::EventLog;

/// Events after its last snapshot that make the next load of a stream write another one. A stream that never has as many
/// never has a snapshot.
const TAIL: usize = 32;

/// A stream as the log has it.
pub struct LoadedStream<R> {
    /// What its events come to.
    pub record: R,
    /// How many they are.
    pub version: u64,
    /// Where the last one stands; `None` when there are none.
    pub last_position: Option<u64>,
}

struct StreamRow {
    version: i64,
    position: i64,
    leaf: Vec<u8>,
    leaf_hash: Vec<u8>,
    /// What the snapshot says that was made at this event.
    snapshot: Option<String>,
}

/// Why the log could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The database.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    /// A leaf that this build cannot read.
    #[error(transparent)]
    Leaf(#[from] LeafError),
    /// A leaf that is not the one that was hashed, or that belongs elsewhere: somebody altered the log.
    #[error("the event at position {position} is not the one that was recorded there")]
    Altered {
        /// Where it stands.
        position: u64,
    },
}

/// The outcome of a command, as it was stored.
pub(crate) struct StoredOutcome {
    pub request_hash: Vec<u8>,
    pub result: String,
    /// In seconds, by the database's clock.
    pub age: i64,
}

impl EventLog {
    /// The events of one stream, in order.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn load(&self, stream: Stream) -> Result<Vec<Recorded>, ReadError> {
        let rows = sqlx::query!(
            "select position, leaf, leaf_hash from log.event where stream_id = $1 and category = $2 order by version",
            stream.id,
            stream.category.as_str()
        )
        .fetch_all(&self.pool)
        .await?;
        rows.iter()
            .zip(1..)
            .map(|(row, version)| sound(stream, version, row.position, &row.leaf, &row.leaf_hash))
            .collect()
    }

    /// What the events of one stream come to.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn record<R: Record>(&self, id: Uuid) -> Result<LoadedStream<R>, ReadError> {
        let stream = Stream { category: R::CATEGORY, id };
        let rows = self.since_snapshot(stream, R::FORMAT).await?;
        let snapshot = rows.first().and_then(|first| first.snapshot.as_deref());
        let (rows, started) = match snapshot.map(R::from_text) {
            Some(Ok(record)) => (rows, Some(record)),
            None if rows.first().is_some_and(|first| first.version == 1) => (rows, None),
            // There is no such stream, or its snapshot is of no use: of an event that the log does not have there.
            Some(Err(_)) | None => (self.since_beginning(stream).await?, None),
        };

        let first = rows.first().map_or(1, |first| first.version.unsigned_abs());
        let skipped = usize::from(started.is_some());
        let mut loaded = LoadedStream { record: started.unwrap_or_default(), version: 0, last_position: None };
        for (index, (row, version)) in rows.iter().zip(first..).enumerate() {
            let recorded = sound(stream, version, row.position, &row.leaf, &row.leaf_hash)?;
            (loaded.version, loaded.last_position) = (version, Some(recorded.position));
            // What the first one did, the snapshot knows.
            if index >= skipped {
                loaded.record = loaded.record.after(recorded);
            }
        }
        if let Some(last) = rows.last()
            && rows.len() - skipped >= TAIL
        {
            self.keep_snapshot(stream, last, &loaded.record).await;
        }
        Ok(loaded)
    }

    /// The event that the stream's snapshot was made at, and all after it; all there are where it has none.
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

    /// Writes down what a stream came to at its last event, for the next who loads it. Events do not change, so it is as
    /// true later, whoever writes it and whatever was appended since; and where it cannot be written, nothing is lost.
    async fn keep_snapshot<R: Record>(&self, stream: Stream, last: &StreamRow, record: &R) {
        let Ok(state) = record.to_text() else { return };
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
            tracing::warn!(%error, "a snapshot cannot be written");
        }
    }

    /// The number of events in the log, which is also the next position.
    ///
    /// # Errors
    /// [`ReadError::Database`].
    pub async fn size(&self) -> Result<u64, ReadError> {
        Ok(sqlx::query_scalar!("select position from log.head").fetch_one(&self.pool).await?.unsigned_abs())
    }

    /// What became of a command that came with an idempotency key.
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

/// An event as it was recorded: the leaf that was hashed, in its place.
fn sound(stream: Stream, version: u64, position: i64, leaf: &[u8], leaf_hash: &[u8]) -> Result<Recorded, ReadError> {
    let position = position.unsigned_abs();
    let recorded = leaf::decode(position, leaf)?;
    if leaf::hash(leaf) == leaf_hash && recorded.stream == stream && recorded.version == version {
        Ok(recorded)
    } else {
        Err(ReadError::Altered { position })
    }
}
