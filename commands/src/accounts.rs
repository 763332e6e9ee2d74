//! Accounts: registered by anybody who may, with a password that their owner can change.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use fulexo_domain::Aggregate;
use fulexo_domain::account::{Account, AccountCommand, AccountError, AccountEvent, AccountState, PasswordChange};
use fulexo_domain::authentication::Verdict;
use fulexo_domain::event::{Category, Field};
use fulexo_domain::password::{Password, Violation, violations};
use fulexo_domain::permission::{Permission, Permissions};
use fulexo_domain::record::AccountRecord;
use fulexo_domain::session::RevokedBy;
use fulexo_domain::values::{AccountId, DisplayName, EmailAddress, RoleName, SessionId};
use futures_util::future::try_join_all;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::attempts::Reserved;
use crate::challenge::HalfWay;
use crate::context::Context;
use crate::error::CommandError;
use crate::execute::{Committed, Idempotency, Unit};
use crate::log::{Expected, Loaded};
use crate::login::{Found, read_verifier};
use crate::password_hash::{Place, Verifier};
use crate::recovery::RESET;
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

/// Somebody for whom an administrator makes an account.
pub struct NewMember {
    /// Where they can be reached; unique.
    pub email: EmailAddress,
    /// How they are called.
    pub display_name: Option<DisplayName>,
    /// What they may be from the first moment.
    pub roles: Vec<RoleName>,
}

/// An account that an administrator made. No `Debug`; wiped when dropped.
pub struct Member {
    /// The account.
    pub account: AccountId,
    /// Good for one login, which demands another password.
    pub initial_password: Zeroizing<String>,
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

/// A new password, judged as far as its rules go, and what it takes to hash it.
struct Change {
    /// The session that stays.
    session: Option<SessionId>,
    new: Password,
    broken: Vec<Violation>,
    place: Place,
    /// For those before it.
    places: Vec<Place>,
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
    /// [`CommandError::EmailTaken`], [`CommandError::Password`] with every broken rule, [`CommandError::Overloaded`];
    /// [`CommandError::Account`] when there is no such role.
    pub async fn register(&self, context: &Context, new: NewAccount) -> Result<Done<AccountId>, CommandError> {
        let NewAccount { email, password, display_name, roles } = new;
        let name = display_name.as_ref().map(DisplayName::as_str);
        let content = [email.normalised().into_bytes(), password.expose().into(), name.unwrap_or_default().into()];
        let content: Vec<&[u8]> = content.iter().map(Vec::as_slice).collect();
        let idempotency = Idempotency::of(&self.vault, context, "register", &content);
        if let Some(Registered { account }) = self.before(idempotency.as_ref()).await? {
            return self.done_before(account).await;
        }
        let place = self.place(context)?;
        let broken = self.broken_rules(&password, &email, display_name.as_ref(), place.clone()).await?;
        if !broken.is_empty() {
            return Err(CommandError::Password(broken));
        }
        let verifier = self.hash_password(password, place).await?;
        let decided = self.decide(idempotency.as_ref(), async || {
            let mut rests_on = Vec::new();
            for role in &roles {
                rests_on.extend(self.role(role).await?.ok_or(AccountError::NoSuchRole)?.1);
            }
            let account = AccountId(context.new_id());
            let command = AccountCommand::Register { roles: roles.clone() };
            let mut unit = self.opening(context, account, command, &verifier, &email, display_name.as_ref())?;
            for (stream, expected) in rests_on {
                unit.expect(stream.category, stream.id, expected);
            }
            Ok((unit, Registered { account }))
        });
        Ok(self.done(decided.await?).await?.map(|Registered { account }| account))
    }

