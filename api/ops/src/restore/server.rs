//! The server of PostgreSQL that a database is restored to, as its superuser.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::time::{Instant, sleep};
use url::Url;
use uuid::Uuid;

use crate::backup::BackupError;

/// The end of the name of a database that is being restored.
const RESTORING: &str = "_restoring";
/// The comment on such a database: whatever has another one is not ours.
const COMMENT: &str = "being restored by fulexo";
/// The part of a name between that of the database and the time at which it was replaced.
const UNTIL: &str = "_until_";
/// The length of the longest name of a database, in bytes, so that both fit behind it.
const MAX_NAME: usize = 63 - UNTIL.len() - "20261201t061402123".len();
/// The database to which the superuser connects while others are renamed.
const MAINTENANCE: &str = "postgres";
/// The time that sessions may take to end.
const PATIENCE: Duration = Duration::from_secs(15);

/// The database that a restore replaces.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ReplacedDatabase {
    /// There is none of this name.
    Missing,
    /// It has no table.
    Empty,
    /// It has tables, and no log.
    Foreign,
    /// It has a log.
    Log {
        /// The history to which it belongs.
        epoch: Uuid,
        /// The number of its events.
        position: u64,
    },
}

/// The server, and the right to restore this one database there. Both end when it is dropped, or with the process.
pub struct RestoreServer {
    /// Connected to [`MAINTENANCE`]; holds the lock.
    connection: PgConnection,
    url: String,
    name: String,
    /// The limit of connections that the replaced database had; `None` while it is open.
    closed: Option<i32>,
}

impl RestoreServer {
    /// Connects as the superuser, and takes the right to restore the database of this name.
    ///
    /// # Errors
    /// [`BackupError::Database`], also if another restore of it runs.
    pub async fn connect(superuser_url: &str, name: &str) -> Result<Self, BackupError> {
        let refused = |reason: String| BackupError::Database(reason);
        if name.len() > MAX_NAME || ["postgres", "template0", "template1", ""].contains(&name) {
            return Err(refused(format!("\"{name}\" cannot be restored to: its name is reserved, or too long")));
        }
        let mut connection = PgConnection::connect(&database_url(superuser_url, MAINTENANCE)?).await?;
        let is_superuser: bool = sqlx::query_scalar("select rolsuper from pg_roles where rolname = current_user")
            .fetch_one(&mut connection)
            .await?;
        if !is_superuser {
            return Err(refused("the role of DATABASE_SUPERUSER_URL is not a superuser".to_owned()));
        }
        sqlx::query("set statement_timeout = 0").execute(&mut connection).await?;
        let lock = "select pg_try_advisory_lock(hashtextextended('fulexo/restore/' || $1, 0))";
        let is_locked: bool = sqlx::query_scalar(lock).bind(name).fetch_one(&mut connection).await?;
        if !is_locked {
            return Err(refused(format!("another restore of \"{name}\" runs")));
        }
        Ok(Self { connection, url: superuser_url.to_owned(), name: name.to_owned(), closed: None })
    }

    /// Returns the superuser's URL of the database that is replaced.
    ///
    /// # Errors
    /// [`BackupError::Database`].
    pub fn replaced_url(&self) -> Result<String, BackupError> {
        database_url(&self.url, &self.name)
    }

    /// Returns the superuser's URL of the database that is being restored.
    ///
    /// # Errors
    /// [`BackupError::Database`].
    pub fn restoring_url(&self) -> Result<String, BackupError> {
        database_url(&self.url, &self.restoring())
    }

    /// Returns the name of the database that is being restored.
    #[must_use]
    pub fn restoring(&self) -> String {
        format!("{}{RESTORING}", self.name)
    }

