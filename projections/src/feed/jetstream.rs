//! The log as JetStream delivers it. Each node has one consumer, decodes each event once for all its projections, and
//! keeps the last few thousand. NATS is not trusted: an event counts only with the MAC of a node for its exact
//! position, and everything that does not follow its predecessor is read from PostgreSQL.
//!
//! ```text
//! JetStream --> FeedListener: MAC, epoch, next position? --> window [first .. end) --> read: [from ..) in it? --> runner
//!                                 | no: rejected, counted                                 | no, even a moment later
//!                                 v                                                       v
//!                                gap                                                  PostgreSQL
//! ```
//! A restore may undo events after they were delivered. The transaction that applies them therefore checks first that
//! the log still has them.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::{self, Context, Message};
use async_nats::{Client, connection};
use fulexo_database::chain;
use fulexo_domain::event::RecordedEvent;
use fulexo_domain::jetstream::{EPOCH, MAC, POSITION, SUBJECTS, unhex};
use fulexo_domain::leaf;
use futures_util::StreamExt;
use sqlx::{PgConnection, PgPool};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use super::postgres;
use super::read::{Feed, ReadFuture};
use crate::to_i64;

/// The maximum number of events kept: a few megabytes.
const WINDOW_SIZE: usize = 4_096;
/// The time that a reader waits for an event that is probably about to arrive.
const ARRIVAL_TIMEOUT: Duration = Duration::from_millis(25);
/// The interval at which a silent stream is checked: it may have been replaced.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(2);

/// `true` if a node of this service signed the message: epoch, position, leaf, MAC. The composition root, which has the
/// key, provides this function.
pub type MessageVerifier = Arc<dyn Fn(Uuid, u64, &[u8], &[u8]) -> bool + Send + Sync>;

/// The feed that returns the events that JetStream delivered.
#[derive(Default)]
pub struct JetStreamFeed {
    window: Mutex<EventWindow>,
    /// The position expected next, for readers that wait for it.
    end: watch::Sender<u64>,
    is_live: AtomicBool,
    window_reads: AtomicU64,
    rejected: AtomicU64,
}

/// The counters of the feed since the node started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FeedCounts {
    /// Reads that the window answered.
    pub window_reads: u64,
    /// Messages that were rejected.
    pub rejected: u64,
}

#[derive(Default)]
struct EventWindow {
    /// The epoch of all these events.
    epoch: Uuid,
    first: u64,
    events: VecDeque<WindowEvent>,
}

#[derive(Clone)]
struct WindowEvent {
    event: Arc<RecordedEvent>,
    /// The hash of its leaf.
    hash: [u8; 32],
}

impl EventWindow {
    fn end(&self) -> u64 {
        self.first + self.events.len() as u64
    }

    fn add(&mut self, received: WindowEvent) {
        let position = received.event.position;
        if !self.events.is_empty() && position < self.end() {
            // A recreated stream delivers its events again, and so can anyone who repeats a message.
            return;
        }
        if position != self.end() {
            self.clear();
            self.first = position;
        }
        self.events.push_back(received);
        if self.events.len() > WINDOW_SIZE {
            self.events.pop_front();
            self.first += 1;
        }
    }

    fn clear(&mut self) {
        self.events.clear();
    }

    /// The epoch of the window, and its events from a position on.
    fn take(&self, from: u64, most: u32) -> (Uuid, Vec<WindowEvent>) {
        let skip = from.checked_sub(self.first).and_then(|skip| usize::try_from(skip).ok());
        let events = skip.into_iter().flat_map(|skip| self.events.iter().skip(skip));
        (self.epoch, events.take(most as usize).cloned().collect())
    }
}

