//! Lookups in the tables that gate requests: the authority of a caller, and the settings in force for all callers. A
//! node that starts reads them, and a node that cannot answer from memory. Nothing here writes.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use fulexo_database::begin;
use fulexo_domain::lockdown::LockdownScope;
use fulexo_domain::permission::{CustomRoles, Permission, Permissions};
use fulexo_domain::policy::Policy;
use fulexo_domain::values::{AccountId, RoleName, SessionId};
use sqlx::{PgConnection, PgPool};

use crate::gate::{Elevation, SecondFactorValidity};

/// The authority of a caller, according to the tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionAccess {
    /// `true` if the session is live and belongs to the account.
    pub is_live: bool,
    /// The session's last step-up.
    pub step_up: Option<Elevation>,
    /// The position from which a presented second factor is valid.
    pub second_factor: SecondFactorValidity,
    /// The roles that the account holds.
    pub roles: BTreeSet<RoleName>,
    /// The roles that administrators defined.
    pub custom: CustomRoles,
    /// The policy in force; `None` if it was never changed.
    pub policy: Option<Policy>,
    /// The scope of the lockdown in force.
    pub lockdown: Option<LockdownScope>,
}

/// Reads the authority of a caller, for a node whose memory is not current or does not reach back far enough.
///
/// # Errors
/// [`sqlx::Error`].
pub async fn session_access(
    pool: &PgPool,
    account: AccountId,
    session: SessionId,
) -> Result<SessionAccess, sqlx::Error> {
    let mut transaction = begin(pool).await?;
    sqlx::query!("set transaction isolation level repeatable read, read only").execute(&mut *transaction).await?;
    let row = sqlx::query!(
        r#"select s.session_id as "session_id?", s.elevated_until, s.elevated_position, s.restored_position,
                  a.second_factor_from as "second_factor_from?", a.second_factor_session,
                  a.second_factor_enabled as "second_factor_enabled?",
                  array(select role from access.role_grant where account_id = $1) as "roles!"
           from (select) one
           left join access.live_session s on s.session_id = $2 and s.account_id = $1
           left join access.account a on a.account_id = $1"#,
        account.0,
        session.0
    )
    .fetch_one(&mut *transaction)
    .await?;
    let custom = custom_roles(&mut transaction).await?;
    let policy = policy(&mut transaction).await?;
    let lockdown = lockdown(&mut transaction).await?.and_then(|lockdown| lockdown.scope);
    transaction.commit().await?;
    Ok(SessionAccess {
        lockdown,
        is_live: row.session_id.is_some(),
        step_up: row.elevated_until.zip(row.elevated_position).map(|(until, position)| Elevation {
            position: position.unsigned_abs(),
            until,
            restored: row.restored_position.map(i64::unsigned_abs),
        }),
        second_factor: SecondFactorValidity {
            valid_from: row.second_factor_from.unwrap_or_default().unsigned_abs(),
            except_session: row.second_factor_session.map(SessionId),
            enabled: row.second_factor_enabled.unwrap_or_default(),
        },
        // A name that this build does not know allows nothing.
        roles: row.roles.iter().filter_map(|role| RoleName::parse(role).ok()).collect(),
        custom: custom.into_iter().filter(|role| !role.retired).map(|role| (role.role, role.permissions)).collect(),
        policy: policy.map(|(_, policy)| policy),
    })
}

/// A role that administrators defined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CustomRole {
    /// The role's name.
    pub role: RoleName,
    /// The permissions that it grants.
    pub permissions: Permissions,
    /// `true` if the role is retired: it grants nothing, and its name is never reused.
    pub retired: bool,
    /// The position of the event that last changed it.
    pub position: u64,
}

/// The roles that administrators defined, by name. The write side bounds their number.
///
/// # Errors
/// [`sqlx::Error`].
pub async fn custom_roles(connection: &mut PgConnection) -> Result<Vec<CustomRole>, sqlx::Error> {
    let rows = sqlx::query!("select role, permissions, retired, position from access.role order by role")
        .fetch_all(connection)
        .await?;
    Ok(rows
        .into_iter()
        .filter_map(|row| {
            // A name that this build does not know is nobody's.
            Some(CustomRole {
                role: RoleName::parse(&row.role).ok()?,
                permissions: permissions(&row.permissions),
                retired: row.retired,
                position: row.position.unsigned_abs(),
            })
        })
        .collect())
}

/// The number of accounts that hold each role. Roles without holders are missing.
///
/// # Errors
/// [`sqlx::Error`].
pub async fn holders(connection: &mut PgConnection) -> Result<BTreeMap<String, u64>, sqlx::Error> {
    let rows = sqlx::query!(r#"select role, count(*) as "holders!" from access.role_grant group by role"#)
        .fetch_all(connection)
        .await?;
    Ok(rows.into_iter().map(|row| (row.role, row.holders.unsigned_abs())).collect())
}

/// The policy in force and the position of its event; `None` if it was never changed.
///
/// # Errors
/// [`sqlx::Error`], also if this build cannot decode the policy.
pub async fn policy(connection: &mut PgConnection) -> Result<Option<(u64, Policy)>, sqlx::Error> {
    let row = sqlx::query!("select policy, position from access.policy").fetch_optional(connection).await?;
    row.map(|row| {
        let policy = serde_json::from_str(&row.policy).map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
        Ok((row.position.unsigned_abs(), policy))
    })
    .transpose()
}

/// The lockdown in force, or the end of the last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LockdownRow {
    /// Its scope; `None` if it was lifted.
    pub scope: Option<LockdownScope>,
    /// The position of the event that started, changed, or lifted it.
    pub position: u64,
    /// The time of that event.
    pub changed_at: DateTime<Utc>,
}

/// The last lockdown, in force or lifted; `None` if there never was one.
///
/// # Errors
/// [`sqlx::Error`], also if this build does not know the scope.
pub async fn lockdown(connection: &mut PgConnection) -> Result<Option<LockdownRow>, sqlx::Error> {
    let row =
        sqlx::query!("select scope, position, changed_at from access.lockdown").fetch_optional(connection).await?;
    row.map(|row| {
        let scope = row.scope.as_deref().map(LockdownScope::parse).transpose();
        let scope = scope.map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
        Ok(LockdownRow { scope, position: row.position.unsigned_abs(), changed_at: row.changed_at })
    })
    .transpose()
}

/// The permissions with these names. A name that this build does not know grants nothing.
pub(crate) fn permissions(names: &[String]) -> Permissions {
    let known: Vec<Permission> = names.iter().filter_map(|name| Permission::parse(name).ok()).collect();
    Permissions::of(&known)
}
