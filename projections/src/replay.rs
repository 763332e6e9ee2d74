//! Verifies the histories: it rebuilds the read models from the log up to a position and compares them with the live
//! tables, read as of that position.
//!
//! The replay writes to temporary tables. Only its connection sees them, they vanish with it, and any role that may
//! read can create them. It writes nothing that others see.

use fulexo_database::begin_on;
use fulexo_domain::event::RecordedEvent;
use futures_util::TryStreamExt;
use futures_util::stream::BoxStream;
use sha2::{Digest, Sha256};
use sqlx::{AssertSqlSafe, PgConnection};

use crate::read_models::accounts::AccountRow;
use crate::read_models::history_table::{HistoryTable, versions_as_of};
use crate::read_models::incidents::IncidentRow;
use crate::read_models::roles::{GrantRow, RoleRow};
use crate::read_models::sessions::SessionRow;
use crate::read_models::{Projection, RowCache};

/// A table of a read model. As of a position, a table of the past holds the versions superseded until then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "they are called as they are")]
pub enum ReadModelTable {
    Account,
    AccountPast,
    AccountCount,
    Session,
    SessionPast,
    SessionCount,
    Role,
    RolePast,
    RoleGrant,
    RoleGrantPast,
    HolderCount,
    Metric,
    Audit,
    Incident,
    IncidentPast,
}

impl ReadModelTable {
    /// All tables.
    pub const ALL: [Self; 15] = [
        Self::Account,
        Self::AccountPast,
        Self::AccountCount,
        Self::Session,
        Self::SessionPast,
        Self::SessionCount,
        Self::Role,
        Self::RolePast,
        Self::RoleGrant,
        Self::RoleGrantPast,
        Self::HolderCount,
        Self::Metric,
        Self::Audit,
        Self::Incident,
        Self::IncidentPast,
    ];

    /// The table's name, without the schema.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Account => "account",
            Self::AccountPast => "account_past",
            Self::AccountCount => "account_count",
            Self::Session => "session",
            Self::SessionPast => "session_past",
            Self::SessionCount => "session_count",
            Self::Role => "role",
            Self::RolePast => "role_past",
            Self::RoleGrant => "role_grant",
            Self::RoleGrantPast => "role_grant_past",
            Self::HolderCount => "holder_count",
            Self::Metric => "metric",
            Self::Audit => "audit",
            Self::Incident => "incident",
            Self::IncidentPast => "incident_past",
        }
    }
}

/// The content of a table as of a position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checksum {
    /// The number of rows.
    pub rows: u64,
    /// The SHA-256 over all rows, in the order of their keys.
    pub digest: [u8; 32],
}

/// Read models in temporary tables, initially empty.
pub struct ScratchTables(PgConnection);

/// The schema of a connection's temporary tables.
const TEMPORARY: &str = "pg_temp";

impl ScratchTables {
    /// Creates the tables on a connection that nobody else uses.
    ///
    /// # Errors [`sqlx::Error`], also if the role may not create temporary tables.
    pub async fn create(mut connection: PgConnection) -> Result<Self, sqlx::Error> {
        // This is allowed only before the first temporary table is used.
        sqlx::query("set temp_buffers = '64MB'").execute(&mut connection).await?;
        for table in Projection::ALL.into_iter().flat_map(Projection::tables) {
            let statement = format!("create temporary table {table} (like read.{table} including indexes)");
            sqlx::query(AssertSqlSafe(statement)).execute(&mut connection).await?;
        }
        Ok(Self(connection))
    }

    /// Applies consecutive events to all read models, starting from the beginning of the log.
    ///
    /// # Errors
    /// [`sqlx::Error`].
    pub async fn apply(&mut self, events: &[RecordedEvent]) -> Result<(), sqlx::Error> {
        let mut transaction = begin_on(&mut self.0).await?;
        use_schema(&mut transaction, TEMPORARY).await?;
        for projection in Projection::ALL {
            projection.apply(&mut transaction, &mut RowCache::default(), events).await?;
        }
        transaction.commit().await
    }

    /// The content of one of these tables as of a position.
    ///
    /// # Errors
    /// [`sqlx::Error`].
    pub async fn checksum(&mut self, table: ReadModelTable, position: i64) -> Result<Checksum, sqlx::Error> {
        checksum(&mut self.0, TEMPORARY, table, position).await
    }
}

/// The content of a live table as of a position, which its projection must have reached.
///
/// # Errors
/// [`sqlx::Error`].
pub async fn live_checksum(
    connection: &mut PgConnection,
    table: ReadModelTable,
    position: i64,
) -> Result<Checksum, sqlx::Error> {
    checksum(connection, "read", table, position).await
}

