//! The second factor: TOTP (RFC 6238), with recovery codes as a substitute. Its owner enrols it, every later login
//! requires it, and its owner, or an administrator if it is lost, removes it.
//!
//! A one-time code is used up before anything else happens, by a statement that only one caller can win: it is accepted
//! once, across all nodes. A recovery code is used up with the event that records its use: of two concurrent uses, one
//! finds the account changed, and then the code gone.

use fulexo_domain::Aggregate;
use fulexo_domain::account::{Account, AccountCommand, AccountError, AccountState, Initiator};
use fulexo_domain::authentication::{AttemptOutcome, AuthenticationEvent, AuthenticationMethod, Factor, UnlockCause};
use fulexo_domain::event::Category;
use fulexo_domain::permission::Permissions;
use fulexo_domain::session::{RevocationCause, Session, SessionCommand};
use fulexo_domain::values::{AccountId, CodeInput, Reason, SessionId};
use zeroize::Zeroizing;

use crate::accounts::profile;
use crate::authentication::attempts::{self, AttemptScope, CountedAttempt};
use crate::authentication::challenge::{self, ChallengePurpose};
use crate::authentication::codes::{
    self, RECOVERY_CODES, RecoveryCodeSeed, RecoveryCodes, VerifiedCode, matching_step, totp,
};
use crate::authentication::login::{self, LoginResult, VerifiedFactors};
use crate::authentication::{credentials, devices};
use crate::authorization::{lockdown, roles};
use crate::context::Context;
use crate::error::CommandError;
use crate::execute::{self, CommandOutcome};
use crate::idempotency::IdempotencyKey;
use crate::log::ExpectedVersion;
use crate::sessions::{sign_out, tokens};
use crate::unit_of_work::UnitOfWork;
use crate::vault::Vault;
use crate::vault::crypto::random_bytes;
use crate::vault::write::VaultWrite;
use crate::write_side::WriteSide;
use crate::{disclosure, reason};

/// A pending second factor. It counts once a code of it is confirmed. No `Debug`; wiped when dropped.
pub struct Enrolment {
    /// The seed in base32 (RFC 4648), for manual entry.
    pub secret: Zeroizing<String>,
    /// The seed as an `otpauth` URI, for scanning.
    pub otpauth_uri: Zeroizing<String>,
}

pub(crate) async fn start_enrolment(
    side: &WriteSide,
    context: &Context,
    account: AccountId,
) -> Result<CommandOutcome<Enrolment>, CommandError> {
    let idempotency = IdempotencyKey::of(&side.vault, context, "start_enrolment", &[account.0.as_bytes()]);
    let decided = execute::decide(side, idempotency.as_ref(), async || {
        let (state, version) = side.account_state(account).await?;
        let events = Account::handle_command(&state, AccountCommand::StartEnrolment)?;
        let key = side.vault.subject_key(account).await?.ok_or(AccountError::NotFound)?;
        let seed = key.seal("totp", Zeroizing::new(random_bytes::<20>()?).as_slice())?;
        let shown = seed_digest(&side.vault, &seed);
        let mut unit = side.unit_of_work(context);
        unit.expect(Category::Account, account.0, ExpectedVersion::Exact(version));
        unit.vault(VaultWrite::PendingSeed { account, seed });
        unit.record(account.0, Some(account), events)?;
        Ok((unit, disclosure::bind_to_factors(side, context, shown).await?))
    });
    let CommandOutcome { value: shown, position } =
        disclosure::run_once(side, context, idempotency.as_ref(), decided).await?;
    Ok(CommandOutcome { value: pending_enrolment(side, account, &shown).await?, position })
}

fn seed_digest(vault: &Vault, sealed: &[u8]) -> [u8; 32] {
    vault.digest("pending-seed", &[sealed])
}

/// Returns the pending enrolment, if it is the one that was shown.
async fn pending_enrolment(side: &WriteSide, account: AccountId, shown: &[u8; 32]) -> Result<Enrolment, CommandError> {
    let sealed = credentials::sealed_seed(&side.pool, account, "totp_pending")
        .await?
        .ok_or(AccountError::EnrolmentNotStarted)?;
    if seed_digest(&side.vault, &sealed) != *shown {
        return Err(CommandError::OutcomeExpired);
    }
    let key = side.vault.subject_key(account).await?.ok_or(AccountError::NotFound)?;
    enrolment(side, account, &key.open("totp", &sealed)?).await
}

async fn enrolment(side: &WriteSide, account: AccountId, seed: &[u8]) -> Result<Enrolment, CommandError> {
    let profile = profile::profile(side, account).await?.ok_or(AccountError::NotFound)?;
    let totp = totp(seed, profile.email.as_str())?;
    // The error may contain the account's address.
    let otpauth_uri = totp.to_url().map_err(|_| CommandError::internal("the seed has no otpauth URI"))?;
    Ok(Enrolment { secret: Zeroizing::new(totp.secret().to_base32()), otpauth_uri: Zeroizing::new(otpauth_uri) })
}

