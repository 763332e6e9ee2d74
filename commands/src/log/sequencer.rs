//! The only task of a process that appends. It needs no timer: while one batch commits, the next one forms.
//!
//! ```text
//!            +------- rejected: halve the batch, try each half -------+
//!            v                                                        |
//! queue -> [ predict, try_append ] --> [ lock, plan, append ] -> gate, vault, commit -> answers
//!            ^        if the prediction holds: one round trip         |
//!            +-- connection lost: reconnect; the log shows whether ---+
//!                the batch was committed
//! ```

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use fulexo_database::{DatabaseFailure, begin_on, chain};
use fulexo_domain::event::{RecordedEvent, Stream};
use sqlx::pool::PoolConnection;
use sqlx::{Connection, Executor, PgConnection, PgPool, Postgres, Transaction};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout};

use super::append::{
    AppendError, AppendOutcome, AppendRequest, BATCH_EVENTS, ExpectedVersion, LogHooks, QueuedAppend, Rejection,
};
use super::batch::{BatchPlan, LockRequest, LockedState};
use super::statements::{ExpectedVersions, is_rejection, lock, try_append, where_committed};
use crate::vault::write;

/// The time that a batch waits for an unreachable database.
const RETRY_PERIOD: Duration = Duration::from_secs(15);

/// The time that a transaction of this task may be idle. It holds a lock that every node needs, and is idle only for
/// one round trip at a time. A longer pause means that the process hangs or its machine is gone: Postgres then ends the
/// transaction, so that other nodes can append.
const IDLE_TIMEOUT: &str = "set idle_in_transaction_session_timeout = '3s'";

/// The time that a statement may take, equal to the time that callers wait. Beyond it, the server has vanished, or a
/// commit waits for a standby; no caller is waiting any more in either case.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);

/// The maximum number of streams whose versions are remembered for optimistic appends.
const MAX_REMEMBERED: usize = 50_000;

/// Orders the appends of one process.
pub struct Sequencer {
    pool: PgPool,
    changes: mpsc::Receiver<QueuedAppend>,
    observations: mpsc::Receiver<QueuedAppend>,
    hooks: LogHooks,
    connection: Option<PoolConnection<Postgres>>,
    /// The versions of streams after this process's last appends. An append by another node makes an entry stale, which
    /// `log.try_append` detects.
    remembered: HashMap<Stream, u64>,
}

/// The queues of the sequencer.
pub(super) struct AppendQueues {
    /// The appends that change state.
    pub changes: mpsc::Receiver<QueuedAppend>,
    /// The appends that only record observations. State changes precede them.
    pub observations: mpsc::Receiver<QueuedAppend>,
}

type AppendResults = Vec<Result<AppendOutcome, AppendError>>;

enum CommitFailure {
    /// The database rejected the batch: one of its requests is at fault.
    Rejected(Rejection),
    /// The database rejected the batch because a precondition no longer holds: the request has to be decided again.
    PreconditionViolated,
    /// The batch's time would be too far ahead of the database's clock.
    ClockAhead,
    /// The connection broke before anything could have been committed.
    Lost(sqlx::Error),
    /// The connection broke after the batch may have been committed. Only the log knows.
    Uncertain(Box<BatchPlan>),
}

/// A committed plan, and its events.
struct CommittedBatch {
    plan: Box<BatchPlan>,
    events: Vec<Arc<RecordedEvent>>,
}

impl Sequencer {
    pub(super) fn new(pool: PgPool, AppendQueues { changes, observations }: AppendQueues, hooks: LogHooks) -> Self {
        Self { pool, changes, observations, hooks, connection: None, remembered: HashMap::new() }
    }

    /// Uses this pool, in which long tasks do not hold connections.
    #[must_use]
    pub fn on(self, pool: PgPool) -> Self {
        Self { pool, ..self }
    }

    /// Runs until `stop` resolves or every log handle is dropped, then commits the queued appends.
    pub async fn run(mut self, mut stop: oneshot::Receiver<()>) {
        let mut batch = Vec::new();
        loop {
            let first = tokio::select! {
                biased;
                _ = &mut stop, if !self.changes.is_closed() => {
                    self.changes.close();
                    self.observations.close();
                    continue;
                }
                next = self.next() => match next {
                    Some(queued) => queued,
                    None => return,
                },
            };
            self.fill(&mut batch, first);
            self.commit(&mut batch).await;
        }
    }

