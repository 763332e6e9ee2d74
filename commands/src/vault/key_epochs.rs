//! The lives of keys in the database: when each was added, came into use, was replaced, and was destroyed. No key is here.
//!
//! ```text
//! added -> held by every node -> in use -> replaced -> retired (nothing names it) -> destroyed (no node has it)
//! ```
//! The last two steps of an encryption key are guarded by foreign keys: what a retired key wraps is not in the database, and
//! nobody adds to it.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use fulexo_database::DatabaseFailure;
use fulexo_domain::key::{KeyLabel, KeyPurpose};
use sqlx::{PgConnection, PgPool};

/// The life of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyEpoch {
    /// The purpose.
    pub kind: KeyPurpose,
    /// The key's name.
    pub id: KeyLabel,
    /// The time since which it is known to be coming.
    pub added_at: DateTime<Utc>,
    /// The time since which every node has it.
    pub held_at: Option<DateTime<Utc>>,
    /// The time since which it wraps or signs.
    pub first_used_at: Option<DateTime<Utc>>,
    /// The time since which another one does.
    pub replaced_at: Option<DateTime<Utc>>,
    /// The time since which nothing needs it.
    pub retired_at: Option<DateTime<Utc>>,
    /// The time since which no node has it.
    pub destroyed_at: Option<DateTime<Utc>>,
    /// The time since which it counts as leaked.
    pub distrusted_at: Option<DateTime<Utc>>,
    /// The seconds since it came into use, by the database's clock.
    pub age: Option<i64>,
}

impl KeyEpoch {
    /// Returns `true` if the key wraps or signs.
    #[must_use]
    pub const fn is_in_use(&self) -> bool {
        self.first_used_at.is_some() && self.replaced_at.is_none()
    }

    /// Returns `true` if the key is to be used, and is not yet.
    #[must_use]
    pub const fn is_coming(&self) -> bool {
        self.first_used_at.is_none() && self.distrusted_at.is_none()
    }

    /// Returns `true` if the key leaked, and another one is in use: a node refuses it, even if a file has it.
    #[must_use]
    pub const fn is_refused(&self) -> bool {
        self.distrusted_at.is_some() && !self.is_in_use()
    }

    /// Returns `true` if another key has its place, and it is not destroyed yet.
    #[must_use]
    pub const fn is_leaving(&self) -> bool {
        self.replaced_at.is_some() && self.destroyed_at.is_none()
    }

    /// Returns the name of its state.
    #[must_use]
    pub const fn state(&self) -> &'static str {
        match (self.first_used_at, self.replaced_at, self.retired_at, self.destroyed_at) {
            (_, _, _, Some(_)) => "destroyed",
            (_, _, Some(_), None) => "retired",
            (_, Some(_), None, None) => "replaced",
            (Some(_), None, None, None) => "in use",
            (None, None, None, None) if self.distrusted_at.is_some() => "refused",
            (None, None, None, None) => "coming",
        }
    }
}

/// Returns the lives of all keys, those of one purpose together, in the order in which they were added.
///
/// # Errors
/// [`sqlx::Error`].
pub async fn list(pool: &PgPool) -> Result<Vec<KeyEpoch>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"select kind, key_id, added_at, held_at, first_used_at, replaced_at, retired_at, destroyed_at, distrusted_at,
                  extract(epoch from clock_timestamp() - first_used_at)::bigint as age
           from vault.key_epoch order by kind, added_at, key_id"#
    )
    .fetch_all(pool)
    .await?;
    let read = |error: fulexo_domain::values::InvalidValue| sqlx::Error::Decode(Box::new(error));
    let epochs = rows.into_iter().map(|row| {
        Ok(KeyEpoch {
            kind: KeyPurpose::parse(&row.kind).map_err(read)?,
            id: KeyLabel::parse(&row.key_id).map_err(read)?,
            added_at: row.added_at,
            held_at: row.held_at,
            first_used_at: row.first_used_at,
            replaced_at: row.replaced_at,
            retired_at: row.retired_at,
            destroyed_at: row.destroyed_at,
            distrusted_at: row.distrusted_at,
            age: row.age,
        })
    });
    epochs.collect()
}

/// Counts the keys of the vault that each key wraps, by its id.
///
/// # Errors
/// [`sqlx::Error`].
pub async fn wrapped(pool: &PgPool) -> Result<BTreeMap<String, u64>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"select kek_id as "kek_id!", sum(keys)::bigint as "keys!" from (
               select wrapped_by as kek_id, count(*) as keys from vault.subject_key
               where wrapped_by is not null group by 1
               union all select kek_id, count(*) from vault.period_key group by 1
               union all select kek_id, count(*) from vault.service_key group by 1) k
           group by 1"#
    )
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(|row| (row.kek_id, row.keys.unsigned_abs())).collect())
}