    /// Makes an account for somebody else, with a password that must be changed at the first login. `own` is what its
    /// maker may do: nobody gives what they do not hold.
    ///
    /// # Errors
    /// [`CommandError::EmailTaken`]; [`CommandError::GrantExceedsOwn`]; [`CommandError::Account`] when there is no such
    /// role.
    pub async fn create_account(
        &self,
        context: &Context,
        own: Permissions,
        new: NewMember,
    ) -> Result<Done<Member>, CommandError> {
        let NewMember { email, display_name, roles } = new;
        let name = display_name.as_ref().map(DisplayName::as_str).unwrap_or_default();
        let listed = roles.iter().map(RoleName::as_str).collect::<Vec<_>>().join(" ");
        let content = [email.normalised().into_bytes(), name.into(), listed.into_bytes()];
        let content: Vec<&[u8]> = content.iter().map(Vec::as_slice).collect();
        let idempotency = Idempotency::of(&self.vault, context, "create_account", &content);
        if let Some(Registered { account }) = self.disclosed_before(context, idempotency.as_ref()).await? {
            return self.done_before(self.member(account)).await;
        }
        let account = AccountId(context.new_id());
        let password = Password::new(self.member(account).initial_password.to_string());
        let verifier = self.hash_password(password, self.place(context)?).await?;
        let decided = self.decide(idempotency.as_ref(), async || {
            let (mut needed, mut rests_on) = (Permissions::of(&[Permission::AccountsManage]), Vec::new());
            for role in &roles {
                let (permissions, on) = self.role(role).await?.ok_or(AccountError::NoSuchRole)?;
                needed = needed.union(permissions);
                rests_on.extend(on);
                if !AccountId::first_roles().contains(role) {
                    needed = needed.union(Permissions::of(&[Permission::RolesGrant]));
                }
            }
            if !own.covers(needed) {
                return Err(CommandError::GrantExceedsOwn);
            }
            let command = AccountCommand::Register { roles: roles.clone() };
            let mut unit = self.opening(context, account, command, &verifier, &email, display_name.as_ref())?;
            for (stream, expected) in rests_on {
                unit.expect(stream.category, stream.id, expected);
            }
            self.rest_on_granter(&mut unit, context, needed).await?;
            unit.record(account.0, Some(account), [AccountEvent::PasswordExpired {}])?;
            Ok((unit, self.disclosing(context, Registered { account }).await?))
        });
        let done = self.done_disclosing(context, decided.await?).await?;
        Ok(done.map(|Registered { account }| self.member(account)))
    }

