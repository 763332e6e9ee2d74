//! The tables that gate requests. They are written in the transaction of the event, so they are never behind the log.
//! Every node keeps the recent part in memory (`gate`).

mod api_keys;
mod lookup;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use fulexo_domain::account::AccountEvent;
use fulexo_domain::api_key::ApiKeyEvent;
use fulexo_domain::authentication::AuthenticationMethod;
use fulexo_domain::event::{Event, RecordedEvent};
use fulexo_domain::lockdown::LockdownEvent;
use fulexo_domain::permission::Permission;
use fulexo_domain::policy::{Policy, PolicyEvent};
use fulexo_domain::role::RoleEvent;
use fulexo_domain::session::{RevocationCause, SessionEvent};
use fulexo_domain::values::SessionId;
use sqlx::{PgConnection, PgPool};

pub use self::api_keys::{ApiKeyAccess, ApiKeyRow, api_key_access, api_keys};
pub(crate) use self::lookup::permissions;
pub use self::lookup::{
    CustomRole, LockdownRow, SessionAccess, custom_roles, holders, lockdown, policy, session_access,
};
use crate::to_i64;

/// `true` if an event changes the tables that gate requests.
#[must_use]
pub const fn concerns(event: &Event) -> bool {
    match event {
        Event::Account(event) => match event {
            AccountEvent::Registered {}
            | AccountEvent::RoleGranted { .. }
            | AccountEvent::RoleRevoked { .. }
            | AccountEvent::SecondFactorEnabled { .. }
            | AccountEvent::SecondFactorDisabled { .. }
            | AccountEvent::Suspended {}
            | AccountEvent::Reinstated {}
            | AccountEvent::SessionsRevoked { .. }
            | AccountEvent::ErasureStarted { .. }
            | AccountEvent::ErasureWithdrawn {}
            | AccountEvent::Erased { .. } => true,
            AccountEvent::ProfileChanged {}
            | AccountEvent::PasswordChanged { .. }
            | AccountEvent::PasswordExpired {}
            | AccountEvent::SecondFactorEnrolmentStarted {}
            | AccountEvent::RecoveryCodesIssued { .. }
            | AccountEvent::RecoveryCodeUsed { .. }
            | AccountEvent::EmailVerified {}
            | AccountEvent::ErasureCompleted { .. } => false,
        },
        Event::Session(event) => match event {
            SessionEvent::Started { .. }
            | SessionEvent::Refreshed { .. }
            | SessionEvent::Elevated { .. }
            | SessionEvent::Revoked { .. }
            | SessionEvent::Expired {} => true,
            SessionEvent::RefreshReused { .. } | SessionEvent::FingerprintMismatched { .. } => false,
        },
        Event::Role(_) | Event::Policy(_) | Event::ApiKey(_) | Event::Lockdown(_) => true,
        Event::Authentication(_)
        | Event::RateLimit(_)
        | Event::Checkpoint(_)
        | Event::Audit(_)
        | Event::Key(_)
        | Event::Backup(_)
        | Event::Incident(_) => false,
    }
}

/// Applies a batch of events. The composition root passes this function to the log, which calls it under its lock.
pub fn apply<'a>(
    connection: &'a mut PgConnection,
    events: &'a [Arc<RecordedEvent>],
) -> Pin<Box<dyn Future<Output = Result<(), sqlx::Error>> + Send + 'a>> {
    Box::pin(async move {
        for recorded in events {
            match &recorded.event {
                Event::Account(event) => apply_account(connection, recorded, event).await?,
                Event::Session(event) => apply_session(connection, recorded, event).await?,
                Event::Role(event) => apply_role(connection, recorded, event).await?,
                Event::Policy(PolicyEvent::Changed { after, .. }) => apply_policy(connection, recorded, after).await?,
                Event::ApiKey(event) => apply_api_key(connection, recorded, event).await?,
                Event::Lockdown(event) => apply_lockdown(connection, recorded, event).await?,
                Event::Authentication(_)
                | Event::RateLimit(_)
                | Event::Checkpoint(_)
                | Event::Audit(_)
                | Event::Key(_)
                | Event::Backup(_)
                | Event::Incident(_) => {}
            }
        }
        Ok(())
    })
}

/// The changes that an event makes to an account, other than to its roles.
#[derive(Default)]
struct AccountAccessChange {
    suspended: Option<bool>,
    sessions: Option<(RevocationCause, Option<SessionId>)>,
    /// The second factor: `true` if enabled, and the session in which it was presented.
    second_factor: Option<(bool, Option<SessionId>)>,
    /// The time from which on the account is erased; `None` inside for never.
    erasure_due: Option<Option<DateTime<Utc>>>,
}

