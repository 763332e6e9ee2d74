//! From a decision to the log: load, decide, append, try again on conflict. The only caller of append.

use std::time::Instant;

use esrs::manager::AggregateManager;
use esrs::store::StoreEvent;
use esrs::{Aggregate, AggregateState};
use fulexo_domain::account::{AccountEvent, AccountState};
use fulexo_domain::event::{Category, Event, Stream};
use fulexo_domain::leaf::Draft;
use fulexo_domain::record::AccountRecord;
use fulexo_domain::session::SessionEvent;
use fulexo_domain::values::{AccountId, SessionId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::context::Context;
use crate::error::CommandError;
use crate::log::{AppendRequest, Appended, CommandRecord, Expected, LogStore, Receipt};
use crate::mail::MailKind;
use crate::vault::write::VaultWrite;
use crate::vault::{Personal, SubjectKey, Vault};
use crate::{Commands, Done};

/// How often a command decides anew when somebody else was faster.
pub(crate) const TRIES: usize = 8;

/// An append in the making: what one command writes, in one transaction.
pub(crate) struct Unit<'a> {
    context: &'a Context,
    policy_version: u32,
    sealing: Option<(SubjectKey, Personal)>,
    request: AppendRequest,
    /// What owners are to be told of it.
    mails: Vec<(AccountId, MailKind)>,
    /// Whether it takes sessions away whose ends are recorded later.
    signs_out: bool,
}

/// A client's idempotency key, bound to caller, operation and content.
#[derive(Clone)]
pub(crate) struct Idempotency {
    id: [u8; 32],
    request_hash: [u8; 32],
}

/// An outcome whose answer hands out tokens or secrets, as the log remembers it. The same idempotency key gets them again
/// for minutes, and only while the factors of whoever earned it are the same.
#[derive(Serialize, Deserialize)]
pub(crate) struct Disclosing<O> {
    pub outcome: O,
    /// A digest of the factors; none where no account asked.
    factors: Option<[u8; 32]>,
}

/// How long tokens and secrets are handed out again under the same idempotency key, in seconds.
const DISCLOSED_FOR: i64 = 600;

/// What a command came to: its outcome, and where in the log it stands.
pub(crate) enum Committed<O> {
    /// Now.
    New(O, Receipt),
    /// Before, under the same idempotency key.
    Before(O),
}

impl<'a> Unit<'a> {
    pub fn new(context: &'a Context, policy_version: u32) -> Self {
        Self {
            context,
            policy_version,
            sealing: None,
            request: AppendRequest::default(),
            mails: Vec::new(),
            signs_out: false,
        }
    }

    /// From here on, personal facts that belong to an event are sealed under this key.
    /// Nothing is sealed where nobody's key is left.
    pub fn sealing(mut self, sealing: Option<(SubjectKey, Personal)>) -> Self {
        self.sealing = sealing;
        self
    }

    /// Adds events of one stream.
    pub fn record<E: Into<Event>>(
        &mut self,
        id: Uuid,
        subject: Option<AccountId>,
        events: impl IntoIterator<Item = E>,
    ) -> Result<(), CommandError> {
        for event in events {
            let event: Event = event.into();
            let event_id = self.context.new_id();
            self.mails.extend(subject.zip(MailKind::of(&event)));
            self.signs_out |= matches!(event, Event::Account(AccountEvent::SessionsRevoked { .. }));
            let mut sealed = Vec::new();
            if let Some((key, personal)) = &self.sealing
                && let Some((row, digest)) = personal.seal_for(&event, event_id, key)?
            {
                self.request.sealed.push((self.request.events.len(), row));
                sealed.push(digest);
            }
            if let Event::Session(SessionEvent::Revoked { .. } | SessionEvent::Expired {}) = event {
                self.request.vault.push(VaultWrite::ForgetRefreshRoot { session: SessionId(id) });
            }
            if let (Event::Account(event), Some(account)) = (&event, subject)
                && event.forgets_devices()
            {
                self.request.vault.push(VaultWrite::ForgetDevices { account });
            }
            let draft = Draft {
                id: event_id,
                stream: Stream { category: event.category(), id },
                subject: subject.map(|account| account.0),
                actor: self.context.actor,
                correlation: self.context.correlation,
                causation: None,
                policy_version: self.policy_version,
                event,
                sealed,
            };
            self.request.events.push(draft.prepare()?);
        }
        Ok(())
    }

    pub fn expect(&mut self, category: Category, id: Uuid, expected: Expected) {
        self.request.expected.push((Stream { category, id }, expected));
    }

    pub fn vault(&mut self, write: VaultWrite) {
        self.request.vault.push(write);
    }

