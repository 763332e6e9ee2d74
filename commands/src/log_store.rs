//! `esrs::EventStore` over the log, for commands that touch one aggregate: one handle per request. It carries the
//! request's context and the data to seal, and keeps the receipt, because esrs has no place for them.

use std::marker::PhantomData;
use std::sync::Mutex;

use async_trait::async_trait;
use esrs::store::{EventStore, EventStoreLockGuard, StoreEvent, UnlockOnDrop};
use esrs::{Aggregate, AggregateState};
use fulexo_domain::event::{Category, CategoryMismatch, Event, Stream};
use fulexo_domain::values::AccountId;
use uuid::Uuid;

use crate::context::Context;
use crate::error::CommandError;
use crate::log::{AppendError, AppendOutcome, CommandRecord, EventLog, ExpectedVersion, ReadError};
use crate::unit_of_work::UnitOfWork;
use crate::vault::{DataKey, PersonalData};

/// The store of one aggregate type, for one request.
pub struct LogStore<A> {
    log: EventLog,
    category: Category,
    context: Context,
    policy_version: u32,
    subject: Option<AccountId>,
    sealing: Option<(DataKey, PersonalData)>,
    command: Option<CommandRecord>,
    expected: Vec<(Stream, ExpectedVersion)>,
    position: Mutex<Option<u64>>,
    aggregate: PhantomData<fn() -> A>,
}

/// The reason for which a call of esrs failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The append failed.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The read failed.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The events could not be drafted.
    #[error(transparent)]
    Command(Box<CommandError>),
    /// Events are never deleted.
    #[error("events are never deleted")]
    DeleteRefused,
    /// A stream holds an event of another category.
    #[error("a stream cannot be read")]
    ForeignEvent(#[from] CategoryMismatch),
}

impl<A> LogStore<A> {
    pub(crate) fn new(log: EventLog, category: Category, context: Context, policy_version: u32) -> Self {
        Self {
            log,
            category,
            context,
            policy_version,
            subject: None,
            sealing: None,
            command: None,
            expected: Vec::new(),
            position: Mutex::new(None),
            aggregate: PhantomData,
        }
    }

    /// Sets the account that the events concern, and the data to seal with them.
    pub(crate) fn with_subject(mut self, subject: AccountId, sealing: Option<(DataKey, PersonalData)>) -> Self {
        self.subject = Some(subject);
        self.sealing = sealing;
        self
    }

    /// Sets the result to store under the client's idempotency key.
    pub(crate) fn with_command_record(mut self, command: Option<CommandRecord>) -> Self {
        self.command = command;
        self
    }

    /// Adds preconditions on other streams that the decision depends on.
    pub(crate) fn with_preconditions(mut self, expected: Vec<(Stream, ExpectedVersion)>) -> Self {
        self.expected = expected;
        self
    }

    /// Returns the request's context.
    pub(crate) const fn context(&self) -> &Context {
        &self.context
    }

    /// Returns the position of the last event persisted.
    pub(crate) fn position(&self) -> Option<u64> {
        self.position.lock().map_or(None, |position| *position)
    }
}

struct NoLock;
impl UnlockOnDrop for NoLock {}

#[async_trait]
impl<A> EventStore for LogStore<A>
where
    A: Aggregate<Event: TryFrom<Event, Error = CategoryMismatch> + Into<Event> + Clone + Send + Sync, State: Send>,
{
    type Aggregate = A;
    type Error = StoreError;

    /// Does nothing: expected versions detect concurrent writers of one stream.
    async fn lock(&self, _: Uuid) -> Result<EventStoreLockGuard, StoreError> {
        Ok(EventStoreLockGuard::new(NoLock))
    }

    /// Loads the whole stream. Commands do not use it: they start from `EventLog::record`.
    async fn by_aggregate_id(&self, id: Uuid) -> Result<Vec<StoreEvent<A::Event>>, StoreError> {
        let events = self.log.load(Stream { category: self.category, id }).await?;
        events
            .into_iter()
            .map(|recorded| {
                Ok(StoreEvent {
                    id: recorded.id,
                    aggregate_id: id,
                    payload: recorded.event.try_into()?,
                    occurred_on: recorded.recorded_at,
                    sequence_number: i32::try_from(recorded.version).unwrap_or(i32::MAX),
                    version: Some(1),
                })
            })
            .collect()
    }

    async fn persist(
        &self,
        state: &mut AggregateState<A::State>,
        events: Vec<A::Event>,
    ) -> Result<Vec<StoreEvent<A::Event>>, StoreError> {
        if events.is_empty() {
            return Ok(Vec::new());
        }
        let id = *state.id();
        let mut unit = UnitOfWork::new(&self.context, self.policy_version).sealing(self.sealing.clone());
        let version = u64::try_from(*state.sequence_number()).unwrap_or(0);
        unit.expect(
            self.category,
            id,
            if version == 0 { ExpectedVersion::New } else { ExpectedVersion::Exact(version) },
        );
        unit.record(id, self.subject, events.iter().cloned()).map_err(|error| StoreError::Command(Box::new(error)))?;
        let mut request = unit.into_request();
        request.command = self.command.clone();
        request.expected.extend(&self.expected);
        let AppendOutcome::New(receipt) = self.log.append(request).await? else { return Ok(Vec::new()) };
        if let Ok(mut position) = self.position.lock() {
            *position = receipt.position;
        }
        Ok(events
            .into_iter()
            .zip(receipt.events)
            .map(|(payload, recorded)| StoreEvent {
                id: recorded.id,
                aggregate_id: id,
                payload,
                occurred_on: recorded.recorded_at,
                sequence_number: state.next_sequence_number(),
                version: Some(1),
            })
            .collect())
    }

    /// Does nothing: the relay and the projections read the log.
    async fn publish(&self, _: &[StoreEvent<A::Event>]) {}

    async fn delete(&self, _: Uuid) -> Result<(), StoreError> {
        Err(StoreError::DeleteRefused)
    }
}

impl From<StoreError> for CommandError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Append(error) => error.into(),
            StoreError::Read(error) => error.into(),
            StoreError::Command(error) => *error,
            StoreError::DeleteRefused | StoreError::ForeignEvent(_) => Self::internal(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use chrono::DateTime;
    use fulexo_domain::account::Account;
    use fulexo_domain::event::Actor;
    use sqlx::PgPool;

    use super::*;
    use crate::context::RequestOrigin;
    use crate::log::LogHooks;

    #[tokio::test]
    async fn an_aggregate_is_never_deleted() {
        let pool = PgPool::connect_lazy("postgres://nobody@127.0.0.1:1/nothing").unwrap();
        let hooks = LogHooks {
            gate: |_, _| Box::pin(async { Ok(()) }),
            gates: |_| false,
            on_commit: Arc::new(|_| {}),
            clock: || DateTime::UNIX_EPOCH,
        };
        let (log, _sequencer) = EventLog::new(pool, hooks);
        let context = Context {
            actor: Actor::System,
            correlation: Uuid::nil(),
            now: DateTime::UNIX_EPOCH,
            origin: RequestOrigin::default(),
            idempotency_key: None,
        };
        let store = LogStore::<Account>::new(log, Category::Account, context, 1);
        assert!(matches!(store.delete(Uuid::nil()).await, Err(StoreError::DeleteRefused)));
    }
}
