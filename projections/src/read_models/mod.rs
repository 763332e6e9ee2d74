//! The read models that follow the log, by name.

pub mod accounts;
pub mod audit;
pub mod backups;
mod bulk;
mod copy_format;
pub mod counts;
pub(crate) mod history_table;
pub mod incidents;
pub mod metrics;
pub mod roles;
pub mod sessions;
mod versions;

use fulexo_domain::event::RecordedEvent;
use sqlx::PgConnection;

use self::counts::{AccountCountChanges, SessionCountChanges};
use self::versions::{RowChanges, RowVersions};

/// A read model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Projection {
    /// Accounts, their roles and locks.
    Accounts,
    /// Sessions, live and ended.
    Sessions,
    /// Defined roles, and the accounts that hold each role.
    Roles,
    /// The number of events of each type.
    Metrics,
    /// The index that auditors search.
    Audit,
    /// Incidents, open and closed.
    Incidents,
}

/// Rows cached from batch to batch, within a bound, so that they need not be read again.
#[derive(Default)]
pub(crate) struct RowCache {
    accounts: RowVersions<accounts::AccountRow>,
    sessions: RowVersions<sessions::SessionRow>,
    pending_sessions: sessions::PendingSessions,
    account_counts: AccountCountChanges,
    session_counts: SessionCountChanges,
}

impl Projection {
    /// All read models.
    pub const ALL: [Self; 6] =
        [Self::Accounts, Self::Sessions, Self::Roles, Self::Metrics, Self::Audit, Self::Incidents];

    /// The name in the checkpoint table, on the command line, and in health.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accounts => "accounts",
            Self::Sessions => "sessions",
            Self::Roles => "roles",
            Self::Metrics => "metrics",
            Self::Audit => "audit",
            Self::Incidents => "incidents",
        }
    }

    /// The names of its tables, the same in each schema; `projection.relation` lists the same for the database.
    #[must_use]
    pub const fn tables(self) -> &'static [&'static str] {
        match self {
            Self::Accounts => &["account", "account_past", "account_count"],
            Self::Sessions => &["session", "session_past", "session_count"],
            Self::Roles => &["role", "role_past", "role_grant", "role_grant_past", "holder_count"],
            Self::Metrics => &["metric"],
            Self::Audit => &["audit"],
            Self::Incidents => &["incident", "incident_past"],
        }
    }

    /// Applies consecutive events to the tables that the connection's `search_path` resolves: the live ones or those of
    /// a build. `cache` is empty, or was left by the previous batch, which was committed, and nobody else has written
    /// since.
    pub(crate) async fn apply(
        self,
        connection: &mut PgConnection,
        cache: &mut RowCache,
        events: &[RecordedEvent],
    ) -> Result<(), sqlx::Error> {
        match self {
            Self::Accounts | Self::Sessions => {
                let on = &mut *connection;
                self.fold(async move || Ok::<_, sqlx::Error>(on), cache, events).await?;
                cache.finish().write(connection).await
            }
            Self::Roles => roles::apply(connection, events).await,
            Self::Metrics => metrics::apply(connection, events).await,
            Self::Audit => audit::apply(connection, events).await,
            Self::Incidents => incidents::apply(connection, events).await,
        }
    }

    /// `true` if [`Projection::fold`] does anything. Rows of the other read models are few, or added up in the
    /// database, or never changed, so deferring their writes saves nothing.
    pub(crate) const fn defers_writes(self) -> bool {
        match self {
            Self::Accounts | Self::Sessions => true,
            Self::Roles | Self::Metrics | Self::Audit | Self::Incidents => false,
        }
    }

    /// Applies events to `cache` only; [`RowCache::finish`] then returns the writes. It asks for the connection only if
    /// it must read a row.
    pub(crate) async fn fold<'c, E: From<sqlx::Error>>(
        self,
        connection: impl AsyncFnOnce() -> Result<&'c mut PgConnection, E>,
        cache: &mut RowCache,
        events: &[RecordedEvent],
    ) -> Result<(), E> {
        match self {
            Self::Accounts => accounts::fold(connection, &mut cache.accounts, &mut cache.account_counts, events).await,
            Self::Sessions => {
                let counts = &mut cache.session_counts;
                sessions::fold(connection, &mut cache.sessions, &mut cache.pending_sessions, counts, events).await
            }
            Self::Roles | Self::Metrics | Self::Audit | Self::Incidents => Ok(()),
        }
    }
}

/// Changes that were folded but not written yet.
pub(crate) struct PendingWrites {
    accounts: RowChanges<accounts::AccountRow>,
    sessions: RowChanges<sessions::SessionRow>,
    account_counts: AccountCountChanges,
    session_counts: SessionCountChanges,
}

impl PendingWrites {
    /// Writes the changes to the tables that the connection's `search_path` resolves.
    pub async fn write(self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        bulk::write(connection, &self.accounts).await?;
        bulk::write(connection, &self.sessions).await?;
        self.account_counts.write(connection).await?;
        self.session_counts.write(connection).await
    }
}

impl RowCache {
    /// The number of rows with unwritten changes, or read for them.
    pub(crate) fn touched(&self) -> usize {
        self.accounts.touched() + self.sessions.touched()
    }

    /// The number of superseded versions that are not written yet.
    pub(crate) fn superseded(&self) -> usize {
        self.accounts.superseded() + self.sessions.superseded()
    }

    /// Takes the superseded versions, to be written before the rest.
    pub(crate) fn take_past(&mut self) -> PendingWrites {
        PendingWrites {
            accounts: self.accounts.take_past(),
            sessions: self.sessions.take_past(),
            account_counts: std::mem::take(&mut self.account_counts),
            session_counts: std::mem::take(&mut self.session_counts),
        }
    }

    /// Takes all unwritten changes.
    pub(crate) fn finish(&mut self) -> PendingWrites {
        self.pending_sessions.clear();
        PendingWrites {
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
            format!("the projection {name:?} does not exist; the projections are {names}")
        })
    }
}
