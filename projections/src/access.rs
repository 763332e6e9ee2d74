//! What gates a request, as tables: written in the transaction of the event it follows from, so never behind the
//! log. The part of it that is young enough to matter is in every node's memory (`gate`).

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use fulexo_domain::account::AccountEvent;
use fulexo_domain::api_key::ApiKeyEvent;
use fulexo_domain::event::{Event, Recorded};
use fulexo_domain::lockdown::{LockdownEvent, Scope};
use fulexo_domain::permission::{CustomRoles, Permission, Permissions};
use fulexo_domain::policy::{Policy, PolicyEvent};
use fulexo_domain::role::RoleEvent;
use fulexo_domain::session::SessionEvent;
use fulexo_domain::values::{AccountId, ApiKeyId, RoleName, SessionId};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use crate::page::Page;
use crate::to_i64;

/// Whether an event changes what gates requests.
#[must_use]
pub const fn concerns(event: &Event) -> bool {
    match event {
        Event::Account(event) => matches!(
            event,
            AccountEvent::Registered {} | AccountEvent::RoleGranted { .. } | AccountEvent::RoleRevoked { .. }
        ),
        Event::Session(event) => match event {
            SessionEvent::Started { .. }
            | SessionEvent::Refreshed { .. }
            | SessionEvent::Elevated { .. }
            | SessionEvent::Revoked { .. }
            | SessionEvent::Expired {} => true,
            SessionEvent::RefreshReused { .. } | SessionEvent::FingerprintMismatched { .. } => false,
        },
        Event::Role(_) | Event::Policy(_) | Event::ApiKey(_) | Event::Lockdown(_) => true,
        Event::Authentication(_) | Event::RateLimit(_) => false,
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
                Event::Role(event) => apply_role(connection, recorded, event).await?,
                Event::Policy(PolicyEvent::Changed { after, .. }) => apply_policy(connection, recorded, after).await?,
                Event::ApiKey(event) => apply_api_key(connection, recorded, event).await?,
                Event::Lockdown(event) => apply_lockdown(connection, recorded, event).await?,
                Event::Authentication(_) | Event::RateLimit(_) => {}
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
        _ => return Ok(()),
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
        SessionEvent::Elevated { until, released, .. } => {
            sqlx::query!(
                "update access.session
                 set elevated_until = $2, elevated_position = $3,
                     released_position = case when $4 then $3 else released_position end
                 where session_id = $1",
                session,
                until,
                to_i64(recorded.position),
                released
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

async fn apply_role(connection: &mut PgConnection, recorded: &Recorded, event: &RoleEvent) -> Result<(), sqlx::Error> {
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
        &names(permissions) as &[&str],
        retired,
        to_i64(recorded.position),
        recorded.recorded_at
    )
    .execute(connection)
    .await?;
    Ok(())
}

async fn apply_policy(connection: &mut PgConnection, recorded: &Recorded, after: &Policy) -> Result<(), sqlx::Error> {
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
    recorded: &Recorded,
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
    recorded: &Recorded,
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
                &names(permissions) as &[&str],
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

fn names(permissions: &[Permission]) -> Vec<&'static str> {
    permissions.iter().map(|permission| permission.as_str()).collect()
}

/// Permissions by their names; one that this build does not know allows nothing.
pub(crate) fn permissions(names: &[String]) -> Permissions {
    let known: Vec<Permission> = names.iter().filter_map(|name| Permission::parse(name).ok()).collect();
    Permissions::of(&known)
}

/// Rows of sessions that nobody can use, and no node's memory can miss, go away after this.
const KEPT: TimeDelta = TimeDelta::days(1);
/// Most rows in one sweep.
const ROWS: i64 = 5_000;

/// Takes away rows of sessions and API keys that ended more than a day ago, also by the database's clock: a node whose own
/// is ahead does no harm. Answers how many. The log keeps them.
///
/// # Errors
/// The database; the next sweep does what this one did not.
pub async fn sweep(pool: &PgPool, now: DateTime<Utc>) -> Result<u64, sqlx::Error> {
    let now = sqlx::query_scalar!(r#"select least($1, now()) as "now!""#, now).fetch_one(pool).await?;
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
    let keys = sqlx::query!(
        "delete from access.api_key where key_id in (
             select key_id from access.api_key where expires_at < $1 or revoked_at < $1 limit $2)",
        now - KEPT,
        ROWS
    )
    .execute(pool)
    .await?;
    Ok(swept.rows_affected() + keys.rows_affected())
}

/// What the tables say of a caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Whether the session is live and the account's own.
    pub is_live: bool,
    /// When its elevation by step-up ends, or ended.
    pub elevated_until: Option<DateTime<Utc>>,
    /// Where in the log its owner last proved themselves while it was held.
    pub released_position: Option<u64>,
    /// The roles that the account holds.
    pub roles: BTreeSet<RoleName>,
    /// The roles that administrators defined.
    pub custom: CustomRoles,
    /// The policy, once it was changed.
    pub policy: Option<Policy>,
    /// What a lockdown closes.
    pub lockdown: Option<Scope>,
}

/// Asks the tables: for a node whose memory does not reach back far enough, or is not current.
///
/// # Errors
/// The database.
pub async fn standing(pool: &PgPool, account: AccountId, session: SessionId) -> Result<Standing, sqlx::Error> {
    let mut transaction = pool.begin().await?;
    sqlx::query!("set transaction isolation level repeatable read, read only").execute(&mut *transaction).await?;
    let row = sqlx::query!(
        r#"select s.session_id as "session_id?", s.elevated_until, s.released_position,
                  array(select role from access.role_grant where account_id = $1) as "roles!"
           from (select) one left join access.session s
               on s.session_id = $2 and s.account_id = $1 and s.ended_at is null"#,
        account.0,
        session.0
    )
    .fetch_one(&mut *transaction)
    .await?;
    let custom = custom_roles(&mut transaction).await?;
    let policy = policy(&mut transaction).await?;
    let lockdown = lockdown(&mut transaction).await?.and_then(|lockdown| lockdown.scope);
    transaction.commit().await?;
    Ok(Standing {
        lockdown,
        is_live: row.session_id.is_some(),
        elevated_until: row.elevated_until,
        released_position: row.released_position.map(i64::unsigned_abs),
        roles: row.roles.iter().filter_map(|role| RoleName::parse(role).ok()).collect(),
        custom: custom.into_iter().filter(|role| !role.retired).map(|role| (role.role, role.permissions)).collect(),
        policy: policy.map(|(_, policy)| policy),
    })
}

/// A role that administrators defined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CustomRole {
    /// Its name.
    pub role: RoleName,
    /// What it allows.
    pub permissions: Permissions,
    /// Whether its name is never used again.
    pub retired: bool,
    /// The event that last changed it.
    pub position: u64,
    /// When that was.
    pub changed_at: DateTime<Utc>,
    /// How many accounts hold it.
    pub holders: u64,
}

/// The roles that administrators defined, in the order of their names. Their number is bounded by the write side.
///
/// # Errors
/// The database.
pub async fn custom_roles(connection: &mut PgConnection) -> Result<Vec<CustomRole>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"select role, permissions, retired, position, changed_at,
                  (select count(*) from access.role_grant g where g.role = r.role) as "holders!"
           from access.role r order by role"#
    )
    .fetch_all(connection)
    .await?;
    let role = |row: &str| RoleName::parse(row).ok();
    Ok(rows
        .into_iter()
        .filter_map(|row| {
            Some(CustomRole {
                role: role(&row.role)?,
                permissions: permissions(&row.permissions),
                retired: row.retired,
                position: row.position.unsigned_abs(),
                changed_at: row.changed_at,
                holders: row.holders.unsigned_abs(),
            })
        })
        .collect())
}

