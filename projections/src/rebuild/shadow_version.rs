//! A shadow version of a read model: the one being built, or the previous one that is kept. Its checkpoint moves in the
//! transaction of its rows, like that of the live version.

use std::ops::Range;
use std::time::Duration;

use fulexo_database::{DatabaseFailure, begin_on};
use fulexo_domain::event::RecordedEvent;
use sqlx::{Connection, PgConnection, PgPool};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::report::{BATCH, RebuildError, RebuildProgress};
use crate::feed::{self, FeedError};
use crate::read_models::{PendingWrites, Projection, RowCache};
use crate::to_i64;

/// The maximum time to wait for the lock. A process that was killed a moment ago holds it until the server notices, and
/// has rolled back.
const LOCK_TIMEOUT: Duration = Duration::from_secs(60);
/// The time within which the server has received everything that a killed process had sent.
const GRACE: Duration = Duration::from_secs(1);
/// The maximum number of rows whose writes are deferred, about 100 MB, and of their superseded versions.
const MAX_DEFERRED_ROWS: usize = 300_000;
const MAX_DEFERRED_VERSIONS: usize = 20_000;
/// The maximum time for which writes are deferred and the transaction of the superseded versions stays open. An
/// interruption loses that work. Vacuum of every table waits for the transaction, so the time is short.
const MAX_DEFERRAL: Duration = Duration::from_secs(15);
/// The number of attempts to switch before the rebuild gives up.
const SWITCH_ATTEMPTS: u32 = 20;

/// The kind of a shadow version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShadowKind {
    Next,
    Previous,
}

/// A shadow version, locked by this process on a dedicated connection. If the connection is lost, so is the lock.
pub struct ShadowVersion {
    pub projection: Projection,
    writer: ShadowWriter,
    pub kind: ShadowKind,
    /// Every event below this position is applied.
    position: u64,
    /// Every event below this position is written or being written; the checkpoint is then here.
    written: u64,
    written_at: Instant,
    /// `true` if a transaction is open.
    is_open: bool,
    /// The rows of recent batches, written or deferred.
    cache: RowCache,
}

/// The connection, or the task that writes on it. Dropping this ends the task.
struct ShadowWriter {
    idle: Option<PgConnection>,
    writing: JoinSet<Result<PgConnection, RebuildError>>,
}

impl ShadowWriter {
    /// Takes the connection once the current write is committed. If that write failed, the connection is lost and the
    /// build with it.
    async fn take(&mut self) -> Result<PgConnection, RebuildError> {
        if let Some(written) = self.writing.join_next().await {
            return written.unwrap_or_else(|error| match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime is shutting down.
                Err(_cancelled) => Err(sqlx::Error::PoolClosed.into()),
            });
        }
        self.idle.take().ok_or_else(|| sqlx::Error::PoolClosed.into())
    }

    async fn get(&mut self) -> Result<&mut PgConnection, RebuildError> {
        let connection = self.take().await?;
        Ok(self.idle.insert(connection))
    }
}

impl ShadowVersion {
    pub async fn open(pool: &PgPool, projection: Projection, kind: ShadowKind) -> Result<Self, RebuildError> {
        let mut connection = pool.acquire().await?.detach();
        let schema = match kind {
            ShadowKind::Next => "read_next",
            ShadowKind::Previous => "read_previous",
        };
        // The limits on requests do not apply here, and the server must notice if this client disappears. Rows lost in
        // a crash are built again, so no batch waits for the disk.
        sqlx::query!(
            "select set_config(s.name, s.value, false)
             from (values ('search_path', $1), ('statement_timeout', '0'), ('idle_in_transaction_session_timeout', '0'),
                          ('client_connection_check_interval', '1s'), ('synchronous_commit', 'off'),
                          ('work_mem', '64MB'), ('maintenance_work_mem', '256MB')) s (name, value)",
            format!("{schema}, pg_temp")
        )
        .fetch_all(&mut connection)
        .await?;
        lock(&mut connection, projection).await?;
        let (writer, cache) = (ShadowWriter { idle: Some(connection), writing: JoinSet::new() }, RowCache::default());
        Ok(Self {
            projection,
            writer,
            kind,
            position: 0,
            written: 0,
            written_at: Instant::now(),
            is_open: false,
            cache,
        })
    }

    /// The connection, after all writes in progress.
    pub async fn connection(&mut self) -> Result<&mut PgConnection, RebuildError> {
        self.writer.get().await
    }

    /// Every event below this position is applied.
    pub const fn position(&self) -> u64 {
        self.position
    }

    /// Resumes at a checkpoint below which everything is already written.
    pub fn resume_at(&mut self, position: u64) {
        (self.position, self.written, self.cache) = (position, position, RowCache::default());
    }

    /// The position of the live version.
    pub async fn live(&mut self) -> Result<u64, RebuildError> {
        live(self.writer.get().await?, self.projection).await
    }

