//! A worker a projection: read, apply, move the checkpoint, in one transaction. Whichever node holds the checkpoint's
//! row does the work; the others watch.
//!
//! An event that cannot be applied is never skipped: the worker stops there, says so in health, and tries again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::feed::{self, Feed, FeedError};
use crate::line::Line;
use crate::read_models::{Kept, Projection};
use crate::to_i64;

/// Most events in one transaction.
const BATCH: u32 = 1_000;
/// How often a node looks where the others are.
const TICK: Duration = Duration::from_millis(100);
/// How soon a node looks for the first time what another one made of something new.
const GLANCE: Duration = Duration::from_millis(2);

/// How far each projection is, as this node knows it.
#[derive(Clone)]
pub struct Progress(Arc<HashMap<Projection, watch::Sender<State>>>);

/// Where a projection stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct State {
    /// Every position below it is visible.
    pub position: u64,
    /// Which version of the read model is live; 0 as long as this node has not looked.
    pub version: u32,
    /// The node that applied the last batch.
    pub owner: Option<String>,
    /// Why it does not move, when it does not.
    pub stopped_because: Option<String>,
}

/// A projection that did not get far enough in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the projection is behind")]
pub struct Behind;

impl Default for Progress {
    fn default() -> Self {
        let senders = Projection::ALL.into_iter().map(|projection| (projection, watch::Sender::new(State::default())));
        Self(Arc::new(senders.collect()))
    }
}

impl Progress {
    /// Waits until the event at `position` is visible in the projection.
    ///
    /// # Errors
    /// [`Behind`] after `patience`.
    pub async fn wait(&self, projection: Projection, position: u64, patience: Duration) -> Result<(), Behind> {
        self.reaches(projection, position.saturating_add(1), patience).await
    }

    /// The same, unless the projection has stopped: then there is nothing to wait for.
    ///
    /// # Errors
    /// [`Behind`] after `patience`, or once it has stopped.
    pub async fn wait_while_it_moves(
        &self,
        projection: Projection,
        position: u64,
        patience: Duration,
    ) -> Result<(), Behind> {
        let mut state = self.0.get(&projection).ok_or(Behind)?.subscribe();
        let ended = state.wait_for(|state| state.position > position || state.stopped_because.is_some());
        let state = timeout(patience, ended).await.map_err(|_| Behind)?.map_err(|_| Behind)?;
        if state.position > position { Ok(()) } else { Err(Behind) }
    }

    async fn reaches(&self, projection: Projection, size: u64, patience: Duration) -> Result<(), Behind> {
        let mut state = self.0.get(&projection).ok_or(Behind)?.subscribe();
        timeout(patience, state.wait_for(|state| state.position >= size))
            .await
            .map_err(|_| Behind)?
            .map_err(|_| Behind)?;
        Ok(())
    }

    /// Whether every projection has got so far.
    fn all_reach(&self, size: u64) -> bool {
        self.0.values().all(|state| state.borrow().position >= size)
    }

    /// Where a projection stands.
    #[must_use]
    pub fn of(&self, projection: Projection) -> State {
        self.0.get(&projection).map(|state| state.borrow().clone()).unwrap_or_default()
    }

    /// What the checkpoint said a moment ago. A runner here may have told more since, or why it does not move.
    fn hear(&self, projection: Projection, state: State) {
        let known = self.of(projection);
        let is_news =
            state.position == known.position && (state.version != known.version || state.stopped_because.is_some());
        if state.position > known.position || is_news {
            self.tell(projection, state);
        }
    }

    fn tell(&self, projection: Projection, state: State) {
        if let Some(sender) = self.0.get(&projection) {
            sender.send_if_modified(|known| {
                let differs = *known != state;
                *known = state;
                differs
            });
        }
    }
}

/// Looks what the other nodes have made of something new: soon, since somebody may wait here to see it, and one statement
/// for all projections.
pub struct Lookout {
    pool: PgPool,
    head: watch::Receiver<u64>,
    progress: Progress,
}

impl Lookout {
    /// `head` tells how long the log is.
    #[must_use]
    pub const fn new(pool: PgPool, head: watch::Receiver<u64>, progress: Progress) -> Self {
        Self { pool, head, progress }
    }

    /// Runs until cancelled; looks at the beginning, too, when another node may be at work on what there is.
    pub async fn run(mut self) {
        loop {
            sleep(GLANCE).await;
            let (mut line, mut pause) = (Line::new(self.pool.clone()), GLANCE);
            // Most of the time it is this node that did the work.
            while !self.progress.all_reach(*self.head.borrow_and_update()) {
                if let Err(error) = self.look(&mut line).await {
                    tracing::warn!(%error, "how far the projections are cannot be read; trying again");
                }
                if timeout(pause, self.head.changed()).await.is_ok() {
                    pause = GLANCE;
                    sleep(GLANCE).await;
                } else {
                    pause = (pause * 2).min(TICK);
                }
            }
            // Ends only with its sender, and then this node ends.
            if self.head.changed().await.is_err() {
                return;
            }
        }
    }

