//! Every use case by name, as a method of [`Commands`]. The modules that the methods call do the work.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use fulexo_domain::backup::BackupCommand;
use fulexo_domain::checkpoint::CheckpointRefusal;
use fulexo_domain::incident::ContainmentMeasures;
use fulexo_domain::key::{KeyLabel, KeyPurpose};
use fulexo_domain::lockdown::LockdownScope;
use fulexo_domain::password::Password;
use fulexo_domain::permission::Permissions;
use fulexo_domain::policy::Policy;
use fulexo_domain::rate_limit::{Quota, RouteGroup};
use fulexo_domain::values::{
    AccountId, Address, AddressDigest, ApiKeyId, ApiKeyName, CodeInput, DisplayName, EmailAddress, IncidentId, Reason,
    RoleName, SessionId,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
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
use crate::authentication::standing::{self, LoginStanding};
use crate::authentication::step_up::{self, Evidence};
use crate::authorization::api_keys::{self, NewApiKey};
use crate::authorization::incidents::{self, IncidentCause, IncidentStep, NewIncident};
use crate::authorization::{lockdown, policy, roles};
use crate::backups;
use crate::checkpoint;
use crate::context::Context;
use crate::copies::{self, EventCopy};
use crate::erasure::{self, ErasureStatus};
use crate::error::CommandError;
use crate::execute::CommandOutcome;
use crate::keys;
use crate::log::EventLog;
use crate::mail::outbox::{self, OutgoingMail};
use crate::rate_limit::{self, RateLimitViolation, SharedQuotaDecision};
use crate::sessions::access_token::KeyRing;
use crate::sessions::tokens::{self, Tokens};
use crate::sessions::{ends, refresh, sign_out};
use crate::unsealing;
use crate::vault::{AddressDigests, PersonalData, Vault};
use crate::write_side::WriteSide;

/// The commands of the service: every use case that changes something.
pub struct Commands {
    side: WriteSide,
}

impl Commands {
    /// Creates the commands of a node from the parts of its write side.
    #[must_use]
    pub const fn new(side: WriteSide) -> Self {
        Self { side }
    }

    /// Returns the number of hashing permits that an address or an account holds.
    #[must_use]
    pub fn permits_held(&self, holder: PermitHolder) -> usize {
        self.side.hasher.held(holder)
    }

    /// Returns the event log.
    #[must_use]
    pub const fn log(&self) -> &EventLog {
        &self.side.log
    }

    /// Returns the vault.
    #[must_use]
    pub const fn vault(&self) -> &Vault {
        &self.side.vault
    }

    /// Returns the keys that verify access tokens.
    #[must_use]
    pub const fn keys(&self) -> &KeyRing {
        &self.side.keys
    }

    /// Returns the policy in force.
    #[must_use]
    pub fn policy(&self) -> Arc<Policy> {
        self.side.policy()
    }

    /// Returns `true` if the owners of accounts receive mail.
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
    /// [`CommandError::Account`] if a role does not exist.
    pub async fn register(
        &self,
        context: &Context,
        new: NewAccount,
    ) -> Result<CommandOutcome<AccountId>, CommandError> {
        registration::register(&self.side, context, new).await
    }

    /// Creates an account for another person, with a password that must be changed at the first login. `own` holds the
    /// caller's permissions: callers may grant only permissions that they hold themselves.
    ///
    /// # Errors
    /// [`CommandError::EmailTaken`]; [`CommandError::GrantExceedsOwn`]; [`CommandError::Account`] if a role does not
    /// exist.
    pub async fn create_account(
        &self,
        context: &Context,
        own: Permissions,
        new: ProvisioningRequest,
    ) -> Result<CommandOutcome<ProvisionedAccount>, CommandError> {
        registration::create_account(&self.side, context, own, new).await
    }

    /// Changes a display name: the caller's own, or that of an account that holds no permission which the caller lacks.
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

    /// Returns an account's profile, or `None` if the account is unknown or was forgotten.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub async fn profile(&self, account: AccountId) -> Result<Option<Profile>, CommandError> {
        profile::profile(&self.side, account).await
    }

    /// Returns the account that holds this address.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub async fn account_of(&self, email: &EmailAddress) -> Result<Option<AccountId>, CommandError> {
        profile::account_of(&self.side, email).await
    }

    /// Changes the caller's own password, and ends their other sessions.
    ///
    /// # Errors
    /// [`CommandError::InvalidCredentials`] if the current password is wrong, which counts as a failed attempt;
    /// [`CommandError::Password`] with every rule that the new password breaks. The new password is compared with
    /// earlier ones only if it breaks no other rule.
    pub async fn change_password(
        &self,
        context: &Context,
        owner: PasswordOwner,
        passwords: PasswordReplacement,
    ) -> Result<CommandOutcome<()>, CommandError> {
        password::change_password(&self.side, context, owner, passwords).await
    }

    /// Mails a reset link to the account that holds this address, if there is one. The number of mails per account is
    /// limited.
    ///
    /// # Errors
    /// The database's. The result does not reveal whether the account exists.
    pub async fn request_password_reset(&self, context: &Context, email: &EmailAddress) -> Result<(), CommandError> {
        recovery::request_password_reset(&self.side, context, email).await
    }

    /// Sets a new password with a mailed token. Every session ends, and a lockout of the password is lifted.
    ///
    /// # Errors
    /// [`CommandError::InvalidCredentials`] for a token that is unknown, used or expired; [`CommandError::Password`]
    /// with every rule that the new password breaks, which does not use up the token. The new password is compared with
    /// earlier ones only if it breaks no other rule. Each comparison is counted and recorded; a token allows five.
    pub async fn reset_password(
        &self,
        context: &Context,
        token: &str,
        new: Password,
    ) -> Result<CommandOutcome<()>, CommandError> {
        recovery::reset_password(&self.side, context, token, new).await
    }

    /// Mails a link that verifies the account's e-mail address.
    ///
    /// # Errors
    /// [`CommandError::Account`] if the account is unknown.
    pub async fn request_verification(&self, context: &Context, account: AccountId) -> Result<(), CommandError> {
        recovery::request_verification(&self.side, context, account).await
    }

    /// Records that the account's e-mail address is verified.
    ///
    /// # Errors
    /// [`CommandError::InvalidCredentials`] for a token that is unknown, used or expired.
    pub async fn verify_email(&self, context: &Context, token: &str) -> Result<CommandOutcome<()>, CommandError> {
        recovery::verify_email(&self.side, context, token).await
    }

    /// Reports an intrusion on behalf of the owner: every session ends, the password is invalidated, and a reset link
    /// is mailed.
    ///
    /// # Errors
    /// [`CommandError::InvalidCredentials`] for a token that is unknown, used or expired.
    pub async fn report_intrusion(&self, context: &Context, token: &str) -> Result<CommandOutcome<()>, CommandError> {
        recovery::report_intrusion(&self.side, context, token).await
    }

    /// Suspends an account: logins are refused, and every session ends. `own` holds the caller's permissions, which
    /// must cover those of the account.
    ///
    /// # Errors
    /// [`CommandError::Account`] if the account is unknown or already suspended; [`CommandError::GrantExceedsOwn`];
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

    /// Starts the erasure of the caller's account, and returns the time at which it is due. If it was started before, that time
    /// remains.
    ///
    /// # Errors
    /// [`CommandError::Account`] if the account is suspended; [`CommandError::LastAdministrator`].
    pub async fn start_erasure(
        &self,
        context: &Context,
        account: AccountId,
    ) -> Result<CommandOutcome<DateTime<Utc>>, CommandError> {
        erasure::start(&self.side, context, account).await
    }

    /// Withdraws the erasure of the caller's account.
    ///
    /// # Errors
    /// [`CommandError::Account`] if it was not started.
    pub async fn withdraw_erasure(
        &self,
        context: &Context,
        account: AccountId,
    ) -> Result<CommandOutcome<()>, CommandError> {
        erasure::withdraw(&self.side, context, account).await
    }

    /// Erases an account at once. Has no effect on an account that was erased.
    ///
    /// # Errors
    /// [`CommandError::Account`] if the account is unknown; [`CommandError::GrantExceedsOwn`];
    /// [`CommandError::LastAdministrator`].
    pub async fn erase(
        &self,
        context: &Context,
        own: Permissions,
        account: AccountId,
        reason: Reason,
    ) -> Result<CommandOutcome<()>, CommandError> {
        erasure::erase(&self.side, context, own, account, reason).await
    }

    /// Returns the time from which on the account is erased; `None` if its owner has not asked for that.
    ///
    /// # Errors
    /// The log's.
    pub async fn erasure_due(&self, account: AccountId) -> Result<Option<DateTime<Utc>>, CommandError> {
        erasure::due(&self.side, account).await
    }

    /// Returns the position and the leaf of the event that completed the erasure of an account; `None` before it.
    ///
    /// # Errors
    /// The database's.
    pub async fn erasure_receipt(&self, account: AccountId) -> Result<Option<(u64, Vec<u8>)>, CommandError> {
        erasure::receipt(&self.side, account).await
    }

    /// Returns the progress of the erasure of an account; `None` if it was not erased.
    ///
    /// # Errors
    /// The database's.
    pub async fn erasure_status(&self, account: AccountId) -> Result<Option<ErasureStatus>, CommandError> {
        erasure::status(&self.side, account).await
    }

    /// Carries out erasures that are due, and deletes what they leave behind, until the future is dropped. `context` is that of
    /// the service itself.
    pub async fn carry_out_erasures(self: Arc<Self>, context: impl Fn() -> Context + Send) {
        erasure::destruction::destroy_what_is_due(&self.side, context).await
    }

    /// Reinstates a suspended account.
    ///
    /// # Errors
    /// [`CommandError::Account`] if the account is unknown or not suspended; [`CommandError::GrantExceedsOwn`].
    pub async fn reinstate(
        &self,
        context: &Context,
        own: Permissions,
        account: AccountId,
        reason: Reason,
    ) -> Result<CommandOutcome<()>, CommandError> {
        administration::reinstate(&self.side, context, own, account, reason).await
    }

    /// Lifts the lockout of an account early. On an account that is not locked, it only resets the counters.
    ///
    /// # Errors
    /// [`CommandError::Account`] if the account is unknown.
    pub async fn unlock(
        &self,
        context: &Context,
        account: AccountId,
        reason: Reason,
    ) -> Result<CommandOutcome<()>, CommandError> {
        administration::unlock(&self.side, context, account, reason).await
    }

    /// Returns every reason for which a login to the account does not lead to a session now. Counts nothing.
    ///
    /// # Errors
    /// [`CommandError::Account`] if the account is unknown.
    pub async fn login_standing(&self, account: AccountId, now: DateTime<Utc>) -> Result<LoginStanding, CommandError> {
        standing::standing(&self.side, account, now).await
    }

    /// Requires a password change at the next login. Every session ends, and the next login allows only the change.
    ///
    /// # Errors
    /// [`CommandError::Account`] if the account is unknown; [`CommandError::GrantExceedsOwn`] if it holds permissions
    /// that the caller lacks.
    pub async fn expire_password(
        &self,
        context: &Context,
        own: Permissions,
        account: AccountId,
        reason: Reason,
    ) -> Result<CommandOutcome<()>, CommandError> {
        administration::expire_password(&self.side, context, own, account, reason).await
    }

    /// Ends a session of any account.
    ///
    /// # Errors
    /// [`SessionError::Ended`](fulexo_domain::session::SessionError::Ended) if the session does not exist. Ending an
    /// ended session is not an error.
    pub async fn end_session(
        &self,
        context: &Context,
        session: SessionId,
        reason: Option<Reason>,
    ) -> Result<CommandOutcome<()>, CommandError> {
        administration::end_session(&self.side, context, session, reason).await
    }

    /// Ends every session of an account. Returns the number of sessions that were live.
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
    /// Logs in: starts a session, or returns a challenge for the next step.
    ///
    /// # Errors
    /// [`CommandError::InvalidCredentials`] for every refusal; the log records the reason. [`CommandError::LockedDown`]
    /// takes its place during a lockdown. [`CommandError::Overloaded`] if too many requests are waiting for a hash;
    /// nothing is counted then.
    pub async fn login(
        &self,
        context: &Context,
        credentials: Credentials,
    ) -> Result<CommandOutcome<LoginResult>, CommandError> {
        login::login(&self.side, context, credentials).await
    }

    /// Verifies a challenge token for this purpose. Returns the pending login that it belongs to.
    ///
    /// # Errors
    /// [`CommandError::InvalidCredentials`] if the token is not authentic or no longer valid.
    pub async fn pending_login(
        &self,
        token: &str,
        purpose: ChallengePurpose,
        now: DateTime<Utc>,
    ) -> Result<PendingLogin, CommandError> {
        challenge::pending_login(&self.side, token, purpose, now).await
    }

    /// Starts the enrolment of a second factor, whether it is the first or a replacement. A factor in use stays in use
    /// until a code of the new one is confirmed.
    ///
    /// # Errors
    /// [`CommandError::Account`] if the account is unknown.
    pub async fn start_enrolment(
        &self,
        context: &Context,
        account: AccountId,
    ) -> Result<CommandOutcome<Enrolment>, CommandError> {
        second_factor::start_enrolment(&self.side, context, account).await
    }

    /// Confirms an enrolment with a code. The new factor replaces an earlier one at once: the session that presented
    /// the code has a second factor, and other sessions lose theirs. Returns recovery codes.
    ///
    /// # Errors
    /// [`CommandError::WrongCode`]; [`CommandError::Account`] if no enrolment is pending.
    pub async fn confirm_enrolment(
        &self,
        context: &Context,
        account: AccountId,
        session: Option<SessionId>,
        code: &CodeInput,
    ) -> Result<CommandOutcome<RecoveryCodes>, CommandError> {
        second_factor::confirm_enrolment(&self.side, context, account, session, code).await
    }

    /// Replaces the recovery codes.
    ///
    /// # Errors
    /// [`CommandError::Account`] if the account has no second factor.
    pub async fn issue_recovery_codes(
        &self,
        context: &Context,
        account: AccountId,
    ) -> Result<CommandOutcome<RecoveryCodes>, CommandError> {
        second_factor::issue_recovery_codes(&self.side, context, account).await
    }

    /// Disables the caller's second factor.
    ///
    /// # Errors
    /// [`CommandError::SecondFactorRequired`] if a role of the account requires one.
    pub async fn disable_second_factor(
        &self,
        context: &Context,
        account: AccountId,
    ) -> Result<CommandOutcome<()>, CommandError> {
        second_factor::disable_second_factor(&self.side, context, account).await
    }

    /// Resets the lost second factor of an account, on behalf of an administrator. Every session of the account ends,
    /// and a lockout of its codes is lifted.
    ///
    /// # Errors
    /// [`CommandError::Account`] if there is none; [`CommandError::GrantExceedsOwn`] if the account holds permissions
    /// that the caller lacks.
    pub async fn reset_second_factor(
        &self,
        context: &Context,
        own: Permissions,
        account: AccountId,
        reason: Reason,
    ) -> Result<CommandOutcome<()>, CommandError> {
        second_factor::reset_second_factor(&self.side, context, own, account, reason).await
    }

    /// Completes a login with a code of the second factor, or with a recovery code.
    ///
    /// # Errors
    /// [`CommandError::InvalidCredentials`] for every refusal; [`CommandError::LockedDown`] takes its place during a
    /// lockdown.
    pub async fn second_factor(
        &self,
        context: &Context,
        challenge_token: &str,
        code: &CodeInput,
    ) -> Result<CommandOutcome<LoginResult>, CommandError> {
        second_factor::second_factor(&self.side, context, challenge_token, code).await
    }

    /// Elevates the session. Returns the end of the elevation. `step_up_required` is `true` if the caller's token requires a
    /// step-up; the session then no longer requires one.
    ///
    /// # Errors
    /// [`CommandError::InvalidCredentials`] if the evidence is wrong, which counts as a failed attempt;
    /// [`CommandError::CodeRequired`] for the password of an account with a second factor, which is not evaluated.
    pub async fn step_up(
        &self,
        context: &Context,
        account: AccountId,
        session: SessionId,
        step_up_required: bool,
        evidence: Evidence,
    ) -> Result<CommandOutcome<DateTime<Utc>>, CommandError> {
        step_up::step_up(&self.side, context, account, session, step_up_required, evidence).await
    }

    /// Returns the devices that an account knows, the most recently used first.
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

    /// Forgets a device of the caller. Its next login counts as one from an unknown device; its sessions stay live.
    ///
    /// # Errors
    /// [`CommandError::NoSuchDevice`] if the account does not know the device.
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
    /// Returns the CSRF token of a session in cookie mode. Its page sends the token with every unsafe request.
    #[must_use]
    pub fn csrf_token(&self, session: SessionId) -> String {
        tokens::csrf_token(&self.side.vault, session)
    }

    /// Returns `true` if this is the CSRF token of the session.
    #[must_use]
    pub fn is_csrf_token(&self, session: SessionId, presented: &[u8]) -> bool {
        tokens::is_csrf_token(&self.side.vault, session, presented)
    }

    /// Returns the session that a refresh token names. The token may be forged.
    #[must_use]
    pub fn named_session(refresh_token: &str) -> Option<SessionId> {
        refresh::named_session(refresh_token)
    }

    /// Returns the live session that a refresh token was issued for, and its account. The token may have been used
    /// already.
    ///
    /// # Errors
    /// The database's.
    pub async fn session_of(&self, refresh_token: &str) -> Result<Option<(AccountId, SessionId)>, CommandError> {
        refresh::session_of(&self.side, refresh_token).await
    }

    /// Exchanges a refresh token for new tokens. Reuse of a token ends the session, because somebody else holds a copy.
    /// The token used last is an exception for a few seconds and yields its successor again (two tabs, a lost answer).
    /// If the client looks different, the policy decides; within these seconds, the strictest outcome is a required
    /// step-up.
    ///
    /// # Errors
    /// [`CommandError::InvalidCredentials`] for every token that is refused; [`CommandError::LockedDown`] for a valid
    /// one during a lockdown.
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
    /// [`SessionError::Ended`](fulexo_domain::session::SessionError::Ended) if the session does not exist, or belongs
    /// to another account.
    pub async fn end_own_session(
        &self,
        context: &Context,
        account: AccountId,
        session: SessionId,
    ) -> Result<CommandOutcome<()>, CommandError> {
        sign_out::end_own_session(&self.side, context, account, session).await
    }

    /// Ends every other session of the caller. Returns the number of sessions that were live.
    ///
    /// # Errors
    /// [`CommandError::InvalidCredentials`] if the caller's own session has ended in the meantime.
    pub async fn end_other_sessions(
        &self,
        context: &Context,
        account: AccountId,
        but: SessionId,
    ) -> Result<CommandOutcome<usize>, CommandError> {
        sign_out::end_other_sessions(&self.side, context, account, but).await
    }

    /// Records the ends of sessions, until the future is dropped. `context` is that of the service itself.
    pub async fn record_session_ends(self: Arc<Self>, context: impl Fn() -> Context + Send) {
        ends::record_session_ends(&self.side, context).await
    }
}

