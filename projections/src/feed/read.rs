//! A read of the log, and its errors.

use std::future::Future;
use std::pin::Pin;

use fulexo_database::DatabaseFailure;
use fulexo_domain::event::RecordedEvent;
use fulexo_domain::leaf::LeafError;
use sqlx::PgConnection;
use tokio::task::JoinError;

/// A read in progress: the events from a position on, each directly after the last, and fewer at the end of the log.
pub type ReadFuture<'a> = Pin<Box<dyn Future<Output = Result<Vec<RecordedEvent>, FeedError>> + Send + 'a>>;

/// A source of events.
pub trait Feed: Send + Sync {
    /// The events from position `from` on, at most `most`.
    ///
    /// # Errors
    /// [`FeedError`].
    fn read<'a>(&'a self, connection: &'a mut PgConnection, from: u64, most: u32) -> ReadFuture<'a>;
}

/// The reason why a range of the log cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// The database failed.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    /// This build cannot read the leaf.
    #[error(transparent)]
    Leaf(#[from] LeafError),
    /// The leaf does not match its hash: it was altered.
    #[error("the leaf at position {position} does not have the hash that was recorded with it")]
    WrongHash {
        /// The position of the event.
        position: u64,
    },
    /// The row disagrees with its leaf.
    #[error("the row at position {position} names another stream or version than its leaf")]
    Disagrees {
        /// The position of the event.
        position: u64,
    },
    /// A task that reads the log ended before it answered.
    #[error("a task that reads the log has failed")]
    Task(#[from] JoinError),
    /// An event is missing from the log.
    #[error("position {position} is missing from the log")]
    Gap {
        /// The first missing position.
        position: u64,
    },
}

impl FeedError {
    /// `true` if a retry can help: a broken connection heals, a broken leaf and a constraint do not.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        let Self::Database(error) = self else { return false };
        match DatabaseFailure::of(error) {
            DatabaseFailure::NoConnection
            | DatabaseFailure::Unavailable
            | DatabaseFailure::Cancelled
            | DatabaseFailure::Conflict
            | DatabaseFailure::LockTimeout => true,
            DatabaseFailure::Constraint(_)
            | DatabaseFailure::InsufficientPrivilege
            | DatabaseFailure::UndefinedTable
            | DatabaseFailure::Refused
            | DatabaseFailure::Driver => false,
        }
    }

    /// The position up to which the log is sound, if the log is at fault.
    #[must_use]
    pub const fn position(&self) -> Option<u64> {
        match self {
            Self::Leaf(LeafError::Unreadable { position, .. } | LeafError::UnknownType { position })
            | Self::WrongHash { position }
            | Self::Disagrees { position }
            | Self::Gap { position } => Some(*position),
            Self::Leaf(LeafError::Unfit(_)) | Self::Database(_) | Self::Task(_) => None,
        }
    }
}