    /// The append that opens an account.
    fn opening<'a>(
        &self,
        context: &'a Context,
        account: AccountId,
        command: AccountCommand,
        verifier: &Verifier,
        email: &EmailAddress,
        display_name: Option<&DisplayName>,
    ) -> Result<Unit<'a>, CommandError> {
        let events = Account::handle_command(&AccountState::default(), command)?;
        let (key, wrapped) = self.vault.new_subject_key(account)?;
        let verifier = key.seal_verifier("password", verifier.expose())?;
        let mut unit = self.unit(context).sealing(Some((key, personal(email, display_name))));
        unit.expect(Category::Account, account.0, Expected::New);
        unit.claim("email", self.email_hash(email), account.0);
        unit.vault(self.forget_address(&email.normalised()));
        unit.vault(VaultWrite::SubjectKey(wrapped));
        unit.vault(VaultWrite::Password { account, verifier, keep: self.previous_passwords() });
        unit.record(account.0, Some(account), events)?;
        Ok(unit)
    }

    /// The first password is derived from the account's id, so that a repeated call answers with the same; it is worth
    /// nothing once it was changed, which the first login demands.
    fn member(&self, account: AccountId) -> Member {
        let digest = self.vault.digest("initial-password", &[account.0.as_bytes()]);
        let secret = Zeroizing::new(URL_SAFE_NO_PAD.encode(digest.split_at(15).0));
        // With a suffix that has what the policy asks for.
        Member { account, initial_password: Zeroizing::new(format!("{}-aA1", *secret)) }
    }

    /// Calls somebody otherwise: themselves, or, by an administrator, somebody who may do no more than they.
    ///
    /// # Errors
    /// [`CommandError::Account`] when the account is unknown; [`CommandError::GrantExceedsOwn`].
    pub async fn change_profile(
        &self,
        context: &Context,
        own: Permissions,
        account: AccountId,
        display_name: Option<DisplayName>,
    ) -> Result<Done<Profile>, CommandError> {
        let name = display_name.as_ref().map(DisplayName::as_str).unwrap_or_default();
        let content = [account.0.as_bytes().as_slice(), name.as_bytes()];
        let idempotency = Idempotency::of(&self.vault, context, "change_profile", &content);
        let before = self.log.record::<AccountRecord>(account.0).await?.record;
        let known = self.profile_in(&before).await?.ok_or(AccountError::Unknown)?;
        let profile = Profile { display_name, ..known.clone() };
        if self.before::<Option<u64>>(idempotency.as_ref()).await?.is_some() {
            return self.done_before(profile).await;
        }
        let key = self.vault.subject_key(account).await?.ok_or(AccountError::Unknown)?;
        let sealing = Some((key, personal(&profile.email, profile.display_name.as_ref())));
        let decided = self.decide(idempotency.as_ref(), async || {
            let Loaded { record, version, last_position } = self.log.record::<AccountRecord>(account.0).await?;
            let mut unit = self.unit(context).sealing(sealing.clone());
            if context.account() == Some(account) {
                if record.state.suspended {
                    return Err(AccountError::Suspended.into());
                }
            } else {
                self.rest_on_rank(&mut unit, context, own, account, &record.state).await?;
            }
            unit.expect(Category::Account, account.0, Expected::Exact(version));
            let now = if record.profile_position == before.profile_position {
                known.clone()
            } else {
                self.profile_in(&record).await?.ok_or(AccountError::Unknown)?
            };
            // To be called what one is called already is no event; only what is sealed says what that is.
            if now.display_name == profile.display_name {
                return Ok((unit, last_position));
            }
            unit.record(
                account.0,
                Some(account),
                Account::handle_command(&record.state, AccountCommand::ChangeProfile)?,
            )?;
            Ok((unit, None))
        });
        let Done { value: unchanged, position } = self.done(decided.await?).await?;
        Ok(Done { value: profile, position: position.or(unchanged) })
    }

    /// Changes the caller's own password and ends their other sessions.
    ///
    /// # Errors
    /// [`CommandError::InvalidCredentials`] when the current password is wrong, which counts as a failed attempt;
    /// [`CommandError::Password`] with every rule that the new one breaks; those before it are looked at where it breaks no
    /// other.
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
        // All that it may take is taken before anything is counted: a place does for one hash after another.
        let place = self.place(context)?;
        let broken = self.broken_rules(&new, &profile.email, profile.display_name.as_ref(), place.clone()).await?;
        let places = if broken.is_empty() { self.places(context, self.compared_passwords() + 1)? } else { Vec::new() };
        // Of the new one nobody hears who does not know the current one.
        let (found, attempt) = self.prove(context, account, device, current, place.clone()).await?;
        let change = Change { session: owner.session(), new, broken, place, places };
        let changed = self.change_proven_password(context, &found, change, &attempt, idempotency.as_ref()).await;
        let recorded = self.concluded(context, &found, &attempt, changed).await?;
        self.done(recorded).await
    }

    /// The change of a password, after the current one was right.
    async fn change_proven_password(
        &self,
        context: &Context,
        found: &Found,
        change: Change,
        attempt: &Reserved,
        idempotency: Option<&Idempotency>,
    ) -> Result<Committed<()>, CommandError> {
        let Change { session, new, mut broken, place, places } = change;
        let account = found.account;
        if broken.is_empty() && self.was_used_before(found, &new, &places).await? {
            broken.push(Violation::Reused);
        }
        if !broken.is_empty() {
            // The current password was right, so this was no guess.
            let mut unit = self.unit(context);
            unit.vault(attempt.clear());
            let confirmed = self.decide_attempt(attempt, Verdict::Confirmed, context.now);
            unit.record(account.0, Some(account), confirmed)?;
            self.commit(unit, None, ()).await?;
            return Err(CommandError::Password(broken));
        }
        let hashed = self.hash_password(new, place).await?;
        self.record_new_password(context, found, session, hashed.expose(), attempt, idempotency).await
    }

    async fn record_new_password(
        &self,
        context: &Context,
        found: &Found,
        session: Option<SessionId>,
        hashed: &str,
        attempt: &Reserved,
        idempotency: Option<&Idempotency>,
    ) -> Result<Committed<()>, CommandError> {
        let account = found.account;
        let decided = self.decide(idempotency, async || {
            let (state, version) = self.with_same_password(found).await?;
            let due = state.password_expired || session.is_none();
            let how = if due { PasswordChange::Expired } else { PasswordChange::Owner };
            let events = Account::handle_command(&state, AccountCommand::ChangePassword { how })?;
            let mut unit = self.unit(context);
            unit.expect(Category::Account, account.0, Expected::Exact(version));
            unit.vault(attempt.clear());
            unit.vault(VaultWrite::ForgetMailTokens { account, purposes: RESET });
            unit.vault(VaultWrite::Password {
                account,
                verifier: found.key.seal_verifier("password", hashed)?,
                keep: self.previous_passwords(),
            });
            let confirmed = self.decide_attempt(attempt, Verdict::Confirmed, context.now);
            unit.record(account.0, Some(account), confirmed)?;
            unit.record(account.0, Some(account), events)?;
            self.revoke_sessions(&mut unit, account, &state, session, RevokedBy::PasswordChange).await?;
            Ok((unit, ()))
        });
        decided.await
    }

    /// A verifier of a new password.
    pub(crate) async fn hash_password(&self, password: Password, place: Place) -> Result<Verifier, CommandError> {
        self.hasher.hash(password, place).await.map_err(|_| CommandError::Overloaded)
    }

    /// The rules that a password breaks, but for those before it.
    pub(crate) async fn broken_rules(
        &self,
        password: &Password,
        email: &EmailAddress,
        name: Option<&DisplayName>,
        place: Place,
    ) -> Result<Vec<Violation>, CommandError> {
        let (password, email, name) = (password.clone(), email.clone(), name.cloned());
        let judge = move || violations(&password, &email, name.as_ref());
        self.hasher.judge(judge, place).await.map_err(|_| CommandError::Overloaded)
    }

    /// When the password was set or last changed.
    pub(crate) async fn password_set_at(&self, account: AccountId) -> Result<DateTime<Utc>, CommandError> {
        let loaded = self.log.record::<AccountRecord>(account.0).await?;
        Ok(loaded.record.password_set_at.unwrap_or(DateTime::UNIX_EPOCH))
    }

    /// Whether the password is the current one or one of those before it. Each comparison costs a hash; as many are made
    /// at once as there are places.
    pub(crate) async fn was_used_before(
        &self,
        found: &Found,
        password: &Password,
        places: &[Place],
    ) -> Result<bool, CommandError> {
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
        for verifiers in verifiers.chunks(places.len().max(1)) {
            let compared = verifiers
                .iter()
                .zip(places)
                .map(|(verifier, place)| self.hasher.verify(password.clone(), Some(verifier.clone()), place.clone()));
            let same = try_join_all(compared).await.map_err(|_| CommandError::Overloaded)?;
            if same.contains(&true) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// How many verifiers a new password is compared with, at most.
    pub(crate) fn compared_passwords(&self) -> usize {
        usize::try_from(self.policy().passwords.history).unwrap_or(usize::MAX).max(1)
    }

    pub(crate) fn previous_passwords(&self) -> i64 {
        i64::from(self.policy().passwords.history.saturating_sub(1))
    }

    /// Who an account is; `None` when it was forgotten or never known.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub async fn profile(&self, account: AccountId) -> Result<Option<Profile>, CommandError> {
        self.profile_in(&self.log.record::<AccountRecord>(account.0).await?.record).await
    }

    async fn profile_in(&self, record: &AccountRecord) -> Result<Option<Profile>, CommandError> {
        let Some(position) = record.profile_position.and_then(|position| i64::try_from(position).ok()) else {
            return Ok(None);
        };
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

/// What is sealed of who somebody is.
fn personal(email: &EmailAddress, display_name: Option<&DisplayName>) -> Personal {
    let name = display_name.map(DisplayName::as_str);
    Personal::default().with(Field::Email, Some(email.as_str())).with(Field::DisplayName, name)
}

impl Profile {
    /// Reads what was sealed at registration.
    #[must_use]
    pub fn read(personal: &Personal) -> Option<Self> {
        let email = EmailAddress::recorded(personal.get(Field::Email)?);
        let display_name = personal.get(Field::DisplayName).map(DisplayName::recorded);
        Some(Self { email, display_name })
    }
}
