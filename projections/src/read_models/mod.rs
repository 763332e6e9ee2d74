//! The read models that follow the log, by name.

pub mod accounts;
pub mod audit;
mod bulk;
pub mod counts;
pub mod metrics;
pub mod roles;
pub mod sessions;
mod versions;

use fulexo_domain::event::Recorded;
use sqlx::PgConnection;

use self::counts::{AccountCounts, SessionCounts};
use self::versions::{Made, Versions};

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
    begun: sessions::Begun,
    account_counts: AccountCounts,
    session_counts: SessionCounts,
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
            Self::Accounts => &["account", "account_past", "account_count"],
            Self::Sessions => &["session", "session_past", "session_count"],
            Self::Roles => &["role", "role_past", "role_grant", "role_grant_past", "holder_count"],
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
        match self {
            Self::Accounts | Self::Sessions => {
                let on = &mut *connection;
                self.fold(async move || Ok::<_, sqlx::Error>(on), kept, events).await?;
                kept.finish().write(connection).await
            }
            Self::Roles => roles::apply(connection, events).await,
            Self::Metrics => metrics::apply(connection, events).await,
            Self::Audit => audit::apply(connection, events).await,
        }
    }

    /// Whether [`Projection::fold`] is something: rows of the others are few, added up in the database, or never changed, and
    /// nothing is won by waiting.
    pub(crate) const fn holds_back(self) -> bool {
        match self {
            Self::Accounts | Self::Sessions => true,
            Self::Roles | Self::Metrics | Self::Audit => false,
        }
    }

    /// The first half of it: what comes of the stretch is held in `kept`. The connection is asked for where a row has to be
    /// read.
    pub(crate) async fn fold<'c, E: From<sqlx::Error>>(
        self,
        connection: impl AsyncFnOnce() -> Result<&'c mut PgConnection, E>,
        kept: &mut Kept,
        events: &[Recorded],
    ) -> Result<(), E> {
        match self {
            Self::Accounts => accounts::fold(connection, &mut kept.accounts, &mut kept.account_counts, events).await,
            Self::Sessions => {
                let counts = &mut kept.session_counts;
                sessions::fold(connection, &mut kept.sessions, &mut kept.begun, counts, events).await
            }
            Self::Roles | Self::Metrics | Self::Audit => Ok(()),
        }
    }
}

/// What was folded and is not written yet.
pub(crate) struct Unwritten {
    accounts: Made<accounts::Account>,
    sessions: Made<sessions::Session>,
    account_counts: AccountCounts,
    session_counts: SessionCounts,
}

impl Unwritten {
    /// Writes it, to the tables that the connection's `search_path` leads to.
    pub async fn write(self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        bulk::write(connection, &self.accounts).await?;
        bulk::write(connection, &self.sessions).await?;
        self.account_counts.write(connection).await?;
        self.session_counts.write(connection).await
    }
}

impl Kept {
    /// Rows that are held back.
    pub(crate) fn touched(&self) -> usize {
        self.accounts.touched() + self.sessions.touched()
    }

    /// Versions of them that were superseded, and are held back.
    pub(crate) fn superseded(&self) -> usize {
        self.accounts.superseded() + self.sessions.superseded()
    }

    /// What was superseded, to be written ahead of the rest.
    pub(crate) fn take_past(&mut self) -> Unwritten {
        Unwritten {
            accounts: self.accounts.take_past(),
            sessions: self.sessions.take_past(),
            account_counts: std::mem::take(&mut self.account_counts),
            session_counts: std::mem::take(&mut self.session_counts),
        }
    }

    /// What is held, to be written: the other half of [`Projection::fold`].
    pub(crate) fn finish(&mut self) -> Unwritten {
        self.begun.clear();
        Unwritten {
            accounts: self.accounts.finish(),
            sessions: self.sessions.finish(),
            account_counts: std::mem::take(&mut self.account_counts),
            session_counts: std::mem::take(&mut self.session_counts),
        }
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
