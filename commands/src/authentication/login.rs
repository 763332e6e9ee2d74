//! Login: one attempt is counted, one hash is computed, one decision is recorded. A refused caller learns nothing from
//! the answer, its size or its timing.
//!
//! ```text
//! password --right--> second factor? --yes--> challenge --code right--+
//!                          | no                                       v
//!                          +--------------> password to change? --> enrolment due? --> session
//! ```
//! After a "yes", the login allows only that step (`challenge`).

use chrono::DateTime;
use fulexo_domain::Aggregate;
use fulexo_domain::account::{Account, AccountCommand, AccountState};
use fulexo_domain::authentication::{AttemptOutcome, AuthenticationEvent, AuthenticationMethod, Factor};
use fulexo_domain::event::{Actor, Category};
use fulexo_domain::login::{LoginFacts, LoginObstacle};
use fulexo_domain::password::Password;
use fulexo_domain::sealed_field::SealedField;
use fulexo_domain::session::{Session, SessionCommand, SessionEvent, SessionState};
use fulexo_domain::snapshot::AccountSnapshot;
use fulexo_domain::values::{AccountId, EmailAddress, SessionId};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use uuid::Uuid;

use crate::authentication::attempts::{self, AttemptScope, CountedAttempt};
use crate::authentication::challenge::{self, Challenge, ChallengePurpose, IssuedChallenge};
use crate::authentication::credentials::{self, StoredCredentials, read_verifier};
use crate::authentication::password_hash::{HashingPermit, PasswordHasher};
use crate::authentication::{codes, devices};
use crate::authorization::lockdown;
use crate::context::{Context, network_facts};
use crate::error::CommandError;
use crate::execute::{self, CommandOutcome, CommitOutcome, TRIES};
use crate::idempotency::{self, IdempotencyKey};
use crate::log::{ExpectedVersion, LoadedStream};
use crate::rate_limit;
use crate::sessions::refresh_token::device_token;
use crate::sessions::tokens::{self, TokenParameters, Tokens};
use crate::sessions::{ends, refresh};
use crate::unit_of_work::UnitOfWork;
use crate::vault::Vault;
use crate::vault::crypto::random_bytes;
use crate::vault::write::VaultWrite;
use crate::write_side::WriteSide;

/// The credentials that a client presents to log in.
pub struct Credentials {
    /// The e-mail address.
    pub email: EmailAddress,
    /// The password.
    pub password: Password,
    /// The token that this device received at an earlier login.
    pub device_token: Option<String>,
}

/// The result of a login.
pub enum LoginResult {
    /// A session has started.
    Session(Tokens),
    /// The login needs another step.
    Challenge(IssuedChallenge),
}

/// The verified factors of a login.
pub(crate) struct VerifiedFactors<'a> {
    pub methods: Vec<AuthenticationMethod>,
    pub device: Uuid,
    pub known_device: bool,
    pub attempt: &'a CountedAttempt,
    /// A new verifier at the configured cost, if the cost has changed.
    pub rehashed: Option<Vec<u8>>,
    /// The sealed seed that a code was verified with. The account must still have it.
    pub seed: Option<Vec<u8>>,
    /// The digest of the recovery code that was used instead.
    pub recovery: Option<[u8; 32]>,
}

/// The outcome of a login, as the log stores it under the idempotency key.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(crate) enum LoginOutcome {
    Refused,
    /// The challenge, with a digest of the factors at its issue.
    Challenged(Challenge, [u8; 32]),
    Started {
        account: AccountId,
        session: SessionId,
        device: Uuid,
        /// A digest of the factors that the session was earned with.
        factors: [u8; 32],
    },
}

/// The next step of a login.
enum LoginStep {
    StartSession,
    Challenge(ChallengePurpose),
}

pub(crate) async fn login(
    side: &WriteSide,
    context: &Context,
    credentials: Credentials,
) -> Result<CommandOutcome<LoginResult>, CommandError> {
    lockdown::mask_refusal(&side.pool, log_in(side, context, credentials).await).await
}

