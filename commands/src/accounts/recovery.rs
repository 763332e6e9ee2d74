//! Recovery of an account by a mailed link, and the report of an intrusion.
//!
//! A mailed link proves only that its user reads the owner's mail. A reset therefore ends every session, asks for
//! nothing else, and leaves the second factor in place.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use fulexo_database::begin;
use fulexo_domain::Aggregate;
use fulexo_domain::account::{Account, AccountCommand, AccountError, AccountState, PasswordChangeCause};
use fulexo_domain::authentication::{AuthenticationEvent, Factor, UnlockCause};
use fulexo_domain::event::Category;
use fulexo_domain::password::{Password, PasswordViolation};
use fulexo_domain::session::RevocationCause;
use fulexo_domain::values::{AccountId, EmailAddress};
use zeroize::Zeroizing;

use crate::accounts::{password, profile};
use crate::authentication::attempts;
use crate::authentication::credentials::{self, StoredCredentials};
use crate::authentication::password_hash::Verifier;
use crate::context::{Context, network_facts};
use crate::error::CommandError;
use crate::execute::{self, CommandOutcome};
use crate::idempotency::{self, IdempotencyKey};
use crate::log::ExpectedVersion;
use crate::mail::kind::{LinkPurpose, MailKind};
use crate::mail::outbox;
use crate::rate_limit;
use crate::sessions::sign_out;
use crate::unit_of_work::UnitOfWork;
use crate::vault::crypto::random_bytes;
use crate::vault::write::{self, VaultWrite};
use crate::write_side::WriteSide;

/// A reset link also proves that mail arrives.
const RESET_AND_VERIFICATION: &[&str] = &[LinkPurpose::PasswordReset.as_str(), LinkPurpose::EmailVerification.as_str()];
const VERIFICATION: &[&str] = &[LinkPurpose::EmailVerification.as_str()];
/// After a report, earlier reset links may be in the wrong hands too.
const REPORT: &[&str] = &[LinkPurpose::IntrusionReport.as_str(), LinkPurpose::PasswordReset.as_str()];

pub(crate) async fn request_password_reset(
    side: &WriteSide,
    context: &Context,
    email: &EmailAddress,
) -> Result<(), CommandError> {
    let Some(account) = profile::account_of(side, email).await? else { return Ok(()) };
    let idempotency = IdempotencyKey::of(&side.vault, context, "request_password_reset", &[account.0.as_bytes()]);
    if idempotency::stored_outcome::<()>(&side.log, idempotency.as_ref()).await?.is_some() {
        return Ok(());
    }
    if outbox::has_reached_mail_limit(&side.pool, account, MailKind::PasswordReset, context.now).await? {
        return Ok(());
    }
    let Some(key) = side.vault.subject_key(account).await? else { return Ok(()) };
    let mut unit = side.unit_of_work(context).sealing(Some((key, network_facts(context))));
    unit.record(account.0, Some(account), [AuthenticationEvent::PasswordResetRequested {}])?;
    execute::commit(side, unit, idempotency.as_ref(), ()).await?;
    Ok(())
}

pub(crate) async fn reset_password(
    side: &WriteSide,
    context: &Context,
    token: &str,
    new: Password,
) -> Result<CommandOutcome<()>, CommandError> {
    let idempotency =
        IdempotencyKey::of(&side.vault, context, "reset_password", &[token.as_bytes(), new.expose().as_bytes()]);
    execute::run_once(&side.log, idempotency.as_ref(), async {
        let purpose = LinkPurpose::PasswordReset;
        let account = outbox::link_owner(side, purpose, token, context.now).await?;
        let context = &context.acting_as(account);
        let profile = profile::profile(side, account).await?.ok_or(CommandError::InvalidCredentials)?;
        let stored = credentials::find(side, account).await?.ok_or(CommandError::InvalidCredentials)?;
        let permit = rate_limit::hashing_permit(side, context)?;
        let broken =
            password::broken_rules(&side.hasher, &new, &profile.email, profile.display_name.as_ref(), permit.clone())
                .await?;
        if !broken.is_empty() {
            return Err(CommandError::Password(broken));
        }
        let permits = rate_limit::hashing_permits(side, context, password::max_comparisons(side))?;
        let number = outbox::count_comparison(side, token).await?;
        if password::is_reused(side, &stored, &new, &permits).await? {
            let mut unit = side.unit_of_work(context).sealing(Some((stored.key.clone(), network_facts(context))));
            unit.record(account.0, Some(account), [AuthenticationEvent::PasswordResetRefused { attempt: number }])?;
            execute::commit(side, unit, None, ()).await?;
            return Err(CommandError::Password(vec![PasswordViolation::Reused]));
        }
        let verifier = credentials::hash_password(&side.hasher, new, permit).await?;
        let address = profile.email.normalised();
        execute::decide(side, idempotency.as_ref(), async || {
            let (state, version) = owner_state(side, account, purpose, token, context).await?;
            let how = PasswordChangeCause::Reset;
            let mut unit = with_new_password(side, context, &stored, &verifier, how, &state, version).await?;
            unit.vault(VaultWrite::ForgetMailTokens { account, purposes: RESET_AND_VERIFICATION });
            if attempts::counted_factors(side, account, &address).await?.contains(&Factor::Password) {
                unit.vault(attempts::forget_passwords(&side.vault, account, &address));
                let (factor, by) = (Factor::Password, UnlockCause::Reset);
                let lifted = AuthenticationEvent::LockLifted { factor, by, device: None, scope: None };
                unit.record(account.0, Some(account), [lifted])?;
            }
            Ok((unit, ()))
        })
        .await
    })
    .await
}