    /// Applies the next events. A row that changes often is written rarely: its writes are deferred and happen in the
    /// background from time to time, and in [`ShadowVersion::flush`].
    pub async fn apply(&mut self, events: &[RecordedEvent]) -> Result<(), RebuildError> {
        if self.projection.defers_writes() {
            let writer = &mut self.writer;
            self.projection.fold(async move || writer.get().await, &mut self.cache, events).await?;
            self.position += events.len() as u64;
            if self.cache.touched() >= MAX_DEFERRED_ROWS || self.written_at.elapsed() >= MAX_DEFERRAL {
                self.begin_flush().await?;
            } else if self.cache.superseded() >= MAX_DEFERRED_VERSIONS {
                self.begin_flush_past().await?;
            }
        } else {
            let mut transaction = begin_on(self.writer.get().await?).await?;
            self.projection.apply(&mut transaction, &mut self.cache, events).await?;
            let until = self.position + events.len() as u64;
            advance_checkpoint(&mut transaction, self.projection, self.kind, self.position..until).await?;
            transaction.commit().await?;
            (self.position, self.written) = (until, until);
        }
        Ok(())
    }

    /// Writes and commits everything that is deferred.
    pub async fn flush(&mut self) -> Result<(), RebuildError> {
        if self.written < self.position {
            self.begin_flush().await?;
        }
        self.writer.get().await?;
        Ok(())
    }

    /// Starts to write everything that is deferred, in the background.
    async fn begin_flush(&mut self) -> Result<(), RebuildError> {
        let unwritten = self.cache.finish();
        self.spawn_write(unwritten, Some(self.written..self.position)).await?;
        (self.written, self.written_at, self.is_open) = (self.position, Instant::now(), false);
        Ok(())
    }

    /// Starts to write the superseded versions, which never change again, in the background. They commit together with
    /// the current versions.
    async fn begin_flush_past(&mut self) -> Result<(), RebuildError> {
        let unwritten = self.cache.take_past();
        self.spawn_write(unwritten, None).await?;
        self.is_open = true;
        Ok(())
    }

    /// Spawns a write, and commits it if it moves the checkpoint. It first waits for the previous write, and so does a
    /// read of a row that is not cached.
    async fn spawn_write(&mut self, unwritten: PendingWrites, steps: Option<Range<u64>>) -> Result<(), RebuildError> {
        let mut connection = self.writer.take().await?;
        let (projection, kind, begins) = (self.projection, self.kind, !self.is_open);
        self.writer.writing.spawn(async move {
            // Not a transaction of sqlx: it stays open across tasks, and ends with its connection.
            if begins {
                sqlx::raw_sql("begin").execute(&mut connection).await?;
            }
            unwritten.write(&mut connection).await?;
            if let Some(positions) = steps {
                advance_checkpoint(&mut connection, projection, kind, positions).await?;
                sqlx::raw_sql("commit").execute(&mut connection).await?;
            }
            Ok(connection)
        });
        Ok(())
    }

    /// Reads and applies events up to a position that the log has.
    pub async fn advance(&mut self, until: u64) -> Result<(), RebuildError> {
        while self.position < until {
            let events = read_events(self.writer.get().await?, self.position..until).await?;
            self.apply(&events).await?;
        }
        Ok(())
    }

    /// Applies the remaining events and replaces the live version, in one transaction. If readers hold the tables for
    /// long, it gives way and tries again: everyone queued after it for the lock would wait as long as it does.
    pub async fn switch(
        &mut self,
        progress: &mpsc::Sender<(Projection, RebuildProgress)>,
    ) -> Result<u64, RebuildError> {
        for number in 1..=SWITCH_ATTEMPTS {
            match self.try_switch().await {
                Err(RebuildError::Feed(FeedError::Database(error))) if is_busy(&error) => {
                    let _ = progress.send((self.projection, RebuildProgress::WaitingForReaders)).await;
                    sleep(Duration::from_millis(100) * number).await;
                }
                switched => return switched,
            }
        }
        Err(RebuildError::TablesBusy(self.projection))
    }

