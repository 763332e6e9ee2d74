//! Every use case by name. What each one does is in the file that it calls.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use fulexo_domain::lockdown::Scope;
use fulexo_domain::password::Password;
use fulexo_domain::permission::Permissions;
use fulexo_domain::policy::Policy;
use fulexo_domain::rate_limit::{Quota, Route};
use fulexo_domain::values::{
    AccountId, ApiKeyId, DisplayName, EmailAddress, KeyName, Reason, RoleName, SessionId, TypedCode,
};
use uuid::Uuid;

use crate::accounts::password::{self, PasswordOwner, PasswordReplacement};
use crate::accounts::profile::{self, Profile};
use crate::accounts::registration::{self, NewAccount, ProvisionedAccount, ProvisioningRequest};
use crate::accounts::{administration, recovery};
use crate::authentication::challenge::{self, ChallengePurpose, PendingLogin};
use crate::authentication::codes::RecoveryCodes;
use crate::authentication::devices::{self, KnownDevice};
use crate::authentication::login::{self, Credentials, LoginResult};
use crate::authentication::password_hash::PermitHolder;
use crate::authentication::second_factor::{self, Enrolment};
use crate::authentication::step_up::{self, Evidence};
use crate::authorization::api_keys::{self, NewApiKey};
use crate::authorization::{lockdown, policy, roles};
use crate::context::Context;
use crate::error::CommandError;
use crate::execute::CommandOutcome;
use crate::log::EventLog;
use crate::mail::outbox::{self, OutgoingMail};
use crate::rate_limit::{self, RateLimitViolation, SharedQuotaDecision};
use crate::sessions::access_token::KeyRing;
use crate::sessions::tokens::{self, Tokens};
use crate::sessions::{ends, refresh, sign_out};
use crate::vault::Vault;
use crate::write_side::WriteSide;

/// Every use case that changes something.
pub struct Commands {
    side: WriteSide,
}

impl Commands {
    /// The use cases of a node whose write side has these parts.
    #[must_use]
    pub const fn new(side: WriteSide) -> Self {
        Self { side }
    }

    /// How many places of the hashing pool are taken for an address, or for an account.
    #[must_use]
    pub fn permits_held(&self, party: PermitHolder) -> usize {
        self.side.hasher.held(party)
    }

    /// The log itself, for those who read it.
    #[must_use]
    pub const fn log(&self) -> &EventLog {
        &self.side.log
    }

    /// The vault, for those who may open what is sealed.
    #[must_use]
    pub const fn vault(&self) -> &Vault {
        &self.side.vault
    }

    /// The keys that access tokens are verified with.
    #[must_use]
    pub const fn keys(&self) -> &KeyRing {
        &self.side.keys
    }

    /// The policy in force.
    #[must_use]
    pub fn policy(&self) -> Arc<Policy> {
        self.side.policy()
    }

    /// Whether owners of accounts get mail.
    #[must_use]
    pub const fn sends_mail(&self) -> bool {
        self.side.sends_mail
    }
}

/// Accounts.
impl Commands {
    /// Registers an account.
    ///
    /// # Errors
    /// [`CommandError::EmailTaken`], [`CommandError::Password`] with every broken rule, [`CommandError::Overloaded`];
    /// [`CommandError::Account`] when there is no such role.
    pub async fn register(
        &self,
        context: &Context,
        new: NewAccount,
    ) -> Result<CommandOutcome<AccountId>, CommandError> {
        registration::register(&self.side, context, new).await
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
        new: ProvisioningRequest,
    ) -> Result<CommandOutcome<ProvisionedAccount>, CommandError> {
        registration::create_account(&self.side, context, own, new).await
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
    ) -> Result<CommandOutcome<Profile>, CommandError> {
        registration::change_profile(&self.side, context, own, account, display_name).await
    }

