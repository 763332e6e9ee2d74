//! API keys in the tables: what one may do, for a node whose memory does not do; all of them, for whoever lists them.

use chrono::{DateTime, Utc};
use fulexo_domain::lockdown::Scope;
use fulexo_domain::permission::Permissions;
use fulexo_domain::values::ApiKeyId;
use sqlx::PgPool;
use uuid::Uuid;

use super::permissions;
use crate::page::Page;

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

/// What the tables say of an API key that is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyStanding {
    /// What it may do.
    pub permissions: Permissions,
    /// Until when.
    pub expires_at: DateTime<Utc>,
    /// What a lockdown closes.
    pub lockdown: Option<Scope>,
}

/// What an API key may do, if it is in use: for a node that cannot prove that its memory is current.
///
/// # Errors
/// The database, or a scope that this build does not know.
pub async fn api_key(pool: &PgPool, key: ApiKeyId, now: DateTime<Utc>) -> Result<Option<KeyStanding>, sqlx::Error> {
    let row = sqlx::query!(
        "select permissions, expires_at, (select scope from access.lockdown) as lockdown from access.api_key
         where key_id = $1 and revoked_at is null and expires_at > $2",
        key.0,
        now
    )
    .fetch_optional(pool)
    .await?;
    row.map(|row| {
        let lockdown = row.lockdown.as_deref().map(Scope::parse).transpose();
        let lockdown = lockdown.map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
        Ok(KeyStanding { permissions: permissions(&row.permissions), expires_at: row.expires_at, lockdown })
    })
    .transpose()
}