    /// Looks at the database that is replaced.
    ///
    /// # Errors
    /// [`BackupError::Database`].
    pub async fn replaced(&mut self) -> Result<ReplacedDatabase, BackupError> {
        if !self.exists(&self.name.clone()).await? {
            return Ok(ReplacedDatabase::Missing);
        }
        let mut connection = PgConnection::connect(&self.replaced_url()?).await?;
        let (has_log, tables): (bool, i64) = sqlx::query_as(
            "select to_regclass('log.head') is not null and to_regclass('log.event') is not null,
                    (select count(*) from pg_class c join pg_namespace n on n.oid = c.relnamespace
                     where n.nspname !~ '^pg_' and n.nspname <> 'information_schema')",
        )
        .fetch_one(&mut connection)
        .await?;
        let replaced = match (has_log, tables) {
            (true, _) => {
                let head = sqlx::query_as::<_, (Uuid, i64)>("select epoch, position from log.head");
                let (epoch, position) = head.fetch_one(&mut connection).await?;
                ReplacedDatabase::Log { epoch, position: position.unsigned_abs() }
            }
            (false, 0) => ReplacedDatabase::Empty,
            (false, _) => ReplacedDatabase::Foreign,
        };
        let _ = connection.close().await;
        Ok(replaced)
    }

    /// Creates the database to restore to, after removing that of an interrupted run. `owner` owns it.
    ///
    /// # Errors
    /// [`BackupError::Database`].
    pub async fn create(&mut self, owner: &str) -> Result<(), BackupError> {
        let restoring = self.restoring();
        if self.exists(&restoring).await? {
            let mut connection = PgConnection::connect(&self.restoring_url()?).await?;
            let is_ours: bool = sqlx::query_scalar(
                "select coalesce(shobj_description(d.oid, 'pg_database') = $1, false)
                        or not exists (select from pg_class c join pg_namespace n on n.oid = c.relnamespace
                                       where n.nspname !~ '^pg_' and n.nspname <> 'information_schema')
                 from pg_database d where d.datname = current_database()",
            )
            .bind(COMMENT)
            .fetch_one(&mut connection)
            .await?;
            let _ = connection.close().await;
            if !is_ours {
                let text = format!("there is a database \"{restoring}\" that no restore made: rename it");
                return Err(BackupError::Database(text));
            }
            self.discard().await?;
        }
        let (owner, quoted) = (identifier(owner), identifier(&restoring));
        self.run(format!("create database {quoted} template template0 encoding 'UTF8' owner {owner}")).await?;
        self.run(format!("comment on database {quoted} is '{COMMENT}'")).await
    }

    /// Removes the database that is being restored.
    ///
    /// # Errors
    /// [`BackupError::Database`].
    pub async fn discard(&mut self) -> Result<(), BackupError> {
        self.run(format!("drop database if exists {} with (force)", identifier(&self.restoring()))).await
    }

    /// Ends all sessions of the database that is replaced, and lets nobody but superusers connect. Returns the number of sessions.
    ///
    /// # Errors
    /// [`BackupError::Database`].
    pub async fn close(&mut self) -> Result<usize, BackupError> {
        let limit: Option<i32> = sqlx::query_scalar("select datconnlimit from pg_database where datname = $1")
            .bind(&self.name)
            .fetch_optional(&mut self.connection)
            .await?;
        let Some(limit) = limit else { return Ok(0) };
        self.run(format!("alter database {} connection limit 0", identifier(&self.name))).await?;
        // 0 is what an interrupted run left.
        self.closed = Some(if limit == 0 { -1 } else { limit });
        self.end_sessions().await
    }

    /// Opens the database again that would have been replaced.
    ///
    /// # Errors
    /// [`BackupError::Database`].
    pub async fn reopen(&mut self) -> Result<(), BackupError> {
        let Some(limit) = self.closed.take() else { return Ok(()) };
        self.run(format!("alter database {} connection limit {limit}", identifier(&self.name))).await
    }