/// Authorization.
impl Commands {
    /// Grants a role. `own` holds the caller's permissions: callers may grant only permissions that they hold
    /// themselves.
    ///
    /// # Errors
    /// [`CommandError::Account`] if the account or the role is unknown, or if the account already holds the role;
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

    /// Revokes a role. Callers may revoke only permissions that they hold themselves.
    ///
    /// # Errors
    /// [`CommandError::Account`] if the account is unknown or does not hold the role;
    /// [`CommandError::GrantExceedsOwn`]; [`CommandError::LastAdministrator`].
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

    /// Defines a role, or replaces its permissions. Callers may add and remove only permissions that they hold
    /// themselves.
    ///
    /// # Errors
    /// [`CommandError::Role`]; [`CommandError::GrantExceedsOwn`]; [`CommandError::LimitReached`].
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

    /// Retires a role that no account holds. It then grants nothing, and its name is never used again.
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

    /// Creates an API key. `own` holds the caller's permissions: callers may grant only permissions that they hold
    /// themselves.
    ///
    /// # Errors
    /// [`CommandError::GrantExceedsOwn`]; [`CommandError::ApiKeyExpiry`] for an expiry in the past or too far in the
    /// future; [`CommandError::LimitReached`].
    pub async fn create_api_key(
        &self,
        context: &Context,
        own: Permissions,
        name: ApiKeyName,
        permissions: Permissions,
        expires_at: DateTime<Utc>,
    ) -> Result<CommandOutcome<NewApiKey>, CommandError> {
        api_keys::create_api_key(&self.side, context, own, name, permissions, expires_at).await
    }

