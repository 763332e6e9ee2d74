//! Password changes: the rules that a new password has to meet, and the sessions that a change ends.

use fulexo_domain::Aggregate;
use fulexo_domain::account::{Account, AccountCommand, PasswordChangeCause};
use fulexo_domain::authentication::AttemptOutcome;
use fulexo_domain::event::Category;
use fulexo_domain::password::{Password, PasswordViolation, violations};
use fulexo_domain::session::RevocationCause;
use fulexo_domain::values::{AccountId, DisplayName, EmailAddress, SessionId};
use futures_util::future::try_join_all;

use crate::accounts::profile;
use crate::authentication::attempts::{self, CountedAttempt};
use crate::authentication::challenge::PendingLogin;
use crate::authentication::credentials::{self, StoredCredentials, read_verifier};
use crate::authentication::password_hash::{HashingPermit, PasswordHasher};
use crate::context::Context;
use crate::error::CommandError;
use crate::execute::{self, CommandOutcome, CommitOutcome};
use crate::idempotency::IdempotencyKey;
use crate::log::ExpectedVersion;
use crate::mail::kind::RESET;
use crate::rate_limit;
use crate::sessions::{sign_out, tokens};
use crate::vault::write::VaultWrite;
use crate::write_side::WriteSide;

/// A new password with the rules that it breaks, and the permits to hash and compare it.
struct PasswordCandidate {
    /// The session that stays live.
    session: Option<SessionId>,
    new: Password,
    broken: Vec<PasswordViolation>,
    permit: HashingPermit,
    /// The permits for comparisons with earlier passwords.
    permits: Vec<HashingPermit>,
}

/// The owner who changes a password, with the proof of their identity.
#[derive(Clone, Copy)]
pub enum PasswordOwner {
    /// A logged-in owner. This session stays live.
    Session(AccountId, SessionId),
    /// An owner with a pending login that allows only the password change.
    PendingLogin(PendingLogin),
}

/// A current password, and the one that replaces it. No `Debug`.
pub struct PasswordReplacement {
    /// The current password, as its owner typed it.
    pub current: Password,
    /// The new password.
    pub new: Password,
}

impl PasswordOwner {
    const fn session(self) -> Option<SessionId> {
        match self {
            Self::Session(_, session) => Some(session),
            Self::PendingLogin(_) => None,
        }
    }
}

pub(crate) async fn change_password(
    side: &WriteSide,
    context: &Context,
    owner: PasswordOwner,
    PasswordReplacement { current, new }: PasswordReplacement,
) -> Result<CommandOutcome<()>, CommandError> {
    let content = [current.expose().as_bytes(), new.expose().as_bytes()];
    let idempotency = IdempotencyKey::of(&side.vault, context, "change_password", &content);
    execute::run_once(&side.log, idempotency.as_ref(), async {
        let (account, device) = match owner {
            PasswordOwner::Session(account, session) => (account, tokens::device_of(&side.pool, session).await?),
            PasswordOwner::PendingLogin(PendingLogin(challenge)) => (challenge.account, challenge.device),
        };
        let profile = profile::profile(side, account).await?.ok_or(CommandError::InvalidCredentials)?;
        // Permits are taken before anything is counted. One permit covers several hashes in sequence.
        let permit = rate_limit::hashing_permit(side, context)?;
        let broken =
            broken_rules(&side.hasher, &new, &profile.email, profile.display_name.as_ref(), permit.clone()).await?;
        let permits = if broken.is_empty() {
            rate_limit::hashing_permits(side, context, max_comparisons(side) + 1)?
        } else {
            Vec::new()
        };
        // A caller who does not know the current password learns nothing about the new one.
        let (stored, attempt) =
            attempts::verify_password(side, context, account, device, current, permit.clone()).await?;
        let change = PasswordCandidate { session: owner.session(), new, broken, permit, permits };
        let changed = change_proven_password(side, context, &stored, change, &attempt, idempotency.as_ref()).await;
        attempts::conclude(side, context, &stored, &attempt, changed).await
    })
    .await
}