    /// Who an account is; `None` when it was forgotten or never known.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub async fn profile(&self, account: AccountId) -> Result<Option<Profile>, CommandError> {
        profile::profile(&self.side, account).await
    }

    /// The account that holds this address.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub async fn account_of(&self, email: &EmailAddress) -> Result<Option<AccountId>, CommandError> {
        profile::account_of(&self.side, email).await
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
        owner: PasswordOwner,
        passwords: PasswordReplacement,
    ) -> Result<CommandOutcome<()>, CommandError> {
        password::change_password(&self.side, context, owner, passwords).await
    }

    /// Mails a way to a new password to whoever holds this address, if anybody does, and a few times at most.
    ///
    /// # Errors
    /// The database. Whether there is such an account it does not say.
    pub async fn request_password_reset(&self, context: &Context, email: &EmailAddress) -> Result<(), CommandError> {
        recovery::request_password_reset(&self.side, context, email).await
    }

    /// Sets a new password with a token that was mailed; every session ends, and a lock of the password lifts.
    ///
    /// # Errors
    /// [`CommandError::InvalidCredentials`] for a token that is unknown, spent or too old; [`CommandError::Password`] with
    /// every rule that the new password breaks, which spends nothing. Only a password that breaks no other rule is compared
    /// with the last ones: each comparison is counted and recorded, and a token is good for five.
    pub async fn reset_password(
        &self,
        context: &Context,
        token: &str,
        new: Password,
    ) -> Result<CommandOutcome<()>, CommandError> {
        recovery::reset_password(&self.side, context, token, new).await
    }

    /// Mails a link by which its owner shows that mail to an account's address arrives.
    ///
    /// # Errors
    /// [`CommandError::Account`] when the account is unknown.
    pub async fn request_verification(&self, context: &Context, account: AccountId) -> Result<(), CommandError> {
        recovery::request_verification(&self.side, context, account).await
    }

    /// Notes that mail to an account's address arrived.
    ///
    /// # Errors
    /// [`CommandError::InvalidCredentials`] for a token that is unknown, spent or too old.
    pub async fn verify_email(&self, context: &Context, token: &str) -> Result<CommandOutcome<()>, CommandError> {
        recovery::verify_email(&self.side, context, token).await
    }

    /// The owner says that it was somebody else: every session ends, the password opens nothing any more, and a way to a
    /// new one is mailed.
    ///
    /// # Errors
    /// [`CommandError::InvalidCredentials`] for a token that is unknown, spent or too old.
    pub async fn report_intrusion(&self, context: &Context, token: &str) -> Result<CommandOutcome<()>, CommandError> {
        recovery::report_intrusion(&self.side, context, token).await
    }

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
    ) -> Result<CommandOutcome<()>, CommandError> {
        administration::suspend(&self.side, context, own, account, reason).await
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
    ) -> Result<CommandOutcome<()>, CommandError> {
        administration::reinstate(&self.side, context, own, account, reason).await
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
    ) -> Result<CommandOutcome<()>, CommandError> {
        administration::unlock(&self.side, context, account, reason).await
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
    ) -> Result<CommandOutcome<()>, CommandError> {
        administration::expire_password(&self.side, context, own, account, reason).await
    }

    /// Ends anybody's session.
    ///
    /// # Errors
    /// [`SessionError::Ended`](fulexo_domain::session::SessionError::Ended) when there is no such session; ending an ended one is no error.
    pub async fn end_session(
        &self,
        context: &Context,
        session: SessionId,
        reason: Option<Reason>,
    ) -> Result<CommandOutcome<()>, CommandError> {
        administration::end_session(&self.side, context, session, reason).await
    }

    /// Ends every session of an account; answers with how many were live.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub async fn end_all_sessions(
        &self,
        context: &Context,
        account: AccountId,
    ) -> Result<CommandOutcome<usize>, CommandError> {
        administration::end_all_sessions(&self.side, context, account).await
    }
}

/// Authentication.
impl Commands {
    /// Logs in: starts a session, or says which step is left.
    ///
    /// # Errors
    /// [`CommandError::InvalidCredentials`] for every refusal, which is recorded with its reason;
    /// [`CommandError::LockedDown`] in its place during a lockdown; [`CommandError::Overloaded`] before anything is
    /// counted, when too many wait for a hash.
    pub async fn login(
        &self,
        context: &Context,
        credentials: Credentials,
    ) -> Result<CommandOutcome<LoginResult>, CommandError> {
        login::login(&self.side, context, credentials).await
    }

    /// Whoever presents a token that a login gave for this purpose.
    ///
    /// # Errors
    /// [`CommandError::InvalidCredentials`] when it is not authentic or no longer good.
    pub async fn pending_login(
        &self,
        token: &str,
        purpose: ChallengePurpose,
        now: DateTime<Utc>,
    ) -> Result<PendingLogin, CommandError> {
        challenge::pending_login(&self.side, token, purpose, now).await
    }