    /// Revokes an API key. Revoking a revoked key is not an error.
    ///
    /// # Errors
    /// [`CommandError::ApiKey`] if the key does not exist.
    pub async fn revoke_api_key(
        &self,
        context: &Context,
        key: ApiKeyId,
        reason: Option<Reason>,
    ) -> Result<CommandOutcome<()>, CommandError> {
        api_keys::revoke_api_key(&self.side, context, key, reason).await
    }

    /// Returns the id of the key that an authentic secret belongs to. The access gate decides whether the key is in
    /// use.
    #[must_use]
    pub fn api_key(&self, secret: &str) -> Option<ApiKeyId> {
        api_keys::api_key(&self.side.vault, secret)
    }

    /// Puts another policy in force. Returns the policy that is then in force.
    ///
    /// # Errors
    /// [`CommandError::Policy`] if a value is out of bounds, or if the policy has changed since the proposal was made.
    pub async fn change_policy(
        &self,
        context: &Context,
        replaces: Option<u32>,
        proposed: Policy,
        reason: Reason,
    ) -> Result<CommandOutcome<Policy>, CommandError> {
        policy::change_policy(&self.side, context, replaces, proposed, reason).await
    }

    /// Starts a lockdown: closes the service, as far as `scope` says, to everybody without the permission to manage
    /// lockdowns.
    ///
    /// # Errors
    /// [`CommandError::Lockdown`] if one of this scope is already in force; [`CommandError::GrantExceedsOwn`].
    pub async fn start_lockdown(
        &self,
        context: &Context,
        scope: LockdownScope,
        reason: Reason,
    ) -> Result<CommandOutcome<()>, CommandError> {
        lockdown::start_lockdown(&self.side, context, scope, reason).await
    }