async fn log_in(
    side: &WriteSide,
    context: &Context,
    credentials: Credentials,
) -> Result<CommandOutcome<LoginResult>, CommandError> {
    let email = credentials.email.normalised();
    let token = credentials.device_token.as_deref().unwrap_or_default();
    let content = [email.as_bytes(), credentials.password.expose().as_bytes(), token.as_bytes()];
    let idempotency = IdempotencyKey::of(&side.vault, context, "login", &content);
    run_once(side, context, idempotency.as_ref(), async {
        let permit = rate_limit::hashing_permit(side, context)?;
        let stored = credentials::find_by_email(side, &credentials.email).await?;
        let account = stored.as_ref().map(|stored| stored.account);
        let known = match account {
            Some(account) => {
                devices::known_device(side, context, account, token).await?.map(|device| (account, device))
            }
            None => None,
        };
        let subject = known
            .map_or(AttemptScope::Address(&email, account), |(account, device)| AttemptScope::Device(account, device));
        let attempt = attempts::reserve_attempt(side, subject, Factor::Password, context.now).await?;
        let right =
            attempts::evaluate(side, credentials.password.clone(), stored.as_ref(), &attempt, permit.clone()).await?;
        let Some(stored) = stored.as_ref().filter(|_| right) else {
            let verdict = attempt.verdict(stored.as_ref());
            return refuse(side, context, stored.as_ref(), verdict, &attempt, idempotency.as_ref()).await;
        };
        let rehashed = if side.hasher.is_outdated(&stored.verifier) {
            match attempts::take_back_on_error(
                &side.pool,
                &attempt,
                rehash(&side.hasher, stored, credentials.password, permit).await,
            )
            .await
            {
                Ok(verifier) => Some(verifier),
                // The next login tries again.
                Err(CommandError::Overloaded) => None,
                Err(error) => return Err(error),
            }
        } else {
            None
        };
        let verified = VerifiedFactors {
            methods: vec![AuthenticationMethod::Password],
            device: known.map_or_else(|| context.new_id(), |(_, device)| device),
            known_device: known.is_some(),
            attempt: &attempt,
            rehashed,
            seed: None,
            recovery: None,
        };
        proceed(side, context, stored, &verified, idempotency.as_ref()).await
    })
    .await
}

/// Runs [`execute::run_once`] for a step of a login. The answer to a repeated step follows from the current state, not
/// from the stored outcome alone.
pub(crate) async fn run_once(
    side: &WriteSide,
    context: &Context,
    idempotency: Option<&IdempotencyKey>,
    act: impl Future<Output = Result<CommandOutcome<LoginResult>, CommandError>>,
) -> Result<CommandOutcome<LoginResult>, CommandError> {
    match idempotency::stored_outcome_with_age(&side.log, idempotency).await? {
        Some((outcome, is_recent)) => replay(side, context, outcome, is_recent).await,
        None => act.await,
    }
}

pub(crate) async fn refuse(
    side: &WriteSide,
    context: &Context,
    stored: Option<&StoredCredentials>,
    verdict: AttemptOutcome,
    attempt: &CountedAttempt,
    idempotency: Option<&IdempotencyKey>,
) -> Result<CommandOutcome<LoginResult>, CommandError> {
    attempts::record_refusal(side, context, stored, verdict, attempt, idempotency, &LoginOutcome::Refused).await?;
    Err(CommandError::InvalidCredentials)
}

/// Proceeds from verified factors to a session, or to the next step.
pub(crate) async fn proceed(
    side: &WriteSide,
    context: &Context,
    stored: &StoredCredentials,
    verified: &VerifiedFactors<'_>,
    idempotency: Option<&IdempotencyKey>,
) -> Result<CommandOutcome<LoginResult>, CommandError> {
    let done = decide_login(side, context, stored, verified, idempotency).await;
    attempts::take_back_on_error(&side.pool, verified.attempt, done).await
}