    /// Begins to set up a second factor, the first or another one. The one in use stays until a code of the new one was
    /// right.
    ///
    /// # Errors
    /// [`CommandError::Account`] when the account is unknown.
    pub async fn start_enrolment(
        &self,
        context: &Context,
        account: AccountId,
    ) -> Result<CommandOutcome<Enrolment>, CommandError> {
        second_factor::start_enrolment(&self.side, context, account).await
    }

    /// A code of the second factor that is being set up: from now on it counts, and the session in which it was presented
    /// is one with a second factor; one that it replaces counts no longer in any other. Answers with recovery codes.
    ///
    /// # Errors
    /// [`CommandError::WrongCode`]; [`CommandError::Account`] when none is being set up.
    pub async fn confirm_enrolment(
        &self,
        context: &Context,
        account: AccountId,
        session: Option<SessionId>,
        code: &TypedCode,
    ) -> Result<CommandOutcome<RecoveryCodes>, CommandError> {
        second_factor::confirm_enrolment(&self.side, context, account, session, code).await
    }

    /// Replaces the recovery codes.
    ///
    /// # Errors
    /// [`CommandError::Account`] when there is no second factor that they could stand in for.
    pub async fn issue_recovery_codes(
        &self,
        context: &Context,
        account: AccountId,
    ) -> Result<CommandOutcome<RecoveryCodes>, CommandError> {
        second_factor::issue_recovery_codes(&self.side, context, account).await
    }

    /// Its owner takes the second factor away.
    ///
    /// # Errors
    /// [`CommandError::SecondFactorRequired`] when a role of the account requires one.
    pub async fn disable_second_factor(
        &self,
        context: &Context,
        account: AccountId,
    ) -> Result<CommandOutcome<()>, CommandError> {
        second_factor::disable_second_factor(&self.side, context, account).await
    }

    /// An administrator takes away a second factor that its owner has lost. Every session of the account ends, and a
    /// lock on its codes with them.
    ///
    /// # Errors
    /// [`CommandError::Account`] when there is none; [`CommandError::GrantExceedsOwn`] when the account may do more than
    /// whoever asks.
    pub async fn reset_second_factor(
        &self,
        context: &Context,
        own: Permissions,
        account: AccountId,
        reason: Reason,
    ) -> Result<CommandOutcome<()>, CommandError> {
        second_factor::reset_second_factor(&self.side, context, own, account, reason).await
    }

    /// The second step of a login: a code of the second factor, or a recovery code.
    ///
    /// # Errors
    /// [`CommandError::InvalidCredentials`], whatever is wrong; [`CommandError::LockedDown`] in its place during a
    /// lockdown.
    pub async fn second_factor(
        &self,
        context: &Context,
        challenge_token: &str,
        code: &TypedCode,
    ) -> Result<CommandOutcome<LoginResult>, CommandError> {
        second_factor::second_factor(&self.side, context, challenge_token, code).await
    }

    /// Elevates the session; answers until when. `held` is whether the token that asks is held: then its session no
    /// longer is.
    ///
    /// # Errors
    /// [`CommandError::InvalidCredentials`] when the evidence is wrong, which counts as a failed attempt;
    /// [`CommandError::CodeRequired`] for the password of an account that has a second factor, which is not evaluated.
    pub async fn step_up(
        &self,
        context: &Context,
        account: AccountId,
        session: SessionId,
        held: bool,
        evidence: Evidence,
    ) -> Result<CommandOutcome<DateTime<Utc>>, CommandError> {
        step_up::step_up(&self.side, context, account, session, held, evidence).await
    }

    /// The devices that an account knows, those used last first.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub async fn known_devices(
        &self,
        context: &Context,
        account: AccountId,
        session: SessionId,
    ) -> Result<Vec<KnownDevice>, CommandError> {
        devices::known_devices(&self.side, context, account, session).await
    }

    /// Forgets a device of the caller's: its next login is one from an unknown device. Its sessions go on.
    ///
    /// # Errors
    /// [`CommandError::NoSuchDevice`] when the account knows no such device.
    pub async fn forget_device(
        &self,
        context: &Context,
        account: AccountId,
        device: Uuid,
    ) -> Result<CommandOutcome<()>, CommandError> {
        devices::forget_device(&self.side, context, account, device).await
    }
}

/// Sessions.
impl Commands {
    /// What the page of a session in cookie mode is told, to say it with whatever changes something.
    #[must_use]
    pub fn csrf_token(&self, session: SessionId) -> String {
        tokens::csrf_token(&self.side.vault, session)
    }

