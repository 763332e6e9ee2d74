//! One worker per projection: it reads, applies, and moves the checkpoint in one transaction. The node that locks the
//! checkpoint's row does the work; the others watch.
//!
//! A worker never skips an event that it cannot apply. It stops there, reports that in health, and tries again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use fulexo_database::{begin, chain};
use sqlx::PgPool;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::dedicated_connection::DedicatedConnection;
use crate::feed::{self, Feed, FeedError};
use crate::read_models::{Projection, RowCache};
use crate::to_i64;

/// The maximum number of events per transaction.
const BATCH: u32 = 1_000;
/// The interval between reads of the checkpoints.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// The delay before the first read of the checkpoints after something new.
const FIRST_POLL: Duration = Duration::from_millis(2);

/// The state of each projection, as far as this node knows.
#[derive(Clone)]
pub struct ProjectionProgress(Arc<HashMap<Projection, watch::Sender<ProjectionState>>>);

/// The state of a projection.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProjectionState {
    /// Every event below this position is visible.
    pub position: u64,
    /// The version of the read model that is live; 0 until this node has read it.
    pub version: u32,
    /// The name of the node that applied the last batch.
    pub owner: Option<String>,
    /// The reason for which the projection has stopped, if it has.
    pub stopped_because: Option<String>,
}

/// The projection did not reach the position in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the projection has not reached the position in time")]
pub struct ProjectionBehind;

impl Default for ProjectionProgress {
    fn default() -> Self {
        let senders =
            Projection::ALL.into_iter().map(|projection| (projection, watch::Sender::new(ProjectionState::default())));
        Self(Arc::new(senders.collect()))
    }
}

impl ProjectionProgress {
    /// Waits until the event at `position` is visible in the projection.
    ///
    /// # Errors
    /// [`ProjectionBehind`] after `patience`.
    pub async fn wait(
        &self,
        projection: Projection,
        position: u64,
        patience: Duration,
    ) -> Result<(), ProjectionBehind> {
        self.wait_for_size(projection, position.saturating_add(1), patience).await
    }

    /// Waits like [`ProjectionProgress::wait`], but fails at once if the projection has stopped.
    ///
    /// # Errors [`ProjectionBehind`] after `patience`, or once the projection has stopped.
    pub async fn wait_unless_stopped(
        &self,
        projection: Projection,
        position: u64,
        patience: Duration,
    ) -> Result<(), ProjectionBehind> {
        let mut state = self.0.get(&projection).ok_or(ProjectionBehind)?.subscribe();
        let ended = state.wait_for(|state| state.position > position || state.stopped_because.is_some());
        // Either error means that it took too long: the senders live as long as `self`.
        let state = timeout(patience, ended).await.map_err(|_| ProjectionBehind)?.map_err(|_| ProjectionBehind)?;
        if state.position > position { Ok(()) } else { Err(ProjectionBehind) }
    }

    async fn wait_for_size(
        &self,
        projection: Projection,
        size: u64,
        patience: Duration,
    ) -> Result<(), ProjectionBehind> {
        let mut state = self.0.get(&projection).ok_or(ProjectionBehind)?.subscribe();
        // Either error means that it took too long: the senders live as long as `self`.
        timeout(patience, state.wait_for(|state| state.position >= size))
            .await
            .map_err(|_| ProjectionBehind)?
            .map_err(|_| ProjectionBehind)?;
        Ok(())
    }

    /// `true` if every projection has applied all events below `size`.
    fn all_reach(&self, size: u64) -> bool {
        self.0.values().all(|state| state.borrow().position >= size)
    }

    /// The state of a projection.
    #[must_use]
    pub fn of(&self, projection: Projection) -> ProjectionState {
        self.0.get(&projection).map(|state| state.borrow().clone()).unwrap_or_default()
    }

    /// Follows the state of a projection, without missing the newest one.
    #[must_use]
    pub fn follow(&self, projection: Projection) -> Option<watch::Receiver<ProjectionState>> {
        self.0.get(&projection).map(watch::Sender::subscribe)
    }

