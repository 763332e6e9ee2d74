//! A read of the log, and why there is none.

use std::future::Future;
use std::pin::Pin;

use fulexo_domain::event::Recorded;
use fulexo_domain::leaf::LeafError;
use sqlx::PgConnection;

/// What a read comes to: the events from a position on, each following the one before; fewer where there are no more.
pub type Reading<'a> = Pin<Box<dyn Future<Output = Result<Vec<Recorded>, FeedError>> + Send + 'a>>;

/// Where events come from.
pub trait Feed: Send + Sync {
    /// The events from position `from` on, at most `most`.
    ///
    /// # Errors
    /// [`FeedError`].
    fn read<'a>(&'a self, connection: &'a mut PgConnection, from: u64, most: u32) -> Reading<'a>;
}

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
