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
mod report;
mod roll_back;

use std::sync::Arc;

use sqlx::PgPool;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::feed::{self, FeedError, Replay};
use crate::read_models::Projection;
use build::Build;
use report::{BATCH, Batch};
pub use report::{Comparison, News, Options, RebuildError, Rebuilt};
pub use roll_back::{RolledBack, roll_back};

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