async fn apply_account(
    connection: &mut PgConnection,
    recorded: &RecordedEvent,
    event: &AccountEvent,
) -> Result<(), sqlx::Error> {
    let account = recorded.stream.id;
    let change = match event {
        AccountEvent::Registered {} => AccountAccessChange::default(),
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
            AccountAccessChange::default()
        }
        AccountEvent::RoleRevoked { role } => {
            sqlx::query!("delete from access.role_grant where account_id = $1 and role = $2", account, role.as_str())
                .execute(&mut *connection)
                .await?;
            AccountAccessChange::default()
        }
        AccountEvent::Suspended {} => AccountAccessChange { suspended: Some(true), ..AccountAccessChange::default() },
        AccountEvent::Reinstated {} => AccountAccessChange { suspended: Some(false), ..AccountAccessChange::default() },
        AccountEvent::SessionsRevoked { by, except_session } => {
            AccountAccessChange { sessions: Some((*by, *except_session)), ..AccountAccessChange::default() }
        }
        AccountEvent::SecondFactorEnabled { session } => {
            AccountAccessChange { second_factor: Some((true, *session)), ..AccountAccessChange::default() }
        }
        AccountEvent::SecondFactorDisabled { .. } => {
            AccountAccessChange { second_factor: Some((false, None)), ..AccountAccessChange::default() }
        }
        // Nobody reinstates an erased account, so it stays refused for good.
        AccountEvent::Erased { .. } => {
            AccountAccessChange { suspended: Some(true), erasure_due: Some(None), ..AccountAccessChange::default() }
        }
        AccountEvent::ErasureStarted { due_at } => {
            AccountAccessChange { erasure_due: Some(Some(*due_at)), ..AccountAccessChange::default() }
        }
        AccountEvent::ErasureWithdrawn {} => {
            AccountAccessChange { erasure_due: Some(None), ..AccountAccessChange::default() }
        }
        AccountEvent::ProfileChanged {}
        | AccountEvent::PasswordChanged { .. }
        | AccountEvent::PasswordExpired {}
        | AccountEvent::SecondFactorEnrolmentStarted {}
        | AccountEvent::RecoveryCodesIssued { .. }
        | AccountEvent::RecoveryCodeUsed { .. }
        | AccountEvent::EmailVerified {}
        | AccountEvent::ErasureCompleted { .. } => return Ok(()),
    };
    sqlx::query!(
        "insert into access.account as a
             (account_id, changed_position, changed_at, suspended, sessions_from, except_session, sessions_ended_by,
              ends_due, second_factor_from, second_factor_session, second_factor_enabled, erasure_due)
         values ($1, $2::bigint, $3, coalesce($4, false), case when $5 then $2 else 0 end, $6, $7,
                 coalesce($4, false) or $5, case when $8 then $2 else 0 end, $9, $10, $12)
         on conflict on constraint account_pkey do update
         set changed_position = excluded.changed_position, changed_at = excluded.changed_at,
             suspended = coalesce($4, a.suspended),
             sessions_from = case when $5 then excluded.sessions_from else a.sessions_from end,
             except_session = case when $5 then excluded.except_session else a.except_session end,
             sessions_ended_by = case when $5 then excluded.sessions_ended_by else a.sessions_ended_by end,
             ends_due = a.ends_due or excluded.ends_due,
             second_factor_from = case when $8 then excluded.second_factor_from else a.second_factor_from end,
             second_factor_session =
                 case when $8 then excluded.second_factor_session else a.second_factor_session end,
             second_factor_enabled =
                 case when $8 then excluded.second_factor_enabled else a.second_factor_enabled end,
             erasure_due = case when $11 then excluded.erasure_due else a.erasure_due end",
        account,
        to_i64(recorded.position),
        recorded.recorded_at,
        change.suspended,
        change.sessions.is_some(),
        change.sessions.and_then(|(_, kept)| kept).map(|kept| kept.0),
        change.sessions.map(|(by, _)| by.as_str()),
        change.second_factor.is_some(),
        change.second_factor.and_then(|(_, session)| session).map(|session| session.0),
        change.second_factor.is_some_and(|(enabled, _)| enabled),
        change.erasure_due.is_some(),
        change.erasure_due.flatten()
    )
    .execute(connection)
    .await?;
    Ok(())
}