    /// Gives the restored database its name. The one before gets another, which is returned, if it has anything.
    ///
    /// # Errors
    /// [`BackupError::Database`]: then nothing has changed.
    pub async fn swap(&mut self, before: ReplacedDatabase, now: DateTime<Utc>) -> Result<Option<String>, BackupError> {
        let (name, restoring) = (identifier(&self.name), identifier(&self.restoring()));
        let aside = format!("{}{UNTIL}{}", self.name, now.format("%Y%m%dt%H%M%S%3f"));
        self.end_sessions().await?;
        let mut transaction = fulexo_database::begin_on(&mut self.connection).await?;
        if before != ReplacedDatabase::Missing {
            let statement = format!("alter database {name} rename to {}", identifier(&aside));
            sqlx::query(AssertSqlSafe(statement)).execute(&mut *transaction).await?;
        }
        for statement in
            [format!("alter database {restoring} rename to {name}"), format!("comment on database {name} is null")]
        {
            sqlx::query(AssertSqlSafe(statement)).execute(&mut *transaction).await?;
        }
        transaction.commit().await?;
        // It stays closed.
        self.closed = None;
        match before {
            ReplacedDatabase::Missing => Ok(None),
            ReplacedDatabase::Empty => {
                self.run(format!("drop database {} with (force)", identifier(&aside))).await?;
                Ok(None)
            }
            ReplacedDatabase::Foreign | ReplacedDatabase::Log { .. } => Ok(Some(aside)),
        }
    }

    /// Ends the sessions of both databases, and returns the number of those of the replaced one.
    async fn end_sessions(&mut self) -> Result<usize, BackupError> {
        let names = [self.name.clone(), self.restoring()];
        let (began, mut ended) = (Instant::now(), 0);
        loop {
            let sessions: Vec<(String, bool)> = sqlx::query_as(
                "select datname::text, pg_terminate_backend(pid) from pg_stat_activity
                 where datname = any($1) and pid <> pg_backend_pid()",
            )
            .bind(&names[..])
            .fetch_all(&mut self.connection)
            .await?;
            if sessions.is_empty() {
                return Ok(ended);
            }
            ended = ended.max(sessions.iter().filter(|(name, _)| *name == self.name).count());
            if began.elapsed() > PATIENCE {
                let text = format!("{} sessions of \"{}\" do not end: stop the nodes", sessions.len(), self.name);
                return Err(BackupError::Database(text));
            }
            // There is nothing to be woken by.
            sleep(Duration::from_millis(50)).await;
        }
    }

    async fn exists(&mut self, name: &str) -> Result<bool, BackupError> {
        let exists = sqlx::query_scalar("select exists (select from pg_database where datname = $1)");
        Ok(exists.bind(name).fetch_one(&mut self.connection).await?)
    }

    async fn run(&mut self, statement: String) -> Result<(), BackupError> {
        sqlx::query(AssertSqlSafe(statement)).execute(&mut self.connection).await?;
        Ok(())
    }
}

/// Returns the URL of another database of the same server.
///
/// # Errors
/// [`BackupError::Database`] if it is not a URL of PostgreSQL.
pub fn database_url(url: &str, name: &str) -> Result<String, BackupError> {
    let mut url = parse(url)?;
    url.set_path(name);
    Ok(url.into())
}

/// Returns the name of the database of a URL.
///
/// # Errors
/// [`BackupError::Database`] if it is not a URL of PostgreSQL that names one.
pub fn database_name(url: &str) -> Result<String, BackupError> {
    let url = parse(url)?;
    let decoded = percent_encoding::percent_decode_str(url.path().trim_start_matches('/')).decode_utf8();
    let name = decoded.ok().map(|name| name.into_owned()).filter(|name| !name.is_empty());
    name.ok_or_else(|| BackupError::Database("the URL names no database".to_owned()))
}

fn parse(url: &str) -> Result<Url, BackupError> {
    let parsed = Url::parse(url).ok().filter(|url| ["postgres", "postgresql"].contains(&url.scheme()));
    parsed.ok_or_else(|| BackupError::Database("the URL is not one of PostgreSQL".to_owned()))
}

fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_leads_to_another_database_with_all_else_as_it_was() {
        let url = "postgres://ann:s%40cret@db:5432/fulexo?sslmode=require";
        let other = "postgres://ann:s%40cret@db:5432/fulexo_restoring?sslmode=require";
        assert_eq!(database_url(url, "fulexo_restoring").unwrap(), other);
        assert_eq!(database_name(url).unwrap(), "fulexo");
        let socket = "postgres:///fulexo?host=/run/postgresql";
        assert_eq!(database_url(socket, "postgres").unwrap(), "postgres:///postgres?host=/run/postgresql");
        for none in ["postgres://db", "postgres://db/", "https://db/fulexo", "fulexo"] {
            assert!(database_name(none).is_err(), "{none}");
        }
    }
}
