//! Accounts: registered by anybody who may, with a password that their owner can change.

use chrono::{DateTime, Utc};
use fulexo_domain::Aggregate;
use fulexo_domain::account::{Account, AccountCommand, AccountEvent, AccountState, PasswordChange};
use fulexo_domain::authentication::Verdict;
use fulexo_domain::event::{Category, Event, Field, Stream};
use fulexo_domain::password::{Password, Violation, violations};
use fulexo_domain::session::RevokedBy;
use fulexo_domain::values::{AccountId, DisplayName, EmailAddress, RoleName, SessionId};
use serde::{Deserialize, Serialize};

use crate::attempts::Reserved;
use crate::challenge::HalfWay;
use crate::context::Context;
use crate::error::CommandError;
use crate::execute::{Committed, Idempotency, TRIES};
use crate::log::Expected;
use crate::login::{Found, read_verifier};
use crate::vault::Personal;
use crate::vault::write::VaultWrite;
use crate::{Commands, Done};

/// Somebody who wants an account.
pub struct NewAccount {
    /// Where they can be reached; unique.
    pub email: EmailAddress,
    /// What they will prove themselves with.
    pub password: Password,
    /// How they want to be called.
    pub display_name: Option<DisplayName>,
    /// What they may be from the first moment.
    pub roles: Vec<RoleName>,
}

/// Who changes a password, and where.
#[derive(Clone, Copy)]
pub enum Owner {
    /// Somebody logged in: this session stays.
    LoggedIn(AccountId, SessionId),
    /// Somebody whose login leads to this step alone.
    HalfWay(HalfWay),
}

impl Owner {
    const fn session(self) -> Option<SessionId> {
        match self {
            Self::LoggedIn(_, session) => Some(session),
            Self::HalfWay(_) => None,
        }
    }
}

/// Who somebody is, for themselves and those who may know.
#[derive(Clone)]
pub struct Profile {
    /// Where they can be reached.
    pub email: EmailAddress,
    /// How they want to be called.
    pub display_name: Option<DisplayName>,
}

#[derive(Serialize, Deserialize)]
struct Registered {
    account: AccountId,
}

impl Commands {
    /// Registers an account.
    ///
    /// # Errors
    /// [`CommandError::EmailTaken`], [`CommandError::Password`] with every broken rule, [`CommandError::Overloaded`].
    pub async fn register(&self, context: &Context, new: NewAccount) -> Result<Done<AccountId>, CommandError> {
        let NewAccount { email, password, display_name, roles } = new;
        let name = display_name.as_ref().map(DisplayName::as_str);
        let content = [email.normalised().into_bytes(), password.expose().into(), name.unwrap_or_default().into()];
        let content: Vec<&[u8]> = content.iter().map(Vec::as_slice).collect();
        let idempotency = Idempotency::of(&self.vault, context, "register", &content);
        if let Some(Registered { account }) = self.before(idempotency.as_ref()).await? {
            return self.done_before(account).await;
        }
        let broken = violations(&password, &email, display_name.as_ref());
        if !broken.is_empty() {
            return Err(CommandError::Password(broken));
        }
        let place = self.hasher.place().map_err(|_| CommandError::Overloaded)?;
        let verifier = self.hasher.hash(password, place).await.map_err(|_| CommandError::Overloaded)?;

        let account = AccountId(context.new_id());
        let events = Account::handle_command(&AccountState::default(), AccountCommand::Register { roles })?;
        let (key, wrapped) = self.vault.new_subject_key(account)?;
        let verifier = key.seal_verifier("password", verifier.expose())?;
        let personal = Personal::default().with(Field::Email, Some(email.as_str())).with(Field::DisplayName, name);
        let mut unit = self.unit(context).sealing(Some((key, personal)));
        unit.expect(Category::Account, account.0, Expected::New);
        unit.claim("email", self.email_hash(&email), account.0);
        unit.vault(VaultWrite::SubjectKey(wrapped));
        unit.vault(VaultWrite::Password { account, verifier, keep: self.previous_passwords() });
        unit.record(account.0, Some(account), events)?;
        match self.commit(unit, idempotency.as_ref(), Registered { account }).await? {
            Committed::New(registered, receipt) => Ok(Done { value: registered.account, position: receipt.position }),
            Committed::Before(Registered { account }) => self.done_before(account).await,
        }
    }

    /// Changes the caller's own password and ends their other sessions.
    ///
    /// # Errors
    /// [`CommandError::InvalidCredentials`] when the current password is wrong, which counts as a failed attempt;
    /// [`CommandError::Password`] with every rule that the new one breaks.
    pub async fn change_password(
        &self,
        context: &Context,
        owner: Owner,
        current: Password,
        new: Password,
    ) -> Result<Done<()>, CommandError> {
        let content = [current.expose().as_bytes(), new.expose().as_bytes()];
        let idempotency = Idempotency::of(&self.vault, context, "change_password", &content);
        if self.before::<()>(idempotency.as_ref()).await?.is_some() {
            return self.done_before(()).await;
        }
        let (account, device) = match owner {
            Owner::LoggedIn(account, session) => (account, self.device_of(session).await?),
            Owner::HalfWay(HalfWay(challenge)) => (challenge.account, challenge.device),
        };
        let profile = self.profile(account).await?.ok_or(CommandError::InvalidCredentials)?;
        let (found, attempt) = self.prove(context, account, device, current).await?;
        let mut broken = violations(&new, &profile.email, profile.display_name.as_ref());
        if self.was_used_before(&found, &new).await? {
            broken.push(Violation::Reused);
        }
        if !broken.is_empty() {
            // The current password was right, so this was no guess.
            self.forget_attempts(&attempt).await?;
            return Err(CommandError::Password(broken));
        }
        let place = self.hasher.place().map_err(|_| CommandError::Overloaded)?;
        let hashed = self.hasher.hash(new, place).await.map_err(|_| CommandError::Overloaded)?;
        let position =
            self.record_new_password(context, &found, owner.session(), hashed.expose(), &attempt, idempotency.as_ref());
        let position = position.await?;
        // A login with the old password that was under way when the new one was recorded has ended or is ended here;
        // none can begin: it would find the account changed.
        let swept = self.sweep_sessions(context, account, owner.session(), RevokedBy::PasswordChange).await?;
        Ok(Done { value: (), position: swept.position.or(position) })
    }

