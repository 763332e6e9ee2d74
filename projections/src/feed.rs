//! The log in order, contiguous or not at all: whoever applies what it gives has missed nothing.
//!
//! It reads Postgres. A copy of the log elsewhere may ring the doorbell or hand over events, but whatever is not
//! contiguous is read again from here.

use std::ops::Range;

use fulexo_domain::event::{Recorded, Stream};
use fulexo_domain::leaf::{self, LeafError};
use sqlx::{PgConnection, PgPool};
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::to_i64;

/// Why a stretch of the log cannot be given.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// The database.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    /// A leaf that this build cannot read.
    #[error(transparent)]
    Leaf(#[from] LeafError),
    /// A leaf that is not the one that was hashed: somebody altered it.
    #[error("the leaf at position {position} does not have the hash that was recorded with it")]
    WrongHash {
        /// Where it stands.
        position: u64,
    },
    /// A row that says something else than its leaf.
    #[error("the row at position {position} names another stream or version than its leaf")]
    Disagrees {
        /// Where it stands.
        position: u64,
    },
    /// A position that should be there is not.
    #[error("position {position} is missing from the log")]
    Gap {
        /// The first one missing.
        position: u64,
    },
}

impl FeedError {
    /// Whether trying again can help: a broken connection heals, a broken leaf does not.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Database(_))
    }

    /// Up to where the log is sound, when it is the log that is at fault.
    #[must_use]
    pub const fn position(&self) -> Option<u64> {
        match self {
            Self::Leaf(LeafError::Unreadable { position, .. } | LeafError::UnknownType { position })
            | Self::WrongHash { position }
            | Self::Disagrees { position }
            | Self::Gap { position } => Some(*position),
            Self::Leaf(LeafError::Unfit(_)) | Self::Database(_) => None,
        }
    }
}

/// The number of events in the log; every position below it is committed and visible.
///
/// # Errors
/// The database.
pub async fn size(connection: &mut PgConnection) -> Result<u64, sqlx::Error> {
    Ok(sqlx::query_scalar!("select position from log.head").fetch_one(connection).await?.unsigned_abs())
}

/// The events from position `from` on, at most `most`, each verified against its hash.
///
/// # Errors
/// [`FeedError`].
pub async fn read(connection: &mut PgConnection, from: u64, most: u32) -> Result<Vec<Recorded>, FeedError> {
    let rows = sqlx::query_as!(
        Row,
        "select position, stream_id, category, version, leaf, leaf_hash from log.event
         where position >= $1 and position < $2 order by position",
        to_i64(from),
        to_i64(from.saturating_add(u64::from(most)))
    )
    .fetch_all(connection)
    .await?;
    rows.iter().zip(from..).map(|(row, position)| row.verify(position)).collect()
}

/// Reads a stretch of the log from one end to the other. While one batch is applied, the next is on its way.
pub struct Replay {
    pool: PgPool,
    next: u64,
    end: u64,
    batch: u32,
    ahead: Option<JoinHandle<Result<Vec<Recorded>, FeedError>>>,
}

/// Events in one batch of a replay.
const BATCH: u32 = 4_000;

impl Replay {
    /// Over these positions, all of which must be there.
    #[must_use]
    pub fn over(pool: &PgPool, positions: Range<u64>) -> Self {
        Self::in_batches(pool, positions, BATCH)
    }

    /// The same, with as many events in a batch.
    pub(crate) fn in_batches(pool: &PgPool, positions: Range<u64>, batch: u32) -> Self {
        let mut replay = Self { pool: pool.clone(), next: positions.start, end: positions.end, batch, ahead: None };
        replay.ahead = replay.fetch();
        replay
    }

    /// The next batch; `None` at the end.
    ///
    /// # Errors
    /// [`FeedError`]; the replay cannot go on after it.
    pub async fn next(&mut self) -> Result<Option<Vec<Recorded>>, FeedError> {
        let Some(batch) = self.ahead.take() else { return Ok(None) };
        self.ahead = self.fetch();
        let events = batch.await.map_err(|_| FeedError::Gap { position: self.next })??;
        Ok(Some(events))
    }

    fn fetch(&mut self) -> Option<JoinHandle<Result<Vec<Recorded>, FeedError>>> {
        let from = self.next;
        let until = self.end.min(from + u64::from(self.batch));
        let most = u32::try_from(until.checked_sub(from)?).ok().filter(|most| *most > 0)?;
        self.next = until;
        let pool = self.pool.clone();
        Some(tokio::spawn(async move {
            let events = read(&mut *pool.acquire().await?, from, most).await?;
            // What the head promised is there, or the log has lost it.
            if events.len() as u64 == u64::from(most) {
                Ok(events)
            } else {
                Err(FeedError::Gap { position: from + events.len() as u64 })
            }
        }))
    }
}

pub(crate) struct Row {
    pub position: i64,
    pub stream_id: Uuid,
    pub category: String,
    pub version: i64,
    pub leaf: Vec<u8>,
    pub leaf_hash: Vec<u8>,
}

impl Row {
    /// The leaf is the truth, and everything beside it must say the same.
    pub fn verify(&self, position: u64) -> Result<Recorded, FeedError> {
        if self.position.unsigned_abs() != position {
            return Err(FeedError::Gap { position });
        }
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
