//! The log as NATS brings it: one consumer a node, its events decoded once for all projections of the node, the last few
//! thousand kept. NATS is not trusted: an event counts only with the MAC of a node, for its very position, and whatever
//! does not follow the one before is read from Postgres.
//!
//! ```text
//! JetStream --> Listener: MAC, epoch, next position? --> window [first .. end) --> read: [from ..) in it? --> runner
//!                             | no: dropped, counted                                  | no, even a moment later
//!                             v                                                       v
//!                            gap                                                   Postgres
//! ```
//! What was heard may be undone since, by a restore: before any of it is applied, the transaction that it is applied in
//! asks whether the log still has it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::{self, Context, Message};
use async_nats::{Client, connection};
use fulexo_domain::copy::{EPOCH, MAC, POSITION, SUBJECTS, unhex};
use fulexo_domain::event::Recorded;
use fulexo_domain::leaf;
use futures_util::StreamExt;
use sqlx::{PgConnection, PgPool};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use super::postgres;
use super::reading::{Feed, Reading};
use crate::to_i64;

/// Most events kept: a few megabytes.
const WINDOW: usize = 4_096;
/// How long a reader waits for an event that is probably on its way.
const PATIENCE: Duration = Duration::from_millis(25);
/// How often a silent stream is looked at: it may have been replaced.
const LOOK: Duration = Duration::from_secs(2);

/// Whether a node of this service made this message: epoch, position, leaf, MAC. Given by the composition root, which
/// has the key.
pub type IsGenuine = Arc<dyn Fn(Uuid, u64, &[u8], &[u8]) -> bool + Send + Sync>;

/// The feed that hands over what JetStream brought.
#[derive(Default)]
pub struct JetStreamFeed {
    window: Mutex<Window>,
    /// The position that is to come next, for those who wait for it.
    end: watch::Sender<u64>,
    is_live: AtomicBool,
    taken: AtomicU64,
    dropped: AtomicU64,
}

/// What became of events and reads, since the node started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Reads that the window answered.
    pub taken: u64,
    /// Messages that were not believed.
    pub dropped: u64,
}

#[derive(Default)]
struct Window {
    /// The history that all of it is of.
    epoch: Uuid,
    first: u64,
    events: VecDeque<Heard>,
}

#[derive(Clone)]
struct Heard {
    event: Arc<Recorded>,
    /// Of its leaf.
    hash: [u8; 32],
}

impl Window {
    fn end(&self) -> u64 {
        self.first + self.events.len() as u64
    }

    fn add(&mut self, heard: Heard) {
        let position = heard.event.position;
        if !self.events.is_empty() && position < self.end() {
            // A stream that was made again brings what it brought before; so may whoever repeats a message.
            return;
        }
        if position != self.end() {
            self.clear();
            self.first = position;
        }
        self.events.push_back(heard);
        if self.events.len() > WINDOW {
            self.events.pop_front();
            self.first += 1;
        }
    }

    fn clear(&mut self) {
        self.events.clear();
    }

    /// Whose events these are, and the events.
    fn take(&self, from: u64, most: u32) -> (Uuid, Vec<Heard>) {
        let skip = from.checked_sub(self.first).and_then(|skip| usize::try_from(skip).ok());
        let events = skip.into_iter().flat_map(|skip| self.events.iter().skip(skip));
        (self.epoch, events.take(most as usize).cloned().collect())
    }
}

impl Feed for JetStreamFeed {
    fn read<'a>(&'a self, connection: &'a mut PgConnection, from: u64, most: u32) -> Reading<'a> {
        Box::pin(async move {
            let (mut epoch, mut events) = self.take(from, most);
            if events.is_empty() && self.is_live.load(Ordering::Relaxed) && *self.end.borrow() == from {
                // In time or not: what is not there then is read.
                let _ = timeout(PATIENCE, self.end.subscribe().wait_for(|end| *end > from)).await;
                (epoch, events) = self.take(from, most);
            }
            if let Some(last) = events.last()
                && !still_has(connection, epoch, last).await?
            {
                self.change(Window::clear);
                events.clear();
            }
            if events.is_empty() {
                return postgres::read(connection, from, most).await;
            }
            self.taken.fetch_add(1, Ordering::Relaxed);
            Ok(events.into_iter().map(|heard| Arc::unwrap_or_clone(heard.event)).collect())
        })
    }
}

/// Whether the log has this event at its place, in the history that it is of: and so all that came before it.
async fn still_has(connection: &mut PgConnection, epoch: Uuid, heard: &Heard) -> Result<bool, sqlx::Error> {
    let position = to_i64(heard.event.position);
    let log = sqlx::query!(
        "select h.epoch, h.position, (select e.leaf_hash from log.event e where e.position = $1) as leaf_hash
         from log.head h",
        position
    )
    .fetch_one(connection)
    .await?;
    Ok(log.epoch == epoch && position < log.position && log.leaf_hash.is_some_and(|hash| hash == heard.hash))
}