    /// Returns the next queued append, state changes first, or `None` if both queues are empty and closed.
    async fn next(&mut self) -> Option<QueuedAppend> {
        tokio::select! {
            biased;
            Some(queued) = self.changes.recv() => Some(queued),
            Some(queued) = self.observations.recv() => Some(queued),
            else => None,
        }
    }

    /// Fills the batch from the queues, state changes first.
    fn fill(&mut self, batch: &mut Vec<QueuedAppend>, first: QueuedAppend) {
        let mut events = first.request.events.len();
        batch.push(first);
        while events < BATCH_EVENTS {
            let Ok(next) = self.changes.try_recv().or_else(|_| self.observations.try_recv()) else { return };
            events += next.request.events.len();
            batch.push(next);
        }
    }

    async fn commit(&mut self, batch: &mut Vec<QueuedAppend>) {
        let answers = self.append_batch(batch).await;
        for (queued, answer) in batch.drain(..).zip(answers) {
            // The caller may have gone away.
            let _ = queued.reply.send(answer);
        }
    }

    /// Commits the batch in as few transactions as possible. Returns the outcome of each request.
    async fn append_batch(&mut self, batch: &[QueuedAppend]) -> AppendResults {
        let deadline = Instant::now() + RETRY_PERIOD;
        let mut answers = Vec::with_capacity(batch.len());
        let mut parts = vec![batch];
        while let Some(part) = parts.pop() {
            let outcome = self.append_part(part, deadline).await;
            match outcome {
                Ok(part_answers) => answers.extend(part_answers),
                Err(CommitFailure::Rejected(reason)) if part.len() == 1 => {
                    tracing::error!(reason = %chain(&reason), "the database refused an append");
                    answers.push(Err(AppendError::Rejected(reason)));
                }
                Err(CommitFailure::PreconditionViolated) if part.len() == 1 => {
                    answers.push(Err(AppendError::PreconditionViolated))
                }
                Err(CommitFailure::ClockAhead) => {
                    tracing::error!(
                        "the clock of this node is more than an hour ahead of the database's: nothing is recorded"
                    );
                    answers.extend(part.iter().map(|_| Err(AppendError::ClockAhead)));
                }
                Err(CommitFailure::Rejected(_) | CommitFailure::PreconditionViolated) => {
                    let (left, right) = part.split_at(part.len() / 2);
                    parts.extend([right, left]);
                }
                Err(CommitFailure::Lost(_) | CommitFailure::Uncertain(_)) => {
                    answers.extend(part.iter().map(|_| Err(AppendError::Unavailable)));
                }
            }
        }
        answers
    }

