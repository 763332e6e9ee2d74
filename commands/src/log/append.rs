//! The types of an append: its request, its outcome, and the hooks that the composition root supplies.

use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use fulexo_domain::event::{Event, RecordedEvent, Stream};
use fulexo_domain::leaf::LeafTemplate;
use sqlx::PgConnection;
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::vault::personal::SealedRow;
use crate::vault::write::VaultWrite;

/// The maximum number of events per batch, and per request.
pub const BATCH_EVENTS: usize = 512;
/// The capacity of each of the two queues. Beyond it, callers are told to retry later.
pub const QUEUE: usize = 4_096;

/// The version that a stream must have for an append to succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpectedVersion {
    /// The stream has no events.
    New,
    /// The stream has exactly this many events.
    Exact(u64),
    /// Any version, for facts that have already happened, such as a failed login.
    Any,
}

/// A claim to a value that only one stream may hold.
pub struct KeyClaim {
    /// The kind of value, for example `email`.
    pub scope: &'static str,
    /// The HMAC of the value.
    pub hash: [u8; 32],
    /// The stream that claims it.
    pub holder: Uuid,
}

/// The stored record of a command that came with an idempotency key.
#[derive(Clone)]
pub struct CommandRecord {
    /// The HMAC of caller, operation and key.
    pub id: [u8; 32],
    /// The HMAC of the request's content.
    pub request_hash: [u8; 32],
    /// The command's outcome, as JSON.
    pub result: String,
    /// The account that acts, whose erasure deletes the record.
    pub account: Option<Uuid>,
}

/// One atomic append.
#[derive(Default)]
pub struct AppendRequest {
    /// The events, in order. May be empty if the request only stores a command's result or secrets.
    pub events: Vec<LeafTemplate>,
    /// The expected versions of streams before this append, including streams that it does not write to.
    pub expected: Vec<(Stream, ExpectedVersion)>,
    /// The sealed personal data of the events, by index into `events`.
    pub sealed: Vec<(usize, SealedRow)>,
    /// The unique values to claim.
    pub claims: Vec<KeyClaim>,
    /// The vault writes of the same transaction.
    pub vault: Vec<VaultWrite>,
    /// The record to store under the client's idempotency key.
    pub command: Option<CommandRecord>,
}

impl AppendRequest {
    /// Returns `true` if it would write nothing.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        // Sealed data always belongs to an event.
        self.events.is_empty() && self.claims.is_empty() && self.vault.is_empty() && self.command.is_none()
    }
}

/// The receipt of a committed append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The events, as recorded.
    pub events: Vec<Arc<RecordedEvent>>,
    /// The position of the last event; `None` when there was none.
    pub position: Option<u64>,
}

/// The outcome of an append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AppendOutcome {
    /// The append was committed.
    New(Receipt),
    /// The same command was committed earlier, with this result.
    Duplicate {
        /// The stored result.
        result: String,
    },
}

/// The cause of a refused append. Two causes are equal if they are the same object.
#[derive(Debug, Clone, thiserror::Error)]
#[error(transparent)]
pub struct Rejection(Arc<dyn Error + Send + Sync>);

impl Rejection {
    pub(super) fn new(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(Arc::from(cause.into()))
    }
}

impl PartialEq for Rejection {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Rejection {}

/// The reason for which an append failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// A stream was not at the expected version: load and decide again.
    #[error("the stream is at version {actual}")]
    Conflict {
        /// The stream.
        stream: Stream,
        /// Its current version.
        actual: u64,
    },
    /// Another stream holds the claimed value.
    #[error("another stream holds this {scope}")]
    KeyTaken {
        /// The kind of value.
        scope: &'static str,
    },
    /// The idempotency key was used for another request.
    #[error("the idempotency key was used for another request")]
    IdempotencyKeyReused,
    /// Too many appends are waiting.
    #[error("the log's queue is full")]
    Overloaded,
    /// The database was unreachable for a while, or the service is stopping. The append may have been committed: repeat
    /// the call with the same idempotency key to learn the outcome.
    #[error("the log is unreachable")]
    Unavailable,
    /// The database refused this request; the cause names the constraint.
    #[error("the database refused the append")]
    Rejected(#[source] Rejection),
    /// An earlier append violated a precondition that only a table's constraint checks: load and decide again.
    #[error("an earlier append violated a precondition of this one")]
    PreconditionViolated,
    /// This process's clock is more than an hour ahead of the database's.
    #[error("the clock of this node is more than an hour ahead of the database's")]
    ClockAhead,
    /// The request has more events than fit into a batch.
    #[error("more than {BATCH_EVENTS} events in one append")]
    TooLarge,
}

/// Updates the tables that the access gate reads, in the transaction of the events. The composition root supplies it,
/// so that the write side does not know the read side.
pub type GateHook = for<'a> fn(
    &'a mut PgConnection,
    &'a [Arc<RecordedEvent>],
) -> Pin<Box<dyn Future<Output = Result<(), sqlx::Error>> + Send + 'a>>;

/// Receives every batch after its commit and before its callers, in order.
pub type CommitHook = Arc<dyn Fn(&[Arc<RecordedEvent>]) + Send + Sync>;

/// The functions that the composition root supplies to the log.
#[derive(Clone)]
pub struct LogHooks {
    /// Updates the tables that the access gate reads.
    pub gate: GateHook,
    /// Returns `true` if the event concerns the access gate.
    pub gates: fn(&Event) -> bool,
    /// Receives every committed batch.
    pub on_commit: CommitHook,
    /// The clock, read under the lock. `recorded_at` follows it, but never decreases.
    pub clock: fn() -> DateTime<Utc>,
}

pub(super) struct QueuedAppend {
    pub request: AppendRequest,
    pub reply: oneshot::Sender<Result<AppendOutcome, AppendError>>,
}
