//! Copies the log to NATS JetStream: every event once, in order, for consumers outside and for this service's own feed.
//! PostgreSQL is the truth; nothing waits for the copy, and it can be made again.
//!
//! One node relays at a time, whose turn it is by `log.relay`. Turns only spare work: every message says which stream
//! and which sequence it belongs to, and the stream refuses it anywhere else, whoever sends it and however late.
//!
//! ```text
//! turn --another's--> wait
//!   |
//!   v                    nothing new for a while
//! find the stream  <---------------------------- publish what is missing <-- head moves
//!   (stream.rs)    ----------------------------> refused, unanswered: pause, let others try, find again
//! ```

mod error;
mod message;
mod stream;
mod turn;

use std::time::Duration;

use async_nats::connection;
use async_nats::jetstream::context::PublishErrorKind;
use fulexo_domain::leaf;
use sqlx::PgPool;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use self::error::RelayError;
pub use self::message::CopyKey;
use self::message::LogRow;
use self::stream::{CopyCursor, CopySource, JetStream};
pub use self::turn::{LeaseReleaseError, give_up};
use super::batch::to_i64;

/// Most events on their way at once, unacknowledged.
const BATCH: u32 = 512;
/// How often a node asks whether it is its turn.
const TICK: Duration = Duration::from_secs(1);
/// How often the stream is looked at while nothing happens: it may have been wiped.
const LOOK: Duration = Duration::from_secs(2);
/// Pauses after failures double up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How the copy is getting on, as this node knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RelayState {
    /// Every position below it was published.
    pub position: u64,
    /// The stream, once there is one.
    pub stream: Option<String>,
    /// Whether this node is the one that publishes.
    pub is_here: bool,
    /// Why nothing is published, when nothing is.
    pub stopped_because: Option<String>,
}

/// Where and how the copy is made.
pub struct RelayOptions {
    /// NATS.
    pub client: async_nats::Client,
    /// What messages are signed with.
    pub key: CopyKey,
    /// How many servers keep the stream.
    pub replicas: u32,
    /// Tells this process from all others that relay.
    pub holder: Uuid,
}

/// Copies the log to JetStream for as long as it runs.
pub struct LogRelay {
    pool: PgPool,
    jetstream: JetStream,
    holder: Uuid,
    head: watch::Receiver<u64>,
    state: watch::Sender<RelayState>,
}

enum RelayStep {
    /// Published something; there may be more.
    Moved,
    /// Nothing new.
    Idle,
    /// Another node publishes.
    Elsewhere,
}

impl LogRelay {
    /// `head` tells how long the log is. The receiver tells how far the copy is.
    #[must_use]
    pub fn new(pool: PgPool, options: RelayOptions, head: watch::Receiver<u64>) -> (Self, watch::Receiver<RelayState>) {
        let RelayOptions { client, key, replicas, holder } = options;
        // Acknowledgements that nobody waits for any more count for a while.
        let jetstream = JetStream::new(client, key, replicas, 8 * BATCH as usize);
        let (state, states) = watch::channel(RelayState::default());
        (Self { pool, jetstream, holder, head, state }, states)
    }