    /// Commits one part of the batch. Retries until the deadline while the connection is the problem.
    async fn append_part(&mut self, part: &[QueuedAppend], deadline: Instant) -> Result<AppendResults, CommitFailure> {
        // Every attempt that may have been committed: one whose connection broke may still take effect after a later
        // one has failed.
        let mut uncertain: Vec<BatchPlan> = Vec::new();
        let mut pause = Duration::from_millis(10);
        loop {
            let failure = match self.attempt(part, &mut uncertain).await {
                Ok(committed) => return Ok(self.conclude(committed)),
                Err(
                    failure @ (CommitFailure::Rejected(_)
                    | CommitFailure::PreconditionViolated
                    | CommitFailure::ClockAhead),
                ) => {
                    self.roll_back().await;
                    return Err(failure);
                }
                Err(failure) => failure,
            };
            // Closing the connection ends the transaction.
            self.disconnect();
            if Instant::now() >= deadline {
                return Err(failure);
            }
            match failure {
                CommitFailure::Uncertain(plan) => uncertain.push(*plan),
                CommitFailure::Lost(error) => {
                    tracing::warn!(error = %chain(&error), "the connection of the log is lost; reconnecting")
                }
                CommitFailure::Rejected(_) | CommitFailure::PreconditionViolated | CommitFailure::ClockAhead => {}
            }
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }

    fn conclude(&mut self, CommittedBatch { plan, events }: CommittedBatch) -> AppendResults {
        if self.remembered.len() > MAX_REMEMBERED {
            self.remembered.clear();
        }
        self.remembered.extend(plan.versions.iter().map(|(stream, version)| (*stream, *version)));
        if !events.is_empty() {
            (self.hooks.on_commit)(&events);
        }
        plan.answers(&events)
    }

    async fn attempt(
        &mut self,
        part: &[QueuedAppend],
        uncertain: &mut Vec<BatchPlan>,
    ) -> Result<CommittedBatch, CommitFailure> {
        let requests = || part.iter().map(|queued| &queued.request);
        if uncertain.is_empty()
            && let Some((expected_versions, plan)) = self.predict(requests())
            && let Some(committed) = self.optimistic_append(part, expected_versions, plan).await?
        {
            return Ok(committed);
        }
        let hooks = self.hooks.clone();
        let connection = self.connection().await?;
        let mut transaction = with_timeout(begin_on(connection)).await.map_err(CommitFailure::Lost)?;
        let locked = with_timeout(lock(&mut transaction, &LockRequest::of(requests()))).await.map_err(sort)?;

        // The lock waited for the transaction whose end was not observed, so its outcome is now visible.
        for (index, plan) in uncertain.iter().enumerate() {
            if let Some(first) =
                with_timeout(where_committed(&mut transaction, plan)).await.map_err(CommitFailure::Lost)?
            {
                tracing::info!(first, "the batch was committed before the connection broke");
                with_timeout(transaction.rollback()).await.map_err(CommitFailure::Lost)?;
                let events = plan.events(requests(), first);
                return Ok(CommittedBatch { plan: Box::new(uncertain.swap_remove(index)), events });
            }
        }
        if !uncertain.is_empty() {
            tracing::info!("the batch was not committed before the connection broke; appending it again");
        }

        let locked_versions = ExpectedVersions::of(&locked.versions);
        let plan = Box::new(BatchPlan::of(requests(), locked, (hooks.clock)()));
        if plan.is_empty() {
            with_timeout(transaction.rollback()).await.map_err(CommitFailure::Lost)?;
            return Ok(CommittedBatch { plan, events: Vec::new() });
        }
        let first = with_timeout(try_append(&mut transaction, &locked_versions, &plan)).await.map_err(sort)?;
        let Some(first) = first else {
            return Err(CommitFailure::Rejected(Rejection::new("what the lock showed did not hold under it")));
        };
        let events = plan.events(requests(), first);
        finish(transaction, &hooks, part, plan, events).await
    }

    /// Predicts the versions that the lock would show if no other node has appended. Returns `None` if a version is not
    /// known.
    fn predict<'a>(
        &self,
        requests: impl Iterator<Item = &'a AppendRequest> + Clone,
    ) -> Option<(ExpectedVersions, Box<BatchPlan>)> {
        let mut versions: HashMap<Stream, u64> = HashMap::new();
        for request in requests.clone() {
            for (stream, expected) in &request.expected {
                if let Entry::Vacant(unknown) = versions.entry(*stream) {
                    unknown.insert(match expected {
                        ExpectedVersion::New => 0,
                        ExpectedVersion::Exact(version) => *version,
                        ExpectedVersion::Any => *self.remembered.get(stream)?,
                    });
                }
            }
            for event in &request.events {
                let stream = event.draft().stream;
                if let Entry::Vacant(unknown) = versions.entry(stream) {
                    unknown.insert(*self.remembered.get(&stream)?);
                }
            }
        }
        let expected_versions = ExpectedVersions::of(&versions);
        let plan = BatchPlan::of(requests, LockedState { versions, ..LockedState::default() }, (self.hooks.clock)());
        // Only the locked state may refuse a request.
        (plan.accepts_all() && !plan.is_empty()).then(|| (expected_versions, Box::new(plan)))
    }

