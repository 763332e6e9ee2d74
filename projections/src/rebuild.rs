//! Rebuilds a read model from the log alongside the live version, which remains readable and up to date.
//!
//! ```text
//! started, or resumed --> at the live version's position: compared --> indexed --> at the head: switched
//!                                                                                 live becomes previous <--> roll_back
//! ```
//!
//! Rows commit together with the build's own checkpoint: after an interruption, the next rebuild resumes there.
//! `begin_build` and the other database functions that move tables are in `migrations/0007_rebuild.sql`.
//!
//! A rebuild does not judge: if the new version differs from the live one, the log is right, and the difference is
//! reported.

mod build;
mod report;
mod roll_back;
mod shadow_version;

use std::sync::Arc;

use sqlx::PgPool;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::feed::{self, FeedError, LogReader};
use crate::read_models::Projection;
use build::Build;
use report::{BATCH, EventBatch};
pub use report::{BuildComparison, RebuildError, RebuildOptions, RebuildProgress, RebuildReport};
pub use roll_back::{RollbackReport, roll_back};

/// The outcome of each rebuild.
pub type RebuildOutcomes = Vec<(Projection, Result<RebuildReport, RebuildError>)>;

/// Rebuilds these read models, reading and decoding the log once for all of them, and switches to each as soon as it is
/// built. A failure of one does not delay the others.
///
/// # Errors [`RebuildError`] if nothing could start or the log cannot be read. Then nothing was switched.
pub async fn rebuild(
    pool: &PgPool,
    projections: &[Projection],
    options: &RebuildOptions,
    mut report: impl FnMut(Projection, RebuildProgress),
) -> Result<RebuildOutcomes, RebuildError> {
    let (sender, mut receiver) = mpsc::channel(64);
    let mut builds = Vec::new();
    for projection in projections {
        builds.push(Build::open(pool, *projection, options, sender.clone()).await?);
    }
    drop(sender);
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
                // The feeds close only at the true end of the log.
                read?;
            }
            Some((projection, progress)) = receiver.recv() => report(projection, progress),
            ended = work.join_next() => match ended {
                Some(Ok(outcome)) => outcomes.push(outcome),
                Some(Err(error)) => match error.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    // The runtime is shutting down.
                    Err(_cancelled) => return Err(sqlx::Error::PoolClosed.into()),
                },
                None => {
                    while let Ok((projection, progress)) = receiver.try_recv() {
                        report(projection, progress);
                    }
                    return Ok(outcomes);
                }
            },
        }
    }
}

/// Sends the log to each build, up to the last batch; the builds read the rest themselves.
async fn feed_all(pool: &PgPool, from: u64, mut feeds: Vec<mpsc::Sender<EventBatch>>) -> Result<(), FeedError> {
    let mut next = from;
    loop {
        let size = feed::size(&mut *pool.acquire().await?).await?;
        if size.saturating_sub(next) < u64::from(BATCH) {
            return Ok(());
        }
        let mut replay = LogReader::in_batches(pool, next..size, BATCH);
        while let Some(events) = replay.next().await? {
            next += events.len() as u64;
            let events = Arc::new(events);
            for feed in &feeds {
                // A build that has failed reports that itself.
                let _ = feed.send(Arc::clone(&events)).await;
            }
            feeds.retain(|feed| !feed.is_closed());
            if feeds.is_empty() {
                return Ok(());
            }
        }
    }
}