    async fn look(&self, line: &mut Line) -> Result<(), sqlx::Error> {
        let rows = line.promptly(async |connection| {
            sqlx::query!("select name, position, version, owner, stopped_because from projection.checkpoint")
                .fetch_all(connection)
                .await
        });
        for row in rows.await? {
            let Ok(projection) = row.name.parse() else { continue };
            let state = State {
                position: row.position.unsigned_abs(),
                version: row.version.unsigned_abs(),
                owner: row.owner,
                stopped_because: row.stopped_because,
            };
            self.progress.hear(projection, state);
        }
        Ok(())
    }
}

/// Keeps one projection up with the log.
pub struct Runner {
    projection: Projection,
    pool: PgPool,
    head: watch::Receiver<u64>,
    progress: Progress,
    feed: Arc<dyn Feed>,
    node_name: Arc<str>,
    /// Where this node left it, when it last applied a batch, or began.
    left: Option<u64>,
}

enum Step {
    /// Applied something; there may be more.
    Moved,
    /// Nothing new.
    Idle,
    /// Another node does the work.
    Elsewhere,
}

impl Runner {
    /// `head` tells how long the log is, `feed` what is in it; `node_name` is what other nodes call this one.
    #[must_use]
    pub const fn new(
        projection: Projection,
        pool: PgPool,
        head: watch::Receiver<u64>,
        progress: Progress,
        feed: Arc<dyn Feed>,
        node_name: Arc<str>,
    ) -> Self {
        Self { projection, pool, head, progress, feed, node_name, left: None }
    }

    /// Runs until cancelled; a batch is applied whole or not at all.
    pub async fn run(mut self) {
        let mut pause = TICK;
        loop {
            let step = if self.give_way().await { Ok(Step::Idle) } else { self.step().await };
            match step {
                Ok(Step::Moved) => pause = TICK,
                Ok(Step::Idle) => {
                    pause = TICK;
                    // Woken by the head; the tick is for a head that moved while nobody told us.
                    let _ = timeout(TICK * 10, self.head.changed()).await;
                }
                Ok(Step::Elsewhere) => {
                    pause = TICK;
                    let _ = timeout(TICK, self.head.changed()).await;
                }
                Err(error) => {
                    self.stopped(&error).await;
                    pause = (pause * 2).min(Duration::from_secs(10));
                    sleep(pause).await;
                }
            }
        }
    }

    /// Whoever applied the last batch goes first: with every node at every batch, most of the work would be to find out
    /// that another one does it. The others hear what became of it (`Lookout`), and try themselves where it has not got
    /// there within a tick. Whether it has.
    async fn give_way(&self) -> bool {
        let head = *self.head.borrow();
        let known = self.progress.of(self.projection).position;
        known < head
            && self.left.is_some_and(|left| left != known)
            && self.progress.reaches(self.projection, head, TICK).await.is_ok()
    }

    async fn step(&mut self) -> Result<Step, FeedError> {
        let name = self.projection.as_str();
        let mut transaction = self.pool.begin().await?;
        // SKIP LOCKED rather than an advisory lock: the row is free the moment its holder dies. Read models name their
        // tables without a schema: a rebuild has others. Temporary tables come last, or they would come first.
        let held = sqlx::query!(
            "select position, version, owner, stopped_because, set_config('search_path', 'read, pg_temp', true)
             from projection.checkpoint where name = $1 for update skip locked",
            name
        )
        .fetch_optional(&mut *transaction)
        .await?;
        let Some(checkpoint) = held else { return Ok(Step::Elsewhere) };
        let from = checkpoint.position.unsigned_abs();
        let version = checkpoint.version.unsigned_abs();
        // Another node may have got so far, or a rebuild.
        let known = self.progress.of(self.projection);
        self.progress
            .tell(self.projection, State { position: from, version, owner: checkpoint.owner.clone(), ..known });
        let events = match self.feed.read(&mut transaction, from, BATCH).await {
            // What comes before an event that cannot be read is applied; the next step stops at the event itself.
            Err(error) => match error.position().and_then(|position| position.checked_sub(from)) {
                Some(sound @ 1..) => feed::read(&mut transaction, from, u32::try_from(sound).unwrap_or(BATCH)).await?,
                Some(0) | None => return Err(error),
            },
            Ok(events) => events,
        };
        let until = from + events.len() as u64;
        if events.is_empty() && checkpoint.stopped_because.is_none() {
            let state = State { position: from, version, owner: checkpoint.owner, stopped_because: None };
            self.progress.tell(self.projection, state);
            self.left.get_or_insert(from);
            return Ok(Step::Idle);
        }
        self.projection.apply(&mut transaction, &mut Kept::default(), &events).await?;
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
        self.left = Some(until);
        let owner = Some(self.node_name.to_string());
        self.progress.tell(self.projection, State { position: until, version, owner, stopped_because: None });
        Ok(Step::Moved)
    }

    async fn stopped(&self, error: &FeedError) {
        let name = self.projection.as_str();
        tracing::error!(projection = name, %error, "a projection has stopped; trying again");
        let known = self.progress.of(self.projection);
        let because = Some(error.to_string());
        self.progress.tell(self.projection, State { stopped_because: because.clone(), ..known });
        // What does not heal by itself is for other nodes to see, too.
        if !error.is_transient() {
            let written =
                sqlx::query!("update projection.checkpoint set stopped_because = $2 where name = $1", name, because)
                    .execute(&self.pool)
                    .await;
            if let Err(error) = written {
                tracing::warn!(projection = name, %error, "that could not be noted in the checkpoint");
            }
        }
    }
}