async fn apply_session(
    connection: &mut PgConnection,
    recorded: &RecordedEvent,
    event: &SessionEvent,
) -> Result<(), sqlx::Error> {
    let session = recorded.stream.id;
    match event {
        SessionEvent::Started { account, methods, idle_expires_at, expires_at, .. } => {
            sqlx::query!(
                "insert into access.session
                     (session_id, account_id, started_position, idle_expires_at, expires_at, second_factor_position)
                 values ($1, $2, $3::bigint, $4, $5, case when $6 then $3 end)",
                session,
                account.0,
                to_i64(recorded.position),
                idle_expires_at,
                expires_at,
                methods.contains(&AuthenticationMethod::OneTime)
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
        SessionEvent::Elevated { methods, until, restored } => {
            sqlx::query!(
                "update access.session
                 set elevated_until = $2, elevated_position = $3::bigint,
                     restored_position = case when $4 then $3::bigint else restored_position end,
                     second_factor_position = case when $5 then $3::bigint else second_factor_position end
                 where session_id = $1",
                session,
                until,
                to_i64(recorded.position),
                restored,
                methods.contains(&AuthenticationMethod::OneTime)
            )
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
        SessionEvent::RefreshReused { .. } | SessionEvent::FingerprintMismatched { .. } => {}
    }
    Ok(())
}

async fn apply_role(
    connection: &mut PgConnection,
    recorded: &RecordedEvent,
    event: &RoleEvent,
) -> Result<(), sqlx::Error> {
    let (role, permissions, retired) = match event {
        RoleEvent::Defined { role, permissions } | RoleEvent::PermissionsChanged { role, after: permissions, .. } => {
            (role, permissions.as_slice(), false)
        }
        RoleEvent::Retired { role } => (role, [].as_slice(), true),
    };
    sqlx::query!(
        "insert into access.role (role, permissions, retired, position, changed_at) values ($1, $2, $3, $4, $5)
         on conflict on constraint role_pkey do update
         set permissions = excluded.permissions, retired = excluded.retired, position = excluded.position,
             changed_at = excluded.changed_at",
        role.as_str(),
        &permission_names(permissions) as &[&str],
        retired,
        to_i64(recorded.position),
        recorded.recorded_at
    )
    .execute(connection)
    .await?;
    Ok(())
}

async fn apply_policy(
    connection: &mut PgConnection,
    recorded: &RecordedEvent,
    after: &Policy,
) -> Result<(), sqlx::Error> {
    let text = serde_json::to_string(after).map_err(|error| sqlx::Error::Encode(Box::new(error)))?;
    sqlx::query!(
        "insert into access.policy (policy, position, changed_at) values ($1, $2, $3)
         on conflict on constraint policy_pkey do update
         set policy = excluded.policy, position = excluded.position, changed_at = excluded.changed_at",
        text,
        to_i64(recorded.position),
        recorded.recorded_at
    )
    .execute(connection)
    .await?;
    Ok(())
}

async fn apply_lockdown(
    connection: &mut PgConnection,
    recorded: &RecordedEvent,
    event: &LockdownEvent,
) -> Result<(), sqlx::Error> {
    let scope = match event {
        LockdownEvent::Started { scope } => Some(scope.as_str()),
        LockdownEvent::Lifted {} => None,
    };
    sqlx::query!(
        "insert into access.lockdown (scope, version, position, changed_at) values ($1, $2, $3, $4)
         on conflict on constraint lockdown_pkey do update
         set scope = excluded.scope, version = excluded.version, position = excluded.position,
             changed_at = excluded.changed_at",
        scope,
        to_i64(recorded.version),
        to_i64(recorded.position),
        recorded.recorded_at
    )
    .execute(connection)
    .await?;
    Ok(())
}

async fn apply_api_key(
    connection: &mut PgConnection,
    recorded: &RecordedEvent,
    event: &ApiKeyEvent,
) -> Result<(), sqlx::Error> {
    match event {
        ApiKeyEvent::Created { name, permissions, expires_at } => {
            sqlx::query!(
                "insert into access.api_key
                     (key_id, name, permissions, created_by, created_at, expires_at, position)
                 values ($1, $2, $3, $4, $5, $6, $7)",
                recorded.stream.id,
                name.as_str(),
                &permission_names(permissions) as &[&str],
                recorded.actor.id(),
                recorded.recorded_at,
                expires_at,
                to_i64(recorded.position)
            )
            .execute(connection)
            .await?;
        }
        ApiKeyEvent::Revoked {} => {
            sqlx::query!(
                "update access.api_key set revoked_at = $2 where key_id = $1",
                recorded.stream.id,
                recorded.recorded_at
            )
            .execute(connection)
            .await?;
        }
    }
    Ok(())
}

fn permission_names(permissions: &[Permission]) -> Vec<&'static str> {
    permissions.iter().map(|permission| permission.as_str()).collect()
}

/// Rows that neither the service nor any node's memory can still need are deleted after this time.
const RETENTION: TimeDelta = TimeDelta::days(1);
/// The maximum number of rows per sweep.
const SWEEP_LIMIT: i64 = 5_000;

/// Deletes the rows of sessions and API keys that ended more than a day ago, and returns their number. The end must
/// also be a day ago by the database's clock, so a node whose clock is ahead does no harm. The log keeps the events.
///
/// # Errors [`sqlx::Error`]. The next sweep deletes the rest.
pub async fn sweep(pool: &PgPool, now: DateTime<Utc>) -> Result<u64, sqlx::Error> {
    let now = sqlx::query_scalar!(r#"select least($1, now()) as "now!""#, now).fetch_one(pool).await?;
    let swept = sqlx::query!(
        "delete from access.session where session_id in (
             (select session_id from access.session where ended_at < $1 order by ended_at limit $2)
             union all
             (select session_id from access.session where expires_at < $1 order by expires_at limit $2))",
        now - RETENTION,
        SWEEP_LIMIT
    )
    .execute(pool)
    .await?;
    let keys = sqlx::query!(
        "delete from access.api_key where key_id in (
             select key_id from access.api_key where expires_at < $1 or revoked_at < $1 limit $2)",
        now - RETENTION,
        SWEEP_LIMIT
    )
    .execute(pool)
    .await?;
    Ok(swept.rows_affected() + keys.rows_affected())
}