pub(crate) async fn request_verification(
    side: &WriteSide,
    context: &Context,
    account: AccountId,
) -> Result<(), CommandError> {
    let (state, _) = side.account_state(account).await?;
    if state.email_verified || state.suspended {
        return Ok(());
    }
    let key = side.vault.subject_key(account).await?.ok_or(AccountError::NotFound)?;
    let mail = outbox::mail_write(&side.vault, context, &key, account, MailKind::EmailVerification)?;
    let mut transaction = begin(&side.pool).await?;
    // Concurrent requests must count each other's mails. The log's lock ensures that for appends; this is not an
    // append.
    sqlx::query!("select from vault.subject_key where subject_id = $1 for update", account.0)
        .execute(&mut *transaction)
        .await?;
    write::write(&mut transaction, &[&mail], &[]).await?;
    Ok(transaction.commit().await?)
}

pub(crate) async fn verify_email(
    side: &WriteSide,
    context: &Context,
    token: &str,
) -> Result<CommandOutcome<()>, CommandError> {
    let idempotency = IdempotencyKey::of(&side.vault, context, "verify_email", &[token.as_bytes()]);
    execute::run_once(&side.log, idempotency.as_ref(), async {
        let purpose = LinkPurpose::EmailVerification;
        let account = outbox::link_owner(side, purpose, token, context.now).await?;
        let context = &context.acting_as(account);
        execute::decide(side, idempotency.as_ref(), async || {
            let (state, version) = owner_state(side, account, purpose, token, context).await?;
            let events = Account::handle_command(&state, AccountCommand::VerifyEmail)?;
            let mut unit = side.unit_of_work(context);
            unit.expect(Category::Account, account.0, ExpectedVersion::Exact(version));
            unit.vault(VaultWrite::ForgetMailTokens { account, purposes: VERIFICATION });
            unit.record(account.0, Some(account), events)?;
            Ok((unit, ()))
        })
        .await
    })
    .await
}

pub(crate) async fn report_intrusion(
    side: &WriteSide,
    context: &Context,
    token: &str,
) -> Result<CommandOutcome<()>, CommandError> {
    let idempotency = IdempotencyKey::of(&side.vault, context, "report_intrusion", &[token.as_bytes()]);
    execute::run_once(&side.log, idempotency.as_ref(), async {
        let account = outbox::link_owner(side, LinkPurpose::IntrusionReport, token, context.now).await?;
        let context = &context.acting_as(account);
        let stored = credentials::find(side, account).await?.ok_or(CommandError::InvalidCredentials)?;
        // Nobody knows the new password. The password that the intruder knows moves into the history.
        let nobodys = URL_SAFE_NO_PAD.encode(Zeroizing::new(random_bytes::<32>()?).as_slice());
        let verifier = credentials::hash_password(
            &side.hasher,
            Password::new(nobodys),
            rate_limit::hashing_permit(side, context)?,
        )
        .await?;
        execute::decide(side, idempotency.as_ref(), async || {
            let (state, version) = owner_state(side, account, LinkPurpose::IntrusionReport, token, context).await?;
            let how = PasswordChangeCause::Reported;
            let mut unit = with_new_password(side, context, &stored, &verifier, how, &state, version).await?;
            if state.erasure_due.is_some() {
                // An intruder may have asked for it.
                let withdrawn = Account::handle_command(&state, AccountCommand::WithdrawErasure)?;
                unit.record(account.0, Some(account), withdrawn)?;
            }
            unit.vault(VaultWrite::ForgetMailTokens { account, purposes: REPORT });
            Ok((unit, ()))
        })
        .await
    })
    .await
}

/// Returns the state and version of the account, if the token is still valid. The version is read first: of two
/// requests with one link, or with links that revoke each other, the second finds either the token deleted or the
/// account changed.
async fn owner_state(
    side: &WriteSide,
    account: AccountId,
    purpose: LinkPurpose,
    token: &str,
    context: &Context,
) -> Result<(AccountState, u64), CommandError> {
    let state = side.account_state(account).await?;
    outbox::link_owner(side, purpose, token, context.now).await?;
    Ok(state)
}

/// Returns a unit of work that sets another password and ends sessions.
async fn with_new_password<'a>(
    side: &WriteSide,
    context: &'a Context,
    stored: &StoredCredentials,
    verifier: &Verifier,
    how: PasswordChangeCause,
    state: &AccountState,
    version: u64,
) -> Result<UnitOfWork<'a>, CommandError> {
    let account = stored.account;
    let mut unit = side.unit_of_work(context);
    unit.expect(Category::Account, account.0, ExpectedVersion::Exact(version));
    unit.vault(VaultWrite::Password {
        account,
        verifier: stored.key.seal_verifier("password", verifier.expose())?,
        keep: password::history_length(side),
    });
    unit.record(account.0, Some(account), Account::handle_command(state, AccountCommand::ChangePassword { how })?)?;
    if how == PasswordChangeCause::Reset {
        // The link proves that mail arrives.
        unit.record(account.0, Some(account), Account::handle_command(state, AccountCommand::VerifyEmail)?)?;
    }
    sign_out::revoke_sessions(&side.pool, &mut unit, account, state, None, RevocationCause::PasswordChange).await?;
    Ok(unit)
}
