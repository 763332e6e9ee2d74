//! The errors of the relay.

/// The reason for which the relay has paused. Every one is retried.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum RelayError {
    #[error("the database: {0}")]
    Database(String),
    #[error("NATS is not reached")]
    Disconnected,
    #[error("NATS: {0}")]
    Nats(String),
    #[error("another relay or another history was there first")]
    OutOfStep,
    #[error("the event at position {0} does not agree with its leaf or hash; it is not published")]
    Unsound(u64),
    #[error(
        "the stream {0} takes subjects below log.> and is not a copy of this log: give this service a NATS account of \
         its own, or remove that stream"
    )]
    NotOurs(String),
    #[error(
        "the stream {0} was begun a short while ago because the one before was damaged, and is damaged: somebody else \
         publishes below log.>, which NATS should allow this service alone; it is begun again after ten minutes"
    )]
    DamagedAgain(String),
    #[error(
        "the stream {stream} holds another event at position {position} than the log, signed by this service: the log \
         was restored without a new epoch"
    )]
    Diverged { stream: String, position: u64 },
}

impl From<sqlx::Error> for RelayError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.to_string())
    }
}

impl RelayError {
    pub fn nats(error: &dyn std::error::Error) -> Self {
        Self::Nats(error.to_string())
    }
}
