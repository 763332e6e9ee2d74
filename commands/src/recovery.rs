//! Back into an account by a link that was mailed to its owner; and out of it with whoever else got in.
//!
//! Mail proves whoever reads it, so a reset ends every session and asks for nothing else, and it takes no second factor
//! away.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use fulexo_domain::Aggregate;
use fulexo_domain::account::{Account, AccountCommand, AccountError, AccountState, PasswordChange};
use fulexo_domain::authentication::{AuthenticationEvent, Factor, LiftedBy};
use fulexo_domain::event::Category;
use fulexo_domain::password::{Password, Violation};
use fulexo_domain::session::RevokedBy;
use fulexo_domain::values::{AccountId, EmailAddress};
use zeroize::Zeroizing;

use crate::context::Context;
use crate::error::CommandError;
use crate::execute::{Idempotency, Unit};
use crate::log::Expected;
use crate::login::{Found, network_facts};
use crate::mail::{LinkPurpose, MailKind};
use crate::password_hash::Verifier;
use crate::vault::crypto::random_bytes;
use crate::vault::write::{self, VaultWrite};
use crate::{Commands, Done};

pub(crate) const RESET: &[&str] = &[LinkPurpose::PasswordReset.as_str()];
/// Whoever followed a link to a new password has shown that mail arrives.
const RESET_AND_VERIFICATION: &[&str] = &[LinkPurpose::PasswordReset.as_str(), LinkPurpose::EmailVerification.as_str()];
const VERIFICATION: &[&str] = &[LinkPurpose::EmailVerification.as_str()];
/// After a report earlier ways to a new password may be in the wrong hands too.
const REPORT: &[&str] = &[LinkPurpose::NotMe.as_str(), LinkPurpose::PasswordReset.as_str()];

impl Commands {
    /// Mails a way to a new password to whoever holds this address, if anybody does, and a few times at most.
    ///
    /// # Errors
    /// The database. Whether there is such an account it does not say.
    pub async fn request_password_reset(&self, context: &Context, email: &EmailAddress) -> Result<(), CommandError> {
        let Some(account) = self.account_of(email).await? else { return Ok(()) };
        let idempotency = Idempotency::of(&self.vault, context, "request_password_reset", &[account.0.as_bytes()]);
        if self.before::<()>(idempotency.as_ref()).await?.is_some() {
            return Ok(());
        }
        if self.has_enough_mail(account, MailKind::PasswordReset, context.now).await? {
            return Ok(());
        }
        let Some(key) = self.vault.subject_key(account).await? else { return Ok(()) };
        let mut unit = self.unit(context).sealing(Some((key, network_facts(context))));
        unit.record(account.0, Some(account), [AuthenticationEvent::PasswordResetRequested {}])?;
        self.commit(unit, idempotency.as_ref(), ()).await?;
        Ok(())
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
    ) -> Result<Done<()>, CommandError> {
        let idempotency =
            Idempotency::of(&self.vault, context, "reset_password", &[token.as_bytes(), new.expose().as_bytes()]);
        if self.before::<()>(idempotency.as_ref()).await?.is_some() {
            return self.done_before(()).await;
        }
        let purpose = LinkPurpose::PasswordReset;
        let account = self.link_owner(purpose, token, context.now).await?;
        let context = &context.acting_as(account);
        let profile = self.profile(account).await?.ok_or(CommandError::InvalidCredentials)?;
        let found = self.find(account).await?.ok_or(CommandError::InvalidCredentials)?;
        let place = self.place(context)?;
        let broken = self.broken_rules(&new, &profile.email, profile.display_name.as_ref(), place.clone()).await?;
        if !broken.is_empty() {
            return Err(CommandError::Password(broken));
        }
        let places = self.places(context, self.compared_passwords())?;
        let number = self.count_comparison(token).await?;
        if self.was_used_before(&found, &new, &places).await? {
            let mut unit = self.unit(context).sealing(Some((found.key.clone(), network_facts(context))));
            unit.record(account.0, Some(account), [AuthenticationEvent::PasswordResetRefused { number }])?;
            self.commit(unit, None, ()).await?;
            return Err(CommandError::Password(vec![Violation::Reused]));
        }
        let verifier = self.hash_password(new, place).await?;
        let address = profile.email.normalised();
        let decided = self.decide(idempotency.as_ref(), async || {
            let (state, version) = self.still_owned(account, purpose, token, context).await?;
            let how = PasswordChange::Reset;
            let mut unit = self.with_new_password(context, &found, &verifier, how, &state, version).await?;
            unit.vault(VaultWrite::ForgetMailTokens { account, purposes: RESET_AND_VERIFICATION });
            if self.counted(account, &address).await?.contains(&Factor::Password) {
                unit.vault(self.forget_passwords(account, &address));
                let (factor, by) = (Factor::Password, LiftedBy::Reset);
                let lifted = AuthenticationEvent::LockLifted { factor, by, device: None, scope: None };
                unit.record(account.0, Some(account), [lifted])?;
            }
            Ok((unit, ()))
        });
        self.done(decided.await?).await
    }

