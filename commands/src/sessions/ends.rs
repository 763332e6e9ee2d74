//! That sessions have ended, recorded of each: those that were taken away all at once, by an event of the account
//! (`sign_out`), and those that an account has too many of.
//!
//! The former are refused from that event on; this follows, at some node, and what one leaves half done another takes up, or
//! the next that starts. The latter end before the login that was one too many is answered.

use std::time::Duration;

use fulexo_domain::event::Category;
use fulexo_domain::session::{RevokedBy, SessionEvent};
use fulexo_domain::values::AccountId;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::context::Context;
use crate::error::CommandError;
use crate::execute;
use crate::log::ExpectedVersion;
use crate::write_side::WriteSide;

/// Sessions that end in one append.
const AT_ONCE: i64 = 100;
/// Accounts that are looked at in one round.
const ACCOUNTS: i64 = 100;
/// Between two looks: what another node was to do, it may have died over.
const LOOK: Duration = Duration::from_secs(3);
/// Between two looks for accounts with too many sessions: logins see to that, unless a node dies over one, or the policy
/// allows fewer.
const COUNT: Duration = Duration::from_secs(600);
/// How often an end is decided anew: several logins at once end the same sessions.
const TRIES: usize = 64;

/// A session to be ended, at the version that it was found at.
struct DueSessionEnd {
    session: Uuid,
    account: AccountId,
    version: u64,
    by: RevokedBy,
}

pub(crate) async fn record_session_ends(side: &WriteSide, context: impl Fn() -> Context + Send) {
    let mut counted: Option<Instant> = None;
    loop {
        if let Err(error) = end_those_taken_away(side, &context()).await {
            tracing::warn!(%error, "that sessions have ended could not be recorded; trying again");
        }
        if counted.is_none_or(|at| at.elapsed() >= COUNT) {
            match end_all_beyond_limit(side, &context()).await {
                Ok(()) => counted = Some(Instant::now()),
                Err(error) => tracing::warn!(%error, "sessions beyond the limit could not be ended; trying again"),
            }
        }
        tokio::select! {
            () = side.queues.ends_due.notified() => {}
            () = sleep(LOOK) => {}
        }
    }
}

async fn end_those_taken_away(side: &WriteSide, context: &Context) -> Result<(), CommandError> {
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
            end_those_of(side, context, AccountId(account.account_id)).await?;
            // If it was changed since, it is looked at again.
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

async fn end_those_of(side: &WriteSide, context: &Context, account: AccountId) -> Result<(), CommandError> {
    loop {
        // At one moment: over, without an event that says so, and at this version.
        let rows = sqlx::query!(
            r#"select s.session_id, v.version, a.sessions_ended_by
               from access.account a
               join access.session s on s.account_id = a.account_id and s.ended_at is null
               join log.stream v on v.stream_id = s.session_id and v.category = 'session'
               where a.account_id = $1
                 and not exists (select from access.live_session l where l.session_id = s.session_id)
               order by s.session_id limit $2"#,
            account.0,
            AT_ONCE
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
            by: row.sessions_ended_by.as_deref().and_then(RevokedBy::parse).unwrap_or(RevokedBy::Suspension),
        });
        match end_due(side, context, due.collect()).await {
            // Another node was faster.
            Ok(()) | Err(CommandError::Contended) => {}
            Err(error) => return Err(error),
        }
    }
}

async fn end_all_beyond_limit(side: &WriteSide, context: &Context) -> Result<(), CommandError> {
    let most = i64::from(side.current_policy().await?.sessions.most_live);
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

/// Ends the sessions of an account that are too many: those past their end first, then the oldest. Whoever calls this
/// after each of several logins, at however many nodes, leaves no more than the policy allows: the last to look sees
/// all.
pub(crate) async fn end_beyond_limit(
    side: &WriteSide,
    context: &Context,
    account: AccountId,
) -> Result<(), CommandError> {
    let most = i64::from(side.current_policy().await?.sessions.most_live);
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
            AT_ONCE
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
            by: RevokedBy::Limit,
        });
        match end_due(side, context, due.collect()).await {
            Ok(()) | Err(CommandError::Contended) => {}
            Err(error) => return Err(error),
        }
    }
    Err(CommandError::Contended)
}

/// Ends each of them, or none: no end is recorded twice.
async fn end_due(side: &WriteSide, context: &Context, due: Vec<DueSessionEnd>) -> Result<(), CommandError> {
    let context = &Context { idempotency_key: None, ..context.clone() };
    let mut unit = side.unit_of_work(context);
    for DueSessionEnd { session, account, version, by } in due {
        unit.expect(Category::Session, session, ExpectedVersion::Exact(version));
        unit.record(session, Some(account), [SessionEvent::Revoked { by }])?;
    }
    execute::commit(side, unit, None, ()).await?;
    Ok(())
}
