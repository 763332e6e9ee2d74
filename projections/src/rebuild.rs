//! A read model made again from the log, beside the live one, which is followed and read meanwhile.
//!
//! ```text
//! begun, or resumed --> as far as the live version: compared --> indexed --> at the head: switched
//!                                                                              live becomes previous <--> roll_back
//! ```
//!
//! What is written commits with the build's own checkpoint: whatever interrupts a rebuild, the next one goes on from there.
//! `begin_build` and the other functions of the database that move tables are in `migrations/0007_rebuild.sql`.
//!
//! It does not judge: where the new version differs from the live one the log's word stands, and the difference is told.

mod beside;
mod build;
mod roll_back;

use std::sync::Arc;

use sqlx::PgPool;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::feed::{self, FeedError, Replay};
use crate::projection::Projection;
use build::Build;
pub use roll_back::{RolledBack, roll_back};

/// Events applied at once.
const BATCH: u32 = 20_000;

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

type Batch = Arc<Vec<fulexo_domain::event::Recorded>>;
/// One outcome a projection.
pub type Outcomes = Vec<(Projection, Result<Rebuilt, RebuildError>)>;

/// Rebuilds, reading and decoding the log once for all of these, and switches to each as it is done. What one comes to
/// does not hold up the others.
///
/// # Errors
/// [`RebuildError`] when nothing could begin, or the log cannot be read; then nothing was switched.
pub async fn rebuild(
    pool: &PgPool,
    projections: &[Projection],
    options: &Options,
    mut tell: impl FnMut(Projection, News),
) -> Result<Outcomes, RebuildError> {
    let (news, mut heard) = mpsc::channel(64);
    let mut builds = Vec::new();
    for projection in projections {
        builds.push(Build::open(pool, *projection, options, news.clone()).await?);
    }
    drop(news);
    let from = builds.iter().map(Build::position).min().unwrap_or_default();
    let mut feeds = Vec::new();
    let mut work = JoinSet::new();
    for build in builds {
        let (feed, batches) = mpsc::channel(1);
        feeds.push(feed);
        work.spawn(async move { (build.projection(), build.run(batches).await) });
    }
    let mut outcomes = Vec::new();
    let reading = feed_all(pool, from, feeds);
    tokio::pin!(reading);
    let mut is_read = false;
    loop {
        tokio::select! {
            read = &mut reading, if !is_read => {
                is_read = true;
                // Builds are given no end of the log but the true one.
                read?;
            }
            Some((projection, news)) = heard.recv() => tell(projection, news),
            ended = work.join_next() => match ended {
                Some(Ok(outcome)) => outcomes.push(outcome),
                Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
                None => {
                    while let Ok((projection, news)) = heard.try_recv() {
                        tell(projection, news);
                    }
                    return Ok(outcomes);
                }
            },
        }
    }
}

/// Gives each build the log, to within a batch of its head; the rest they read by themselves.
async fn feed_all(pool: &PgPool, from: u64, mut feeds: Vec<mpsc::Sender<Batch>>) -> Result<(), FeedError> {
    let mut next = from;
    loop {
        let size = feed::size(&mut *pool.acquire().await?).await?;
        if size.saturating_sub(next) < u64::from(BATCH) {
            return Ok(());
        }
        let mut replay = Replay::in_batches(pool, next..size, BATCH);
        while let Some(events) = replay.next().await? {
            next += events.len() as u64;
            let events = Arc::new(events);
            for feed in &feeds {
                // One that has ended says so itself.
                let _ = feed.send(Arc::clone(&events)).await;
            }
            feeds.retain(|feed| !feed.is_closed());
            if feeds.is_empty() {
                return Ok(());
            }
        }
    }
}
