//! The read models that follow the log, by name.

use fulexo_domain::event::Recorded;
use sqlx::{AssertSqlSafe, PgConnection};

use crate::{accounts, audit, metrics, roles, sessions};

/// A read model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Projection {
    /// Accounts, their roles and locks.
    Accounts,
    /// Sessions, live and ended.
    Sessions,
    /// Roles that were defined, and who holds what.
    Roles,
    /// How many events of each type there were.
    Metrics,
    /// What auditors search by.
    Audit,
}

impl Projection {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Accounts, Self::Sessions, Self::Roles, Self::Metrics, Self::Audit];

    /// The name in the checkpoint table, on the command line and in health.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accounts => "accounts",
            Self::Sessions => "sessions",
            Self::Roles => "roles",
            Self::Metrics => "metrics",
            Self::Audit => "audit",
        }
    }

    /// The tables that it is in, without their schema: `read` for what readers see.
    #[must_use]
    pub const fn tables(self) -> &'static [&'static str] {
        match self {
            Self::Accounts => &["account", "account_past"],
            Self::Sessions => &["session", "session_past"],
            Self::Roles => &["role", "role_past", "role_grant", "role_grant_past"],
            Self::Metrics => &["metric"],
            Self::Audit => &["audit"],
        }
    }

    /// Applies a contiguous stretch of the log, to the tables that the transaction's `search_path` leads to.
    pub(crate) async fn apply(self, connection: &mut PgConnection, events: &[Recorded]) -> Result<(), sqlx::Error> {
        match self {
            Self::Accounts => accounts::apply(connection, events).await,
            Self::Sessions => sessions::apply(connection, events).await,
            Self::Roles => roles::apply(connection, events).await,
            Self::Metrics => metrics::apply(connection, events).await,
            Self::Audit => audit::apply(connection, events).await,
        }
    }

    /// Empties it, for a rebuild.
    pub(crate) async fn clear(self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        for table in self.tables() {
            // The names stand above.
            sqlx::query(AssertSqlSafe(format!("delete from {table}"))).execute(&mut *connection).await?;
        }
        Ok(())
    }

    /// Rows and a digest over all of them: two views are the same when these are.
    pub(crate) async fn fingerprint(self, connection: &mut PgConnection) -> Result<Fingerprint, sqlx::Error> {
        let mut all = Fingerprint { rows: 0, digest: String::new() };
        for table in self.tables() {
            let statement = format!(
                "select count(*), md5(coalesce(string_agg(md5(t::text), '' order by t::text), '')) from {table} t"
            );
            let (rows, digest): (i64, String) =
                sqlx::query_as(AssertSqlSafe(statement)).fetch_one(&mut *connection).await?;
            all.rows += rows.unsigned_abs();
            all.digest += &digest;
        }
        Ok(all)
    }
}

/// For as long as the transaction lasts, the tables of read models are those in this schema. Temporary tables come last, or
/// they would come first.
pub(crate) async fn use_schema(transaction: &mut PgConnection, schema: &str) -> Result<(), sqlx::Error> {
    sqlx::query_scalar!("select set_config('search_path', $1 || ', pg_temp', true)", schema).fetch_one(transaction).await.map(drop)
}

/// What a view comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint {
    /// How many rows.
    pub rows: u64,
    /// Over all of them. Not a matter of security: it tells two views of one database apart.
    pub digest: String,
}

impl std::str::FromStr for Projection {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|projection| projection.as_str() == name).ok_or_else(|| {
            let names = Self::ALL.map(Self::as_str).join(", ");
            format!("there is no projection {name:?}; there are {names}")
        })
    }
}
