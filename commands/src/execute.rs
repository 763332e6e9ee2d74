//! From a decision to the log: load, decide, append, try again on conflict. The only caller of append.

use std::time::Instant;

use esrs::manager::AggregateManager;
use esrs::store::StoreEvent;
use esrs::{Aggregate, AggregateState};
use fulexo_domain::event::Event;
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

/// How often a command decides anew when somebody else was faster.
pub(crate) const TRIES: usize = 8;

/// What a command gave, and where in the log it stands: a reader that asks for this position sees it.
pub struct CommandOutcome<T> {
    /// What it gave.
    pub value: T,
    /// The position of its last event, when it recorded any.
    pub position: Option<u64>,
}

impl<T> CommandOutcome<T> {
    /// The same, of what it gave.
    pub(crate) fn map<U>(self, change: impl FnOnce(T) -> U) -> CommandOutcome<U> {
        CommandOutcome { value: change(self.value), position: self.position }
    }
}

/// What a command came to: its outcome, and where in the log it stands.
pub(crate) enum CommitOutcome<O> {
    /// Now.
    New(O, Receipt),
    /// Before, under the same idempotency key.
    Replayed(O),
}

/// The answer to a command that was done before. Where its events stand is not remembered, but it is before the end
/// of the log.
pub(crate) async fn done_before<T>(log: &EventLog, value: T) -> Result<CommandOutcome<T>, CommandError> {
    Ok(CommandOutcome { value, position: log.size().await?.checked_sub(1) })
}

/// Appends, remembering the outcome under the client's idempotency key.
pub(crate) async fn commit<O: Serialize + DeserializeOwned>(
    side: &WriteSide,
    mut unit: UnitOfWork<'_>,
    idempotency: Option<&IdempotencyKey>,
    outcome: O,
) -> Result<CommitOutcome<O>, CommandError> {
    outbox::enclose_mails(side, &mut unit).await?;
    let signs_out = unit.signs_out();
    let mut request = unit.into_request();
    request.command = idempotency.map(|idempotency| idempotency.record(&outcome)).transpose()?;
    // What writes nothing rests on nothing, and does not take the log's lock.
    if request.is_empty() {
        return Ok(CommitOutcome::New(outcome, Receipt { events: Vec::new(), position: None }));
    }
    match side.log.append(request).await? {
        AppendOutcome::New(receipt) => {
            // A busy machine may keep whoever looks from it, and still commit.
            side.commit_heartbeat.send_if_modified(|at| at.as_mut().map(|at| *at = Instant::now()).is_some());
            if signs_out {
                side.queues.ends_due.notify_one();
            }
            Ok(CommitOutcome::New(outcome, receipt))
        }
        AppendOutcome::Duplicate { result } => Ok(CommitOutcome::Replayed(serde_json::from_str(&result)?)),
    }
}

/// What a refused command comes to after all: the same one, sent before and still under way then, may have been
/// faster, and what refuses it now is what it has done itself.
pub(crate) async fn unless_done<O: DeserializeOwned>(
    log: &EventLog,
    idempotency: Option<&IdempotencyKey>,
    error: CommandError,
) -> Result<O, CommandError> {
    idempotency::before(log, idempotency).await?.ok_or(error)
}

/// Decides and appends; decides anew where somebody else was faster, a few times. Whatever the decision rests on is
/// read inside `decide`.
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
            Err(error) => return unless_done(&side.log, idempotency, error).await.map(CommitOutcome::Replayed),
        };
        match commit(side, unit, idempotency, outcome).await {
            Err(CommandError::Contended) => {}
            committed => return committed,
        }
    }
    Err(CommandError::Contended)
}

/// Does a command unless it was done before under the same idempotency key, and answers either way.
pub(crate) async fn once<O: DeserializeOwned>(
    log: &EventLog,
    idempotency: Option<&IdempotencyKey>,
    act: impl Future<Output = Result<CommitOutcome<O>, CommandError>>,
) -> Result<CommandOutcome<O>, CommandError> {
    let committed = match idempotency::before(log, idempotency).await? {
        Some(outcome) => CommitOutcome::Replayed(outcome),
        None => act.await?,
    };
    done(log, committed).await
}

/// The answer to what was committed now, or before.
pub(crate) async fn done<O>(log: &EventLog, committed: CommitOutcome<O>) -> Result<CommandOutcome<O>, CommandError> {
    match committed {
        CommitOutcome::New(value, receipt) => Ok(CommandOutcome { value, position: receipt.position }),
        CommitOutcome::Replayed(value) => done_before(log, value).await,
    }
}

/// One command on one aggregate, in this state at this version: the plain case, tried once. Answers with the position of
/// its last event; `None` when it changed nothing, or did so before under the same idempotency key.
pub(crate) async fn execute<A>(
    store: &LogStore<A>,
    id: Uuid,
    (state, version): (A::State, u64),
    command: A::Command,
) -> Result<Option<u64>, CommandError>
where
    A: Aggregate<Event: TryFrom<Event> + Into<Event> + Clone + Send + Sync + 'static, Command: Send>,
    A::State: Clone + Send,
    A::Error: Into<CommandError> + Send,
{
    let manager = AggregateManager::new(store);
    // esrs loads whole streams. It takes a state from elsewhere as what one event came to.
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