    async fn try_switch(&mut self) -> Result<u64, RebuildError> {
        let (projection, name) = (self.projection, self.projection.as_str());
        self.flush().await?;
        let mut transaction = begin_on(self.writer.get().await?).await?;
        // If this transaction stalled, it would stall every reader.
        sqlx::query!("set local idle_in_transaction_session_timeout = '5s'").execute(&mut *transaction).await?;
        sqlx::query!("set local statement_timeout = '30s'").execute(&mut *transaction).await?;
        // The switch itself is durable before it is reported.
        sqlx::query!("set local synchronous_commit to default").execute(&mut *transaction).await?;
        sqlx::query!("set local lock_timeout = '10s'").execute(&mut *transaction).await?;
        let live = sqlx::query_scalar!("select position from projection.checkpoint where name = $1 for update", name)
            .fetch_one(&mut *transaction)
            .await?
            .unsigned_abs();
        // Readers never go back in the log. A build must reach the head; the previous version must reach the position
        // of the live one.
        let end = match self.kind {
            ShadowKind::Next => feed::size(&mut transaction).await?.max(live),
            ShadowKind::Previous => live,
        };
        let mut position = self.position;
        while position < end {
            let events = read_events(&mut transaction, position..end).await?;
            projection.apply(&mut transaction, &mut RowCache::default(), &events).await?;
            let until = position + events.len() as u64;
            advance_checkpoint(&mut transaction, projection, self.kind, position..until).await?;
            position = until;
        }
        // Shorter than deadlock_timeout, so a deadlock never cancels a reader.
        sqlx::query!("set local lock_timeout = '300ms'").execute(&mut *transaction).await?;
        match self.kind {
            ShadowKind::Next => {
                sqlx::query!("select projection.switch_build($1)", name).execute(&mut *transaction).await?
            }
            ShadowKind::Previous => {
                sqlx::query!("select projection.switch_back($1)", name).execute(&mut *transaction).await?
            }
        };
        transaction.commit().await?;
        self.resume_at(position);
        Ok(position)
    }

    /// Releases the lock at once, rather than when the server notices the closed connection.
    pub async fn close(mut self) {
        if let Ok(mut connection) = self.writer.take().await {
            let _ = sqlx::query!("select pg_advisory_unlock_all()").execute(&mut connection).await;
            let _ = connection.close().await;
        }
    }
}

/// Takes the lock of a read model's shadow versions. It belongs to the session, because an open transaction would keep
/// vacuum from all rows that die meanwhile.
///
/// # Errors
/// [`RebuildError::AlreadyRunning`] as soon as the process that has the lock is seen to work, or after a minute.
async fn lock(connection: &mut PgConnection, projection: Projection) -> Result<(), RebuildError> {
    let started = Instant::now();
    let mut reference = None;
    while !sqlx::query_scalar!(
        r#"select pg_try_advisory_lock(hashtextextended('projection.build ' || $1, 0)) as "locked!""#,
        projection.as_str()
    )
    .fetch_one(&mut *connection)
    .await?
    {
        if started.elapsed() >= GRACE {
            // A process that was killed sends no new statement.
            let holder = sqlx::query_scalar!(
                r#"select a.query_start as "query_start!"
                   from pg_locks l join pg_stat_activity a using (pid)
                   where l.locktype = 'advisory' and l.granted and l.objsubid = 1 and a.query_start is not null
                     and l.database = (select d.oid from pg_database d where d.datname = current_database())
                     and (l.classid::bigint << 32 | l.objid::bigint)
                         = hashtextextended('projection.build ' || $1, 0)"#,
                projection.as_str()
            )
            .fetch_optional(&mut *connection)
            .await?;
            let is_alive = holder.is_some() && reference.is_some_and(|reference| holder != Some(reference));
            if is_alive || started.elapsed() >= LOCK_TIMEOUT {
                return Err(RebuildError::AlreadyRunning(projection));
            }
            reference = reference.or(holder);
        }
        sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// The position of the live version, as this transaction sees it.
pub async fn live(connection: &mut PgConnection, projection: Projection) -> Result<u64, RebuildError> {
    let position =
        sqlx::query_scalar!("select position from projection.checkpoint where name = $1", projection.as_str())
            .fetch_one(connection)
            .await?;
    Ok(position.unsigned_abs())
}

/// The first events of a range that the log has.
pub async fn read_events(
    connection: &mut PgConnection,
    positions: Range<u64>,
) -> Result<Vec<RecordedEvent>, RebuildError> {
    let most = u32::try_from(positions.end - positions.start).unwrap_or(BATCH).min(BATCH);
    let events = feed::read(connection, positions.start, most).await?;
    if events.len() as u64 == u64::from(most) {
        Ok(events)
    } else {
        Err(FeedError::Gap { position: positions.start + events.len() as u64 }.into())
    }
}

/// Moves the checkpoint from its expected position.
pub async fn advance_checkpoint(
    connection: &mut PgConnection,
    projection: Projection,
    kind: ShadowKind,
    positions: Range<u64>,
) -> Result<(), RebuildError> {
    let (name, from, until) = (projection.as_str(), to_i64(positions.start), to_i64(positions.end));
    let moved = match kind {
        ShadowKind::Next => {
            sqlx::query!(
                "update projection.build set position = $3 where name = $1 and position = $2",
                name,
                from,
                until
            )
            .execute(connection)
            .await?
        }
        ShadowKind::Previous => {
            sqlx::query!(
                "update projection.previous set position = $3 where name = $1 and position = $2",
                name,
                from,
                until
            )
            .execute(connection)
            .await?
        }
    };
    if moved.rows_affected() == 1 { Ok(()) } else { Err(RebuildError::CheckpointMoved(projection)) }
}

/// `true` if another session held a lock for too long.
fn is_busy(error: &sqlx::Error) -> bool {
    matches!(DatabaseFailure::of(error), DatabaseFailure::LockTimeout | DatabaseFailure::Conflict)
}
