//! The way from a decision to the log: load, decide, append, retry on conflict. Every append goes through here.

use std::time::Instant;

use esrs::manager::AggregateManager;
use esrs::store::StoreEvent;
use esrs::{Aggregate, AggregateState};
use fulexo_domain::event::{CategoryMismatch, Event};
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::error::CommandError;
use crate::idempotency::{self, IdempotencyKey};
use crate::log::{AppendOutcome, EventLog, Receipt};
use crate::log_store::LogStore;
use crate::mail::outbox;
use crate::unit_of_work::UnitOfWork;
use crate::write_side::WriteSide;

/// The number of times that a command decides before it gives up on conflicts.
pub(crate) const TRIES: usize = 8;

/// The value that a command returns, and its position in the log. A reader that waits for this position sees the
/// command's events.
pub struct CommandOutcome<T> {
    /// The value.
    pub value: T,
    /// The position of its last event; `None` if it recorded none.
    pub position: Option<u64>,
}

impl<T> CommandOutcome<T> {
    /// Applies a function to the value.
    pub(crate) fn map<U>(self, change: impl FnOnce(T) -> U) -> CommandOutcome<U> {
        CommandOutcome { value: change(self.value), position: self.position }
    }
}

/// The result of a commit.
pub(crate) enum CommitOutcome<O> {
    /// The events were committed now.
    New(O, Receipt),
    /// An earlier request with the same idempotency key committed this outcome.
    Replayed(O),
}

/// Returns the answer to a replayed command. The position of its events is not stored. The end of the log serves as an
/// upper bound.
pub(crate) async fn replayed<T>(log: &EventLog, value: T) -> Result<CommandOutcome<T>, CommandError> {
    Ok(CommandOutcome { value, position: log.size().await?.checked_sub(1) })
}

/// Appends a unit of work, and stores the outcome under the client's idempotency key.
pub(crate) async fn commit<O: Serialize + DeserializeOwned>(
    side: &WriteSide,
    mut unit: UnitOfWork<'_>,
    idempotency: Option<&IdempotencyKey>,
    outcome: O,
) -> Result<CommitOutcome<O>, CommandError> {
    outbox::add_mails(side, &mut unit).await?;
    let revokes_sessions = unit.revokes_sessions();
    let mut request = unit.into_request();
    request.command = idempotency.map(|idempotency| idempotency.record(&outcome)).transpose()?;
    // An empty request has no preconditions to check and does not take the log's lock.
    if request.is_empty() {
        return Ok(CommitOutcome::New(outcome, Receipt { events: Vec::new(), position: None }));
    }
    match side.log.append(request).await? {
        AppendOutcome::New(receipt) => {
            // On a busy machine, the heartbeat task may fall behind while commits succeed.
            side.commit_heartbeat.send_if_modified(|at| at.as_mut().map(|at| *at = Instant::now()).is_some());
            if revokes_sessions {
                side.queues.ends_due.notify_one();
            }
            Ok(CommitOutcome::New(outcome, receipt))
        }
        AppendOutcome::Duplicate { result } => Ok(CommitOutcome::Replayed(serde_json::from_str(&result)?)),
    }
}

/// Returns the stored outcome of a command that was refused, or else the error. An identical request that was in flight
/// may have committed first, and its own effect is then what refuses this one.
pub(crate) async fn stored_outcome_or<O: DeserializeOwned>(
    log: &EventLog,
    idempotency: Option<&IdempotencyKey>,
    error: CommandError,
) -> Result<O, CommandError> {
    idempotency::stored_outcome(log, idempotency).await?.ok_or(error)
}

/// Decides and appends. Repeats both a few times on conflict, so `decide` must read everything that the decision
/// depends on.
pub(crate) async fn decide<'c, O, F>(
    side: &WriteSide,
    idempotency: Option<&IdempotencyKey>,
    decide: impl Fn() -> F,
) -> Result<CommitOutcome<O>, CommandError>
where
    O: Serialize + DeserializeOwned,
    F: Future<Output = Result<(UnitOfWork<'c>, O), CommandError>>,
{
    for _ in 0..TRIES {
        let (unit, outcome) = match decide().await {
            Ok(decided) => decided,
            Err(error) => return stored_outcome_or(&side.log, idempotency, error).await.map(CommitOutcome::Replayed),
        };
        match commit(side, unit, idempotency, outcome).await {
            Err(CommandError::Conflict) => {}
            committed => return committed,
        }
    }
    Err(CommandError::Conflict)
}

/// Runs a command unless its idempotency key has a stored outcome, and answers in either case. The stored outcome comes
/// before every other check: a quota, a permission or a state that has changed since must not refuse a finished command.
/// Commands that disclose secrets use `disclosure::run_once`, and steps of a login `login::run_once`. A refresh has rules
/// of its own, because an old outcome of one has no effect.
pub(crate) async fn run_once<O: DeserializeOwned>(
    log: &EventLog,
    idempotency: Option<&IdempotencyKey>,
    act: impl Future<Output = Result<CommitOutcome<O>, CommandError>>,
) -> Result<CommandOutcome<O>, CommandError> {
    let committed = match idempotency::stored_outcome(log, idempotency).await? {
        Some(outcome) => CommitOutcome::Replayed(outcome),
        None => act.await?,
    };
    answer(log, committed).await
}

/// Returns the answer to a commit, new or replayed.
async fn answer<O>(log: &EventLog, committed: CommitOutcome<O>) -> Result<CommandOutcome<O>, CommandError> {
    match committed {
        CommitOutcome::New(value, receipt) => Ok(CommandOutcome { value, position: receipt.position }),
        CommitOutcome::Replayed(value) => replayed(log, value).await,
    }
}

/// Runs one command on one aggregate, from this state at this version, without retries. Returns the position of its
/// last event, or `None` if it changed nothing or was a replay.
pub(crate) async fn execute<A>(
    store: &LogStore<A>,
    id: Uuid,
    (state, version): (A::State, u64),
    command: A::Command,
) -> Result<Option<u64>, CommandError>
where
    A: Aggregate<
            Event: TryFrom<Event, Error = CategoryMismatch> + Into<Event> + Clone + Send + Sync + 'static,
            Command: Send,
        >,
    A::State: Clone + Send,
    A::Error: Into<CommandError> + Send,
{
    let manager = AggregateManager::new(store);
    // esrs loads whole streams. Given one placeholder event, it takes the state that we loaded ourselves.
    let loaded = StoreEvent {
        id,
        aggregate_id: id,
        payload: (),
        occurred_on: store.context().now,
        sequence_number: i32::try_from(version).unwrap_or(i32::MAX),
        version: Some(1),
    };
    let state = AggregateState::with_id(id).apply_store_events(vec![loaded], |_: A::State, ()| state.clone());
    manager.handle_command(state, command).await?.map_err(Into::into)?;
    Ok(store.position())
}