/// Makes a key known that is in use before anybody recorded it, unless one is recorded.
///
/// # Errors
/// [`sqlx::Error`].
pub async fn begin(pool: &PgPool, kind: KeyPurpose, id: &KeyLabel) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "insert into vault.key_epoch (kind, key_id, held_at, first_used_at)
         values ($1, $2, clock_timestamp(), clock_timestamp()) on conflict do nothing",
        kind.as_str(),
        id.as_str()
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Makes a key known that is to be used.
///
/// # Errors
/// [`sqlx::Error`].
pub async fn add(pool: &PgPool, kind: KeyPurpose, id: &KeyLabel) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "insert into vault.key_epoch (kind, key_id) values ($1, $2) on conflict on constraint key_epoch_pkey do nothing",
        kind.as_str(),
        id.as_str()
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Records that every key of this purpose leaked that is not destroyed yet.
///
/// # Errors
/// [`sqlx::Error`].
pub async fn distrust(pool: &PgPool, kind: KeyPurpose) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update vault.key_epoch set distrusted_at = coalesce(distrusted_at, clock_timestamp())
         where kind = $1 and destroyed_at is null",
        kind.as_str()
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Forgets a key that was never used. Returns `false` if there is none, or it was.
///
/// # Errors
/// [`sqlx::Error`].
pub async fn forget(pool: &PgPool, kind: KeyPurpose, id: &KeyLabel) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(r#"select vault.forget_key($1, $2) as "forgotten!""#, kind.as_str(), id.as_str())
        .fetch_one(pool)
        .await
}

/// Records that every node has a key. Returns the seconds since then.
///
/// # Errors
/// [`sqlx::Error`].
pub async fn hold(pool: &PgPool, kind: KeyPurpose, id: &KeyLabel) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar!(
        r#"update vault.key_epoch set held_at = coalesce(held_at, clock_timestamp()) where kind = $1 and key_id = $2
           returning extract(epoch from clock_timestamp() - held_at)::bigint as "seconds!""#,
        kind.as_str(),
        id.as_str()
    )
    .fetch_one(pool)
    .await
}

/// Returns the seconds since a key was replaced; `None` if it is in use.
///
/// # Errors
/// [`sqlx::Error`].
pub async fn seconds_since_replaced(
    pool: &PgPool,
    kind: KeyPurpose,
    id: &KeyLabel,
) -> Result<Option<i64>, sqlx::Error> {
    sqlx::query_scalar!(
        "select extract(epoch from clock_timestamp() - replaced_at)::bigint from vault.key_epoch
         where kind = $1 and key_id = $2",
        kind.as_str(),
        id.as_str()
    )
    .fetch_one(pool)
    .await
}

/// Records that nothing needs a replaced key. Returns `false` if something that it wraps is in the database.
///
/// # Errors
/// [`sqlx::Error`].
pub async fn retire(pool: &PgPool, kind: KeyPurpose, id: &KeyLabel) -> Result<bool, sqlx::Error> {
    let retired = sqlx::query!(
        "update vault.key_epoch set retired_at = clock_timestamp()
         where kind = $1 and key_id = $2 and replaced_at is not null and retired_at is null",
        kind.as_str(),
        id.as_str()
    )
    .execute(pool)
    .await;
    match retired {
        Ok(_) => Ok(true),
        Err(error) => match DatabaseFailure::of(&error) {
            DatabaseFailure::Constraint(
                "subject_key_is_wrapped_by_a_live_key"
                | "period_key_is_wrapped_by_a_live_key"
                | "service_key_is_wrapped_by_a_live_key",
            ) => Ok(false),
            _ => Err(error),
        },
    }
}

/// Puts a key in the place of another.
pub(super) async fn replace(
    connection: &mut PgConnection,
    kind: KeyPurpose,
    from: &KeyLabel,
    to: &KeyLabel,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update vault.key_epoch set replaced_at = clock_timestamp()
         where kind = $1 and key_id = $2 and replaced_at is null",
        kind.as_str(),
        from.as_str()
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        "update vault.key_epoch
         set held_at = coalesce(held_at, clock_timestamp()), first_used_at = coalesce(first_used_at, clock_timestamp())
         where kind = $1 and key_id = $2",
        kind.as_str(),
        to.as_str()
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Records that a retired key was destroyed.
pub(super) async fn destroy(connection: &mut PgConnection, kind: KeyPurpose, id: &KeyLabel) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update vault.key_epoch set destroyed_at = coalesce(destroyed_at, clock_timestamp())
         where kind = $1 and key_id = $2",
        kind.as_str(),
        id.as_str()
    )
    .execute(connection)
    .await?;
    Ok(())
}