    /// Mails a link by which its owner shows that mail to an account's address arrives.
    ///
    /// # Errors
    /// [`CommandError::Account`] when the account is unknown.
    pub async fn request_verification(&self, context: &Context, account: AccountId) -> Result<(), CommandError> {
        let (state, _) = self.account_state(account).await?;
        if state.email_verified || state.suspended {
            return Ok(());
        }
        let key = self.vault.subject_key(account).await?.ok_or(AccountError::Unknown)?;
        let mail = self.mail(context, &key, account, MailKind::EmailVerification)?;
        let mut transaction = self.pool.begin().await?;
        // Of several at once each counts those before it: elsewhere the log's lock sees to that, and this is no append.
        sqlx::query!("select from vault.subject_key where subject_id = $1 for update", account.0)
            .execute(&mut *transaction)
            .await?;
        write::write(&mut transaction, &[&mail]).await?;
        Ok(transaction.commit().await?)
    }

    /// Notes that mail to an account's address arrived.
    ///
    /// # Errors
    /// [`CommandError::InvalidCredentials`] for a token that is unknown, spent or too old.
    pub async fn verify_email(&self, context: &Context, token: &str) -> Result<Done<()>, CommandError> {
        let idempotency = Idempotency::of(&self.vault, context, "verify_email", &[token.as_bytes()]);
        if self.before::<()>(idempotency.as_ref()).await?.is_some() {
            return self.done_before(()).await;
        }
        let purpose = LinkPurpose::EmailVerification;
        let account = self.link_owner(purpose, token, context.now).await?;
        let context = &context.acting_as(account);
        let decided = self.decide(idempotency.as_ref(), async || {
            let (state, version) = self.still_owned(account, purpose, token, context).await?;
            let events = Account::handle_command(&state, AccountCommand::VerifyEmail)?;
            let mut unit = self.unit(context);
            unit.expect(Category::Account, account.0, Expected::Exact(version));
            unit.vault(VaultWrite::ForgetMailTokens { account, purposes: VERIFICATION });
            unit.record(account.0, Some(account), events)?;
            Ok((unit, ()))
        });
        self.done(decided.await?).await
    }

    /// The owner says that it was somebody else: every session ends, the password opens nothing any more, and a way to a
    /// new one is mailed.
    ///
    /// # Errors
    /// [`CommandError::InvalidCredentials`] for a token that is unknown, spent or too old.
    pub async fn report_intrusion(&self, context: &Context, token: &str) -> Result<Done<()>, CommandError> {
        let idempotency = Idempotency::of(&self.vault, context, "report_intrusion", &[token.as_bytes()]);
        if self.before::<()>(idempotency.as_ref()).await?.is_some() {
            return self.done_before(()).await;
        }
        let account = self.link_owner(LinkPurpose::NotMe, token, context.now).await?;
        let context = &context.acting_as(account);
        let found = self.find(account).await?.ok_or(CommandError::InvalidCredentials)?;
        // Known to nobody, and in the history of passwords from then on is the one that somebody else knows.
        let nobodys = URL_SAFE_NO_PAD.encode(Zeroizing::new(random_bytes::<32>()?).as_slice());
        let verifier = self.hash_password(Password::new(nobodys), self.place(context)?).await?;
        let decided = self.decide(idempotency.as_ref(), async || {
            let (state, version) = self.still_owned(account, LinkPurpose::NotMe, token, context).await?;
            let how = PasswordChange::Disputed;
            let mut unit = self.with_new_password(context, &found, &verifier, how, &state, version).await?;
            unit.vault(VaultWrite::ForgetMailTokens { account, purposes: REPORT });
            Ok((unit, ()))
        });
        self.done(decided.await?).await
    }

    /// The account, as long as the token is good. Its version is read first: of two who follow one link, or links that end
    /// each other, one is first, and the other finds either the token gone or the account changed.
    async fn still_owned(
        &self,
        account: AccountId,
        purpose: LinkPurpose,
        token: &str,
        context: &Context,
    ) -> Result<(AccountState, u64), CommandError> {
        let state = self.account_state(account).await?;
        self.link_owner(purpose, token, context.now).await?;
        Ok(state)
    }

    /// An append that sets another password and ends sessions.
    async fn with_new_password<'a>(
        &self,
        context: &'a Context,
        found: &Found,
        verifier: &Verifier,
        how: PasswordChange,
        state: &AccountState,
        version: u64,
    ) -> Result<Unit<'a>, CommandError> {
        let account = found.account;
        let mut unit = self.unit(context);
        unit.expect(Category::Account, account.0, Expected::Exact(version));
        unit.vault(VaultWrite::Password {
            account,
            verifier: found.key.seal_verifier("password", verifier.expose())?,
            keep: self.previous_passwords(),
        });
        unit.record(account.0, Some(account), Account::handle_command(state, AccountCommand::ChangePassword { how })?)?;
        if how == PasswordChange::Reset {
            // Whoever followed the link reads the mail.
            unit.record(account.0, Some(account), Account::handle_command(state, AccountCommand::VerifyEmail)?)?;
        }
        self.revoke_sessions(&mut unit, account, state, None, RevokedBy::PasswordChange).await?;
        Ok(unit)
    }
}