    /// Whether this is what the page of the session was told.
    #[must_use]
    pub fn is_csrf_token(&self, session: SessionId, presented: &[u8]) -> bool {
        tokens::is_csrf_token(&self.side.vault, session, presented)
    }

    /// The session that a refresh token names, be it authentic or not.
    #[must_use]
    pub fn named_session(refresh_token: &str) -> Option<SessionId> {
        refresh::named_session(refresh_token)
    }

    /// The session that a refresh token was issued for, and whose it is, as long as it has not ended. Whether the token was
    /// spent is not asked.
    ///
    /// # Errors
    /// The database.
    pub async fn session_of(&self, refresh_token: &str) -> Result<Option<(AccountId, SessionId)>, CommandError> {
        refresh::session_of(&self.side, refresh_token).await
    }

    /// Exchanges a refresh token for new tokens. A token that was spent before ends the session: somebody else
    /// holds a copy. The one just spent is answered with its successor for a few seconds (two tabs, a lost answer). From
    /// somewhere that looks different, the policy decides; within these seconds it holds the session at most.
    ///
    /// # Errors
    /// [`CommandError::InvalidCredentials`], whatever is wrong with the token; [`CommandError::LockedDown`] for one that is
    /// good, during a lockdown.
    pub async fn refresh(
        &self,
        context: &Context,
        token: &str,
        device: Option<&str>,
    ) -> Result<CommandOutcome<Tokens>, CommandError> {
        refresh::refresh(&self.side, context, token, device).await
    }

    /// Ends one of the caller's own sessions.
    ///
    /// # Errors
    /// [`SessionError::Ended`](fulexo_domain::session::SessionError::Ended) when there is no such session, or it is somebody else's.
    pub async fn end_own_session(
        &self,
        context: &Context,
        account: AccountId,
        session: SessionId,
    ) -> Result<CommandOutcome<()>, CommandError> {
        sign_out::end_own_session(&self.side, context, account, session).await
    }

    /// Ends every other session of the caller; answers with how many were live.
    ///
    /// # Errors
    /// [`CommandError::InvalidCredentials`] when the caller's own has ended meanwhile.
    pub async fn end_other_sessions(
        &self,
        context: &Context,
        account: AccountId,
        but: SessionId,
    ) -> Result<CommandOutcome<usize>, CommandError> {
        sign_out::end_other_sessions(&self.side, context, account, but).await
    }

    /// Records ends of sessions until it is dropped. `context` is of the service itself.
    pub async fn record_session_ends(self: Arc<Self>, context: impl Fn() -> Context + Send) {
        ends::record_session_ends(&self.side, context).await
    }
}

/// Authorization.
impl Commands {
    /// Grants a role. `own` is what the granter may do: nobody grants what they do not hold.
    ///
    /// # Errors
    /// [`CommandError::Account`] when the account, or the role, is unknown or the role is held already;
    /// [`CommandError::GrantExceedsOwn`].
    pub async fn grant_role(
        &self,
        context: &Context,
        own: Permissions,
        account: AccountId,
        role: RoleName,
        reason: Reason,
    ) -> Result<CommandOutcome<()>, CommandError> {
        roles::grant_role(&self.side, context, own, account, role, reason).await
    }

    /// Takes a role away. Nobody takes away what they do not hold, either.
    ///
    /// # Errors
    /// [`CommandError::Account`] when the account is unknown or does not hold the role;
    /// [`CommandError::GrantExceedsOwn`]; [`CommandError::LastAdministrator`] when nobody would be left.
    pub async fn revoke_role(
        &self,
        context: &Context,
        own: Permissions,
        account: AccountId,
        role: RoleName,
        reason: Reason,
    ) -> Result<CommandOutcome<()>, CommandError> {
        roles::revoke_role(&self.side, context, own, account, role, reason).await
    }

    /// Defines a role, or lets it allow something else from now on. Nobody lets a role allow, or forbids it, what they
    /// do not hold.
    ///
    /// # Errors
    /// [`CommandError::Role`]; [`CommandError::GrantExceedsOwn`]; [`CommandError::TooMany`].
    pub async fn define_role(
        &self,
        context: &Context,
        own: Permissions,
        role: RoleName,
        permissions: Permissions,
        reason: Reason,
    ) -> Result<CommandOutcome<()>, CommandError> {
        roles::define_role(&self.side, context, own, role, permissions, reason).await
    }