/// How many accounts hold a role.
///
/// # Errors
/// The database.
pub async fn holders(connection: &mut PgConnection, role: &RoleName) -> Result<u64, sqlx::Error> {
    let count =
        sqlx::query_scalar!(r#"select count(*) as "count!" from access.role_grant where role = $1"#, role.as_str())
            .fetch_one(connection)
            .await?;
    Ok(count.unsigned_abs())
}

/// The policy, once it was changed, and where.
///
/// # Errors
/// The database, or a policy that this build does not understand.
pub async fn policy(connection: &mut PgConnection) -> Result<Option<(u64, Policy)>, sqlx::Error> {
    let row = sqlx::query!("select policy, position from access.policy").fetch_optional(connection).await?;
    row.map(|row| {
        let policy = serde_json::from_str(&row.policy).map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
        Ok((row.position.unsigned_abs(), policy))
    })
    .transpose()
}

/// A lockdown, or the end of the last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LockdownRow {
    /// What it closes; `None`: nothing any more.
    pub scope: Option<Scope>,
    /// Where it was started, changed or lifted.
    pub position: u64,
    /// When.
    pub changed_at: DateTime<Utc>,
}

/// The lockdown, if there ever was one.
///
/// # Errors
/// The database, or a scope that this build does not know.
pub async fn lockdown(connection: &mut PgConnection) -> Result<Option<LockdownRow>, sqlx::Error> {
    let row =
        sqlx::query!("select scope, position, changed_at from access.lockdown").fetch_optional(connection).await?;
    row.map(|row| {
        let scope = row.scope.as_deref().map(Scope::parse).transpose();
        let scope = scope.map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
        Ok(LockdownRow { scope, position: row.position.unsigned_abs(), changed_at: row.changed_at })
    })
    .transpose()
}

/// An API key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKeyRow {
    /// Its id.
    pub key_id: Uuid,
    /// Which service it is for.
    pub name: String,
    /// What it may do.
    pub permissions: Vec<String>,
    /// The account that made it.
    pub created_by: Option<Uuid>,
    /// When.
    pub created_at: DateTime<Utc>,
    /// It ends then.
    pub expires_at: DateTime<Utc>,
    /// When it was revoked, if it was.
    pub revoked_at: Option<DateTime<Utc>>,
    /// Where it was made.
    pub position: i64,
}

/// API keys in the order of their making. Those that ended more than a day ago are in the log alone.
///
/// # Errors
/// The database.
pub async fn api_keys(pool: &PgPool, after: Option<Uuid>, limit: u16) -> Result<Page<ApiKeyRow>, sqlx::Error> {
    let rows = sqlx::query_as!(
        ApiKeyRow,
        "select * from access.api_key where $1::uuid is null or key_id > $1 order by key_id limit $2",
        after,
        Page::<ApiKeyRow>::fetch(limit)
    )
    .fetch_all(pool)
    .await?;
    Ok(Page::of(rows, limit, |key| key.key_id.to_string()))
}

/// What an API key may do, if it is in use: for a node that cannot prove that its memory is current.
///
/// # Errors
/// The database.
pub async fn api_key(
    pool: &PgPool,
    key: ApiKeyId,
    now: DateTime<Utc>,
) -> Result<Option<(Permissions, DateTime<Utc>)>, sqlx::Error> {
    let row = sqlx::query!(
        "select permissions, expires_at from access.api_key
         where key_id = $1 and revoked_at is null and expires_at > $2",
        key.0,
        now
    )
    .fetch_optional(pool)
    .await?;
    Ok(row.map(|row| (permissions(&row.permissions), row.expires_at)))
}
