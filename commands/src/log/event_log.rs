//! The log's handle for callers: two queues that feed the sequencer.

use sqlx::PgPool;
use tokio::sync::{mpsc, oneshot};

use super::append::{AppendError, AppendOutcome, AppendRequest, BATCH_EVENTS, LogHooks, QUEUE, QueuedAppend};
use super::sequencer::{AppendQueues, Sequencer};

/// The event log. Cheap to clone.
#[derive(Clone)]
pub struct EventLog {
    pub(super) pool: PgPool,
    changes: mpsc::Sender<QueuedAppend>,
    observations: mpsc::Sender<QueuedAppend>,
}

impl EventLog {
    /// Creates the log and the sequencer that orders its appends. The caller runs the sequencer. It commits the queued
    /// appends and ends when every `EventLog` is dropped or when it is told to stop.
    #[must_use]
    pub fn new(pool: PgPool, hooks: LogHooks) -> (Self, Sequencer) {
        let (changes, incoming_changes) = mpsc::channel(QUEUE);
        let (observations, incoming_observations) = mpsc::channel(QUEUE);
        let incoming = AppendQueues { changes: incoming_changes, observations: incoming_observations };
        let sequencer = Sequencer::new(pool.clone(), incoming, hooks);
        (Self { pool, changes, observations }, sequencer)
    }

    /// Appends, and returns once the events are durable. Dropping the future does not cancel the append.
    ///
    /// # Errors
    /// See [`AppendError`]. After every error except `Unavailable`, nothing was written.
    pub async fn append(&self, request: AppendRequest) -> Result<AppendOutcome, AppendError> {
        if request.events.len() > BATCH_EVENTS {
            return Err(AppendError::TooLarge);
        }
        let observes = !request.events.is_empty()
            && request.vault.is_empty()
            && request.events.iter().all(|event| event.draft().event.is_observation());
        // A flood of failed logins fills its own queue and delays neither a lockout nor an administrator.
        let queue = if observes { &self.observations } else { &self.changes };
        let (reply, answer) = oneshot::channel();
        queue.try_send(QueuedAppend { request, reply }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => AppendError::Overloaded,
            mpsc::error::TrySendError::Closed(_) => AppendError::Unavailable,
        })?;
        answer.await.unwrap_or(Err(AppendError::Unavailable))
    }
}
