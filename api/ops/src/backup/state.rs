//! The state of a database at one moment, as far as a backup has to have it: the log, the read models, erasures, keys. Reads in
//! bounded memory, however long the log is.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use fulexo_tlog::hash::TreeHash;
use fulexo_tlog::tree::GrowingTree;
use futures_util::TryStreamExt;
use serde::{Deserialize, Serialize};
use sqlx::{AssertSqlSafe, PgConnection};
use uuid::Uuid;

use super::error::BackupError;

/// The tables of the key part: what the encryption key wraps.
pub(super) const KEY_TABLES: [&str; 3] = ["service_key", "subject_key", "period_key"];

/// The state of a database.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseState {
    /// The last migration.
    pub schema: i64,
    /// The log.
    pub log: LogSummary,
    /// The next position of each projection.
    pub projections: BTreeMap<String, i64>,
    /// The rows of each table of the read models.
    pub read_models: BTreeMap<String, TableChecksum>,
    /// The erasures.
    pub erasures: ErasureCounts,
    /// The keys that a restore needs.
    pub keys: KeySummary,
}

/// The log.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct LogSummary {
    /// The history to which it belongs.
    pub epoch: Uuid,
    /// The position of the next event: the number of events.
    pub position: u64,
    /// The number of leaves that are there, which is the same in a sound log.
    pub size: u64,
    /// The root of the tree over these leaves (RFC 6962), in base64.
    pub root: String,
    /// The time of the last event.
    pub recorded_at: DateTime<Utc>,
}

/// The content of a table.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TableChecksum {
    /// The number of rows.
    pub rows: u64,
    /// Two sums over the SHA-256 of all rows as text, each over eight bytes: the order does not matter.
    pub sums: [String; 2],
}

/// The erasures.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ErasureCounts {
    /// The number of those that are completed.
    pub completed: u64,
    /// The number of those that are under way: what they destroy is still in the backup.
    pub open: u64,
    /// The time of the last one that is completed.
    pub last_completed_at: Option<DateTime<Utc>>,
}

/// Keys by their ids.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct KeySummary {
    /// The encryption keys that wrap something: without them nothing personal opens, and no node starts.
    pub encryption: BTreeSet<String>,
    /// The key that signs tokens.
    pub signing: BTreeSet<String>,
    /// The rows of each table of wrapped keys.
    pub wrapped: BTreeMap<String, u64>,
}

/// Reads the state, in a transaction that sees one moment.
///
/// # Errors
/// [`BackupError::Database`].
pub async fn read_state(connection: &mut PgConnection) -> Result<DatabaseState, BackupError> {
    // Rows as text are the same in every session.
    for setting in [
        "set local timezone = 'UTC'",
        "set local datestyle = 'ISO, YMD'",
        "set local intervalstyle = 'postgres'",
        "set local extra_float_digits = 1",
        "set local bytea_output = 'hex'",
    ] {
        sqlx::query(setting).execute(&mut *connection).await?;
    }
    let schema = sqlx::query_scalar("select coalesce(max(version), 0) from public._sqlx_migrations where success");
    let schema = schema.fetch_one(&mut *connection).await?;
    let log = log(connection).await?;
    let projections: Vec<(String, i64)> =
        sqlx::query_as("select name, position from projection.checkpoint").fetch_all(&mut *connection).await?;
    let mut read_models = BTreeMap::new();
    let tables: Vec<String> = sqlx::query_scalar(
        "select c.relname::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
         where n.nspname = 'read' and c.relkind in ('r', 'p') order by c.relname",
    )
    .fetch_all(&mut *connection)
    .await?;
    for table in tables {
        let checksum = checksum(connection, &table).await?;
        read_models.insert(table, checksum);
    }
    Ok(DatabaseState {
        schema,
        log,
        projections: projections.into_iter().collect(),
        read_models,
        erasures: erasures(connection).await?,
        keys: keys(connection).await?,
    })
}

