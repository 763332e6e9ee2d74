//! The interface of a rebuild: its options, its progress reports, and its outcome.

use std::sync::Arc;

use fulexo_domain::event::RecordedEvent;

use crate::feed::FeedError;
use crate::read_models::Projection;

/// The number of events per batch.
pub(super) const BATCH: u32 = 20_000;

/// The options of a rebuild.
#[derive(Debug, Clone)]
pub struct RebuildOptions {
    /// The identity of this program. A build that another program started is not resumed.
    pub program: String,
    /// `true` to start over rather than resume.
    pub restart: bool,
}

/// A completed rebuild: the new version is live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RebuildReport {
    /// The read model.
    pub projection: Projection,
    /// The version that is now live.
    pub version: u32,
    /// The number of events applied, from position 0.
    pub events: u64,
    /// The comparison with the version before.
    pub comparison: BuildComparison,
}

/// The comparison of the new version with the live one at the same position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildComparison {
    /// The position of the comparison.
    pub position: u64,
    /// The number of rows that exist in only one version or differ.
    pub differing: u64,
    /// A few of their keys, each after the name of its table.
    pub examples: Vec<String>,
}

impl BuildComparison {
    /// `true` if both versions are the same.
    #[must_use]
    pub const fn is_same(&self) -> bool {
        self.differing == 0
    }
}

/// The progress of a rebuild.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RebuildProgress {
    /// A build was started at `position` 0, or resumed.
    Started {
        /// The version being built.
        version: u32,
        /// Every event below this position is already applied.
        position: u64,
        /// `true` if the build of another program was discarded.
        discarded: bool,
    },
    /// Every event below `position` is applied.
    Advanced {
        /// The position after the last applied event.
        position: u64,
    },
    /// The build has reached the live version and is being compared with it.
    Comparing,
    /// The indexes are being created.
    Indexing,
    /// A transaction holds the live tables. The switch is retried for about half a minute.
    WaitingForReaders,
}

/// The reason why a read model was not rebuilt or rolled back. The live version is unchanged.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// The log or the database failed.
    #[error(transparent)]
    Feed(#[from] FeedError),
    /// Another process is working on it.
    #[error("another process is rebuilding or rolling back {}", .0.as_str())]
    AlreadyRunning(Projection),
    /// A transaction holds the live tables for too long.
    #[error("a transaction holds the tables of {}; try again after it has ended", .0.as_str())]
    TablesBusy(Projection),
    /// There is no previous version to restore.
    #[error("{} has no previous version to roll back to", .0.as_str())]
    NoPreviousVersion(Projection),
    /// Another process moved the build's checkpoint, or moved the live one back.
    #[error("another process moved the checkpoint of {}; start the rebuild over", .0.as_str())]
    CheckpointMoved(Projection),
}

impl From<sqlx::Error> for RebuildError {
    fn from(error: sqlx::Error) -> Self {
        Self::Feed(error.into())
    }
}

/// The events of one batch, shared by all builds.
pub(super) type EventBatch = Arc<Vec<RecordedEvent>>;