    /// Takes a state from the checkpoint. A runner here may have published a newer one, or the reason why it stopped.
    fn observe_checkpoint(&self, projection: Projection, state: ProjectionState) {
        let known = self.of(projection);
        let is_news =
            state.position == known.position && (state.version != known.version || state.stopped_because.is_some());
        if state.position > known.position || is_news {
            self.publish(projection, state);
        }
    }

    fn publish(&self, projection: Projection, state: ProjectionState) {
        if let Some(sender) = self.0.get(&projection) {
            sender.send_if_modified(|known| {
                let differs = *known != state;
                *known = state;
                differs
            });
        }
    }
}

/// Reads from the checkpoints how far other nodes have brought the projections. It reads soon after something new,
/// since callers may wait for it here, and with one statement for all projections.
pub struct ProgressPoller {
    pool: PgPool,
    head: watch::Receiver<u64>,
    progress: ProjectionProgress,
}

impl ProgressPoller {
    /// `head` carries the size of the log.
    #[must_use]
    pub const fn new(pool: PgPool, head: watch::Receiver<u64>, progress: ProjectionProgress) -> Self {
        Self { pool, head, progress }
    }

    /// Runs until cancelled. It also polls at the start, when another node may still be applying existing events.
    pub async fn run(mut self) {
        loop {
            sleep(FIRST_POLL).await;
            let (mut connection, mut pause) = (DedicatedConnection::new(self.pool.clone()), FIRST_POLL);
            // Usually this node itself did the work.
            while !self.progress.all_reach(*self.head.borrow_and_update()) {
                if let Err(error) = self.poll(&mut connection).await {
                    tracing::warn!(error = %chain(&error), "the checkpoints cannot be read; trying again");
                }
                if timeout(pause, self.head.changed()).await.is_ok() {
                    pause = FIRST_POLL;
                    sleep(FIRST_POLL).await;
                } else {
                    pause = (pause * 2).min(POLL_INTERVAL);
                }
            }
            // The channel closes only when this node stops.
            if self.head.changed().await.is_err() {
                return;
            }
        }
    }

    async fn poll(&self, connection: &mut DedicatedConnection) -> Result<(), sqlx::Error> {
        let rows = connection.with_deadline(async |connection| {
            sqlx::query!("select name, position, version, owner, stopped_because from projection.checkpoint")
                .fetch_all(connection)
                .await
        });
        for row in rows.await? {
            let Ok(projection) = row.name.parse() else { continue };
            let state = ProjectionState {
                position: row.position.unsigned_abs(),
                version: row.version.unsigned_abs(),
                owner: row.owner,
                stopped_because: row.stopped_because,
            };
            self.progress.observe_checkpoint(projection, state);
        }
        Ok(())
    }
}

/// Keeps one projection up to date with the log.
pub struct Runner {
    projection: Projection,
    pool: PgPool,
    head: watch::Receiver<u64>,
    progress: ProjectionProgress,
    feed: Arc<dyn Feed>,
    node_name: Arc<str>,
    /// The position after the last batch that this node applied, or the one at which it started.
    last_position: Option<u64>,
}

enum RunnerStep {
    /// A batch was applied; there may be more.
    Applied,
    /// There is nothing new.
    Idle,
    /// Another node does the work.
    OwnedElsewhere,
}

impl Runner {
    /// `head` carries the size of the log and `feed` its events; `node_name` is the name that other nodes see.
    #[must_use]
    pub const fn new(
        projection: Projection,
        pool: PgPool,
        head: watch::Receiver<u64>,
        progress: ProjectionProgress,
        feed: Arc<dyn Feed>,
        node_name: Arc<str>,
    ) -> Self {
        Self { projection, pool, head, progress, feed, node_name, last_position: None }
    }

    /// Runs until cancelled. A batch is applied as a whole or not at all.
    pub async fn run(mut self) {
        let mut pause = POLL_INTERVAL;
        loop {
            let step = if self.yields_to_owner().await { Ok(RunnerStep::Idle) } else { self.step().await };
            match step {
                Ok(RunnerStep::Applied) => pause = POLL_INTERVAL,
                Ok(RunnerStep::Idle) => {
                    pause = POLL_INTERVAL;
                    // The head wakes this; the timeout covers a head that moved without a wake-up.
                    let _ = timeout(POLL_INTERVAL * 10, self.head.changed()).await;
                }
                Ok(RunnerStep::OwnedElsewhere) => {
                    pause = POLL_INTERVAL;
                    let _ = timeout(POLL_INTERVAL, self.head.changed()).await;
                }
                Err(error) => {
                    self.report_failure(&error).await;
                    pause = (pause * 2).min(Duration::from_secs(10));
                    sleep(pause).await;
                }
            }
        }
    }