async fn decide_login(
    side: &WriteSide,
    context: &Context,
    stored: &StoredCredentials,
    verified: &VerifiedFactors<'_>,
    idempotency: Option<&IdempotencyKey>,
) -> Result<CommandOutcome<LoginResult>, CommandError> {
    let context = &context.acting_as(stored.account);
    let anonymous = &Context { actor: Actor::Anonymous, ..context.clone() };
    for _ in 0..TRIES {
        let loaded = match account_if_still_right(side, stored, verified).await {
            // The factors were right a moment ago, but no longer.
            Err(CommandError::InvalidCredentials) => {
                let verdict = verified.attempt.verdict(Some(stored));
                return refuse(side, anonymous, Some(stored), verdict, verified.attempt, idempotency).await;
            }
            loaded => loaded?,
        };
        let state = loaded.snapshot.state;
        let admission = lockdown::admission(side, &state.roles).await?;
        let policy = side.policy();
        let facts = LoginFacts {
            account: &state,
            password_set_at: loaded.snapshot.password_set_at.unwrap_or(DateTime::UNIX_EPOCH),
            is_admitted: admission.admitted,
            has_code: verified.seed.is_some(),
            policy: &policy,
            now: context.now,
        };
        let obstacle = facts.obstacles().next();
        let next = match obstacle {
            Some(LoginObstacle::Suspended) => {
                return refuse(side, anonymous, Some(stored), AttemptOutcome::Suspended, verified.attempt, idempotency)
                    .await;
            }
            Some(LoginObstacle::LockedDown) => {
                let mut unit =
                    attempts::refusal(side, anonymous, Some(stored), AttemptOutcome::Lockdown, verified.attempt)
                        .await?;
                // A right attempt must not count towards a lockout after the lockdown.
                unit.vault(verified.attempt.success_write());
                execute::commit(side, unit, None, ()).await?;
                return Err(CommandError::InvalidCredentials);
            }
            Some(LoginObstacle::CodeMissing) => LoginStep::Challenge(ChallengePurpose::SecondFactor),
            Some(LoginObstacle::PasswordExpired | LoginObstacle::PasswordOutdated { .. }) => {
                LoginStep::Challenge(ChallengePurpose::PasswordChange)
            }
            Some(LoginObstacle::EnrolmentMissing) => LoginStep::Challenge(ChallengePurpose::Enrolment),
            None => LoginStep::StartSession,
        };
        let personal = network_facts(context).with(SealedField::Device, Some(&verified.device.to_string()));
        let mut unit = side.unit_of_work(context).sealing(Some((stored.key.clone(), personal)));
        // The factors are verified for this version of the account only.
        unit.expect(Category::Account, stored.account.0, ExpectedVersion::Exact(loaded.version));
        admission.expect_unchanged(&mut unit);
        unit.vault(verified.attempt.success_write());
        if let Some(verifier) = &verified.rehashed {
            unit.vault(VaultWrite::Rehash { account: stored.account, verifier: verifier.clone() });
        }
        if let Some(hash) = verified.recovery {
            unit.vault(VaultWrite::SpendRecoveryCode { account: stored.account, hash });
            let used = Account::handle_command(&state, AccountCommand::UseRecoveryCode)?;
            unit.record(stored.account.0, Some(stored.account), used)?;
        }
        let done = match next {
            LoginStep::StartSession => start_session(side, context, unit, stored, verified, state, idempotency).await,
            LoginStep::Challenge(purpose) => {
                issue_challenge(side, context, unit, stored, verified, purpose, idempotency).await
            }
        };
        match done {
            Err(CommandError::Conflict) => {}
            done => return done,
        }
    }
    Err(CommandError::Conflict)
}

