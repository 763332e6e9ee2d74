//! Copies the log to NATS JetStream: every event once, in order, for external consumers and for this service's own
//! feed. PostgreSQL is the source of truth. Nothing waits for the copy, and it can be rebuilt.
//!
//! One node relays at a time, under a lease in `log.relay`. The lease only saves work: every message names the stream
//! and the sequence that it belongs to, and the stream refuses it anywhere else, from any sender and at any time.
//!
//! ```text
//! lease --another node's--> wait
//!   |
//!   v                    nothing new for a while
//! find the stream  <---------------------------- publish what is missing <-- head moves
//!   (stream.rs)    ----------------------------> refused, unanswered: pause, release the lease, find again
//! ```

mod error;
mod lease;
mod message;
mod reader;
mod stream;

use std::time::Duration;

use async_nats::connection;
use async_nats::jetstream::context::PublishErrorKind;
use fulexo_database::chain;
use fulexo_domain::leaf;
use sqlx::PgPool;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use self::error::RelayError;
pub use self::lease::{LeaseReleaseError, release_lease};
pub use self::message::CopyKey;
use self::message::LogRow;
pub use self::reader::{CopyReadError, CopyReader};
use self::stream::{CopyCursor, CopySource, JetStream};
use super::batch::to_i64;

/// The maximum number of unacknowledged events in flight.
const BATCH: u32 = 512;
/// The interval at which a node without the lease tries to acquire it.
const LEASE_INTERVAL: Duration = Duration::from_secs(1);
/// The interval at which an idle relay checks the stream: it may have been deleted.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// The maximum pause after failures; pauses double up to it.
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// The progress of the copy, as this node knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RelayState {
    /// Every position below it is published.
    pub position: u64,
    /// The stream, once it exists.
    pub stream: Option<String>,
    /// `true` if this node is the one that publishes.
    pub is_here: bool,
    /// The reason for which publishing has stopped, if it has.
    pub stopped_because: Option<String>,
}

/// The configuration of the relay.
pub struct RelayOptions {
    /// The NATS client.
    pub client: async_nats::Client,
    /// The key that authenticates messages.
    pub key: CopyKey,
    /// The number of servers that store the stream.
    pub replicas: u32,
    /// The id of this process among all that relay.
    pub holder: Uuid,
}

/// Copies the log to JetStream while it runs.
pub struct LogRelay {
    pool: PgPool,
    jetstream: JetStream,
    holder: Uuid,
    head: watch::Receiver<u64>,
    state: watch::Sender<RelayState>,
}

enum RelayStep {
    /// Events were published; there may be more.
    Moved,
    /// There is nothing to publish.
    Idle,
    /// Another node holds the lease.
    Elsewhere,
}

impl LogRelay {
    /// Creates the relay. `head` is the length of the log. The returned receiver shows the progress of the copy.
    #[must_use]
    pub fn new(pool: PgPool, options: RelayOptions, head: watch::Receiver<u64>) -> (Self, watch::Receiver<RelayState>) {
        let RelayOptions { client, key, replicas, holder } = options;
        // Acknowledgements of abandoned publications count for a while.
        let jetstream = JetStream::new(client, key, replicas, 8 * BATCH as usize);
        let (state, states) = watch::channel(RelayState::default());
        (Self { pool, jetstream, holder, head, state }, states)
    }

    /// Runs until cancelled. It may be cancelled at any point: the stream shows which messages have arrived.
    pub async fn run(mut self) {
        const FIRST_PAUSE: Duration = Duration::from_millis(100);
        let mut pause = FIRST_PAUSE;
        let mut cursor = None;
        loop {
            match self.step(&mut cursor).await {
                Ok(RelayStep::Moved) => pause = FIRST_PAUSE,
                Ok(RelayStep::Idle) => {
                    pause = FIRST_PAUSE;
                    match timeout(CHECK_INTERVAL, self.head.changed()).await {
                        Ok(Ok(())) => {}
                        // Find and check the whole stream again.
                        Err(_) => cursor = None,
                        Ok(Err(_)) => return,
                    }
                }
                Ok(RelayStep::Elsewhere) => {
                    pause = FIRST_PAUSE;
                    cursor = None;
                    sleep(LEASE_INTERVAL).await;
                }
                Err(error) => {
                    cursor = None;
                    self.report_failure(&error).await;
                    sleep(pause).await;
                    pause = (pause * 2).min(MAX_PAUSE);
                }
            }
        }
    }

    async fn step(&mut self, cursor: &mut Option<CopyCursor>) -> Result<RelayStep, RelayError> {
        if self.jetstream.context.client().connection_state() != connection::State::Connected {
            return Err(RelayError::Disconnected);
        }
        let Some(log) = self.acquire_lease(cursor.as_ref()).await? else {
            self.observe().await?;
            return Ok(RelayStep::Elsewhere);
        };
        if cursor.as_ref().is_none_or(|cursor| cursor.epoch != log.epoch) {
            *cursor = Some(self.find(&log).await?);
            // Stored before anything is published: after a failure, only later messages have to be checked.
            if self.acquire_lease(cursor.as_ref()).await?.is_none() {
                return Ok(RelayStep::Elsewhere);
            }
        }
        let Some(cursor) = cursor else { return Err(RelayError::StreamChanged) };
        let published = if cursor.next < log.size { self.publish(cursor).await? } else { 0 };
        cursor.next += published;
        let (position, stream) = (cursor.next, Some(cursor.name.clone()));
        self.set_state(RelayState { position, stream, is_here: true, stopped_because: None });
        Ok(if published > 0 { RelayStep::Moved } else { RelayStep::Idle })
    }