    /// Waits for the node that applied the last batch, and returns `true` if that node has reached the head. If every
    /// node tried every batch, most attempts would only find that another node does the work. The others learn the
    /// result from `ProgressPoller`, and try themselves if the owner has not reached the head within one poll interval.
    async fn yields_to_owner(&self) -> bool {
        let head = *self.head.borrow();
        let known = self.progress.of(self.projection).position;
        known < head
            && self.last_position.is_some_and(|last_position| last_position != known)
            && self.progress.wait_for_size(self.projection, head, POLL_INTERVAL).await.is_ok()
    }

    async fn step(&mut self) -> Result<RunnerStep, FeedError> {
        let name = self.projection.as_str();
        let mut transaction = begin(&self.pool).await?;
        // SKIP LOCKED rather than an advisory lock: the row is free the moment its holder dies. Read models name their
        // tables without a schema because a rebuild has its own. The temporary schema is listed last, or it would be
        // searched first.
        let held = sqlx::query!(
            "select position, version, owner, stopped_because, set_config('search_path', 'read, pg_temp', true)
             from projection.checkpoint where name = $1 for update skip locked",
            name
        )
        .fetch_optional(&mut *transaction)
        .await?;
        let Some(checkpoint) = held else { return Ok(RunnerStep::OwnedElsewhere) };
        let from = checkpoint.position.unsigned_abs();
        let version = checkpoint.version.unsigned_abs();
        // Another node or a rebuild may have advanced the checkpoint.
        let known = self.progress.of(self.projection);
        self.progress.publish(
            self.projection,
            ProjectionState { position: from, version, owner: checkpoint.owner.clone(), ..known },
        );
        let events = match self.feed.read(&mut transaction, from, BATCH).await {
            // The events before an unreadable one are applied; the next step stops at the unreadable event itself.
            Err(error) => match error.position().and_then(|position| position.checked_sub(from)) {
                Some(sound @ 1..) => feed::read(&mut transaction, from, u32::try_from(sound).unwrap_or(BATCH)).await?,
                Some(0) | None => return Err(error),
            },
            Ok(events) => events,
        };
        let until = from + events.len() as u64;
        if events.is_empty() && checkpoint.stopped_because.is_none() {
            let state = ProjectionState { position: from, version, owner: checkpoint.owner, stopped_because: None };
            self.progress.publish(self.projection, state);
            self.last_position.get_or_insert(from);
            return Ok(RunnerStep::Idle);
        }
        self.projection.apply(&mut transaction, &mut RowCache::default(), &events).await?;
        sqlx::query!(
            "update projection.checkpoint set position = $2, owner = $3, stopped_because = null, updated_at = now()
             where name = $1",
            name,
            to_i64(until),
            &*self.node_name
        )
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        self.last_position = Some(until);
        let owner = Some(self.node_name.to_string());
        self.progress
            .publish(self.projection, ProjectionState { position: until, version, owner, stopped_because: None });
        Ok(RunnerStep::Applied)
    }

    async fn report_failure(&self, error: &FeedError) {
        let name = self.projection.as_str();
        let because = chain(error).to_string();
        tracing::error!(projection = name, error = because, "a projection has stopped; trying again");
        let known = self.progress.of(self.projection);
        let because = Some(because);
        self.progress.publish(self.projection, ProjectionState { stopped_because: because.clone(), ..known });
        // Other nodes must see an error that does not heal by itself.
        if !error.is_transient() {
            let written =
                sqlx::query!("update projection.checkpoint set stopped_because = $2 where name = $1", name, because)
                    .execute(&self.pool)
                    .await;
            if let Err(error) = written {
                tracing::warn!(projection = name, error = %chain(&error), "the error could not be recorded in the checkpoint");
            }
        }
    }
}