    /// Appends in one round trip if the expected versions hold, and without an explicit transaction if nothing else has
    /// to be written. Returns `None` if a version differed.
    async fn optimistic_append(
        &mut self,
        part: &[QueuedAppend],
        expected_versions: ExpectedVersions,
        plan: Box<BatchPlan>,
    ) -> Result<Option<CommittedBatch>, CommitFailure> {
        let requests = || part.iter().map(|queued| &queued.request);
        let hooks = self.hooks.clone();
        let is_alone = requests().all(|request| {
            request.vault.is_empty() && !request.events.iter().any(|event| (hooks.gates)(&event.draft().event))
        });
        let connection = self.connection().await?;
        if is_alone {
            let first = match with_timeout(try_append(connection, &expected_versions, &plan)).await {
                Ok(first) => first,
                Err(error) if is_rejection(&error) => return Err(sort(error)),
                Err(error) => {
                    tracing::warn!(error = %chain(&error), "the connection broke during an append");
                    return Err(CommitFailure::Uncertain(plan));
                }
            };
            return Ok(first.map(|first| CommittedBatch { events: plan.events(requests(), first), plan }));
        }
        let mut transaction = with_timeout(begin_on(connection)).await.map_err(CommitFailure::Lost)?;
        let Some(first) = with_timeout(try_append(&mut transaction, &expected_versions, &plan)).await.map_err(sort)?
        else {
            with_timeout(transaction.rollback()).await.map_err(CommitFailure::Lost)?;
            return Ok(None);
        };
        let events = plan.events(requests(), first);
        finish(transaction, &hooks, part, plan, events).await.map(Some)
    }

    /// Rolls back a dropped transaction now. The driver does so only with the next message, which may be long in
    /// coming. Until then the transaction is open and, unless the database itself refused it, holds a lock that every
    /// node needs.
    async fn roll_back(&mut self) {
        if let Some(connection) = &mut self.connection
            && with_timeout(connection.ping()).await.is_err()
        {
            self.disconnect();
        }
    }

    fn disconnect(&mut self) {
        if let Some(connection) = self.connection.take() {
            drop(connection.detach());
        }
    }

    async fn connection(&mut self) -> Result<&mut PgConnection, CommitFailure> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            vacant => {
                let mut connection = self.pool.acquire().await.map_err(CommitFailure::Lost)?;
                connection.close_on_drop();
                with_timeout(connection.execute(IDLE_TIMEOUT)).await.map_err(CommitFailure::Lost)?;
                vacant.insert(connection)
            }
        };
        Ok(connection)
    }
}

/// Writes the gate's tables and the vault in the transaction of the events, and commits.
async fn finish(
    mut transaction: Transaction<'_, Postgres>,
    hooks: &LogHooks,
    part: &[QueuedAppend],
    plan: Box<BatchPlan>,
    events: Vec<Arc<RecordedEvent>>,
) -> Result<CommittedBatch, CommitFailure> {
    if events.iter().any(|recorded| (hooks.gates)(&recorded.event)) {
        with_timeout((hooks.gate)(&mut transaction, &events)).await.map_err(sort)?;
    }
    let secrets = plan.vault(part.iter().map(|queued| &queued.request));
    with_timeout(write::write(&mut transaction, &secrets, &events)).await.map_err(sort)?;
    match with_timeout(transaction.commit()).await {
        Ok(()) => Ok(CommittedBatch { plan, events }),
        Err(error) if is_rejection(&error) => Err(sort(error)),
        Err(error) => {
            tracing::warn!(error = %chain(&error), "the connection broke at commit");
            Err(CommitFailure::Uncertain(plan))
        }
    }
}

/// Limits the time that a statement may take.
async fn with_timeout<T>(answer: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    timeout(STATEMENT_TIMEOUT, answer).await.unwrap_or_else(|_| Err(sqlx::Error::Io(ErrorKind::TimedOut.into())))
}

fn sort(error: sqlx::Error) -> CommitFailure {
    match DatabaseFailure::of(&error) {
        DatabaseFailure::Constraint("head_is_not_ahead") => CommitFailure::ClockAhead,
        // The latter: a key was wrapped just before another one came into use.
        DatabaseFailure::Constraint("retired_role_is_not_held" | "subject_key_is_wrapped_by_a_live_key") => {
            CommitFailure::PreconditionViolated
        }
        _ if is_rejection(&error) => CommitFailure::Rejected(Rejection::new(error)),
        _ => CommitFailure::Lost(error),
    }
}