    /// Acquires or renews the lease, and stores the progress of the copy. Returns `None` if another node holds the
    /// lease.
    async fn acquire_lease(&self, cursor: Option<&CopyCursor>) -> Result<Option<CopySource>, RelayError> {
        let row = sqlx::query!(
            "update log.relay r
             set holder = $1, held_until = clock_timestamp() + interval '6 seconds',
                 stream = coalesce($2, r.stream), position = coalesce($3, r.position),
                 stopped_because = case when $2::text is null then r.stopped_because end
             from log.head h
             where r.id = 1 and (r.holder = $1 or r.held_until < clock_timestamp()) and $1 <> all (r.ended)
             returning h.epoch, h.position as size, r.stream, r.position, clock_timestamp() as \"now!\"",
            self.holder,
            cursor.map(|cursor| cursor.name.as_str()),
            cursor.map(|cursor| to_i64(cursor.next))
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(row.map(|row| CopySource {
            epoch: row.epoch,
            size: row.size.unsigned_abs(),
            confirmed: row.stream.map(|stream| (stream, row.position.unsigned_abs())),
            now: row.now,
        }))
    }

    /// Finds the stream to continue, and checks that its last message is the log's.
    async fn find(&self, log: &CopySource) -> Result<CopyCursor, RelayError> {
        let cursor = self.jetstream.find(log).await?;
        if let (Some(last), Some(position)) = (&cursor.last, cursor.next.checked_sub(1)) {
            let hash = sqlx::query_scalar!("select leaf_hash from log.event where position = $1", to_i64(position))
                .fetch_optional(&self.pool)
                .await?;
            if hash.as_deref() != Some(leaf::hash(last).as_slice()) {
                return Err(RelayError::Diverged { stream: cursor.name, position });
            }
        }
        Ok(cursor)
    }

    /// Publishes the next events, if the log still has the last published one, and waits until the stream has
    /// acknowledged all of them in order. Returns their number.
    async fn publish(&self, cursor: &mut CopyCursor) -> Result<u64, RelayError> {
        let before = cursor.next.checked_sub(1);
        let rows = sqlx::query_as!(
            LogRow,
            "select position, stream_id, category, version, leaf, leaf_hash from log.event
             where position >= $1 and position < $2 order by position",
            to_i64(before.unwrap_or(0)),
            to_i64(cursor.next.saturating_add(u64::from(BATCH)))
        )
        .fetch_all(&self.pool)
        .await?;
        let mut rows = rows.into_iter();
        if let Some(position) = before {
            let row = rows.next();
            let still = |last: &Vec<u8>| row.as_ref().is_some_and(|row| row.leaf == *last);
            if !cursor.last.as_ref().is_none_or(still) {
                return Err(RelayError::Diverged { stream: cursor.name.clone(), position });
            }
        }
        let mut last = None;
        let mut acknowledgements = Vec::with_capacity(rows.len());
        let mut unsound = None;
        for (row, position) in rows.zip(cursor.next..) {
            let leaf = row.leaf.clone();
            let Some((subject, message)) = row.message(&self.jetstream.key, cursor.epoch, position, &cursor.name)
            else {
                unsound = Some(position);
                break;
            };
            let sent = self.jetstream.context.send_publish(subject, message).await;
            acknowledgements.push((position, sent.map_err(RelayError::nats)?));
            last = Some(leaf);
        }
        let published = acknowledgements.len() as u64;
        for (position, acknowledgement) in acknowledgements {
            let acknowledged = acknowledgement.await.map_err(|error| match error.kind() {
                PublishErrorKind::WrongLastSequence => RelayError::StreamChanged,
                _ => RelayError::nats(error),
            })?;
            if acknowledged.sequence != position + 1 || acknowledged.stream != cursor.name {
                return Err(RelayError::StreamChanged);
            }
        }
        cursor.last = last.or_else(|| cursor.last.take());
        match unsound {
            // Earlier events are published.
            Some(position) if published == 0 => Err(RelayError::AlteredEvent(position)),
            Some(_) | None => Ok(published),
        }
    }

    /// Reads the progress of the node that publishes.
    async fn observe(&self) -> Result<(), RelayError> {
        let row = sqlx::query!("select stream, position, stopped_because from log.relay").fetch_one(&self.pool).await?;
        let position = row.position.unsigned_abs();
        self.set_state(RelayState {
            position,
            stream: row.stream,
            is_here: false,
            stopped_because: row.stopped_because,
        });
        Ok(())
    }

    fn set_state(&self, state: RelayState) {
        self.state.send_if_modified(|known| {
            let differs = *known != state;
            *known = state;
            differs
        });
    }

    /// Logs the error once per reason, and releases the lease, so that another node can try.
    async fn report_failure(&self, error: &RelayError) {
        let because = chain(error).to_string();
        let known = self.state.borrow().clone();
        if known.stopped_because.as_ref() != Some(&because) {
            match error {
                RelayError::StreamChanged => tracing::debug!(error = because, "the relay checks its stream again"),
                RelayError::Database(_)
                | RelayError::Disconnected
                | RelayError::Nats(_)
                | RelayError::AlteredEvent(_)
                | RelayError::ForeignStream(_)
                | RelayError::DamagedReplacement(_)
                | RelayError::Diverged { .. } => {
                    tracing::warn!(error = because, "copying the log to JetStream failed; trying again");
                }
            }
        }
        self.set_state(RelayState { is_here: false, stopped_because: Some(because.clone()), ..known });
        let given_up = sqlx::query!(
            "update log.relay set held_until = clock_timestamp(), stopped_because = $2 where holder = $1",
            self.holder,
            because
        )
        .execute(&self.pool)
        .await;
        // On failure, the lease expires.
        drop(given_up);
    }
}