    /// Starts a lockdown of this scope, unless one is in force that denies as much.
    ///
    /// # Errors
    /// [`CommandError::Lockdown`] if one is; [`CommandError::GrantExceedsOwn`].
    pub async fn tighten_lockdown(
        &self,
        context: &Context,
        scope: LockdownScope,
        reason: Reason,
    ) -> Result<CommandOutcome<()>, CommandError> {
        lockdown::tighten_lockdown(&self.side, context, scope, reason).await
    }

    /// Lifts the lockdown.
    ///
    /// # Errors
    /// [`CommandError::Lockdown`] if none is in force; [`CommandError::GrantExceedsOwn`].
    pub async fn lift_lockdown(&self, context: &Context, reason: Reason) -> Result<CommandOutcome<()>, CommandError> {
        lockdown::lift_lockdown(&self.side, context, reason).await
    }
}

/// Mail and limits.
impl Commands {
    /// Returns the next mail that is due, if there is one. While the caller holds it, no other node gets it.
    ///
    /// # Errors
    /// The database's.
    pub async fn next_mail(&self, now: DateTime<Utc>) -> Result<Option<OutgoingMail>, CommandError> {
        outbox::next_mail(&self.side, now).await
    }

    /// Counts a request of this origin on these routes, across all nodes. The database's clock counts, because the
    /// clocks of nodes differ.
    ///
    /// # Errors
    /// The database's.
    pub async fn count_request(
        &self,
        route: RouteGroup,
        origin: &[u8],
        quota: Quota,
    ) -> Result<SharedQuotaDecision, sqlx::Error> {
        rate_limit::count_request(&self.side, route, origin, quota).await
    }

