//! The stream that holds the copy: found, judged, created, retired. The stream itself determines the point to continue
//! from, never this node's memory.
//!
//! ```text
//!             +-------------------------- none ------> create --+
//! stream on   |                                                 v
//!  log.> ? ---+-- ours, of this epoch, undamaged -----> continue after its last message
//!    ^        |
//!    |        +-- ours, of another epoch or damaged --> retire: it keeps its messages, not its subjects
//!    +----------------------------------------------------------------+
//!             |
//!             +-- any other -----> stop, and report it
//! ```

use std::ops::RangeInclusive;
use std::time::Duration;

use async_nats::jetstream::context::{Context, ContextBuilder, RequestErrorKind};
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::response::Response;
use async_nats::jetstream::stream::RawMessageErrorKind;
use chrono::{DateTime, TimeDelta, Utc};
use fulexo_domain::jetstream::{SUBJECTS, StreamName};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::error::RelayError;
use super::message::{CopyKey, epoch_of};

/// The time that a server may take to answer.
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);
/// The window within which JetStream detects a duplicate by its message id. Beyond it, the sequence does.
const DUPLICATE_WINDOW: Duration = Duration::from_mins(2);

/// The minimum age of a replacement for a damaged stream before it may be retired itself.
const MIN_REPLACEMENT_AGE: TimeDelta = TimeDelta::minutes(10);

/// The maximum number of messages to check after the last acknowledged one; a batch is smaller.
const MAX_CHECKED: u64 = 4_096;

/// The state of the log that the copy is compared with.
pub(super) struct CopySource {
    pub epoch: Uuid,
    /// The number of events.
    pub size: u64,
    /// The stream last published to, and the sequence up to which all messages were acknowledged.
    pub confirmed: Option<(String, u64)>,
    /// The database's time.
    pub now: DateTime<Utc>,
}

/// A stream that can be continued, and the point to continue from.
#[derive(Debug, Clone)]
pub(super) struct CopyCursor {
    pub epoch: Uuid,
    pub name: String,
    /// The next position to publish, which is the number of messages that the stream has held.
    pub next: u64,
    /// Its last message, for comparison with the log.
    pub last: Option<Vec<u8>>,
}

enum StreamVerdict {
    Continue(CopyCursor),
    /// The stream belongs to another epoch.
    OtherEpoch,
    Damaged(&'static str),
    Foreign,
}

/// The JetStream client of the relay. It uses plain JSON for configurations, so that updates keep fields that this
/// build does not know.
pub(super) struct JetStream {
    pub context: Context,
    pub key: CopyKey,
    pub replicas: u32,
}

#[derive(Deserialize)]
struct StreamNamesPage {
    total: usize,
    // `null` if there are none.
    streams: Option<Vec<String>>,
}

#[derive(Deserialize)]
pub(super) struct StreamInfo {
    created: DateTime<Utc>,
    config: Map<String, Value>,
    pub state: StreamState,
    cluster: Option<Value>,
}

#[derive(Deserialize)]
pub(super) struct StreamState {
    pub messages: u64,
    pub first_seq: u64,
    pub last_seq: u64,
}

impl JetStream {
    pub fn new(client: async_nats::Client, key: CopyKey, replicas: u32, in_flight: usize) -> Self {
        let context = ContextBuilder::new().timeout(TIMEOUT).ack_timeout(TIMEOUT).max_ack_inflight(in_flight);
        Self { context: context.build(client), key, replicas }
    }

    /// Finds the stream to continue, and creates it if there is none.
    pub async fn find(&self, log: &CopySource) -> Result<CopyCursor, RelayError> {
        // Find, retire, create, find: after that, somebody else changes streams as fast as we do.
        for _ in 0..4 {
            let names = self.names(Some(SUBJECTS)).await?;
            match names.as_slice() {
                [] => self.create(log).await?,
                [name] => match self.judge(name, log).await? {
                    StreamVerdict::Continue(cursor) => return Ok(cursor),
                    StreamVerdict::OtherEpoch => self.retire(name, "the log has a new epoch").await?,
                    StreamVerdict::Damaged(why) => self.retire(name, why).await?,
                    StreamVerdict::Foreign => return Err(RelayError::ForeignStream(name.clone())),
                },
                several => return Err(RelayError::ForeignStream(several.join(", "))),
            }
        }
        Err(RelayError::StreamChanged)
    }

    async fn judge(&self, name: &str, log: &CopySource) -> Result<StreamVerdict, RelayError> {
        let info: StreamInfo = self.ask(&format!("STREAM.INFO.{name}"), &json!({})).await?;
        let Some(own) = StreamName::parse(name).filter(|_| info.config.get("subjects") == Some(&json!([SUBJECTS])))
        else {
            return Ok(StreamVerdict::Foreign);
        };
        let StreamState { messages, first_seq, last_seq } = info.state;
        let last = if messages > 0 { self.message(name, last_seq).await? } else { None };
        let found = last.as_ref().and_then(|message| epoch_of(message, &self.key));
        if !own.shares_history_with(&StreamName::first(log.epoch)) {
            // The log of another service has another key, or is as empty as ours was before its first event.
            return Ok(match found {
                Some(_) => StreamVerdict::OtherEpoch,
                None => StreamVerdict::Foreign,
            });
        }
        // An operator's limits may remove messages from the beginning, but nothing may remove others.
        let damage = if messages > 0 && messages != (last_seq + 1).saturating_sub(first_seq) {
            Some("it has lost messages other than the oldest")
        } else if messages > 0 && !self.is_genuine(name, log, first_seq..=last_seq).await? {
            Some("it holds a message that no node of this log sent")
        } else {
            None
        };
        match damage {
            // Retired streams stay on NATS. Repeated damage must not fill it.
            Some(_) if own.generation > 1 && log.now - info.created < MIN_REPLACEMENT_AGE => {
                return Err(RelayError::DamagedReplacement(name.to_owned()));
            }
            Some(why) => return Ok(StreamVerdict::Damaged(why)),
            None => {}
        }
        self.replicate(name, &info).await?;
        let last = last.map(|message| message.payload.to_vec());
        Ok(StreamVerdict::Continue(CopyCursor { epoch: log.epoch, name: name.to_owned(), next: last_seq, last }))
    }