/// Returns the account as the log has it, if all verified factors are still right.
async fn account_if_still_right(
    side: &WriteSide,
    stored: &StoredCredentials,
    verified: &VerifiedFactors<'_>,
) -> Result<LoadedStream<AccountSnapshot>, CommandError> {
    let loaded = credentials::account_with_same_password(side, stored).await?;
    if let Some(seed) = &verified.seed {
        codes::require_current_factor(&side.pool, stored.account, seed, verified.recovery).await?;
    }
    Ok(loaded)
}

async fn issue_challenge(
    side: &WriteSide,
    context: &Context,
    mut unit: UnitOfWork<'_>,
    stored: &StoredCredentials,
    verified: &VerifiedFactors<'_>,
    purpose: ChallengePurpose,
    idempotency: Option<&IdempotencyKey>,
) -> Result<CommandOutcome<LoginResult>, CommandError> {
    let account = stored.account;
    let verdict = match purpose {
        ChallengePurpose::SecondFactor => AttemptOutcome::SecondFactorRequired { enrolled: true },
        ChallengePurpose::Enrolment => AttemptOutcome::SecondFactorRequired { enrolled: false },
        ChallengePurpose::PasswordChange => AttemptOutcome::PasswordChangeRequired,
    };
    unit.record(account.0, Some(account), attempts::decide_attempt(side, verified.attempt, verdict, context.now))?;
    let challenge = Challenge::new(purpose, account, verified.device, verified.known_device, context.now);
    let factors = factors_after(&side.vault, stored, verified)?;
    match execute::commit(side, unit, idempotency, LoginOutcome::Challenged(challenge, factors)).await? {
        CommitOutcome::New(_, receipt) => {
            let value = LoginResult::Challenge(challenge::issue(&side.vault, challenge, &factors, context.now));
            Ok(CommandOutcome { value, position: receipt.position })
        }
        CommitOutcome::Replayed(outcome) => replay(side, context, outcome, true).await,
    }
}

/// Returns a digest of the factors after the login's append, which may replace the verifier.
fn factors_after(
    vault: &Vault,
    stored: &StoredCredentials,
    verified: &VerifiedFactors<'_>,
) -> Result<[u8; 32], CommandError> {
    let sealed = verified.rehashed.as_deref();
    let rehashed = sealed.map(|sealed| read_verifier(&stored.key, sealed)).transpose()?;
    Ok(credentials::factors_digest(vault, rehashed.as_ref().unwrap_or(&stored.verifier), stored.seed.as_deref()))
}

async fn start_session(
    side: &WriteSide,
    context: &Context,
    mut unit: UnitOfWork<'_>,
    stored: &StoredCredentials,
    verified: &VerifiedFactors<'_>,
    state: AccountState,
    idempotency: Option<&IdempotencyKey>,
) -> Result<CommandOutcome<LoginResult>, CommandError> {
    let (account, session) = (stored.account, SessionId(context.new_id()));
    let root = random_bytes()?;
    let (device, methods) = (verified.device, verified.methods.clone());
    let policy = side.policy();
    let command = SessionCommand::Start {
        account,
        methods: methods.clone(),
        fingerprint: refresh::fingerprint(&side.vault, context, device),
        at: context.now,
        policy: policy.sessions.clone(),
    };
    let started = Session::handle_command(&SessionState::None, command)?;
    unit.expect(Category::Session, session.0, ExpectedVersion::New);
    let mut session_ends_at = context.now;
    for event in &started {
        if let SessionEvent::Started { expires_at, .. } = event {
            session_ends_at = *expires_at;
            unit.vault(VaultWrite::RefreshRoot { session, account, device, root, expires_at: *expires_at });
        }
    }
    let known = verified.known_device;
    unit.vault(VaultWrite::UseDevice { account, device, known, session, at: context.now });
    let trusted_device = (!known).then(|| attempts::device_name(&side.vault, account, device));
    let right = AttemptOutcome::Succeeded { methods: methods.clone(), session, trusted_device };
    unit.record(account.0, Some(account), attempts::decide_attempt(side, verified.attempt, right, context.now))?;
    unit.record(session.0, Some(account), started)?;
    if !known && has_logged_in_before(&side.pool, account).await? {
        unit.record(account.0, Some(account), [AuthenticationEvent::NewDeviceSeen { session }])?;
    }

    let factors = factors_after(&side.vault, stored, verified)?;
    match execute::commit(side, unit, idempotency, LoginOutcome::Started { account, session, device, factors }).await? {
        CommitOutcome::New(_, receipt) => {
            ends::end_beyond_limit(side, context, account).await?;
            let position = receipt.position.unwrap_or_default();
            let issue = TokenParameters {
                account,
                session,
                generation: 1,
                authenticated_at: context.now,
                methods,
                step_up_required: false,
                roles: state.roles.into_iter().collect(),
                position,
                session_ends_at,
            };
            let device_token = device_token(&side.vault, account, device);
            let value = LoginResult::Session(tokens::issue(side, context, issue, &root, Some(device_token))?);
            Ok(CommandOutcome { value, position: Some(position) })
        }
        CommitOutcome::Replayed(outcome) => replay(side, context, outcome, true).await,
    }
}

