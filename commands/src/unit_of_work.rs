//! The unit of work of one command.

use fulexo_domain::account::AccountEvent;
use fulexo_domain::event::{Category, Event, Stream};
use fulexo_domain::leaf::EventDraft;
use fulexo_domain::session::SessionEvent;
use fulexo_domain::values::{AccountId, SessionId};
use uuid::Uuid;

use crate::context::Context;
use crate::error::CommandError;
use crate::log::{AppendRequest, ExpectedVersion};
use crate::mail::kind::MailKind;
use crate::vault::write::VaultWrite;
use crate::vault::{DataKey, PersonalData};

/// Everything that one command writes in one transaction.
pub(crate) struct UnitOfWork<'a> {
    context: &'a Context,
    policy_version: u32,
    sealing: Option<(DataKey, PersonalData)>,
    request: AppendRequest,
    /// The mails that the owners of accounts receive.
    mails: Vec<(AccountId, MailKind)>,
    /// `true` if it revokes sessions whose ends are recorded later.
    revokes_sessions: bool,
}

impl<'a> UnitOfWork<'a> {
    pub fn new(context: &'a Context, policy_version: u32) -> Self {
        Self {
            context,
            policy_version,
            sealing: None,
            request: AppendRequest::default(),
            mails: Vec::new(),
            revokes_sessions: false,
        }
    }

    /// Seals, from here on, the personal data that belongs to an event under this key. `None`, for a destroyed key,
    /// seals nothing.
    pub fn sealing(mut self, sealing: Option<(DataKey, PersonalData)>) -> Self {
        self.sealing = sealing;
        self
    }

    /// Adds events of one stream, with the mails and vault writes that follow from them.
    pub fn record<E: Into<Event>>(
        &mut self,
        id: Uuid,
        subject: Option<AccountId>,
        events: impl IntoIterator<Item = E>,
    ) -> Result<(), CommandError> {
        self.record_with_ids(id, subject, events).map(drop)
    }

    /// Adds events like [`Self::record`], and returns their ids.
    pub fn record_with_ids<E: Into<Event>>(
        &mut self,
        id: Uuid,
        subject: Option<AccountId>,
        events: impl IntoIterator<Item = E>,
    ) -> Result<Vec<Uuid>, CommandError> {
        let mut ids = Vec::new();
        for event in events {
            let event: Event = event.into();
            let event_id = self.context.new_id();
            ids.push(event_id);
            self.mails.extend(subject.zip(MailKind::of(&event)));
            self.revokes_sessions |= matches!(event, Event::Account(AccountEvent::SessionsRevoked { .. }));
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
            let draft = EventDraft {
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
            self.request.events.push(draft.encode()?);
        }
        Ok(ids)
    }

    pub fn expect(&mut self, category: Category, id: Uuid, expected: ExpectedVersion) {
        self.request.expected.push((Stream { category, id }, expected));
    }

    pub fn vault(&mut self, write: VaultWrite) {
        self.request.vault.push(write);
    }

    pub fn claim(&mut self, scope: &'static str, hash: [u8; 32], holder: Uuid) {
        self.request.claims.push(crate::log::KeyClaim { scope, hash, holder });
    }

    /// Takes the mails that the owners of accounts receive, each kind once.
    pub fn take_mails(&mut self) -> Vec<(AccountId, MailKind)> {
        let mut mails = std::mem::take(&mut self.mails);
        mails.dedup();
        // A new factor comes with its recovery codes: one mail covers both.
        if mails.iter().any(|(_, kind)| *kind == MailKind::SecondFactorEnabled) {
            mails.retain(|(_, kind)| *kind != MailKind::RecoveryCodesIssued);
        }
        mails
    }

    /// Returns `true` if it revokes sessions whose ends are recorded later.
    pub const fn revokes_sessions(&self) -> bool {
        self.revokes_sessions
    }

    pub const fn context(&self) -> &'a Context {
        self.context
    }

    /// Returns the account's key if this unit of work seals with it: the key may not be stored yet.
    pub fn key_of(&self, account: AccountId) -> Option<DataKey> {
        let (key, _) = self.sealing.as_ref()?;
        key.is_of(account).then(|| key.clone())
    }

    pub fn into_request(self) -> AppendRequest {
        self.request
    }
}
