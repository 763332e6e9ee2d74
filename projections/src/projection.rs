//! The read models that follow the log, by name.

use fulexo_domain::event::Recorded;
use sqlx::PgConnection;

use crate::versions::Versions;
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

/// Rows that need not be read again. Bounded.
#[derive(Default)]
pub(crate) struct Kept {
    accounts: Versions<accounts::Account>,
    sessions: Versions<sessions::Session>,
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

    /// Its tables, by their names in each schema; `projection.relation` says the same to the database.
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

    /// Applies a contiguous stretch of the log, to the tables that the connection's `search_path` leads to: those that
    /// readers see, or those of a build. `kept` is empty, or what the stretch before has left there, committed, and nobody
    /// else having written since.
    pub(crate) async fn apply(
        self,
        connection: &mut PgConnection,
        kept: &mut Kept,
        events: &[Recorded],
    ) -> Result<(), sqlx::Error> {
        self.fold(connection, kept, events).await?;
        self.write(connection, kept).await
    }

    /// The first half of it: what can be held back for a later [`Projection::write`] is held in `kept`.
    pub(crate) async fn fold(
        self,
        connection: &mut PgConnection,
        kept: &mut Kept,
        events: &[Recorded],
    ) -> Result<(), sqlx::Error> {
        match self {
            Self::Accounts => accounts::fold(connection, &mut kept.accounts, events).await,
            Self::Sessions => sessions::fold(connection, &mut kept.sessions, events).await,
            // Few, added up in the database, or never changed: nothing is won by waiting.
            Self::Roles => roles::apply(connection, events).await,
            Self::Metrics => metrics::apply(connection, events).await,
            Self::Audit => audit::apply(connection, events).await,
        }
    }

    /// The second half: what is held is written.
    pub(crate) async fn write(self, connection: &mut PgConnection, kept: &mut Kept) -> Result<(), sqlx::Error> {
        match self {
            Self::Accounts => accounts::write(connection, &mut kept.accounts).await,
            Self::Sessions => sessions::write(connection, &mut kept.sessions).await,
            Self::Roles | Self::Metrics | Self::Audit => Ok(()),
        }
    }
}

impl Kept {
    /// Versions of rows that are held back.
    pub(crate) fn held(&self) -> usize {
        self.accounts.held() + self.sessions.held()
    }
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
