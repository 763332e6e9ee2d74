//! What administrators do to accounts and sessions of others, each with its reason: suspend, reinstate, unlock, sign out.

use fulexo_domain::Aggregate;
use fulexo_domain::account::{Account, AccountCommand, AccountEvent};
use fulexo_domain::authentication::{AuthenticationEvent, Factor, LiftedBy};
use fulexo_domain::event::{Category, Field};
use fulexo_domain::permission::{Permission, Permissions};
use fulexo_domain::session::{RevokedBy, SessionError, SessionEvent, SessionState};
use fulexo_domain::values::{AccountId, Reason, SessionId};
use uuid::Uuid;

use crate::context::Context;
use crate::error::CommandError;
use crate::execute::{Committed, Idempotency, TRIES};
use crate::log::Expected;
use crate::roles::gives_roles;
use crate::vault::{Personal, SubjectKey};
use crate::{Commands, Done};

impl Commands {
    /// Stops all use of an account: nobody logs in, and every session ends. `own` is what whoever asks may do: nobody
    /// stops the use of an account that may do more.
    ///
    /// # Errors
    /// [`CommandError::Account`] when it is unknown or suspended already; [`CommandError::GrantExceedsOwn`];
    /// [`CommandError::LastAdministrator`].
    pub async fn suspend(
        &self,
        context: &Context,
        own: Permissions,
        account: AccountId,
        reason: Reason,
    ) -> Result<Done<()>, CommandError> {
        // A login that was under way has begun its session before, and it is over, or finds the account changed.
        self.change_use(context, own, account, AccountCommand::Suspend, "suspend", &reason).await
    }

    /// Allows the use of a suspended account again.
    ///
    /// # Errors
    /// [`CommandError::Account`] when it is unknown or not suspended; [`CommandError::GrantExceedsOwn`].
    pub async fn reinstate(
        &self,
        context: &Context,
        own: Permissions,
        account: AccountId,
        reason: Reason,
    ) -> Result<Done<()>, CommandError> {
        self.change_use(context, own, account, AccountCommand::Reinstate, "reinstate", &reason).await
    }

    async fn change_use(
        &self,
        context: &Context,
        own: Permissions,
        account: AccountId,
        command: AccountCommand,
        operation: &str,
        reason: &Reason,
    ) -> Result<Done<()>, CommandError> {
        let idempotency = self.bound(context, operation, account.0, reason);
        if self.before::<()>(idempotency.as_ref()).await?.is_some() {
            return self.done_before(()).await;
        }
        let sealing = self.sealing(account, reason).await?;
        let decided = self.decide(idempotency.as_ref(), || async {
            let (state, version) = self.account_state(account).await?;
            let events = Account::handle_command(&state, command.clone())?;
            let suspends = events.contains(&AccountEvent::Suspended {});
            let mut unit = self.unit(context).sealing(sealing.clone());
            self.rest_on_rank(&mut unit, context, own, account, &state).await?;
            unit.expect(Category::Account, account.0, Expected::Exact(version));
            if suspends {
                self.revoke_sessions(&mut unit, account, &state, None, RevokedBy::Suspension).await?;
            }
            unit.record(account.0, Some(account), events)?;
            if suspends && state.roles.iter().any(gives_roles) {
                let (other, expected) = self.other_administrator(account).await?;
                unit.expect(other.category, other.id, expected);
            }
            Ok((unit, ()))
        });
        self.done(decided.await?).await
    }

    /// Lifts the lock of an account before its time. Lifting what is not locked only clears what was counted.
    ///
    /// # Errors
    /// [`CommandError::Account`] when the account is unknown.
    pub async fn unlock(
        &self,
        context: &Context,
        account: AccountId,
        reason: Reason,
    ) -> Result<Done<()>, CommandError> {
        let idempotency = self.bound(context, "unlock", account.0, &reason);
        if self.before::<()>(idempotency.as_ref()).await?.is_some() {
            return self.done_before(()).await;
        }
        let unknown = fulexo_domain::account::AccountError::Unknown;
        let profile = self.profile(account).await?.ok_or(unknown)?;
        let sealing = self.sealing(account, &reason).await?;
        let address = profile.email.normalised();
        let decided = self.decide(idempotency.as_ref(), || async {
            let mut unit = self.unit(context).sealing(sealing.clone());
            self.rest_on_granter(&mut unit, context, Permissions::of(&[Permission::AccountsManage])).await?;
            let mut factors = self.counted(account, &address).await?;
            if factors.is_empty() {
                // What was counted may have gone with time; that somebody lifted it, and why, is on record in any case.
                factors.push(Factor::Password);
            }
            unit.vault(self.forget_all(account, &address));
            let by = LiftedBy::Admin;
            let lifted = |factor| AuthenticationEvent::LockLifted { factor, by, device: None, scope: None };
            unit.record(account.0, Some(account), factors.into_iter().map(lifted))?;
            Ok((unit, ()))
        });
        self.done(decided.await?).await
    }

