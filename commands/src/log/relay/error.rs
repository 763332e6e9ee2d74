//! The errors of the relay.

use std::error::Error;

/// The reason for which the relay has paused. Every one is retried.
#[derive(Debug, thiserror::Error)]
pub(super) enum RelayError {
    #[error("the database")]
    Database(#[from] sqlx::Error),
    #[error("NATS is unreachable")]
    Disconnected,
    #[error("NATS")]
    Nats(#[source] Box<dyn Error + Send + Sync>),
    #[error("the stream has changed: another relay or another epoch wrote to it")]
    StreamChanged,
    #[error("the event at position {0} does not match its leaf or hash, and is not published")]
    AlteredEvent(u64),
    #[error(
        "the stream {0} accepts subjects below log.> but is not a copy of this log: give this service its own NATS \
         account, or remove that stream"
    )]
    ForeignStream(String),
    #[error(
        "the stream {0} is damaged, although it replaced a damaged one a short while ago: another client publishes below \
         log.>; configure NATS to allow only this service to; the stream is replaced again after ten minutes"
    )]
    DamagedReplacement(String),
    #[error(
        "the stream {stream} and the log hold different events at position {position}, both from this service: the log \
         was restored without a new epoch"
    )]
    Diverged { stream: String, position: u64 },
}

impl RelayError {
    pub fn nats(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Nats(cause.into())
    }
}