    /// Records refused requests, one event per violation.
    ///
    /// # Errors
    /// [`CommandError`]. Violations recorded before the error stay recorded.
    pub async fn record_violations(
        &self,
        context: &Context,
        violations: &[RateLimitViolation],
    ) -> Result<(), CommandError> {
        rate_limit::record_violations(&self.side, context, violations).await
    }

    /// Discloses what is sealed alongside the event at a position, and records that, with the reason, before. The permission of
    /// the actor is asked for once more as of the record.
    ///
    /// # Errors
    /// [`CommandError::NoSuchEvent`], [`CommandError::NothingSealed`], [`CommandError::GrantExceedsOwn`];
    /// [`CommandError::OutcomeExpired`] for a repetition after 10 minutes.
    pub async fn unseal(
        &self,
        context: &Context,
        position: u64,
        reason: Reason,
    ) -> Result<CommandOutcome<PersonalData>, CommandError> {
        unsealing::unseal(&self.side, context, position, reason).await
    }

    /// Records that the actor begins to take a copy of events.
    ///
    /// # Errors
    /// The database's: nothing may be given away then.
    pub async fn record_copy(&self, context: &Context, copy: EventCopy) -> Result<CommandOutcome<()>, CommandError> {
        copies::record(&self.side, context, copy).await
    }

