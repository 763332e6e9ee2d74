//! Records the end of each session that was revoked together with others by an event of the account (`sign_out`), and
//! ends the sessions beyond an account's limit.
//!
//! Sessions of the first kind are refused from that event on. Their ends are recorded later, by any node; another node,
//! or the next one to start, continues after a crash. Sessions of the second kind end before the login that exceeded
//! the limit is answered.

use std::time::Duration;

use fulexo_database::chain;
use fulexo_domain::event::Category;
use fulexo_domain::session::{RevocationCause, SessionEvent};
use fulexo_domain::values::AccountId;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::context::Context;
use crate::error::CommandError;
use crate::execute;
use crate::log::ExpectedVersion;
use crate::write_side::WriteSide;

/// The maximum number of sessions per append.
const BATCH: i64 = 100;
/// The maximum number of accounts per round.
const ACCOUNTS: i64 = 100;
/// The interval between checks for ends that a crashed node left unrecorded.
const POLL_INTERVAL: Duration = Duration::from_secs(3);
/// The interval between checks for accounts beyond the limit. Logins enforce it, unless their node crashes or the
/// policy lowers the limit.
const LIMIT_CHECK_INTERVAL: Duration = Duration::from_secs(600);
/// The number of attempts to end sessions: several concurrent logins end the same ones.
const TRIES: usize = 64;

/// A session to end, at the version that was read.
struct DueSessionEnd {
    session: Uuid,
    account: AccountId,
    version: u64,
    by: RevocationCause,
}

pub(crate) async fn record_session_ends(side: &WriteSide, context: impl Fn() -> Context + Send) {
    let mut counted: Option<Instant> = None;
    loop {
        if let Err(error) = end_revoked_sessions(side, &context()).await {
            tracing::warn!(error = %chain(&error), "the ends of revoked sessions could not be recorded; trying again");
        }
        if counted.is_none_or(|at| at.elapsed() >= LIMIT_CHECK_INTERVAL) {
            match end_all_beyond_limit(side, &context()).await {
                Ok(()) => counted = Some(Instant::now()),
                Err(error) => {
                    tracing::warn!(error = %chain(&error), "sessions beyond the limit could not be ended; trying again")
                }
            }
        }
        tokio::select! {
            () = side.queues.ends_due.notified() => {}
            () = sleep(POLL_INTERVAL) => {}
        }
    }
}

async fn end_revoked_sessions(side: &WriteSide, context: &Context) -> Result<(), CommandError> {
    let mut after = Uuid::nil();
    loop {
        let accounts = sqlx::query!(
            "select account_id, changed_position from access.account
             where ends_due and account_id > $1 order by account_id limit $2",
            after,
            ACCOUNTS
        )
        .fetch_all(&side.pool)
        .await?;
        let Some(last) = accounts.last() else { return Ok(()) };
        after = last.account_id;
        for account in accounts {
            end_revoked_sessions_of(side, context, AccountId(account.account_id)).await?;
            // If the account has changed since, it stays due.
            sqlx::query!(
                "update access.account set ends_due = false where account_id = $1 and changed_position = $2",
                account.account_id,
                account.changed_position
            )
            .execute(&side.pool)
            .await?;
        }
    }
}

async fn end_revoked_sessions_of(side: &WriteSide, context: &Context, account: AccountId) -> Result<(), CommandError> {
    loop {
        // One snapshot of the sessions that are over without an event, with their versions.
        let rows = sqlx::query!(
            r#"select s.session_id, v.version, a.sessions_ended_by
               from access.account a
               join access.session s on s.account_id = a.account_id and s.ended_at is null
               join log.stream v on v.stream_id = s.session_id and v.category = 'session'
               where a.account_id = $1
                 and not exists (select from access.live_session l where l.session_id = s.session_id)
               order by s.session_id limit $2"#,
            account.0,
            BATCH
        )
        .fetch_all(&side.pool)
        .await?;
        if rows.is_empty() {
            return Ok(());
        }
        let due = rows.into_iter().map(|row| DueSessionEnd {
            session: row.session_id,
            account,
            version: row.version.unsigned_abs(),
            by: row
                .sessions_ended_by
                .as_deref()
                .and_then(RevocationCause::parse)
                .unwrap_or(RevocationCause::Suspension),
        });
        match end_sessions(side, context, due.collect()).await {
            // Another node was faster.
            Ok(()) | Err(CommandError::Conflict) => {}
            Err(error) => return Err(error),
        }
    }
}

async fn end_all_beyond_limit(side: &WriteSide, context: &Context) -> Result<(), CommandError> {
    let most = i64::from(side.current_policy().await?.sessions.max_per_account);
    let accounts = sqlx::query_scalar!(
        "select account_id from access.session where ended_at is null group by account_id having count(*) > $1",
        most
    )
    .fetch_all(&side.pool)
    .await?;
    for account in accounts {
        end_beyond_limit(side, context, AccountId(account)).await?;
    }
    Ok(())
}

/// Ends the sessions of an account beyond the limit: expired ones first, then the oldest. Each login calls this after
/// its append. Whatever their order and nodes, the last call sees every session, so no more than the limit remain.
pub(crate) async fn end_beyond_limit(
    side: &WriteSide,
    context: &Context,
    account: AccountId,
) -> Result<(), CommandError> {
    let most = i64::from(side.current_policy().await?.sessions.max_per_account);
    for _ in 0..TRIES {
        let rows = sqlx::query!(
            r#"select s.session_id as "session_id!", v.version from (
                   select session_id,
                          row_number() over (
                              order by idle_expires_at > $3 and expires_at > $3 desc, started_position desc) as nth
                   from access.live_session where account_id = $1) s
               join log.stream v on v.stream_id = s.session_id and v.category = 'session'
               where s.nth > $2 order by s.nth desc limit $4"#,
            account.0,
            most,
            context.now,
            BATCH
        )
        .fetch_all(&side.pool)
        .await?;
        if rows.is_empty() {
            return Ok(());
        }
        let due = rows.into_iter().map(|row| DueSessionEnd {
            session: row.session_id,
            account,
            version: row.version.unsigned_abs(),
            by: RevocationCause::SessionLimit,
        });
        match end_sessions(side, context, due.collect()).await {
            Ok(()) | Err(CommandError::Conflict) => {}
            Err(error) => return Err(error),
        }
    }
    Err(CommandError::Conflict)
}

/// Ends all of these sessions or none, so that no end is recorded twice.
async fn end_sessions(side: &WriteSide, context: &Context, due: Vec<DueSessionEnd>) -> Result<(), CommandError> {
    let context = &Context { idempotency_key: None, ..context.clone() };
    let mut unit = side.unit_of_work(context);
    for DueSessionEnd { session, account, version, by } in due {
        unit.expect(Category::Session, session, ExpectedVersion::Exact(version));
        unit.record(session, Some(account), [SessionEvent::Revoked { by }])?;
    }
    execute::commit(side, unit, None, ()).await?;
    Ok(())
}
