//! API keys in the tables: what one may do, for a node whose memory does not do; all of them, for whoever lists them.

use chrono::{DateTime, Utc};
use fulexo_domain::lockdown::Scope;
use fulexo_domain::permission::Permissions;
use fulexo_domain::policy::Policy;
use fulexo_domain::values::ApiKeyId;
use sqlx::{FromRow, PgPool, Postgres, QueryBuilder};
use uuid::Uuid;

use super::standing::permissions;
use crate::page::{Page, Paging};

/// An API key.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
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
pub async fn api_keys(pool: &PgPool, paging: &Paging<Uuid>) -> Result<Page<ApiKeyRow, Uuid>, sqlx::Error> {
    let mut sql = QueryBuilder::<Postgres>::new("select * from access.api_key where true");
    if let Some(after) = paging.after {
        sql.push(" and key_id").push(paging.order.beyond()).push_bind(after);
    }
    sql.push(" order by key_id ").push(paging.order.sql()).push(" limit ").push(paging.fetch());
    let rows = sql.build_query_as().fetch_all(pool).await?;
    Ok(Page::of(rows, paging.limit, |key: &ApiKeyRow| key.key_id))
}

/// What the tables say of an API key that is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyStanding {
    /// What it may do.
    pub permissions: Permissions,
    /// Until when.
    pub expires_at: DateTime<Utc>,
    /// What a lockdown closes.
    pub lockdown: Option<Scope>,
    /// Whether the account that made it is suspended.
    pub maker_suspended: bool,
    /// Whether that ends it meanwhile, by the policy, once that was changed.
    pub ends_with_suspension: Option<bool>,
}

/// What an API key may do, if it is in use: for a node that cannot prove that its memory is current.
///
/// # Errors
/// The database, or a scope or policy that this build does not know.
pub async fn api_key(pool: &PgPool, key: ApiKeyId, now: DateTime<Utc>) -> Result<Option<KeyStanding>, sqlx::Error> {
    let row = sqlx::query!(
        r#"select permissions, expires_at, (select scope from access.lockdown) as lockdown,
                  (select policy from access.policy) as policy,
                  exists (select from access.account where account_id = created_by and suspended) as "maker_suspended!"
           from access.api_key where key_id = $1 and revoked_at is null and expires_at > $2"#,
        key.0,
        now
    )
    .fetch_optional(pool)
    .await?;
    row.map(|row| {
        let lockdown = row.lockdown.as_deref().map(Scope::parse).transpose();
        let lockdown = lockdown.map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
        let policy: Option<Policy> =
            row.policy.as_deref().map(serde_json::from_str).transpose().map_err(undecodable)?;
        Ok(KeyStanding {
            permissions: permissions(&row.permissions),
            expires_at: row.expires_at,
            lockdown,
            maker_suspended: row.maker_suspended,
            ends_with_suspension: policy.map(|policy| policy.api_keys.end_with_suspension),
        })
    })
    .transpose()
}

fn undecodable(error: serde_json::Error) -> sqlx::Error {
    sqlx::Error::Decode(Box::new(error))
}