/// Returns the answer to a replayed login. A caller whose factors are no longer right is refused.
async fn replay(
    side: &WriteSide,
    context: &Context,
    outcome: LoginOutcome,
    is_recent: bool,
) -> Result<CommandOutcome<LoginResult>, CommandError> {
    match outcome {
        LoginOutcome::Refused => Err(CommandError::InvalidCredentials),
        LoginOutcome::Challenged(challenge, factors) => {
            let stored = credentials::find(side, challenge.account).await?.ok_or(CommandError::InvalidCredentials)?;
            if challenge.has_expired(context.now) || factors != credentials::factors_digest_of(&side.vault, &stored) {
                return Err(CommandError::InvalidCredentials);
            }
            execute::replayed(
                &side.log,
                LoginResult::Challenge(challenge::issue(&side.vault, challenge, &factors, context.now)),
            )
            .await
        }
        LoginOutcome::Started { account, session, device, factors } => {
            let stored = credentials::find(side, account).await?.ok_or(CommandError::InvalidCredentials)?;
            if factors != credentials::factors_digest_of(&side.vault, &stored) {
                return Err(CommandError::InvalidCredentials);
            }
            if !is_recent {
                return Err(CommandError::OutcomeExpired);
            }
            // The original request may have failed before this.
            ends::end_beyond_limit(side, &context.acting_as(account), account).await?;
            let device_token = device_token(&side.vault, account, device);
            let again = tokens::issue_again(side, context, session, 1, Some(device_token)).await?;
            let CommandOutcome { value, position } = again.ok_or(CommandError::InvalidCredentials)?;
            Ok(CommandOutcome { value: LoginResult::Session(value), position })
        }
    }
}

/// Returns `true` if a login has ever started a session. Reads at most the first thousand attempts.
async fn has_logged_in_before(pool: &PgPool, account: AccountId) -> Result<bool, CommandError> {
    // The first success is usually among the first events, and later ones are not read.
    let known = sqlx::query_scalar!(
        r#"select exists (
               select from (select version, leaf from log.event
                            where stream_id = $1 and category = 'authentication'
                            order by version limit 1000) attempt
               where position('"type":"authentication.succeeded"'::bytea in leaf) > 0 or version = 1000
           ) as "known!""#,
        account.0
    );
    Ok(known.fetch_one(pool).await?)
}

/// Hashes a right password at the configured cost.
async fn rehash(
    hasher: &PasswordHasher,
    stored: &StoredCredentials,
    password: Password,
    permit: HashingPermit,
) -> Result<Vec<u8>, CommandError> {
    let verifier = credentials::hash_password(hasher, password, permit).await?;
    Ok(stored.key.seal_verifier("password", verifier.expose())?)
}