    /// Discloses the digest of an address, by which events are searched that have it sealed alongside them, and records that,
    /// with the reason, before. The permission of the actor is asked for once more as of the record.
    ///
    /// # Errors
    /// [`CommandError::GrantExceedsOwn`]; [`CommandError::OutcomeExpired`] for a repetition after 10 minutes.
    pub async fn digest_address(
        &self,
        context: &Context,
        address: &Address,
        reason: Reason,
    ) -> Result<CommandOutcome<AddressDigest>, CommandError> {
        unsealing::digest_address(&self.side, context, address, reason).await
    }

    /// Computes the digests of the addresses in what was unsealed.
    #[must_use]
    pub fn address_digests(&self, unsealed: &PersonalData) -> AddressDigests {
        self.side.vault.address_digests(unsealed)
    }

    /// Records that the signer of the log signs again after it had refused to: once for these times, however often this is
    /// repeated within a day.
    ///
    /// # Errors
    /// [`CommandError`].
    pub async fn record_ended_refusal(
        &self,
        context: &Context,
        reason: CheckpointRefusal,
        started_at: DateTime<Utc>,
        ended_at: DateTime<Utc>,
    ) -> Result<(), CommandError> {
        checkpoint::record_ended_refusal(&self.side, context, reason, started_at, ended_at).await
    }