impl JetStreamFeed {
    /// What became of events and reads.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let [taken, dropped] = [&self.taken, &self.dropped].map(|count| count.load(Ordering::Relaxed));
        Counts { taken, dropped }
    }

    /// The position after the last event that was brought.
    #[must_use]
    pub fn end(&self) -> u64 {
        *self.end.borrow()
    }

    fn take(&self, from: u64, most: u32) -> (Uuid, Vec<Heard>) {
        self.window.lock().unwrap_or_else(PoisonError::into_inner).take(from, most)
    }

    fn change(&self, change: impl FnOnce(&mut Window)) {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut window);
        self.end.send_replace(window.end());
    }
}

/// Fills the window of a node.
pub struct Listener {
    feed: Arc<JetStreamFeed>,
    pool: PgPool,
    client: Client,
    jetstream: Context,
    is_genuine: IsGenuine,
}

type NatsError = Box<dyn std::error::Error + Send + Sync>;

impl Listener {
    /// `is_genuine` tells messages of this service's nodes from all others.
    #[must_use]
    pub fn new(feed: Arc<JetStreamFeed>, pool: PgPool, client: Client, is_genuine: IsGenuine) -> Self {
        let jetstream = jetstream::new(client.clone());
        Self { feed, pool, client, jetstream, is_genuine }
    }

    /// Runs until cancelled.
    pub async fn run(self) {
        loop {
            // A stream that breaks is told from one that is not there yet by nobody: readers read Postgres.
            if let Err(error) = self.listen().await {
                tracing::debug!(%error, "the feed listens anew");
            }
            self.feed.is_live.store(false, Ordering::Relaxed);
            self.feed.change(Window::clear);
            sleep(Duration::from_millis(500)).await;
        }
    }

    /// Listens to the stream of now, from its end on, until something is wrong with it.
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
        let mut messages = consumer.stream().max_messages_per_batch(WINDOW / 4).heartbeat(LOOK).messages().await?;
        // What came before is read from Postgres.
        self.feed.change(|window| *window = Window { epoch, ..Window::default() });
        self.feed.is_live.store(true, Ordering::Relaxed);
        loop {
            match timeout(LOOK, messages.next()).await {
                Ok(Some(message)) => self.hear(epoch, &message?),
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

    fn hear(&self, epoch: Uuid, message: &Message) {
        if let Some(heard) = self.believed(epoch, message) {
            self.feed.change(|window| window.add(heard));
        } else {
            self.feed.dropped.fetch_add(1, Ordering::Relaxed);
            tracing::warn!("a message in the copy of the log is not of a node of this service, or not for its place");
        }
    }

    /// The event, when a node sent it for this place in this history.
    fn believed(&self, epoch: Uuid, message: &Message) -> Option<Heard> {
        let headers = message.headers.as_ref()?;
        let header = |name| Some(headers.get(name)?.as_str());
        let position: u64 = header(POSITION)?.parse().ok()?;
        let says = Uuid::parse_str(header(EPOCH)?).ok()?;
        let mac = unhex(header(MAC)?)?;
        if says != epoch || !(self.is_genuine)(epoch, position, &message.payload, &mac) {
            return None;
        }
        let event = leaf::decode(position, &message.payload).ok().map(Arc::new)?;
        Some(Heard { event, hash: leaf::hash(&message.payload) })
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
    use fulexo_domain::leaf::Draft;

    use super::*;

    fn event(position: u64) -> Heard {
        let id = Uuid::from_u128(u128::from(position));
        let draft = Draft {
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
        let event = Arc::new(draft.prepare().unwrap().recorded(position, DateTime::UNIX_EPOCH, 1));
        Heard { event, hash: [0; 32] }
    }

    fn window(positions: impl IntoIterator<Item = u64>) -> Window {
        let mut window = Window::default();
        positions.into_iter().for_each(|position| window.add(event(position)));
        window
    }

    fn taken(window: &Window, from: u64, most: u32) -> Vec<u64> {
        window.take(from, most).1.iter().map(|heard| heard.event.position).collect()
    }

    #[test]
    fn a_window_gives_what_follows_on_itself_and_nothing_across_a_gap() {
        let window = window([3, 4, 7, 8, 9]);
        assert_eq!(taken(&window, 7, 10), [7, 8, 9]);
        assert_eq!(taken(&window, 8, 1), [8]);
        for elsewhere in [0, 3, 5, 6, 10, u64::MAX] {
            assert_eq!(taken(&window, elsewhere, 10), [0; 0], "{elsewhere}");
        }
    }

    #[test]
    fn what_comes_again_changes_nothing() {
        let window = window([3, 4, 5, 3, 0, 1, 4, 6]);
        assert_eq!(taken(&window, 3, 10), [3, 4, 5, 6]);
    }

    #[test]
    fn a_window_holds_so_many_and_no_more() {
        let window = window(0..WINDOW as u64 + 10);
        assert_eq!(window.events.len(), WINDOW);
        assert_eq!(taken(&window, 9, 1), [0; 0]);
        assert_eq!(taken(&window, 10, 1), [10]);
    }
}