    /// Retires a role that nobody holds: it allows nothing any more, and its name is never used again.
    ///
    /// # Errors
    /// [`CommandError::Role`]; [`CommandError::RoleInUse`]; [`CommandError::GrantExceedsOwn`].
    pub async fn retire_role(
        &self,
        context: &Context,
        own: Permissions,
        role: RoleName,
        reason: Reason,
    ) -> Result<CommandOutcome<()>, CommandError> {
        roles::retire_role(&self.side, context, own, role, reason).await
    }

    /// Makes an API key. `own` is what its maker may do: nobody gives what they do not hold.
    ///
    /// # Errors
    /// [`CommandError::GrantExceedsOwn`]; [`CommandError::ApiKeyLife`] for an end in the past or too far away;
    /// [`CommandError::TooMany`].
    pub async fn create_api_key(
        &self,
        context: &Context,
        own: Permissions,
        name: KeyName,
        permissions: Permissions,
        expires_at: DateTime<Utc>,
    ) -> Result<CommandOutcome<NewApiKey>, CommandError> {
        api_keys::create_api_key(&self.side, context, own, name, permissions, expires_at).await
    }

    /// Revokes an API key; revoking it again is no error.
    ///
    /// # Errors
    /// [`CommandError::ApiKey`] when there is no such key.
    pub async fn revoke_api_key(
        &self,
        context: &Context,
        key: ApiKeyId,
        reason: Option<Reason>,
    ) -> Result<CommandOutcome<()>, CommandError> {
        api_keys::revoke_api_key(&self.side, context, key, reason).await
    }

    /// The key that an authentic secret belongs to; whether it is in use is the access gate's to say.
    #[must_use]
    pub fn api_key(&self, secret: &str) -> Option<ApiKeyId> {
        api_keys::api_key(&self.side.vault, secret)
    }

    /// Puts another policy in force; answers with it as it is then.
    ///
    /// # Errors
    /// [`CommandError::Policy`] when figures are out of bounds, or the policy has changed since the proposal was made.
    pub async fn change_policy(
        &self,
        context: &Context,
        replaces: Option<u32>,
        proposed: Policy,
        reason: Reason,
    ) -> Result<CommandOutcome<Policy>, CommandError> {
        policy::change_policy(&self.side, context, replaces, proposed, reason).await
    }

    /// Closes the service, as far as `scope` says, to everybody who may not manage lockdowns.
    ///
    /// # Errors
    /// [`CommandError::Lockdown`] when there is one of this scope; [`CommandError::GrantExceedsOwn`].
    pub async fn start_lockdown(
        &self,
        context: &Context,
        scope: Scope,
        reason: Reason,
    ) -> Result<CommandOutcome<()>, CommandError> {
        lockdown::start_lockdown(&self.side, context, scope, reason).await
    }

    /// Opens it again.
    ///
    /// # Errors
    /// [`CommandError::Lockdown`] when there is none; [`CommandError::GrantExceedsOwn`].
    pub async fn lift_lockdown(&self, context: &Context, reason: Reason) -> Result<CommandOutcome<()>, CommandError> {
        lockdown::lift_lockdown(&self.side, context, reason).await
    }
}

/// Mail and limits.
impl Commands {
    /// The next mail that is due, if there is one. While it is held, no other node gets it.
    ///
    /// # Errors
    /// The database.
    pub async fn next_mail(&self, now: DateTime<Utc>) -> Result<Option<OutgoingMail>, CommandError> {
        outbox::next_mail(&self.side, now).await
    }

    /// Counts a request of this origin on these routes, together with all other nodes. Time is the database's: the clocks
    /// of nodes differ.
    ///
    /// # Errors
    /// The database.
    pub async fn count_request(
        &self,
        route: Route,
        origin: &[u8],
        quota: Quota,
    ) -> Result<SharedQuotaDecision, sqlx::Error> {
        rate_limit::count_request(&self.side, route, origin, quota).await
    }

    /// Records what was refused, one event each.
    ///
    /// # Errors
    /// [`CommandError`]; what was recorded before it stays.
    pub async fn record_violations(
        &self,
        context: &Context,
        violations: &[RateLimitViolation],
    ) -> Result<(), CommandError> {
        rate_limit::record_violations(&self.side, context, violations).await
    }
}
