//! What gates a request, as tables: written in the transaction of the event it follows from, so never behind the
//! log. The part of it that is young enough to matter is in every node's memory (`gate`).

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use fulexo_domain::account::AccountEvent;
use fulexo_domain::event::{Event, Recorded};
use fulexo_domain::session::SessionEvent;
use fulexo_domain::values::{AccountId, RoleName, SessionId};
use sqlx::{PgConnection, PgPool};

use crate::to_i64;

/// Whether an event changes what gates requests.
#[must_use]
pub const fn concerns(event: &Event) -> bool {
    match event {
        Event::Account(event) => match event {
            AccountEvent::Registered {} | AccountEvent::RoleGranted { .. } | AccountEvent::RoleRevoked { .. } => true,
            AccountEvent::PasswordChanged { .. } | AccountEvent::Suspended {} | AccountEvent::Reinstated {} => false,
        },
        Event::Session(event) => match event {
            SessionEvent::Started { .. }
            | SessionEvent::Refreshed { .. }
            | SessionEvent::Elevated { .. }
            | SessionEvent::Revoked { .. }
            | SessionEvent::Expired {} => true,
            SessionEvent::RefreshReused { .. } => false,
        },
        Event::Authentication(_) => false,
    }
}

/// Applies a batch. Handed to the log by the composition root, and called under its lock.
pub fn apply<'a>(
    connection: &'a mut PgConnection,
    events: &'a [Arc<Recorded>],
) -> Pin<Box<dyn Future<Output = Result<(), sqlx::Error>> + Send + 'a>> {
    Box::pin(async move {
        for recorded in events {
            match &recorded.event {
                Event::Account(event) => apply_account(connection, recorded, event).await?,
                Event::Session(event) => apply_session(connection, recorded, event).await?,
                Event::Authentication(_) => {}
            }
        }
        Ok(())
    })
}

async fn apply_account(
    connection: &mut PgConnection,
    recorded: &Recorded,
    event: &AccountEvent,
) -> Result<(), sqlx::Error> {
    let account = recorded.stream.id;
    match event {
        AccountEvent::Registered {} => {}
        AccountEvent::RoleGranted { role } => {
            sqlx::query!(
                "insert into access.role_grant (account_id, role, position) values ($1, $2, $3)
                 on conflict on constraint role_grant_pkey do nothing",
                account,
                role.as_str(),
                to_i64(recorded.position)
            )
            .execute(&mut *connection)
            .await?;
        }
        AccountEvent::RoleRevoked { role } => {
            sqlx::query!("delete from access.role_grant where account_id = $1 and role = $2", account, role.as_str())
                .execute(&mut *connection)
                .await?;
        }
        AccountEvent::PasswordChanged { .. } | AccountEvent::Suspended {} | AccountEvent::Reinstated {} => {
            return Ok(());
        }
    }
    sqlx::query!(
        "insert into access.account (account_id, changed_position, changed_at) values ($1, $2, $3)
         on conflict on constraint account_pkey do update
         set changed_position = excluded.changed_position, changed_at = excluded.changed_at",
        account,
        to_i64(recorded.position),
        recorded.recorded_at
    )
    .execute(connection)
    .await?;
    Ok(())
}

async fn apply_session(
    connection: &mut PgConnection,
    recorded: &Recorded,
    event: &SessionEvent,
) -> Result<(), sqlx::Error> {
    let session = recorded.stream.id;
    match event {
        SessionEvent::Started { account, idle_expires_at, expires_at, .. } => {
            sqlx::query!(
                "insert into access.session (session_id, account_id, started_position, idle_expires_at, expires_at)
                 values ($1, $2, $3, $4, $5)",
                session,
                account.0,
                to_i64(recorded.position),
                idle_expires_at,
                expires_at
            )
            .execute(connection)
            .await?;
        }
        SessionEvent::Refreshed { idle_expires_at, .. } => {
            sqlx::query!(
                "update access.session set idle_expires_at = $2 where session_id = $1",
                session,
                idle_expires_at
            )
            .execute(connection)
            .await?;
        }
        SessionEvent::Elevated { until, .. } => {
            sqlx::query!("update access.session set elevated_until = $2 where session_id = $1", session, until)
                .execute(connection)
                .await?;
        }
        SessionEvent::Revoked { .. } | SessionEvent::Expired {} => {
            sqlx::query!(
                "update access.session set ended_position = $2, ended_at = $3
                 where session_id = $1 and ended_at is null",
                session,
                to_i64(recorded.position),
                recorded.recorded_at
            )
            .execute(connection)
            .await?;
        }
        SessionEvent::RefreshReused { .. } => {}
    }
    Ok(())
}

/// Rows of sessions that nobody can use, and no node's memory can miss, go away after this.
const KEPT: TimeDelta = TimeDelta::days(1);
/// Most rows in one sweep.
const ROWS: i64 = 5_000;

/// Takes away rows of sessions that ended, or went past their end, more than a day ago; answers how many. The log and
/// the sessions read model keep them.
///
/// # Errors
/// The database; the next sweep does what this one did not.
pub async fn sweep(pool: &PgPool, now: DateTime<Utc>) -> Result<u64, sqlx::Error> {
    let swept = sqlx::query!(
        "delete from access.session where session_id in (
             (select session_id from access.session where ended_at < $1 order by ended_at limit $2)
             union all
             (select session_id from access.session where expires_at < $1 order by expires_at limit $2))",
        now - KEPT,
        ROWS
    )
    .execute(pool)
    .await?;
    Ok(swept.rows_affected())
}

/// What the tables say of a caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Whether the session is live and the account's own.
    pub is_live: bool,
    /// When its elevation by step-up ends, or ended.
    pub elevated_until: Option<DateTime<Utc>>,
    /// The roles that the account holds.
    pub roles: BTreeSet<RoleName>,
}

/// Asks the tables: for a node whose memory does not reach back far enough, or is not current.
///
/// # Errors
/// The database.
pub async fn standing(pool: &PgPool, account: AccountId, session: SessionId) -> Result<Standing, sqlx::Error> {
    let row = sqlx::query!(
        r#"select exists (select from access.session
                          where session_id = $2 and account_id = $1 and ended_at is null) as "is_live!",
                  (select elevated_until from access.session where session_id = $2 and account_id = $1),
                  array(select role from access.role_grant where account_id = $1) as "roles!""#,
        account.0,
        session.0
    )
    .fetch_one(pool)
    .await?;
    let roles = row.roles.iter().filter_map(|role| RoleName::parse(role).ok()).collect();
    Ok(Standing { is_live: row.is_live, elevated_until: row.elevated_until, roles })
}