async fn checksum(
    connection: &mut PgConnection,
    schema: &str,
    table: ReadModelTable,
    position: i64,
) -> Result<Checksum, sqlx::Error> {
    let mut transaction = begin_on(connection).await?;
    use_schema(&mut transaction, schema).await?;
    let (mut rows, mut digest) = (0, Sha256::new());
    let mut stream = rows_as_of(&mut transaction, table, position);
    while let Some(row) = stream.try_next().await? {
        rows += 1;
        // A line feed cannot appear in a row unescaped: none of our names or texts has one.
        digest.update(row.as_bytes());
        digest.update(b"\n");
    }
    drop(stream);
    transaction.commit().await?;
    Ok(Checksum { rows, digest: digest.finalize().into() })
}

/// Resolves tables in this schema for the rest of the transaction. The temporary schema is listed last, or it would be
/// searched first.
async fn use_schema(transaction: &mut PgConnection, schema: &str) -> Result<(), sqlx::Error> {
    sqlx::query_scalar!("select set_config('search_path', $1 || ', pg_temp', true)", schema)
        .fetch_one(transaction)
        .await
        .map(drop)
}

/// The rows of a table as of a position, each as text, in the order of their keys. Replayed tables and live tables are
/// asked the same question.
fn rows_as_of(
    connection: &mut PgConnection,
    table: ReadModelTable,
    position: i64,
) -> BoxStream<'_, Result<String, sqlx::Error>> {
    match table {
        ReadModelTable::Account => current_rows::<AccountRow>(connection, position),
        ReadModelTable::AccountPast => past_rows::<AccountRow>(connection, position),
        ReadModelTable::AccountCount => sqlx::query_scalar!(
            r#"select t::text as "row!" from account_count t where position <= $1 order by position"#,
            position
        )
        .fetch(connection),
        ReadModelTable::Session => current_rows::<SessionRow>(connection, position),
        ReadModelTable::SessionPast => past_rows::<SessionRow>(connection, position),
        // The periods that are not settled by then follow from the sessions.
        ReadModelTable::SessionCount => sqlx::query_scalar!(
            r#"select t::text as "row!" from session_count t
               where at < date_trunc(unit, (
                   select recorded_at from audit where position <= $1 order by position desc limit 1), 'UTC')
               order by unit, at"#,
            position
        )
        .fetch(connection),
        ReadModelTable::Role => current_rows::<RoleRow>(connection, position),
        ReadModelTable::RolePast => past_rows::<RoleRow>(connection, position),
        ReadModelTable::RoleGrant => current_rows::<GrantRow>(connection, position),
        ReadModelTable::RoleGrantPast => past_rows::<GrantRow>(connection, position),
        ReadModelTable::HolderCount => sqlx::query_scalar!(
            r#"select t::text as "row!" from holder_count t where position <= $1 order by role, position"#,
            position
        )
        .fetch(connection),
        // The minute that contains the position has to be recounted.
        ReadModelTable::Metric => sqlx::query_scalar!(
            r#"select t::text as "row!" from (
                   select * from metric where last_position <= $1
                   union all
                   select m.minute, m.event_type, count(*), min(a.position), max(a.position)
                   from metric m
                   join audit a on a.event_type = m.event_type and a.position between m.first_position and $1
                   where m.first_position <= $1 and $1 < m.last_position
                   group by m.minute, m.event_type
               ) t order by minute, event_type"#,
            position
        )
        .fetch(connection),
        ReadModelTable::Audit => sqlx::query_scalar!(
            r#"select t::text as "row!" from audit t where position <= $1 order by position"#,
            position
        )
        .fetch(connection),
        ReadModelTable::Incident => current_rows::<IncidentRow>(connection, position),
        ReadModelTable::IncidentPast => past_rows::<IncidentRow>(connection, position),
    }
}

fn current_rows<T: HistoryTable>(
    connection: &mut PgConnection,
    position: i64,
) -> BoxStream<'_, Result<String, sqlx::Error>> {
    let (versions, key) = (versions_as_of::<T>(""), T::KEY.join(", "));
    let statement = format!("select t::text from ({versions}) t order by {key}");
    sqlx::query_scalar(AssertSqlSafe(statement)).bind(position).fetch(connection)
}

fn past_rows<T: HistoryTable>(
    connection: &mut PgConnection,
    position: i64,
) -> BoxStream<'_, Result<String, sqlx::Error>> {
    let (name, key) = (T::NAME, T::KEY.join(", "));
    let statement = format!("select t::text from {name}_past t where until <= $1 order by {key}, since");
    sqlx::query_scalar(AssertSqlSafe(statement)).bind(position).fetch(connection)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_of_a_read_model_is_compared() {
        let tables: Vec<&str> = Projection::ALL.into_iter().flat_map(Projection::tables).copied().collect();
        assert_eq!(tables, ReadModelTable::ALL.map(ReadModelTable::as_str));
    }
}
