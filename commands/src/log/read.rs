//! What commands read of the log: one stream, its size, the outcome of a command. Reading everything in order is the
//! feed's business (`projections`).

use fulexo_domain::event::{Recorded, Stream};
use fulexo_domain::leaf::{self, LeafError};

use super::EventLog;

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
            .map(|(row, version)| {
                let position = row.position.unsigned_abs();
                let recorded = leaf::decode(position, &row.leaf)?;
                let is_sound = leaf::hash(&row.leaf) == row.leaf_hash.as_slice();
                if is_sound && recorded.stream == stream && recorded.version == version {
                    Ok(recorded)
                } else {
                    Err(ReadError::Altered { position })
                }
            })
            .collect()
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