/// Changes the password, after the current one was verified.
async fn change_proven_password(
    side: &WriteSide,
    context: &Context,
    stored: &StoredCredentials,
    change: PasswordCandidate,
    attempt: &CountedAttempt,
    idempotency: Option<&IdempotencyKey>,
) -> Result<CommitOutcome<()>, CommandError> {
    let PasswordCandidate { session, new, mut broken, permit, permits } = change;
    let account = stored.account;
    if broken.is_empty() && is_reused(side, stored, &new, &permits).await? {
        broken.push(PasswordViolation::Reused);
    }
    if !broken.is_empty() {
        // The current password was right, so this attempt was not a guess.
        let mut unit = side.unit_of_work(context);
        unit.vault(attempt.success_write());
        let confirmed = attempts::decide_attempt(side, attempt, AttemptOutcome::Confirmed, context.now);
        unit.record(account.0, Some(account), confirmed)?;
        execute::commit(side, unit, None, ()).await?;
        return Err(CommandError::Password(broken));
    }
    let hashed = credentials::hash_password(&side.hasher, new, permit).await?;
    record_new_password(side, context, stored, session, hashed.expose(), attempt, idempotency).await
}

async fn record_new_password(
    side: &WriteSide,
    context: &Context,
    stored: &StoredCredentials,
    session: Option<SessionId>,
    hashed: &str,
    attempt: &CountedAttempt,
    idempotency: Option<&IdempotencyKey>,
) -> Result<CommitOutcome<()>, CommandError> {
    let account = stored.account;
    let decided = execute::decide(side, idempotency, async || {
        let (state, version) = credentials::state_with_same_password(side, stored).await?;
        let due = state.password_expired || session.is_none();
        let how = if due { PasswordChangeCause::Expired } else { PasswordChangeCause::Owner };
        let events = Account::handle_command(&state, AccountCommand::ChangePassword { how })?;
        let mut unit = side.unit_of_work(context);
        unit.expect(Category::Account, account.0, ExpectedVersion::Exact(version));
        unit.vault(attempt.success_write());
        unit.vault(VaultWrite::ForgetMailTokens { account, purposes: RESET });
        unit.vault(VaultWrite::Password {
            account,
            verifier: stored.key.seal_verifier("password", hashed)?,
            keep: history_length(side),
        });
        let confirmed = attempts::decide_attempt(side, attempt, AttemptOutcome::Confirmed, context.now);
        unit.record(account.0, Some(account), confirmed)?;
        unit.record(account.0, Some(account), events)?;
        sign_out::revoke_sessions(&side.pool, &mut unit, account, &state, session, RevocationCause::PasswordChange)
            .await?;
        Ok((unit, ()))
    });
    decided.await
}

/// Returns the rules that a password breaks, except the one on reuse.
pub(crate) async fn broken_rules(
    hasher: &PasswordHasher,
    password: &Password,
    email: &EmailAddress,
    name: Option<&DisplayName>,
    permit: HashingPermit,
) -> Result<Vec<PasswordViolation>, CommandError> {
    let (password, email, name) = (password.clone(), email.clone(), name.cloned());
    let judge = move || violations(&password, &email, name.as_ref());
    Ok(hasher.judge(judge, permit).await?)
}

/// Returns `true` if the password is the current one or an earlier one. Each comparison costs a hash; as many run in
/// parallel as there are permits.
pub(crate) async fn is_reused(
    side: &WriteSide,
    stored: &StoredCredentials,
    password: &Password,
    permits: &[HashingPermit],
) -> Result<bool, CommandError> {
    let previous = sqlx::query_scalar!(
        "select verifier from vault.password_history where account_id = $1 order by ordinal desc limit $2",
        stored.account.0,
        history_length(side)
    )
    .fetch_all(&side.pool)
    .await?;
    let mut verifiers = vec![stored.verifier.clone()];
    for sealed in previous {
        verifiers.push(read_verifier(&stored.key, &sealed)?);
    }
    for verifiers in verifiers.chunks(permits.len().max(1)) {
        let compared = verifiers
            .iter()
            .zip(permits)
            .map(|(verifier, permit)| side.hasher.verify(password.clone(), Some(verifier.clone()), permit.clone()));
        let same = try_join_all(compared).await?;
        if same.contains(&true) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Returns the maximum number of verifiers that a new password is compared with.
pub(crate) fn max_comparisons(side: &WriteSide) -> usize {
    usize::try_from(side.policy().passwords.history).unwrap_or(usize::MAX).max(1)
}

pub(crate) fn history_length(side: &WriteSide) -> i64 {
    i64::from(side.policy().passwords.history.saturating_sub(1))
}
