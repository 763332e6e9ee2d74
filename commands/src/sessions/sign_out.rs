//! Revocation of sessions: one of the caller's own, all others, all of an account.

use fulexo_domain::Aggregate;
use fulexo_domain::account::{Account, AccountCommand, AccountState};
use fulexo_domain::event::Category;
use fulexo_domain::session::{RevocationCause, Session, SessionCommand, SessionError, SessionState};
use fulexo_domain::values::{AccountId, SessionId};
use sqlx::PgPool;
use uuid::Uuid;

use crate::context::Context;
use crate::error::CommandError;
use crate::execute::{self, CommandOutcome, CommitOutcome, TRIES};
use crate::idempotency::IdempotencyKey;
use crate::log::ExpectedVersion;
use crate::sessions::tokens;
use crate::unit_of_work::UnitOfWork;
use crate::write_side::WriteSide;

pub(crate) async fn end_own_session(
    side: &WriteSide,
    context: &Context,
    account: AccountId,
    session: SessionId,
) -> Result<CommandOutcome<()>, CommandError> {
    for _ in 0..TRIES {
        let loaded = tokens::load_session(side, session).await?;
        match &loaded.state {
            SessionState::Live(live) if live.account == account => {}
            // Ended concurrently, or never the caller's. The latter must look like a session that does not exist.
            SessionState::Ended if session_belongs_to(&side.pool, session, account).await? => {
                return Ok(CommandOutcome { value: (), position: Some(loaded.last_position) });
            }
            SessionState::Live(_) | SessionState::Ended | SessionState::None => {
                return Err(SessionError::Ended.into());
            }
        }
        let command = SessionCommand::Revoke { by: RevocationCause::Owner };
        let events = Session::handle_command(&loaded.state, command)?;
        let mut unit = side.unit_of_work(context);
        unit.expect(Category::Session, session.0, ExpectedVersion::Exact(loaded.version));
        unit.record(session.0, Some(account), events)?;
        match execute::commit(side, unit, None, ()).await {
            Ok(CommitOutcome::New((), receipt)) => return Ok(CommandOutcome { value: (), position: receipt.position }),
            Ok(CommitOutcome::Replayed(())) => return Ok(CommandOutcome { value: (), position: None }),
            Err(CommandError::Conflict) => {}
            Err(error) => return Err(error),
        }
    }
    Err(CommandError::Conflict)
}

pub(crate) async fn end_other_sessions(
    side: &WriteSide,
    context: &Context,
    account: AccountId,
    but: SessionId,
) -> Result<CommandOutcome<usize>, CommandError> {
    revoke_all(side, context, "end_other_sessions", account, Some(but), RevocationCause::Owner).await
}

/// Revokes the sessions of an account but one. A replay does not touch sessions that started since. Records nothing if
/// no session is live.
pub(crate) async fn revoke_all(
    side: &WriteSide,
    context: &Context,
    operation: &str,
    account: AccountId,
    kept: Option<SessionId>,
    by: RevocationCause,
) -> Result<CommandOutcome<usize>, CommandError> {
    let but = kept.map_or(Uuid::nil(), |kept| kept.0);
    let content = [account.0.as_bytes().as_slice(), but.as_bytes()];
    let idempotency = IdempotencyKey::of(&side.vault, context, operation, &content);
    let decided = execute::decide(side, idempotency.as_ref(), async || {
        let (state, version) = side.account_state(account).await?;
        let live = live_sessions(&side.pool, context, account, kept).await?;
        let mut unit = side.unit_of_work(context);
        if live > 0 {
            unit.expect(Category::Account, account.0, ExpectedVersion::Exact(version));
            revoke_sessions(&side.pool, &mut unit, account, &state, kept, by).await?;
        }
        Ok((unit, live))
    });
    let done = execute::run_once(&side.log, idempotency.as_ref(), decided).await?;
    if done.position.is_some() { Ok(done) } else { execute::replayed(&side.log, done.value).await }
}

/// Adds the event that ends every session of an account but one. It is a single event for any number of sessions:
/// tokens are refused from its position on, and the end of each session is recorded later (`ends`). Every revocation of
/// all sessions goes through here, and has the version of the account that `state` belongs to as a precondition.
///
/// # Errors
/// [`CommandError::InvalidCredentials`] if the session to keep is no longer live: it would be revived.
pub(crate) async fn revoke_sessions(
    pool: &PgPool,
    unit: &mut UnitOfWork<'_>,
    account: AccountId,
    state: &AccountState,
    kept: Option<SessionId>,
    by: RevocationCause,
) -> Result<(), CommandError> {
    if let Some(kept) = kept
        && !is_live(pool, kept, account).await?
    {
        return Err(CommandError::InvalidCredentials);
    }
    let events = Account::handle_command(state, AccountCommand::RevokeSessions { by, except_session: kept })?;
    unit.record(account.0, Some(account), events)
}

/// Returns the number of live sessions of an account, without this one.
async fn live_sessions(
    pool: &PgPool,
    context: &Context,
    account: AccountId,
    but: Option<SessionId>,
) -> Result<usize, CommandError> {
    let live = sqlx::query_scalar!(
        r#"select count(*) as "live!" from access.live_session
           where account_id = $1 and session_id is distinct from $2 and idle_expires_at > $3 and expires_at > $3"#,
        account.0,
        but.map(|but| but.0),
        context.now
    )
    .fetch_one(pool)
    .await?;
    Ok(usize::try_from(live).unwrap_or_default())
}

async fn is_live(pool: &PgPool, session: SessionId, account: AccountId) -> Result<bool, CommandError> {
    let is_live = sqlx::query_scalar!(
        r#"select exists (
               select from access.live_session where session_id = $1 and account_id = $2) as "is_good!""#,
        session.0,
        account.0
    )
    .fetch_one(pool)
    .await?;
    Ok(is_live)
}

async fn session_belongs_to(pool: &PgPool, session: SessionId, account: AccountId) -> Result<bool, CommandError> {
    let owner = sqlx::query_scalar!("select account_id from access.session where session_id = $1", session.0)
        .fetch_optional(pool)
        .await?;
    Ok(owner == Some(account.0))
}