    /// Has an account's password changed before anything else; every session ends, and the next login leads to the change
    /// alone.
    ///
    /// # Errors
    /// [`CommandError::Account`] when the account is unknown; [`CommandError::GrantExceedsOwn`] when it may do more than
    /// whoever asks.
    pub async fn expire_password(
        &self,
        context: &Context,
        own: Permissions,
        account: AccountId,
        reason: Reason,
    ) -> Result<Done<()>, CommandError> {
        let idempotency = self.bound(context, "expire_password", account.0, &reason);
        if self.before::<()>(idempotency.as_ref()).await?.is_some() {
            return self.done_before(()).await;
        }
        let sealing = self.sealing(account, &reason).await?;
        let decided = self.decide(idempotency.as_ref(), async || {
            let (state, version) = self.account_state(account).await?;
            let events = Account::handle_command(&state, AccountCommand::ExpirePassword)?;
            let mut unit = self.unit(context).sealing(sealing.clone());
            self.rest_on_rank(&mut unit, context, own, account, &state).await?;
            unit.expect(Category::Account, account.0, Expected::Exact(version));
            // One that has expired already has no session left.
            if !events.is_empty() {
                unit.record(account.0, Some(account), events)?;
                self.revoke_sessions(&mut unit, account, &state, None, RevokedBy::PasswordExpired).await?;
            }
            Ok((unit, ()))
        });
        self.done(decided.await?).await
    }

    /// Ends anybody's session.
    ///
    /// # Errors
    /// [`SessionError::Ended`] when there is no such session; ending an ended one is no error.
    pub async fn end_session(
        &self,
        context: &Context,
        session: SessionId,
        reason: Option<Reason>,
    ) -> Result<Done<()>, CommandError> {
        for _ in 0..TRIES {
            let loaded = self.load_session(session).await?;
            let live = match &loaded.state {
                SessionState::Live(live) => live,
                SessionState::Ended => return Ok(Done { value: (), position: Some(loaded.last_position) }),
                SessionState::None => return Err(SessionError::Ended.into()),
            };
            let sealing = match &reason {
                Some(reason) => self.sealing(live.account, reason).await?,
                None => None,
            };
            let mut unit = self.unit(context).sealing(sealing.clone());
            unit.expect(Category::Session, session.0, Expected::Exact(loaded.version));
            unit.record(session.0, Some(live.account), [SessionEvent::Revoked { by: RevokedBy::Admin }])?;
            match self.commit(unit, None, ()).await {
                Ok(Committed::New((), receipt)) => return Ok(Done { value: (), position: receipt.position }),
                Ok(Committed::Before(())) => return self.done_before(()).await,
                Err(CommandError::Contended) => {}
                Err(error) => return Err(error),
            }
        }
        Err(CommandError::Contended)
    }

    /// Ends every session of an account; answers with how many were live.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub async fn end_all_sessions(&self, context: &Context, account: AccountId) -> Result<Done<usize>, CommandError> {
        self.revoke_all(context, "end_all_sessions", account, None, RevokedBy::Admin).await
    }

    pub(crate) fn bound(&self, context: &Context, operation: &str, id: Uuid, reason: &Reason) -> Option<Idempotency> {
        Idempotency::of(&self.vault, context, operation, &[id.as_bytes(), reason.as_str().as_bytes()])
    }

    /// The key of the person whom the reason is about; nobody's reason is kept where nobody can be found.
    pub(crate) async fn sealing(
        &self,
        account: AccountId,
        reason: &Reason,
    ) -> Result<Option<(SubjectKey, Personal)>, CommandError> {
        let personal = Personal::default().with(Field::Reason, Some(reason.as_str()));
        Ok(self.vault.subject_key(account).await?.map(|key| (key, personal)))
    }
}
