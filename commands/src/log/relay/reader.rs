//! Reads the copy of a history in JetStream, when the log itself has lost its end.

use std::error::Error;

use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use fulexo_domain::jetstream::{EPOCH, MAC, POSITION, StreamName, unhex};
use futures_util::StreamExt;
use serde_json::json;
use tokio::time::timeout;
use uuid::Uuid;

use super::error::RelayError;
use super::message::{CopyKey, epoch_of};
use super::stream::{JetStream, StreamInfo, TIMEOUT};

/// The failure to read a copy of the log in JetStream.
#[derive(Debug, thiserror::Error)]
pub enum CopyReadError {
    /// NATS did not answer, or refused.
    #[error("NATS")]
    Nats(#[source] Box<dyn Error + Send + Sync>),
    /// A message is missing, or no node of this log sent it.
    #[error("the copy has no event of this log at position {0}")]
    Damaged(u64),
}

impl From<RelayError> for CopyReadError {
    fn from(error: RelayError) -> Self {
        Self::Nats(Box::new(error))
    }
}

/// The copy of one history: its events, each as a node of this service signed it for its position.
pub struct CopyReader {
    jetstream: JetStream,
    key: CopyKey,
    epoch: Uuid,
    name: String,
    first: u64,
    size: u64,
}

impl CopyReader {
    /// Finds the newest copy of this history; `None` if there is none that a node with this key wrote.
    ///
    /// # Errors
    /// [`CopyReadError::Nats`].
    pub async fn find(client: async_nats::Client, key: CopyKey, epoch: Uuid) -> Result<Option<Self>, CopyReadError> {
        let jetstream = JetStream::new(client, key.clone(), 1, 1);
        let history = StreamName::first(epoch);
        let names = jetstream.names(None).await?;
        let mut copies: Vec<StreamName> = names.iter().filter_map(|name| StreamName::parse(name)).collect();
        copies.retain(|copy| copy.shares_history_with(&history));
        copies.sort_by_key(|copy| std::cmp::Reverse(copy.generation));
        for copy in copies {
            let name = copy.to_string();
            let info: StreamInfo = jetstream.ask(&format!("STREAM.INFO.{name}"), &json!({})).await?;
            let (first, size) = (info.state.first_seq.saturating_sub(1), info.state.last_seq);
            if info.state.messages == 0 {
                continue;
            }
            let last = jetstream.message(&name, size).await?;
            if last.and_then(|message| epoch_of(&message, &key)) == Some(epoch) {
                return Ok(Some(Self { jetstream, key, epoch, name, first, size }));
            }
        }
        Ok(None)
    }

    /// Returns the number of events that the history had when it was copied last.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Returns the position of the first event that the copy still has.
    #[must_use]
    pub const fn first(&self) -> u64 {
        self.first
    }

    /// Reads the leaves from a position to the end, in order and without gaps.
    ///
    /// # Errors
    /// [`CopyReadError`], or the error of `take`.
    pub async fn read<E: From<CopyReadError>>(
        &self,
        from: u64,
        mut take: impl FnMut(u64, &[u8]) -> Result<(), E> + Send,
    ) -> Result<(), E> {
        if from >= self.size {
            return Ok(());
        }
        let nats = |error: Box<dyn Error + Send + Sync>| E::from(CopyReadError::Nats(error));
        let stream = self.jetstream.context.get_stream_no_info(&self.name).await.map_err(|error| nats(error.into()))?;
        let config = pull::OrderedConfig {
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: from.saturating_add(1) },
            ..pull::OrderedConfig::default()
        };
        let consumer = stream.create_consumer(config).await.map_err(|error| nats(error.into()))?;
        let mut messages = consumer.messages().await.map_err(|error| nats(error.into()))?;
        for position in from..self.size {
            let message = match timeout(TIMEOUT, messages.next()).await {
                Ok(Some(message)) => message.map_err(|error| nats(error.into()))?,
                Ok(None) | Err(_) => return Err(CopyReadError::Damaged(position).into()),
            };
            let header = |name| message.headers.as_ref().and_then(|headers| Some(headers.get(name)?.as_str()));
            let is_here = header(POSITION).and_then(|text| text.parse().ok()) == Some(position);
            let is_ours = header(EPOCH).and_then(|text| Uuid::parse_str(text).ok()) == Some(self.epoch);
            let mac = header(MAC).and_then(unhex).unwrap_or_default();
            if !is_here || !is_ours || !self.key.is_genuine(self.epoch, position, &message.payload, &mac) {
                return Err(CopyReadError::Damaged(position).into());
            }
            take(position, &message.payload)?;
        }
        Ok(())
    }
}
