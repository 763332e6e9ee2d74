//! The copy of the log in JetStream: every event once, in order, through any failure of NATS and of the nodes; and the
//! part of it that the service itself believes. On the oldest supported nats-server and on a current one.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

mod cluster;
mod copy;
mod damage;
mod epochs;
mod feed;
mod resume;
mod turn;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::{Context, Message};
use fulexo_commands::log::relay::RelayState;
use fulexo_commands::log::{AppendRequest, EventLog, LogHooks};
use fulexo_domain::authentication::{AuthenticationEvent, Factor, FailureReason};
use fulexo_domain::leaf::{self, EventDraft};
use fulexo_node::clock;
use fulexo_projections::access;
use fulexo_tests::{Database, NatsCluster, Node, draft, eventually, operator, stored_messages, superuser};
use futures_util::StreamExt;
use sqlx::PgPool;
use tokio::sync::oneshot;
use tokio::time::sleep;
use uuid::Uuid;

/// The longest time that a copy may make no progress.
const PATIENCE: Duration = Duration::from_secs(90);

/// Returns the variables of a node that copies the log to this NATS.
fn env(database: &Database, nats_url: &str, replicas: usize) -> BTreeMap<String, String> {
    let mut env = database.env();
    env.insert("NATS_URL".to_owned(), nats_url.to_owned());
    env.insert("FULEXO_NATS_REPLICAS".to_owned(), replicas.to_string());
    env
}

/// Starts a node on its own database, which copies its log to this NATS.
async fn relaying(nats: &NatsCluster) -> Node {
    let database = Arc::new(Database::create().await);
    Node::with(&database, env(&database, &nats.url(), 1)).await
}

/// Starts another node on the same database and NATS.
async fn join(node: &Node, nats: &NatsCluster) -> Node {
    Node::with(&node.database, env(&node.database, &nats.url(), 1)).await
}

/// Appends this many failed logins of people who do not exist.
async fn append(database: &Database, count: usize) {
    let pool = fulexo_node::database::connect(&database.url(), 4).await.unwrap();
    append_by(&pool, count).await;
    pool.close().await;
}

/// Does the same through a pool that stays open.
async fn append_by(pool: &PgPool, count: usize) {
    let hooks =
        LogHooks { gate: access::apply, gates: access::concerns, on_commit: Arc::new(|_| {}), clock: clock::now };
    let (log, sequencer) = EventLog::new(pool.clone(), hooks);
    let (_stop, stopped) = oneshot::channel();
    let sequencer = tokio::spawn(sequencer.run(stopped));
    let stream = operator().new_id();
    let failed =
        AuthenticationEvent::Failed { factor: Factor::Password, reason: FailureReason::WrongPassword, device: None };
    let event = || EventDraft { subject: None, ..draft(failed.clone(), stream) }.encode().unwrap();
    let mut left = count;
    while left > 0 {
        let now = left.min(512);
        let events = (0..now).map(|_| event()).collect();
        log.append(AppendRequest { events, ..AppendRequest::default() }).await.unwrap();
        left -= now;
    }
    drop(log);
    sequencer.await.unwrap();
}

fn relay_state(node: &Node) -> RelayState {
    node.app().relay.as_ref().unwrap().borrow().clone()
}

async fn size(database: &Database) -> u64 {
    let position: i64 =
        sqlx::query_scalar("select position from log.head").fetch_one(&superuser(database).await).await.unwrap();
    position.unsigned_abs()
}

async fn epoch(database: &Database) -> Uuid {
    sqlx::query_scalar("select epoch from log.head").fetch_one(&superuser(database).await).await.unwrap()
}

/// Waits until one of these nodes has copied the whole log; returns the stream's name.
async fn copied(nodes: &[&Node]) -> String {
    let states = || -> Vec<RelayState> { nodes.iter().map(|node| relay_state(node)).collect() };
    // A cluster under load elects leaders twice: each election takes up to ten seconds, and may fail. The wait lasts as
    // long as the copy grows.
    let (mut last, mut since) = (Vec::new(), Instant::now());
    loop {
        let (size, now) = (size(&nodes[0].database).await, states());
        let done = now.iter().find(|state| state.is_here && state.position == size && size > 0);
        if let Some(stream) = done.and_then(|state| state.stream.clone()) {
            return stream;
        }
        let positions: Vec<u64> = now.iter().map(|state| state.position).collect();
        if positions != last {
            (last, since) = (positions, Instant::now());
        }
        assert!(since.elapsed() < PATIENCE, "the log has {size} events, and the copies are {now:?}");
        // Between two looks.
        sleep(Duration::from_millis(20)).await;
    }
}

/// A message as a consumer gets it.
#[derive(Debug, Clone)]
struct Got {
    sequence: u64,
    subject: String,
    headers: HeaderMap,
    leaf: Vec<u8>,
}