    /// Puts a key in the place of another, everywhere at once, and records it. Every node has to have the key already.
    ///
    /// # Errors
    /// [`CommandError::Internal`] if the log says otherwise: the key before is not in use, or the other one was destroyed.
    pub async fn record_key_rotation(
        &self,
        context: &Context,
        kind: KeyPurpose,
        from: &KeyLabel,
        to: &KeyLabel,
    ) -> Result<CommandOutcome<()>, CommandError> {
        keys::record_rotation(&self.side, context, kind, from, to).await
    }

    /// Records that a key was destroyed. No node has it any more.
    ///
    /// # Errors
    /// [`CommandError::Internal`] if the log says that the key is in use, or was destroyed before.
    pub async fn record_key_destruction(
        &self,
        context: &Context,
        kind: KeyPurpose,
        id: &KeyLabel,
    ) -> Result<CommandOutcome<()>, CommandError> {
        keys::record_destruction(&self.side, context, kind, id).await
    }
}

/// Backups.
impl Commands {
    /// Records that a backup was taken, verified or restored. Returns the position of the event; `None` if it was recorded before.
    ///
    /// # Errors
    /// [`CommandError::Internal`] if the parts or the rungs are not in their order.
    pub async fn record_backup(&self, context: &Context, command: BackupCommand) -> Result<Option<u64>, CommandError> {
        backups::record_backup(&self.side.pool, &self.side.log, context, command).await
    }
}