    async fn record_new_password(
        &self,
        context: &Context,
        found: &Found,
        session: Option<SessionId>,
        hashed: &str,
        attempt: &Reserved,
        idempotency: Option<&Idempotency>,
    ) -> Result<Option<u64>, CommandError> {
        let account = found.account;
        for _ in 0..TRIES {
            let (state, version) = self.with_same_password(found).await?;
            let due = state.password_expired || session.is_none();
            let how = if due { PasswordChange::Expired } else { PasswordChange::Owner };
            let events = Account::handle_command(&state, AccountCommand::ChangePassword { how })?;
            let mut unit = self.unit(context);
            unit.expect(Category::Account, account.0, Expected::Exact(version));
            unit.vault(attempt.clear());
            unit.vault(VaultWrite::Password {
                account,
                verifier: found.key.seal_verifier("password", hashed)?,
                keep: self.previous_passwords(),
            });
            let confirmed = self.decide_attempt(attempt, Verdict::Confirmed, context.now);
            unit.record(account.0, Some(account), confirmed)?;
            unit.record(account.0, Some(account), events)?;
            self.end_in(&mut unit, account, session, RevokedBy::PasswordChange).await?;
            match self.commit(unit, idempotency, ()).await {
                Ok(Committed::New((), receipt)) => return Ok(receipt.position),
                Ok(Committed::Before(())) => return Ok(None),
                Err(CommandError::Contended) => {}
                Err(error) => return Err(error),
            }
        }
        Err(CommandError::Contended)
    }

    /// When the password was set or last changed.
    pub(crate) async fn password_set_at(&self, account: AccountId) -> Result<DateTime<Utc>, CommandError> {
        let events = self.log.load(Stream { category: Category::Account, id: account.0 }).await?;
        let set = events.iter().rev().find(|recorded| match &recorded.event {
            Event::Account(AccountEvent::PasswordChanged { how }) => *how != PasswordChange::Rehash,
            Event::Account(event) => *event == AccountEvent::Registered {},
            _ => false,
        });
        Ok(set.map_or(DateTime::UNIX_EPOCH, |recorded| recorded.recorded_at))
    }

    /// Whether the password is the current one or one of those before it. Each comparison costs a hash.
    async fn was_used_before(&self, found: &Found, password: &Password) -> Result<bool, CommandError> {
        let previous = sqlx::query_scalar!(
            "select verifier from vault.password_history where account_id = $1 order by ordinal desc limit $2",
            found.account.0,
            self.previous_passwords()
        )
        .fetch_all(&self.pool)
        .await?;
        let mut verifiers = vec![found.verifier.clone()];
        for sealed in previous {
            verifiers.push(read_verifier(&found.key, &sealed)?);
        }
        for verifier in verifiers {
            let place = self.hasher.place().map_err(|_| CommandError::Overloaded)?;
            let same = self.hasher.verify(password.clone(), Some(verifier), place).await;
            if same.map_err(|_| CommandError::Overloaded)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn previous_passwords(&self) -> i64 {
        i64::from(self.policy().passwords.history.saturating_sub(1))
    }

    /// Who an account is; `None` when it was forgotten or never known.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub async fn profile(&self, account: AccountId) -> Result<Option<Profile>, CommandError> {
        let position = sqlx::query_scalar!(
            "select position from log.event where stream_id = $1 and category = 'account' and version = 1",
            account.0
        )
        .fetch_optional(&self.pool)
        .await?;
        let Some(position) = position else { return Ok(None) };
        let mut opened = self.vault.open_personal(&[position]).await?;
        Ok(opened.remove(&position).and_then(|personal| Profile::read(&personal)))
    }

    /// The account that holds this address.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub async fn account_of(&self, email: &EmailAddress) -> Result<Option<AccountId>, CommandError> {
        let hash = self.email_hash(email);
        let holder = sqlx::query_scalar!(
            "select stream_id from log.unique_key where scope = 'email' and key_hash = $1",
            hash.as_slice()
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(holder.map(AccountId))
    }
}

impl Profile {
    /// Reads what was sealed at registration.
    #[must_use]
    pub fn read(personal: &Personal) -> Option<Self> {
        let email = EmailAddress::parse(personal.get(Field::Email)?).ok()?;
        let display_name = personal.get(Field::DisplayName).and_then(|name| DisplayName::parse(name).ok());
        Some(Self { email, display_name })
    }
}