    /// Runs until cancelled, at any point: what is on its way then arrives or does not, and the stream tells.
    pub async fn run(mut self) {
        const FIRST_PAUSE: Duration = Duration::from_millis(100);
        let mut pause = FIRST_PAUSE;
        let mut place = None;
        loop {
            match self.step(&mut place).await {
                Ok(RelayStep::Moved) => pause = FIRST_PAUSE,
                Ok(RelayStep::Idle) => {
                    pause = FIRST_PAUSE;
                    match timeout(LOOK, self.head.changed()).await {
                        Ok(Ok(())) => {}
                        // Looked at again, whole.
                        Err(_) => place = None,
                        Ok(Err(_)) => return,
                    }
                }
                Ok(RelayStep::Elsewhere) => {
                    pause = FIRST_PAUSE;
                    place = None;
                    sleep(TICK).await;
                }
                Err(error) => {
                    place = None;
                    self.stopped(&error).await;
                    sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    async fn step(&mut self, place: &mut Option<CopyCursor>) -> Result<RelayStep, RelayError> {
        if self.jetstream.context.client().connection_state() != connection::State::Connected {
            return Err(RelayError::Disconnected);
        }
        let Some(log) = self.take_turn(place.as_ref()).await? else {
            self.look().await?;
            return Ok(RelayStep::Elsewhere);
        };
        if place.as_ref().is_none_or(|place| place.epoch != log.epoch) {
            *place = Some(self.find(&log).await?);
            // Noted before anything is published: what comes after it is what has to be looked at, should this fail.
            if self.take_turn(place.as_ref()).await?.is_none() {
                return Ok(RelayStep::Elsewhere);
            }
        }
        let Some(place) = place else { return Err(RelayError::OutOfStep) };
        let published = if place.next < log.size { self.publish(place).await? } else { 0 };
        place.next += published;
        let (position, stream) = (place.next, Some(place.name.clone()));
        self.tell(RelayState { position, stream, is_here: true, stopped_because: None });
        Ok(if published > 0 { RelayStep::Moved } else { RelayStep::Idle })
    }

    /// Takes or keeps the turn, and notes how far the copy is. `None` while it is another node's.
    async fn take_turn(&self, place: Option<&CopyCursor>) -> Result<Option<CopySource>, RelayError> {
        let row = sqlx::query!(
            "update log.relay r
             set holder = $1, held_until = clock_timestamp() + interval '6 seconds',
                 stream = coalesce($2, r.stream), position = coalesce($3, r.position),
                 stopped_because = case when $2::text is null then r.stopped_because end
             from log.head h
             where r.id = 1 and (r.holder = $1 or r.held_until < clock_timestamp()) and $1 <> all (r.ended)
             returning h.epoch, h.position as size, r.stream, r.position, clock_timestamp() as \"now!\"",
            self.holder,
            place.map(|place| place.name.as_str()),
            place.map(|place| to_i64(place.next))
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

    /// The stream to go on with; its end is the log's own.
    async fn find(&self, log: &CopySource) -> Result<CopyCursor, RelayError> {
        let place = self.jetstream.find(log).await?;
        if let (Some(last), Some(position)) = (&place.last, place.next.checked_sub(1)) {
            let hash = sqlx::query_scalar!("select leaf_hash from log.event where position = $1", to_i64(position))
                .fetch_optional(&self.pool)
                .await?;
            if hash.as_deref() != Some(leaf::hash(last).as_slice()) {
                return Err(RelayError::Diverged { stream: place.name, position });
            }
        }
        Ok(place)
    }

    /// Publishes what comes next, as long as the log still has what came last, and waits until the stream has acknowledged
    /// all of it, in order. Answers with how many.
    async fn publish(&self, place: &mut CopyCursor) -> Result<u64, RelayError> {
        let before = place.next.checked_sub(1);
        let rows = sqlx::query_as!(
            LogRow,
            "select position, stream_id, category, version, leaf, leaf_hash from log.event
             where position >= $1 and position < $2 order by position",
            to_i64(before.unwrap_or(0)),
            to_i64(place.next.saturating_add(u64::from(BATCH)))
        )
        .fetch_all(&self.pool)
        .await?;
        let mut rows = rows.into_iter();
        if let Some(position) = before {
            let row = rows.next();
            let still = |last: &Vec<u8>| row.as_ref().is_some_and(|row| row.leaf == *last);
            if !place.last.as_ref().is_none_or(still) {
                return Err(RelayError::Diverged { stream: place.name.clone(), position });
            }
        }
        let mut last = None;
        let mut acknowledgements = Vec::with_capacity(rows.len());
        let mut unsound = None;
        for (row, position) in rows.zip(place.next..) {
            let leaf = row.leaf.clone();
            let Some((subject, message)) = row.message(&self.jetstream.key, place.epoch, position, &place.name) else {
                unsound = Some(position);
                break;
            };
            let sent = self.jetstream.context.send_publish(subject, message).await;
            acknowledgements.push((position, sent.map_err(|error| RelayError::nats(&error))?));
            last = Some(leaf);
        }
        let published = acknowledgements.len() as u64;
        for (position, acknowledgement) in acknowledgements {
            let acknowledged = acknowledgement.await.map_err(|error| match error.kind() {
                PublishErrorKind::WrongLastSequence => RelayError::OutOfStep,
                _ => RelayError::nats(&error),
            })?;
            if acknowledged.sequence != position + 1 || acknowledged.stream != place.name {
                return Err(RelayError::OutOfStep);
            }
        }
        place.last = last.or_else(|| place.last.take());
        match unsound {
            // What comes before it is published.
            Some(position) if published == 0 => Err(RelayError::Unsound(position)),
            Some(_) | None => Ok(published),
        }
    }

    /// How far the node has got that publishes.
    async fn look(&self) -> Result<(), RelayError> {
        let row = sqlx::query!("select stream, position, stopped_because from log.relay").fetch_one(&self.pool).await?;
        let position = row.position.unsigned_abs();
        self.tell(RelayState { position, stream: row.stream, is_here: false, stopped_because: row.stopped_because });
        Ok(())
    }

    fn tell(&self, state: RelayState) {
        self.state.send_if_modified(|known| {
            let differs = *known != state;
            *known = state;
            differs
        });
    }

    /// Says so, once a reason, and lets another node try.
    async fn stopped(&self, error: &RelayError) {
        let because = error.to_string();
        let known = self.state.borrow().clone();
        if known.stopped_because.as_ref() != Some(&because) {
            match error {
                RelayError::OutOfStep => tracing::debug!(%error, "the relay looks at its stream again"),
                RelayError::Database(_)
                | RelayError::Disconnected
                | RelayError::Nats(_)
                | RelayError::Unsound(_)
                | RelayError::NotOurs(_)
                | RelayError::DamagedAgain(_)
                | RelayError::Diverged { .. } => {
                    tracing::warn!(%error, "the log is not copied to JetStream; trying again");
                }
            }
        }
        self.tell(RelayState { is_here: false, stopped_because: Some(because.clone()), ..known });
        let given_up = sqlx::query!(
            "update log.relay set held_until = clock_timestamp(), stopped_because = $2 where holder = $1",
            self.holder,
            because
        )
        .execute(&self.pool)
        .await;
        // Then it runs out.
        drop(given_up);
    }
}