impl Got {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no {name} in {:?}", self.headers)).as_str()
    }

    fn position(&self) -> u64 {
        self.header("Fulexo-Position").parse().unwrap()
    }
}

/// Returns all that this stream holds, as any consumer would get it.
async fn messages(jetstream: &Context, stream: &str) -> Vec<Got> {
    let messages = stored_messages(&jetstream.get_stream(stream).await.unwrap()).await;
    let got = |message: Message| Got {
        sequence: message.info().unwrap().stream_sequence,
        subject: message.subject.to_string(),
        headers: message.headers.clone().unwrap(),
        leaf: message.payload.to_vec(),
    };
    messages.into_iter().map(got).collect()
}

/// Returns the log, as rows: position, leaf, hash.
async fn log(database: &Database) -> Vec<(i64, Vec<u8>, Vec<u8>)> {
    sqlx::query_as("select position, leaf, leaf_hash from log.event order by position")
        .fetch_all(&superuser(database).await)
        .await
        .unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Panics unless the messages are the log: each event once, in order, in its place, unchanged.
async fn assert_is_the_log(database: &Database, messages: &[Got]) {
    let (log, epoch) = (log(database).await, epoch(database).await.to_string());
    assert_eq!(messages.len(), log.len());
    for (message, (position, leaf, leaf_hash)) in messages.iter().zip(log) {
        let position = position.unsigned_abs();
        assert_eq!((message.sequence, message.position()), (position + 1, position));
        assert_eq!(message.leaf, leaf, "{position}");
        let raw = leaf::read(position, &leaf).unwrap();
        assert_eq!(message.subject, format!("log.{}", raw.r#type));
        assert_eq!(message.header("Nats-Msg-Id"), raw.id.to_string());
        assert_eq!(message.header("Fulexo-Stream"), format!("{}/{}", raw.category.as_str(), raw.stream));
        assert_eq!(message.header("Fulexo-Version"), raw.version.to_string());
        assert_eq!(message.header("Fulexo-Epoch"), epoch);
        assert_eq!(message.header("Fulexo-Leaf-Hash"), hex(&leaf_hash));
        assert_eq!(message.header("Fulexo-Mac").len(), 64);
    }
}

/// A consumer as `docs/consumers.md` asks for: it goes by position, and finds the stream again when it is lost.
struct Consumer {
    task: tokio::task::JoinHandle<()>,
    seen: Arc<std::sync::Mutex<Vec<Got>>>,
}

impl Consumer {
    fn start(jetstream: Context) -> Self {
        let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
        let task = tokio::spawn(follow(jetstream, Arc::clone(&seen)));
        Self { task, seen }
    }

    /// Waits until it has seen this many.
    async fn has_seen(&self, count: u64) {
        eventually("the consumer has seen it all", async || self.seen.lock().unwrap().len() as u64 >= count).await;
    }

    fn stop(self) -> Vec<Got> {
        self.task.abort();
        self.seen.lock().unwrap().clone()
    }
}

async fn follow(mut jetstream: Context, seen: Arc<std::sync::Mutex<Vec<Got>>>) {
    jetstream.set_timeout(Duration::from_secs(1));
    loop {
        // After any error it begins again at its last position.
        let _ = follow_stream(&jetstream, &seen).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn follow_stream(
    jetstream: &Context,
    seen: &std::sync::Mutex<Vec<Got>>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let next = seen.lock().unwrap().len() as u64;
    let name = jetstream.stream_by_subject("log.>").await?;
    let config = pull::Config {
        deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: next + 1 },
        ack_policy: AckPolicy::None,
        ..pull::Config::default()
    };
    let consumer = jetstream.create_consumer_on_stream(config, name.as_str()).await?;
    loop {
        let mut batch = consumer.fetch().max_messages(500).expires(Duration::from_millis(500)).messages().await?;
        let mut count = 0;
        while let Some(message) = batch.next().await {
            let message = message?;
            let got = Got {
                sequence: message.info()?.stream_sequence,
                subject: message.subject.to_string(),
                headers: message.headers.clone().unwrap_or_default(),
                leaf: message.payload.to_vec(),
            };
            count += 1;
            let Some(position) = got.headers.get("Fulexo-Position") else { continue };
            let (position, mut seen) = (position.as_str().parse::<u64>()?, seen.lock().unwrap());
            match position.cmp(&(seen.len() as u64)) {
                std::cmp::Ordering::Less => {}
                std::cmp::Ordering::Equal => seen.push(got),
                std::cmp::Ordering::Greater => return Ok(()),
            }
        }
        // The server may have forgotten this consumer, or the stream may be another one by now.
        if count == 0 {
            return Ok(());
        }
    }
}
