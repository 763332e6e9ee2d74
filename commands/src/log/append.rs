//! An append: what it takes, what it answers, and what the composition root gives the log.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use fulexo_domain::event::{Event, Recorded, Stream};
use fulexo_domain::leaf::Prepared;
use sqlx::PgConnection;
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::vault::personal::SealedRow;
use crate::vault::write::VaultWrite;

/// Most events in one batch; also the most that one request may append.
pub const BATCH_EVENTS: usize = 512;
/// Most requests waiting, in each of the two queues. Beyond it, callers are told to come back.
pub const QUEUE: usize = 4_096;

/// The state a stream must be in for an append to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpectedVersion {
    /// It has no events.
    New,
    /// It has exactly this many.
    Exact(u64),
    /// No matter: for facts that have happened already, such as a failed login.
    Any,
}

/// A value that only one stream may hold.
pub struct KeyClaim {
    /// What kind of value, for example `email`.
    pub scope: &'static str,
    /// Its HMAC.
    pub hash: [u8; 32],
    /// Who is to hold it.
    pub holder: Uuid,
}

/// What is remembered of a command that came with an idempotency key.
#[derive(Clone)]
pub struct CommandRecord {
    /// HMAC of caller, operation and key.
    pub id: [u8; 32],
    /// HMAC of what was asked.
    pub request_hash: [u8; 32],
    /// What became of it.
    pub result: String,
}

/// One atomic append: all of it or nothing.
#[derive(Default)]
pub struct AppendRequest {
    /// The events, in order. May be empty when only a command's result is to be remembered.
    pub events: Vec<Prepared>,
    /// Conditions on streams as they were before this append, also on streams that it does not write to.
    pub expected: Vec<(Stream, ExpectedVersion)>,
    /// Personal facts beside the events, by index into `events`.
    pub sealed: Vec<(usize, SealedRow)>,
    /// Values to hold.
    pub claims: Vec<KeyClaim>,
    /// Secrets that change in the same transaction.
    pub vault: Vec<VaultWrite>,
    /// What to remember under the client's idempotency key.
    pub command: Option<CommandRecord>,
}

impl AppendRequest {
    /// Whether it would write nothing.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        // Sealed facts stand beside events.
        self.events.is_empty() && self.claims.is_empty() && self.vault.is_empty() && self.command.is_none()
    }
}

/// Where an append ended up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The events as recorded.
    pub events: Vec<Arc<Recorded>>,
    /// The position of the last event; `None` when there was none.
    pub position: Option<u64>,
}

/// What became of an append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AppendOutcome {
    /// It was committed.
    New(Receipt),
    /// The same command was committed before, with this result.
    Duplicate {
        /// The stored result.
        result: String,
    },
}

/// Why an append did not happen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// A stream was not in the expected state: load again, decide again.
    #[error("the stream is at version {actual}")]
    Conflict {
        /// Which.
        stream: Stream,
        /// Its version now.
        actual: u64,
    },
    /// Another stream holds the value.
    #[error("another stream holds this {scope}")]
    KeyTaken {
        /// What kind of value.
        scope: &'static str,
    },
    /// The idempotency key was used for another request.
    #[error("the idempotency key was used for another request")]
    CommandReused,
    /// Too many appends are waiting.
    #[error("the log's queue is full")]
    Overloaded,
    /// The database could not be reached for a while, or the service is stopping. Whether the append happened is
    /// known to the log alone; the same idempotency key will tell.
    #[error("the log cannot be reached")]
    Unavailable,
    /// The database refused this request; the text names the constraint.
    #[error("the database refused the append: {0}")]
    Rejected(String),
    /// An append before this one changed what it rests on, as a table shows: load again, decide again.
    #[error("an append before this one changed what it rests on")]
    Overtaken,
    /// This process's clock is more than an hour ahead of the database's.
    #[error("the clock of this node is more than an hour ahead of the database's")]
    ClockAhead,
    /// More events than fit a batch.
    #[error("more than {BATCH_EVENTS} events in one append")]
    TooLarge,
}

/// Derives what gates a request, in the transaction of the events. Given by the composition root, so that the
/// write side does not know the read side.
pub type GateHook = for<'a> fn(
    &'a mut PgConnection,
    &'a [Arc<Recorded>],
) -> Pin<Box<dyn Future<Output = Result<(), sqlx::Error>> + Send + 'a>>;

/// Told of every batch after its commit and before its callers, in order.
pub type CommitHook = Arc<dyn Fn(&[Arc<Recorded>]) + Send + Sync>;

/// What the composition root gives the log.
#[derive(Clone)]
pub struct LogHooks {
    /// Derives what gates a request.
    pub gate: GateHook,
    /// Whether an event concerns the gate at all.
    pub gates: fn(&Event) -> bool,
    /// Hears of every batch.
    pub on_commit: CommitHook,
    /// The time under the lock: `recorded_at` follows it, but never goes back.
    pub clock: fn() -> DateTime<Utc>,
}

pub(super) struct QueuedAppend {
    pub request: AppendRequest,
    pub reply: oneshot::Sender<Result<AppendOutcome, AppendError>>,
}
