//! API keys in the tables: the authority of one, for a node that cannot answer from memory, and the list of all.

use chrono::{DateTime, Utc};
use fulexo_domain::lockdown::LockdownScope;
use fulexo_domain::permission::Permissions;
use fulexo_domain::policy::Policy;
use fulexo_domain::values::ApiKeyId;
use sqlx::{FromRow, PgPool, Postgres, QueryBuilder};
use uuid::Uuid;

use super::lookup::permissions;
use crate::page::{Page, Paging};

/// A row of an API key.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct ApiKeyRow {
    /// The key's id.
    pub key_id: Uuid,
    /// The name of the service that uses it.
    pub name: String,
    /// The names of its permissions.
    pub permissions: Vec<String>,
    /// The account that created it.
    pub created_by: Option<Uuid>,
    /// The time of its creation.
    pub created_at: DateTime<Utc>,
    /// The time of its expiry.
    pub expires_at: DateTime<Utc>,
    /// The time of its revocation, if it was revoked.
    pub revoked_at: Option<DateTime<Utc>>,
    /// The position of the event that created it.
    pub position: i64,
}

/// The API keys in order of creation. Keys that ended more than a day ago remain only in the log.
///
/// # Errors
/// [`sqlx::Error`].
pub async fn api_keys(pool: &PgPool, paging: &Paging<Uuid>) -> Result<Page<ApiKeyRow, Uuid>, sqlx::Error> {
    let mut sql = QueryBuilder::<Postgres>::new("select * from access.api_key where true");
    if let Some(after) = paging.after {
        sql.push(" and key_id").push(paging.order.after_operator()).push_bind(after);
    }
    sql.push(" order by key_id ").push(paging.order.sql()).push(" limit ").push(paging.fetch_limit());
    let rows = sql.build_query_as().fetch_all(pool).await?;
    Ok(Page::from_rows(rows, paging.limit, |key: &ApiKeyRow| key.key_id))
}

/// The authority of an active API key, according to the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApiKeyAccess {
    /// The key's permissions.
    pub permissions: Permissions,
    /// The time of its expiry.
    pub expires_at: DateTime<Utc>,
    /// The scope of the lockdown in force.
    pub lockdown: Option<LockdownScope>,
    /// `true` if the account that created it is suspended.
    pub creator_suspended: bool,
    /// `true` if the policy disables keys of suspended accounts; `None` if the policy was never changed.
    pub suspends_with_creator: Option<bool>,
}

/// Reads the authority of an active API key, for a node that cannot prove that its memory is current.
///
/// # Errors
/// [`sqlx::Error`], also if this build does not know the scope or the policy.
pub async fn api_key_access(
    pool: &PgPool,
    key: ApiKeyId,
    now: DateTime<Utc>,
) -> Result<Option<ApiKeyAccess>, sqlx::Error> {
    let row = sqlx::query!(
        r#"select permissions, expires_at, (select scope from access.lockdown) as lockdown,
                  (select policy from access.policy) as policy,
                  exists (select from access.account where account_id = created_by and suspended) as "creator_suspended!"
           from access.api_key where key_id = $1 and revoked_at is null and expires_at > $2"#,
        key.0,
        now
    )
    .fetch_optional(pool)
    .await?;
    row.map(|row| {
        let lockdown = row.lockdown.as_deref().map(LockdownScope::parse).transpose();
        let lockdown = lockdown.map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
        let policy: Option<Policy> =
            row.policy.as_deref().map(serde_json::from_str).transpose().map_err(undecodable)?;
        Ok(ApiKeyAccess {
            permissions: permissions(&row.permissions),
            expires_at: row.expires_at,
            lockdown,
            creator_suspended: row.creator_suspended,
            suspends_with_creator: policy.map(|policy| policy.api_keys.suspend_with_creator),
        })
    })
    .transpose()
}

fn undecodable(error: serde_json::Error) -> sqlx::Error {
    sqlx::Error::Decode(Box::new(error))
}
