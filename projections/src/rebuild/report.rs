//! A rebuild as its caller sees it: how to do it, what is told meanwhile, what it came to.

use std::sync::Arc;

use fulexo_domain::event::Recorded;

use crate::feed::FeedError;
use crate::read_models::Projection;

/// Events applied at once.
pub(super) const BATCH: u32 = 20_000;

/// How to rebuild.
#[derive(Debug, Clone)]
pub struct Options {
    /// Which program this is: a build that another one began is not resumed.
    pub program: String,
    /// Whether to begin anew rather than to resume.
    pub restart: bool,
}

/// What a rebuild came to: the new version is live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rebuilt {
    /// Of which read model.
    pub projection: Projection,
    /// The version that is live now.
    pub version: u32,
    /// Events applied, from position 0.
    pub events: u64,
    /// What the comparison with the version before came to.
    pub comparison: Comparison,
}

/// The new version beside the one before, both at the same position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comparison {
    /// At which.
    pub position: u64,
    /// Rows in only one of them, or not the same in both.
    pub differing: u64,
    /// The keys of a few of them, behind the name of their table.
    pub examples: Vec<String>,
}

impl Comparison {
    /// Whether the log says the same as the view said.
    #[must_use]
    pub const fn is_same(&self) -> bool {
        self.differing == 0
    }
}

/// What is told while it goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// A build has begun, at `position` 0, or goes on.
    Begun {
        /// The version that it will be.
        version: u32,
        /// What is applied already.
        position: u64,
        /// Whether what another program had built was discarded.
        discarded: bool,
    },
    /// Every event below it is applied.
    At {
        /// So many of them.
        position: u64,
    },
    /// It is as far as the live version, and compared with it.
    Comparing,
    /// Its indexes are made.
    Indexing,
    /// A transaction holds the live tables; it is waited for. Tried again for about half a minute.
    Waiting,
}

/// Why a read model was not rebuilt, or not rolled back. The live version is as it was.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// The log.
    #[error(transparent)]
    Feed(#[from] FeedError),
    /// Somebody else is at it.
    #[error("a rebuild of {} is under way", .0.as_str())]
    UnderWay(Projection),
    /// Somebody reads for too long.
    #[error("a transaction holds the tables of {}; try again when it has ended", .0.as_str())]
    Busy(Projection),
    /// A roll back of what was never rebuilt.
    #[error("no version of {} before the live one is kept", .0.as_str())]
    NothingKept(Projection),
    /// Something else has moved the build's checkpoint, or the live one backwards.
    #[error("the build of {} is no longer what it was; begin anew", .0.as_str())]
    Overtaken(Projection),
}

impl From<sqlx::Error> for RebuildError {
    fn from(error: sqlx::Error) -> Self {
        Self::Feed(error.into())
    }
}

/// Events of one batch, for each of the builds.
pub(super) type Batch = Arc<Vec<Recorded>>;