    pub fn claim(&mut self, scope: &'static str, hash: [u8; 32], holder: Uuid) {
        self.request.claims.push(crate::log::KeyClaim { scope, hash, holder });
    }

    /// What owners are to be told of it, each kind once.
    pub fn take_mails(&mut self) -> Vec<(AccountId, MailKind)> {
        let mut mails = std::mem::take(&mut self.mails);
        mails.dedup();
        // A factor comes with its recovery codes: one mail.
        if mails.iter().any(|(_, kind)| *kind == MailKind::SecondFactorEnabled) {
            mails.retain(|(_, kind)| *kind != MailKind::RecoveryCodesIssued);
        }
        mails
    }

    pub const fn context(&self) -> &'a Context {
        self.context
    }

    /// The key of this person, where it is the one that this append seals with: it may not be stored yet.
    pub fn key_of(&self, account: AccountId) -> Option<SubjectKey> {
        let (key, _) = self.sealing.as_ref()?;
        key.is_of(account).then(|| key.clone())
    }

    pub fn into_request(self) -> AppendRequest {
        self.request
    }
}

impl Idempotency {
    /// `None` without a key. Everything is keyed: a plain digest of a request that holds a password would be
    /// something to guess against.
    pub fn of(vault: &Vault, context: &Context, operation: &str, content: &[&[u8]]) -> Option<Self> {
        let key = context.idempotency_key.as_deref()?;
        let caller = context.actor.id().map(|id| id.to_string()).unwrap_or_default();
        let id = vault.digest("idempotency/id", &[caller.as_bytes(), operation.as_bytes(), key.as_bytes()]);
        Some(Self { id, request_hash: vault.digest("idempotency/content", content) })
    }

    /// What the log is to remember of the command.
    pub fn record<O: Serialize>(&self, outcome: &O) -> Result<CommandRecord, CommandError> {
        Ok(CommandRecord { id: self.id, request_hash: self.request_hash, result: serde_json::to_string(outcome)? })
    }
}