impl Feed for JetStreamFeed {
    fn read<'a>(&'a self, connection: &'a mut PgConnection, from: u64, most: u32) -> ReadFuture<'a> {
        Box::pin(async move {
            let (mut epoch, mut events) = self.take(from, most);
            if events.is_empty() && self.is_live.load(Ordering::Relaxed) && *self.end.borrow() == from {
                // The result of the wait does not matter: events that are missing then are read from the log.
                let _ = timeout(ARRIVAL_TIMEOUT, self.end.subscribe().wait_for(|end| *end > from)).await;
                (epoch, events) = self.take(from, most);
            }
            if let Some(last) = events.last()
                && !log_contains(connection, epoch, last).await?
            {
                self.change(EventWindow::clear);
                events.clear();
            }
            if events.is_empty() {
                return postgres::read(connection, from, most).await;
            }
            self.window_reads.fetch_add(1, Ordering::Relaxed);
            Ok(events.into_iter().map(|received| Arc::unwrap_or_clone(received.event)).collect())
        })
    }
}

/// `true` if the log of this epoch has this event at its position, and therefore all events before it.
async fn log_contains(connection: &mut PgConnection, epoch: Uuid, received: &WindowEvent) -> Result<bool, sqlx::Error> {
    let position = to_i64(received.event.position);
    let log = sqlx::query!(
        "select h.epoch, h.position, (select e.leaf_hash from log.event e where e.position = $1) as leaf_hash
         from log.head h",
        position
    )
    .fetch_one(connection)
    .await?;
    Ok(log.epoch == epoch && position < log.position && log.leaf_hash.is_some_and(|hash| hash == received.hash))
}

impl JetStreamFeed {
    /// The counters of the feed.
    #[must_use]
    pub fn counts(&self) -> FeedCounts {
        let [window_reads, rejected] = [&self.window_reads, &self.rejected].map(|count| count.load(Ordering::Relaxed));
        FeedCounts { window_reads, rejected }
    }

    /// The position after the last event that was delivered.
    #[must_use]
    pub fn end(&self) -> u64 {
        *self.end.borrow()
    }

    fn take(&self, from: u64, most: u32) -> (Uuid, Vec<WindowEvent>) {
        self.window.lock().unwrap_or_else(PoisonError::into_inner).take(from, most)
    }

    fn change(&self, change: impl FnOnce(&mut EventWindow)) {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut window);
        self.end.send_replace(window.end());
    }
}

/// Fills the window of a node.
pub struct FeedListener {
    feed: Arc<JetStreamFeed>,
    pool: PgPool,
    client: Client,
    jetstream: Context,
    verify_message: MessageVerifier,
}

type NatsError = Box<dyn std::error::Error + Send + Sync>;

impl FeedListener {
    /// `verify_message` tells messages of this service's nodes from all others.
    #[must_use]
    pub fn new(feed: Arc<JetStreamFeed>, pool: PgPool, client: Client, verify_message: MessageVerifier) -> Self {
        let jetstream = jetstream::new(client.clone());
        Self { feed, pool, client, jetstream, verify_message }
    }

    /// Runs until cancelled.
    pub async fn run(self) {
        loop {
            // Nobody depends on why a stream is missing: readers read PostgreSQL meanwhile.
            if let Err(error) = self.listen().await {
                tracing::debug!(error = %chain(&*error), "the feed restarts its consumer");
            }
            self.feed.is_live.store(false, Ordering::Relaxed);
            self.feed.change(EventWindow::clear);
            sleep(Duration::from_millis(500)).await;
        }
    }

    /// Consumes the current stream from its end on, until something is wrong with it.
    async fn listen(&self) -> Result<(), NatsError> {
        let epoch = self.epoch().await?;
        let name = self.jetstream.stream_by_subject(SUBJECTS).await?;
        let consumer = pull::Config {
            description: Some("the feed of a node".to_owned()),
            deliver_policy: DeliverPolicy::New,
            ack_policy: AckPolicy::None,
            memory_storage: true,
            num_replicas: 1,
            inactive_threshold: Duration::from_secs(30),
            ..pull::Config::default()
        };
        let consumer = self.jetstream.create_consumer_on_stream(consumer, name.as_str()).await?;
        let mut messages =
            consumer.stream().max_messages_per_batch(WINDOW_SIZE / 4).heartbeat(SILENCE_TIMEOUT).messages().await?;
        // Earlier events are read from PostgreSQL.
        self.feed.change(|window| *window = EventWindow { epoch, ..EventWindow::default() });
        self.feed.is_live.store(true, Ordering::Relaxed);
        loop {
            match timeout(SILENCE_TIMEOUT, messages.next()).await {
                Ok(Some(message)) => self.receive(epoch, &message?),
                Ok(None) => return Ok(()),
                Err(_) => {
                    let is_same = self.jetstream.stream_by_subject(SUBJECTS).await? == name;
                    let is_connected = self.client.connection_state() == connection::State::Connected;
                    if !is_same || !is_connected || self.epoch().await? != epoch {
                        return Ok(());
                    }
                }
            }
        }
    }