pub(crate) async fn confirm_enrolment(
    side: &WriteSide,
    context: &Context,
    account: AccountId,
    session: Option<SessionId>,
    code: &CodeInput,
) -> Result<CommandOutcome<RecoveryCodes>, CommandError> {
    let content = [account.0.as_bytes().as_slice(), code.as_str().as_bytes()];
    let idempotency = IdempotencyKey::of(&side.vault, context, "confirm_enrolment", &content);
    let confirmed = disclosure::run_once(side, context, idempotency.as_ref(), async {
        let sealed = credentials::sealed_seed(&side.pool, account, "totp_pending")
            .await?
            .ok_or(AccountError::EnrolmentNotStarted)?;
        let key = side.vault.subject_key(account).await?.ok_or(AccountError::NotFound)?;
        let step = matching_step(&key.open("totp", &sealed)?, code, context.now)?.ok_or(CommandError::WrongCode)?;
        if !codes::use_step(&side.pool, account, &sealed, step).await? {
            return Err(CommandError::WrongCode);
        }
        execute::decide(side, idempotency.as_ref(), async || {
            let (state, version) = side.account_state(account).await?;
            if credentials::sealed_seed(&side.pool, account, "totp_pending").await?.as_ref() != Some(&sealed) {
                return Err(CommandError::WrongCode);
            }
            let command = AccountCommand::ConfirmEnrolment { codes: RECOVERY_CODES, session };
            let events = Account::handle_command(&state, command)?;
            let batch = RecoveryCodeSeed(random_bytes()?);
            let codes = codes::recovery_codes(&side.vault, account, &batch);
            let mut unit = side.unit_of_work(context);
            unit.expect(Category::Account, account.0, ExpectedVersion::Exact(version));
            unit.vault(VaultWrite::ConfirmSeed { account });
            unit.vault(codes::recovery_codes_write(&side.vault, account, &codes));
            unit.record(account.0, Some(account), events)?;
            if let Some(session) = session {
                let loaded = tokens::load_session(side, session).await?;
                let (methods, policy) = (vec![AuthenticationMethod::OneTime], side.policy().sessions.clone());
                let command = SessionCommand::Elevate { methods, step_up_required: false, at: context.now, policy };
                unit.expect(Category::Session, session.0, ExpectedVersion::Exact(loaded.version));
                unit.record(session.0, Some(account), Session::handle_command(&loaded.state, command)?)?;
            }
            // The factors as this append leaves them.
            Ok((unit, disclosure::bind_to_seed(side, context, batch, &sealed).await?))
        })
        .await
    });
    Ok(confirmed.await?.map(|batch| codes::recovery_codes(&side.vault, account, &batch)))
}

pub(crate) async fn issue_recovery_codes(
    side: &WriteSide,
    context: &Context,
    account: AccountId,
) -> Result<CommandOutcome<RecoveryCodes>, CommandError> {
    let idempotency = IdempotencyKey::of(&side.vault, context, "issue_recovery_codes", &[account.0.as_bytes()]);
    let decided = execute::decide(side, idempotency.as_ref(), async || {
        let (state, version) = side.account_state(account).await?;
        let command = AccountCommand::IssueRecoveryCodes { count: RECOVERY_CODES };
        let events = Account::handle_command(&state, command)?;
        let batch = RecoveryCodeSeed(random_bytes()?);
        let codes = codes::recovery_codes(&side.vault, account, &batch);
        let mut unit = side.unit_of_work(context);
        unit.expect(Category::Account, account.0, ExpectedVersion::Exact(version));
        unit.vault(codes::recovery_codes_write(&side.vault, account, &codes));
        unit.record(account.0, Some(account), events)?;
        Ok((unit, disclosure::bind_to_factors(side, context, batch).await?))
    });
    let done = disclosure::run_once(side, context, idempotency.as_ref(), decided).await?;
    Ok(done.map(|batch| codes::recovery_codes(&side.vault, account, &batch)))
}

pub(crate) async fn disable_second_factor(
    side: &WriteSide,
    context: &Context,
    account: AccountId,
) -> Result<CommandOutcome<()>, CommandError> {
    let idempotency = IdempotencyKey::of(&side.vault, context, "disable_second_factor", &[account.0.as_bytes()]);
    execute::run_once(&side.log, idempotency.as_ref(), async {
        execute::decide(side, idempotency.as_ref(), || async {
            let (state, version) = side.account_state(account).await?;
            if requires_second_factor(side, &state).await? {
                return Err(CommandError::SecondFactorRequired);
            }
            let mut unit = side.unit_of_work(context);
            remove_second_factor(side, &mut unit, account, &state, version, Initiator::Owner).await?;
            Ok((unit, ()))
        })
        .await
    })
    .await
}