impl Commands {
    /// An append of this request, under the policy in force.
    pub(crate) fn unit<'a>(&self, context: &'a Context) -> Unit<'a> {
        Unit::new(context, self.policy().version)
    }

    /// What this very command came to before; nothing when it is new.
    pub(crate) async fn before<O: DeserializeOwned>(
        &self,
        idempotency: Option<&Idempotency>,
    ) -> Result<Option<O>, CommandError> {
        Ok(self.before_with_age(idempotency).await?.map(|(outcome, _)| outcome))
    }

    /// The same, and whether it is recent enough for what it discloses.
    pub(crate) async fn before_with_age<O: DeserializeOwned>(
        &self,
        idempotency: Option<&Idempotency>,
    ) -> Result<Option<(O, bool)>, CommandError> {
        let Some(idempotency) = idempotency else { return Ok(None) };
        let Some(stored) = self.log.outcome(&idempotency.id).await? else { return Ok(None) };
        if stored.request_hash != idempotency.request_hash {
            return Err(CommandError::IdempotencyKeyReused);
        }
        Ok(Some((serde_json::from_str(&stored.result)?, stored.age < DISCLOSED_FOR)))
    }

    /// An outcome that hands out secrets, earned by the account that acts.
    pub(crate) async fn disclosing<O>(&self, context: &Context, outcome: O) -> Result<Disclosing<O>, CommandError> {
        Ok(Disclosing { outcome, factors: self.acting_factors(context).await? })
    }

    /// The same, where the account's second factor is another one from this very append on.
    pub(crate) async fn disclosing_with_seed<O>(
        &self,
        context: &Context,
        outcome: O,
        sealed: &[u8],
    ) -> Result<Disclosing<O>, CommandError> {
        let found = match context.account() {
            Some(account) => self.find(account).await?,
            None => None,
        };
        Ok(Disclosing { outcome, factors: found.map(|found| self.factors(&found.verifier, Some(sealed))) })
    }

    /// The outcome of this very command before, as long as what it handed out is handed out again.
    ///
    /// # Errors
    /// [`CommandError::OutcomeExpired`].
    pub(crate) async fn disclosed_before<O: DeserializeOwned>(
        &self,
        context: &Context,
        idempotency: Option<&Idempotency>,
    ) -> Result<Option<O>, CommandError> {
        let before = self.before_with_age::<Disclosing<O>>(idempotency).await?;
        let Some((disclosing, is_recent)) = before else { return Ok(None) };
        if !is_recent {
            return Err(CommandError::OutcomeExpired);
        }
        Ok(Some(self.disclose(context, disclosing).await?))
    }

    async fn disclose<O>(&self, context: &Context, disclosing: Disclosing<O>) -> Result<O, CommandError> {
        if disclosing.factors != self.acting_factors(context).await? {
            return Err(CommandError::OutcomeExpired);
        }
        Ok(disclosing.outcome)
    }

    /// A digest of the factors of the account that acts, where one does.
    async fn acting_factors(&self, context: &Context) -> Result<Option<[u8; 32]>, CommandError> {
        let Some(account) = context.account() else { return Ok(None) };
        Ok(self.find(account).await?.map(|found| self.factors_of(&found)))
    }

    /// The answer to what was committed now, or a moment ago under the same idempotency key.
    pub(crate) async fn done_disclosing<O>(
        &self,
        context: &Context,
        committed: Committed<Disclosing<O>>,
    ) -> Result<Done<O>, CommandError> {
        match committed {
            Committed::New(Disclosing { outcome, .. }, receipt) => {
                Ok(Done { value: outcome, position: receipt.position })
            }
            Committed::Before(disclosing) => self.done_before(self.disclose(context, disclosing).await?).await,
        }
    }

    /// The answer to a command that was done before. Where its events stand is not remembered, but it is before the end
    /// of the log.
    pub(crate) async fn done_before<T>(&self, value: T) -> Result<Done<T>, CommandError> {
        Ok(Done { value, position: self.log.size().await?.checked_sub(1) })
    }

    /// Appends, remembering the outcome under the client's idempotency key.
    pub(crate) async fn commit<O: Serialize + DeserializeOwned>(
        &self,
        mut unit: Unit<'_>,
        idempotency: Option<&Idempotency>,
        outcome: O,
    ) -> Result<Committed<O>, CommandError> {
        self.enclose_mails(&mut unit).await?;
        let signs_out = unit.signs_out;
        let mut request = unit.into_request();
        request.command = idempotency.map(|idempotency| idempotency.record(&outcome)).transpose()?;
        // What writes nothing rests on nothing, and does not take the log's lock.
        if request.is_empty() {
            return Ok(Committed::New(outcome, Receipt { events: Vec::new(), position: None }));
        }
        match self.log.append(request).await? {
            Appended::New(receipt) => {
                // A busy machine may keep whoever looks from it, and still commit.
                self.pulse.send_if_modified(|at| at.as_mut().map(|at| *at = Instant::now()).is_some());
                if signs_out {
                    self.ends_due.notify_one();
                }
                Ok(Committed::New(outcome, receipt))
            }
            Appended::Duplicate { result } => Ok(Committed::Before(serde_json::from_str(&result)?)),
        }
    }

    /// What a refused command comes to after all: the same one, sent before and still under way then, may have been
    /// faster, and what refuses it now is what it has done itself.
    pub(crate) async fn unless_done<O: DeserializeOwned>(
        &self,
        idempotency: Option<&Idempotency>,
        error: CommandError,
    ) -> Result<O, CommandError> {
        self.before(idempotency).await?.ok_or(error)
    }

    /// Decides and appends; decides anew where somebody else was faster, a few times. Whatever the decision rests on is
    /// read inside `decide`.
    pub(crate) async fn decide<'c, O, F>(
        &self,
        idempotency: Option<&Idempotency>,
        decide: impl Fn() -> F,
    ) -> Result<Committed<O>, CommandError>
    where
        O: Serialize + DeserializeOwned,
        F: Future<Output = Result<(Unit<'c>, O), CommandError>>,
    {
        for _ in 0..TRIES {
            let (unit, outcome) = match decide().await {
                Ok(decided) => decided,
                Err(error) => return self.unless_done(idempotency, error).await.map(Committed::Before),
            };
            match self.commit(unit, idempotency, outcome).await {
                Err(CommandError::Contended) => {}
                committed => return committed,
            }
        }
        Err(CommandError::Contended)
    }

    /// The answer to what was committed now, or before.
    pub(crate) async fn done<O>(&self, committed: Committed<O>) -> Result<Done<O>, CommandError> {
        match committed {
            Committed::New(value, receipt) => Ok(Done { value, position: receipt.position }),
            Committed::Before(value) => self.done_before(value).await,
        }
    }

    /// One command on one aggregate, in this state at this version: the plain case, tried once. Answers with the position of
    /// its last event; `None` when it changed nothing, or did so before under the same idempotency key.
    pub(crate) async fn execute<A>(
        &self,
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

    /// An account as the log has it, and its version.
    pub(crate) async fn account_state(&self, account: AccountId) -> Result<(AccountState, u64), CommandError> {
        let loaded = self.log.record::<AccountRecord>(account.0).await?;
        Ok((loaded.record.state, loaded.version))
    }
}