/// Incidents.
impl Commands {
    /// Opens an incident.
    ///
    /// # Errors
    /// [`CommandError::Incident`] for too many links, [`CommandError::NoSuchOwner`], [`CommandError::GrantExceedsOwn`].
    pub async fn open_incident(
        &self,
        context: &Context,
        new: NewIncident,
    ) -> Result<CommandOutcome<IncidentId>, CommandError> {
        incidents::open(&self.side, context, new).await
    }

    /// Opens the incident of a cause, or answers the one that it has, whoever reports it and when. `true` if it is new.
    ///
    /// # Errors
    /// [`CommandError::Incident`] for too many links, [`CommandError::NoSuchOwner`], [`CommandError::GrantExceedsOwn`].
    pub async fn report_incident(
        &self,
        context: &Context,
        cause: &IncidentCause,
        new: NewIncident,
    ) -> Result<CommandOutcome<(IncidentId, bool)>, CommandError> {
        incidents::report(&self.side, context, cause, new).await
    }

    /// Returns the incident of a cause, if it was reported.
    ///
    /// # Errors
    /// The database's.
    pub async fn incident_of(&self, cause: &IncidentCause) -> Result<Option<IncidentId>, CommandError> {
        incidents::find(&self.side, cause).await
    }

    /// Takes a step in the response to an incident.
    ///
    /// # Errors
    /// [`CommandError::Incident`], [`CommandError::NoSuchOwner`], [`CommandError::GrantExceedsOwn`].
    pub async fn take_incident_step(
        &self,
        context: &Context,
        incident: IncidentId,
        step: IncidentStep,
    ) -> Result<CommandOutcome<()>, CommandError> {
        incidents::take_step(&self.side, context, incident, step).await
    }

    /// Records that a containment begins, before its measures.
    ///
    /// # Errors
    /// [`CommandError::Incident`], [`CommandError::GrantExceedsOwn`].
    pub async fn start_containment(
        &self,
        context: &Context,
        incident: IncidentId,
        measures: ContainmentMeasures,
        reason: &Reason,
    ) -> Result<(), CommandError> {
        incidents::start_containment(&self.side, context, incident, measures, reason).await
    }

    /// Returns the outcome of a containment that an earlier call with the same idempotency key and content completed.
    ///
    /// # Errors
    /// [`CommandError::IdempotencyKeyReused`].
    pub async fn containment_outcome<O: DeserializeOwned>(
        &self,
        context: &Context,
        incident: IncidentId,
        content: &[u8],
    ) -> Result<Option<CommandOutcome<O>>, CommandError> {
        incidents::containment_outcome(&self.side, context, incident, content).await
    }

    /// Records that the measures of a containment are in force, with their outcome for repetitions of the call.
    ///
    /// # Errors
    /// [`CommandError::Incident`], [`CommandError::GrantExceedsOwn`].
    pub async fn record_containment<O: Serialize + DeserializeOwned + Clone>(
        &self,
        context: &Context,
        incident: IncidentId,
        content: &[u8],
        measures: ContainmentMeasures,
        outcome: O,
    ) -> Result<CommandOutcome<O>, CommandError> {
        incidents::record_containment(&self.side, context, incident, content, measures, outcome).await
    }
}