pub(crate) async fn reset_second_factor(
    side: &WriteSide,
    context: &Context,
    own: Permissions,
    account: AccountId,
    reason: Reason,
) -> Result<CommandOutcome<()>, CommandError> {
    let idempotency = reason::idempotency_key(&side.vault, context, "reset_second_factor", account.0, &reason);
    execute::run_once(&side.log, idempotency.as_ref(), async {
        let sealing = reason::sealing_for_account(&side.vault, account, &reason).await?;
        execute::decide(side, idempotency.as_ref(), async || {
            let (state, version) = side.account_state(account).await?;
            if context.account() == Some(account) && requires_second_factor(side, &state).await? {
                return Err(CommandError::SecondFactorRequired);
            }
            let mut unit = side.unit_of_work(context).sealing(sealing.clone());
            roles::require_rank(side, &mut unit, context, own, account, &state).await?;
            remove_second_factor(side, &mut unit, account, &state, version, Initiator::Admin).await?;
            sign_out::revoke_sessions(&side.pool, &mut unit, account, &state, None, RevocationCause::SecondFactorReset)
                .await?;
            Ok((unit, ()))
        })
        .await
    })
    .await
}

async fn remove_second_factor(
    side: &WriteSide,
    unit: &mut UnitOfWork<'_>,
    account: AccountId,
    state: &AccountState,
    version: u64,
    by: Initiator,
) -> Result<(), CommandError> {
    let events = Account::handle_command(state, AccountCommand::DisableSecondFactor { by })?;
    unit.expect(Category::Account, account.0, ExpectedVersion::Exact(version));
    unit.vault(VaultWrite::ForgetSecondFactor { account });
    unit.record(account.0, Some(account), events)?;
    // The counters of its codes are deleted with it. The address does not matter here.
    if attempts::counted_factors(side, account, "").await?.contains(&Factor::SecondFactor) {
        let (factor, by) = (Factor::SecondFactor, UnlockCause::Reset);
        let lifted = AuthenticationEvent::LockLifted { factor, by, device: None, scope: None };
        unit.record(account.0, Some(account), [lifted])?;
    }
    Ok(())
}

pub(crate) async fn second_factor(
    side: &WriteSide,
    context: &Context,
    challenge_token: &str,
    code: &CodeInput,
) -> Result<CommandOutcome<LoginResult>, CommandError> {
    lockdown::mask_refusal(&side.pool, second_step(side, context, challenge_token, code).await).await
}

async fn second_step(
    side: &WriteSide,
    context: &Context,
    challenge_token: &str,
    code: &CodeInput,
) -> Result<CommandOutcome<LoginResult>, CommandError> {
    let content = [challenge_token.as_bytes(), code.as_str().as_bytes()];
    let idempotency = IdempotencyKey::of(&side.vault, context, "second_factor", &content);
    login::run_once(side, context, idempotency.as_ref(), async {
        let (challenge, stored) = challenge::verify(side, challenge_token, ChallengePurpose::SecondFactor).await?;
        let account = challenge.account;
        // A device that was forgotten in the meantime never returns.
        let known =
            challenge.known_device && devices::knows_device(&side.pool, context, account, challenge.device).await?;
        let (device, subject) = match known {
            true => (challenge.device, AttemptScope::Device(account, challenge.device)),
            false => (context.new_id(), AttemptScope::Account(account)),
        };
        if challenge.has_expired(context.now) {
            let attempt = CountedAttempt::uncounted(Factor::SecondFactor);
            return login::refuse(
                side,
                context,
                Some(&stored),
                AttemptOutcome::ExpiredChallenge,
                &attempt,
                idempotency.as_ref(),
            )
            .await;
        }
        let attempt = attempts::reserve_attempt(side, subject, Factor::SecondFactor, context.now).await?;
        let spent = attempts::take_back_on_error(
            &side.pool,
            &attempt,
            codes::verify_code(side, &stored, code, &attempt, context.now).await,
        )
        .await?;
        let Some(VerifiedCode { recovery, seed }) = spent else {
            let verdict = attempt.verdict(Some(&stored));
            return login::refuse(side, context, Some(&stored), verdict, &attempt, idempotency.as_ref()).await;
        };
        let verified = VerifiedFactors {
            methods: vec![AuthenticationMethod::Password, AuthenticationMethod::OneTime],
            device,
            known_device: known,
            attempt: &attempt,
            rehashed: None,
            seed: Some(seed),
            recovery,
        };
        login::proceed(side, context, &stored, &verified, idempotency.as_ref()).await
    })
    .await
}

/// Returns `true` if one of the account's roles requires a second factor.
pub(crate) async fn requires_second_factor(side: &WriteSide, state: &AccountState) -> Result<bool, CommandError> {
    let policy = side.current_policy().await?;
    Ok(state.roles.iter().any(|role| policy.second_factor.required_for.contains(role)))
}
