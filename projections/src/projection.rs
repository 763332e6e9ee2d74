//! The read models that follow the log, by name.

use fulexo_domain::event::Recorded;
use sqlx::PgConnection;

use crate::{accounts, audit, sessions};

/// A read model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Projection {
    /// Accounts, their roles and locks.
    Accounts,
    /// Sessions, live and ended.
    Sessions,
    /// What auditors search by.
    Audit,
}

impl Projection {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Accounts, Self::Sessions, Self::Audit];

    /// The name in the checkpoint table, on the command line and in health.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accounts => "accounts",
            Self::Sessions => "sessions",
            Self::Audit => "audit",
        }
    }

    /// Applies a contiguous stretch of the log.
    pub(crate) async fn apply(self, connection: &mut PgConnection, events: &[Recorded]) -> Result<(), sqlx::Error> {
        match self {
            Self::Accounts => accounts::apply(connection, events).await,
            Self::Sessions => sessions::apply(connection, events).await,
            Self::Audit => audit::apply(connection, events).await,
        }
    }

    /// Empties it, for a rebuild.
    pub(crate) async fn clear(self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        match self {
            Self::Accounts => sqlx::query!("delete from read.account").execute(connection).await,
            Self::Sessions => sqlx::query!("delete from read.session").execute(connection).await,
            Self::Audit => sqlx::query!("delete from read.audit").execute(connection).await,
        }
        .map(drop)
    }

    /// Rows and a digest over all of them, in the order of their keys: two views are the same when these are.
    pub(crate) async fn fingerprint(self, connection: &mut PgConnection) -> Result<Fingerprint, sqlx::Error> {
        let (rows, digest) = match self {
            Self::Accounts => {
                let row = sqlx::query!(
                    r#"select count(*) as "rows!", md5(coalesce(string_agg(md5(a::text), '' order by account_id), ''))
                       as "digest!" from read.account a"#
                )
                .fetch_one(connection)
                .await?;
                (row.rows, row.digest)
            }
            Self::Sessions => {
                let row = sqlx::query!(
                    r#"select count(*) as "rows!", md5(coalesce(string_agg(md5(s::text), '' order by session_id), ''))
                       as "digest!" from read.session s"#
                )
                .fetch_one(connection)
                .await?;
                (row.rows, row.digest)
            }
            Self::Audit => {
                let row = sqlx::query!(
                    r#"select count(*) as "rows!", md5(coalesce(string_agg(md5(a::text), '' order by position), ''))
                       as "digest!" from read.audit a"#
                )
                .fetch_one(connection)
                .await?;
                (row.rows, row.digest)
            }
        };
        Ok(Fingerprint { rows: rows.unsigned_abs(), digest })
    }
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