    fn receive(&self, epoch: Uuid, message: &Message) {
        if let Some(received) = self.verified_event(epoch, message) {
            self.feed.change(|window| window.add(received));
        } else {
            self.feed.rejected.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(
                "rejected a message of the copy of the log: no node of this service signed it for its position"
            );
        }
    }

    /// The event, if a node signed it for this position in this epoch.
    fn verified_event(&self, epoch: Uuid, message: &Message) -> Option<WindowEvent> {
        let headers = message.headers.as_ref()?;
        let header = |name| Some(headers.get(name)?.as_str());
        let position: u64 = header(POSITION)?.parse().ok()?;
        let message_epoch = Uuid::parse_str(header(EPOCH)?).ok()?;
        let mac = unhex(header(MAC)?)?;
        if message_epoch != epoch || !(self.verify_message)(epoch, position, &message.payload, &mac) {
            return None;
        }
        // Readers of the log itself report what is wrong with a leaf.
        let event = leaf::decode(position, &message.payload).ok().map(Arc::new)?;
        Some(WindowEvent { event, hash: leaf::hash(&message.payload) })
    }

    async fn epoch(&self) -> Result<Uuid, sqlx::Error> {
        sqlx::query_scalar!("select epoch from log.head").fetch_one(&self.pool).await
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use fulexo_domain::account::AccountEvent;
    use fulexo_domain::event::{Actor, Category, Stream};
    use fulexo_domain::leaf::EventDraft;

    use super::*;

    fn event(position: u64) -> WindowEvent {
        let id = Uuid::from_u128(u128::from(position));
        let draft = EventDraft {
            id,
            stream: Stream { category: Category::Account, id },
            subject: None,
            actor: Actor::System,
            correlation: id,
            causation: None,
            policy_version: 1,
            event: AccountEvent::Registered {}.into(),
            sealed: Vec::new(),
        };
        let event = Arc::new(draft.encode().unwrap().recorded_event(position, DateTime::UNIX_EPOCH, 1));
        WindowEvent { event, hash: [0; 32] }
    }

    fn window(positions: impl IntoIterator<Item = u64>) -> EventWindow {
        let mut window = EventWindow::default();
        positions.into_iter().for_each(|position| window.add(event(position)));
        window
    }

    fn taken(window: &EventWindow, from: u64, most: u32) -> Vec<u64> {
        window.take(from, most).1.iter().map(|received| received.event.position).collect()
    }

    #[test]
    fn a_window_returns_consecutive_events_and_nothing_across_a_gap() {
        let window = window([3, 4, 7, 8, 9]);
        assert_eq!(taken(&window, 7, 10), [7, 8, 9]);
        assert_eq!(taken(&window, 8, 1), [8]);
        for elsewhere in [0, 3, 5, 6, 10, u64::MAX] {
            assert_eq!(taken(&window, elsewhere, 10), [0; 0], "{elsewhere}");
        }
    }

    #[test]
    fn a_repeated_event_changes_nothing() {
        let window = window([3, 4, 5, 3, 0, 1, 4, 6]);
        assert_eq!(taken(&window, 3, 10), [3, 4, 5, 6]);
    }

    #[test]
    fn a_window_is_bounded() {
        let window = window(0..WINDOW_SIZE as u64 + 10);
        assert_eq!(window.events.len(), WINDOW_SIZE);
        assert_eq!(taken(&window, 9, 1), [0; 0]);
        assert_eq!(taken(&window, 10, 1), [10]);
    }
}