async fn log(connection: &mut PgConnection) -> Result<LogSummary, BackupError> {
    let (epoch, position, recorded_at): (Uuid, i64, DateTime<Utc>) =
        sqlx::query_as("select epoch, position, recorded_at from log.head").fetch_one(&mut *connection).await?;
    let tree = read_tree(connection, u64::MAX).await?;
    let (size, root) = (tree.size(), tree.root().to_string());
    Ok(LogSummary { epoch, position: position.unsigned_abs(), size, root, recorded_at })
}

async fn checksum(connection: &mut PgConnection, table: &str) -> Result<TableChecksum, BackupError> {
    let quoted = table.replace('"', "\"\"");
    let sum = |from: u8| {
        format!("coalesce(sum(('x' || encode(substr(digest, {from}, 8), 'hex'))::bit(64)::bigint::numeric), 0)::text")
    };
    let statement = format!(
        "select count(*), {}, {} from (
             select sha256(convert_to(fulexo_row::text, 'UTF8')) as digest from read.\"{quoted}\" fulexo_row) rows",
        sum(1),
        sum(9)
    );
    let (rows, first, second): (i64, String, String) =
        sqlx::query_as(AssertSqlSafe(statement)).fetch_one(connection).await?;
    Ok(TableChecksum { rows: rows.unsigned_abs(), sums: [first, second] })
}

async fn erasures(connection: &mut PgConnection) -> Result<ErasureCounts, BackupError> {
    let (completed, open, last_completed_at): (i64, i64, Option<DateTime<Utc>>) = sqlx::query_as(
        "select count(completed_at), count(*) - count(completed_at), max(completed_at) from vault.erasure",
    )
    .fetch_one(connection)
    .await?;
    Ok(ErasureCounts { completed: completed.unsigned_abs(), open: open.unsigned_abs(), last_completed_at })
}

async fn keys(connection: &mut PgConnection) -> Result<KeySummary, BackupError> {
    let encryption: Vec<String> = sqlx::query_scalar(
        "select wrapped_by from vault.subject_key where wrapped_by is not null
         union select kek_id from vault.period_key union select kek_id from vault.service_key",
    )
    .fetch_all(&mut *connection)
    .await?;
    let signing: Vec<String> = sqlx::query_scalar(
        "select key_id from vault.key_epoch where kind = 'signing' and first_used_at is not null and replaced_at is null",
    )
    .fetch_all(&mut *connection)
    .await?;
    let mut wrapped = BTreeMap::new();
    for table in KEY_TABLES {
        let statement = format!("select count(*) from vault.{table}");
        let rows: i64 = sqlx::query_scalar(AssertSqlSafe(statement)).fetch_one(&mut *connection).await?;
        wrapped.insert(table.to_owned(), rows.unsigned_abs());
    }
    Ok(KeySummary { encryption: encryption.into_iter().collect(), signing: signing.into_iter().collect(), wrapped })
}

/// Returns the root of the tree over the first leaves of the log.
///
/// # Errors
/// [`BackupError::Database`].
pub async fn root_at(connection: &mut PgConnection, size: u64) -> Result<TreeHash, BackupError> {
    Ok(read_tree(connection, size).await?.root())
}

/// Reads the tree over the first leaves of the log, by their hashes on record.
///
/// # Errors
/// [`BackupError::Database`].
pub async fn read_tree(connection: &mut PgConnection, most: u64) -> Result<GrowingTree, BackupError> {
    let mut tree = GrowingTree::default();
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    let mut hashes = sqlx::query_scalar::<_, Vec<u8>>("select leaf_hash from log.event order by position limit $1")
        .bind(most)
        .fetch(connection);
    while let Some(hash) = hashes.try_next().await? {
        let hash = hash.try_into().map_err(|_| BackupError::Database("a leaf hash has another length".to_owned()))?;
        tree.push(TreeHash(hash));
    }
    Ok(tree)
}