    /// Returns `true` if the messages that are not yet confirmed belong to this log. The last one does not suffice: if
    /// a foreign message came between, one message is refused, and those sent after it are not.
    async fn is_genuine(&self, name: &str, log: &CopySource, held: RangeInclusive<u64>) -> Result<bool, RelayError> {
        let (start, last) = held.into_inner();
        let confirmed =
            log.confirmed.as_ref().filter(|(stream, _)| stream == name).map_or(0, |(_, sequence)| *sequence);
        let first = start.max(confirmed.saturating_add(1)).max(last.saturating_sub(MAX_CHECKED)).min(last);
        for sequence in first..=last {
            let message = self.message(name, sequence).await?;
            if message.and_then(|message| epoch_of(&message, &self.key)) != Some(log.epoch) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub async fn message(&self, name: &str, sequence: u64) -> Result<Option<StreamMessage>, RelayError> {
        let stream = self.context.get_stream_no_info(name).await.map_err(RelayError::nats)?;
        match stream.get_raw_message(sequence).await {
            Ok(message) => Ok(Some(message)),
            Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(RelayError::nats(error)),
        }
    }

    /// Sets the configured number of replicas.
    async fn replicate(&self, name: &str, info: &StreamInfo) -> Result<(), RelayError> {
        // A single server has a leader, itself, but no cluster.
        let is_alone = info.cluster.as_ref().is_none_or(|cluster| cluster.get("name").is_none());
        if is_alone && self.replicas > 1 {
            // It accepts any number, and stores one replica.
            return Err(RelayError::nats("FULEXO_NATS_REPLICAS asks for several servers, but NATS is a single server"));
        }
        if info.config.get("num_replicas") == Some(&json!(self.replicas)) {
            return Ok(());
        }
        tracing::info!(stream = name, replicas = self.replicas, "changing the number of replicas of the log's copy");
        let mut config = info.config.clone();
        config.insert("num_replicas".to_owned(), json!(self.replicas));
        self.ask::<Value>(&format!("STREAM.UPDATE.{name}"), &config.into()).await.map(drop)
    }

    async fn create(&self, log: &CopySource) -> Result<(), RelayError> {
        let mut name = StreamName::first(log.epoch);
        let earlier = self.names(None).await?;
        let earlier = earlier.iter().filter_map(|earlier| StreamName::parse(earlier));
        let generation = earlier.filter(|earlier| earlier.shares_history_with(&name)).map(|of_ours| of_ours.generation);
        name.generation = generation.max().unwrap_or(0).saturating_add(1);
        let config = json!({
            "name": name.to_string(),
            "description": format!("Fulexo's log, epoch {}: position is sequence - 1", log.epoch),
            "subjects": [SUBJECTS],
            "storage": "file",
            "num_replicas": self.replicas,
            "retention": "limits",
            "discard": "old",
            "max_consumers": -1,
            "max_msgs": -1,
            "max_bytes": -1,
            "max_age": 0,
            "duplicate_window": u64::try_from(DUPLICATE_WINDOW.as_nanos()).unwrap_or(u64::MAX),
            // A gap could not be filled again.
            "deny_delete": true,
            "deny_purge": true,
        });
        tracing::info!(stream = %name, "creating the copy of the log");
        self.ask::<Value>(&format!("STREAM.CREATE.{name}"), &config).await.map(drop)
    }

    /// Retires a stream: takes its subjects away, so that another stream can have them. Its messages stay for
    /// inspection, until an operator deletes it.
    async fn retire(&self, name: &str, why: &str) -> Result<(), RelayError> {
        tracing::warn!(stream = name, why, "retiring a copy of the log, and creating another one");
        let info: StreamInfo = self.ask(&format!("STREAM.INFO.{name}"), &json!({})).await?;
        let mut config = info.config;
        config.insert("subjects".to_owned(), json!([format!("fulexo.retired.{name}")]));
        self.ask::<Value>(&format!("STREAM.UPDATE.{name}"), &config.into()).await.map(drop)
    }

    /// Returns the names of all streams, or of those that accept one of these subjects.
    pub async fn names(&self, subjects: Option<&str>) -> Result<Vec<String>, RelayError> {
        let mut names = Vec::new();
        loop {
            let query = json!({ "offset": names.len(), "subject": subjects.unwrap_or_default() });
            let page: StreamNamesPage = self.ask("STREAM.NAMES", &query).await?;
            let streams = page.streams.unwrap_or_default();
            let is_last = streams.is_empty();
            names.extend(streams);
            if is_last || names.len() >= page.total {
                return Ok(names);
            }
        }
    }

    pub async fn ask<T: DeserializeOwned>(&self, subject: &str, body: &Value) -> Result<T, RelayError> {
        match self.context.request(subject.to_owned(), body).await {
            Ok(Response::Ok(answer)) => Ok(answer),
            Ok(Response::Err { error }) => Err(RelayError::nats(error)),
            Err(error) if error.kind() == RequestErrorKind::NoResponders => {
                Err(RelayError::nats("no server with JetStream answers"))
            }
            Err(error) => Err(RelayError::nats(error)),
        }
    }
}
