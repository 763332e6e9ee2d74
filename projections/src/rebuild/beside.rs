//! A version of a read model beside the live one: the one that is built, or the one that is kept. Its checkpoint moves
//! with its rows, as the live one's does.

use std::ops::Range;
use std::time::Duration;

use fulexo_domain::event::Recorded;
use sqlx::{Connection, PgConnection, PgPool};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::report::{BATCH, News, RebuildError};
use crate::feed::{self, FeedError};
use crate::read_models::{Kept, Projection, Unwritten};
use crate::to_i64;

/// One that was killed a moment ago may hold the lock until its connection is found dead.
const PATIENCE: Duration = Duration::from_secs(5);
/// Most rows that are held back from being written, about 100 MB, and most versions of them that were superseded.
const ROWS: usize = 300_000;
const SUPERSEDED: usize = 20_000;
/// How long rows are held back at most, and the transaction is open into which goes what was superseded: what is lost where a
/// build is interrupted. Short enough for vacuum, which waits for it in every table.
const LONGEST: Duration = Duration::from_secs(15);
/// How often a switch gives way to whoever holds the tables.
const TRIES: u32 = 20;

/// Which one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Next,
    Previous,
}

/// The only one at work on it, on a connection that is its own: lost with the lock, and the lock with it.
pub struct Beside {
    pub projection: Projection,
    writer: Writer,
    pub kind: Kind,
    /// Everything below it is applied.
    position: u64,
    /// Everything below it is written, or being written, as the checkpoint says then.
    written: u64,
    written_at: Instant,
    /// Whether a transaction is open.
    is_open: bool,
    /// Rows of the last batches, written or held back.
    kept: Kept,
}

/// The connection, or what writes on it; which ends with this.
struct Writer {
    idle: Option<PgConnection>,
    writing: JoinSet<Result<PgConnection, RebuildError>>,
}

impl Writer {
    /// The connection, once what is being written is committed. Where that failed it is lost, and the build with it.
    async fn take(&mut self) -> Result<PgConnection, RebuildError> {
        if let Some(written) = self.writing.join_next().await {
            return written.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        }
        self.idle.take().ok_or_else(|| sqlx::Error::PoolClosed.into())
    }

    async fn get(&mut self) -> Result<&mut PgConnection, RebuildError> {
        let connection = self.take().await?;
        Ok(self.idle.insert(connection))
    }
}

impl Beside {
    pub async fn open(pool: &PgPool, projection: Projection, kind: Kind) -> Result<Self, RebuildError> {
        let mut connection = pool.acquire().await?.detach();
        let schema = match kind {
            Kind::Next => "read_next",
            Kind::Previous => "read_previous",
        };
        // The bounds that requests work under are not for this; a backend whose client is gone is to notice. What is
        // not on disk yet after a crash is built again, so no batch waits for the disk.
        sqlx::query!(
            "select set_config(s.name, s.value, false)
             from (values ('search_path', $1), ('statement_timeout', '0'), ('idle_in_transaction_session_timeout', '0'),
                          ('client_connection_check_interval', '1s'), ('synchronous_commit', 'off'),
                          ('work_mem', '64MB'), ('maintenance_work_mem', '256MB')) s (name, value)",
            format!("{schema}, pg_temp")
        )
        .fetch_all(&mut connection)
        .await?;
        let deadline = Instant::now() + PATIENCE;
        // Of the session, not of a transaction: an open transaction would keep vacuum from all that dies meanwhile.
        while !sqlx::query_scalar!(
            r#"select pg_try_advisory_lock(hashtextextended('projection.build ' || $1, 0)) as "locked!""#,
            projection.as_str()
        )
        .fetch_one(&mut connection)
        .await?
        {
            if Instant::now() > deadline {
                return Err(RebuildError::UnderWay(projection));
            }
            sleep(Duration::from_millis(100)).await;
        }
        let (writer, kept) = (Writer { idle: Some(connection), writing: JoinSet::new() }, Kept::default());
        Ok(Self { projection, writer, kind, position: 0, written: 0, written_at: Instant::now(), is_open: false, kept })
    }

    /// Its connection, on which everything is written that was not held back.
    pub async fn connection(&mut self) -> Result<&mut PgConnection, RebuildError> {
        self.writer.get().await
    }

    /// Everything below it is applied.
    pub const fn position(&self) -> u64 {
        self.position
    }

    /// Goes on from where the checkpoint is: everything below it is written, and not by this one's `apply`.
    pub fn goes_on_at(&mut self, position: u64) {
        (self.position, self.written, self.kept) = (position, position, Kept::default());
    }

    /// Where the live version is.
    pub async fn live(&mut self) -> Result<u64, RebuildError> {
        live(self.writer.get().await?, self.projection).await
    }

    /// Applies what comes next. A row that changes again and again is written seldom: it is held back, and written from time
    /// to time, while more comes, and by [`Beside::write`].
    pub async fn apply(&mut self, events: &[Recorded]) -> Result<(), RebuildError> {
        if self.projection.holds_back() {
            let writer = &mut self.writer;
            self.projection.fold(async move || writer.get().await, &mut self.kept, events).await?;
            self.position += events.len() as u64;
            if self.kept.touched() >= ROWS || self.written_at.elapsed() >= LONGEST {
                self.begin_to_write().await?;
            } else if self.kept.superseded() >= SUPERSEDED {
                self.begin_to_write_past().await?;
            }
        } else {
            let mut transaction = self.writer.get().await?.begin().await?;
            self.projection.apply(&mut transaction, &mut self.kept, events).await?;
            let until = self.position + events.len() as u64;
            step(&mut transaction, self.projection, self.kind, self.position..until).await?;
            transaction.commit().await?;
            (self.position, self.written) = (until, until);
        }
        Ok(())
    }

    /// Writes what is held back, and commits.
    pub async fn write(&mut self) -> Result<(), RebuildError> {
        if self.written < self.position {
            self.begin_to_write().await?;
        }
        self.writer.get().await?;
        Ok(())
    }

    /// The same, while something else is done.
    async fn begin_to_write(&mut self) -> Result<(), RebuildError> {
        let unwritten = self.kept.finish();
        self.write_behind(unwritten, Some(self.written..self.position)).await?;
        (self.written, self.written_at, self.is_open) = (self.position, Instant::now(), false);
        Ok(())
    }

    /// Writes what rows were, which is written once, while something else is done. It commits with what they are.
    async fn begin_to_write_past(&mut self) -> Result<(), RebuildError> {
        let unwritten = self.kept.take_past();
        self.write_behind(unwritten, None).await?;
        self.is_open = true;
        Ok(())
    }

    /// Writes one thing after another, and commits with a step of the checkpoint: what is to be written waits for what is
    /// being written, and so does whoever has to read a row that is not kept.
    async fn write_behind(&mut self, unwritten: Unwritten, steps: Option<Range<u64>>) -> Result<(), RebuildError> {
        let mut connection = self.writer.take().await?;
        let (projection, kind, begins) = (self.projection, self.kind, !self.is_open);
        self.writer.writing.spawn(async move {
            // Not sqlx's own: it is open from task to task, and ends with its connection.
            if begins {
                sqlx::raw_sql("begin").execute(&mut connection).await?;
            }
            unwritten.write(&mut connection).await?;
            if let Some(positions) = steps {
                step(&mut connection, projection, kind, positions).await?;
                sqlx::raw_sql("commit").execute(&mut connection).await?;
            }
            Ok(connection)
        });
        Ok(())
    }

    /// Reads and applies up to a position that the log has.
    pub async fn advance(&mut self, until: u64) -> Result<(), RebuildError> {
        while self.position < until {
            let events = stretch(self.writer.get().await?, self.position..until).await?;
            self.apply(&events).await?;
        }
        Ok(())
    }

    /// Takes the place of the live version, having applied the rest, in one transaction. Gives way to readers that hold
    /// the tables for long, and tries again: whoever comes behind it in the lock's queue waits as long as it does.
    pub async fn switch(&mut self, news: &mpsc::Sender<(Projection, News)>) -> Result<u64, RebuildError> {
        for number in 1..=TRIES {
            match self.try_switch().await {
                Err(RebuildError::Feed(FeedError::Database(error))) if is_busy(&error) => {
                    let _ = news.send((self.projection, News::Waiting)).await;
                    sleep(Duration::from_millis(100) * number).await;
                }
                switched => return switched,
            }
        }
        Err(RebuildError::Busy(self.projection))
    }

    async fn try_switch(&mut self) -> Result<u64, RebuildError> {
        let (projection, name) = (self.projection, self.projection.as_str());
        self.write().await?;
        let mut transaction = self.writer.get().await?.begin().await?;
        // Whoever is held up in the middle holds up every reader.
        sqlx::query!("set local idle_in_transaction_session_timeout = '5s'").execute(&mut *transaction).await?;
        sqlx::query!("set local statement_timeout = '30s'").execute(&mut *transaction).await?;
        // The switch itself is on disk when it is told.
        sqlx::query!("set local synchronous_commit to default").execute(&mut *transaction).await?;
        sqlx::query!("set local lock_timeout = '10s'").execute(&mut *transaction).await?;
        let live = sqlx::query_scalar!("select position from projection.checkpoint where name = $1 for update", name)
            .fetch_one(&mut *transaction)
            .await?
            .unsigned_abs();
        // Readers are not taken back. A build has to be able to go on to the head; what is kept, as far as they have seen.
        let end = match self.kind {
            Kind::Next => feed::size(&mut transaction).await?.max(live),
            Kind::Previous => live,
        };
        let mut position = self.position;
        while position < end {
            let events = stretch(&mut transaction, position..end).await?;
            projection.apply(&mut transaction, &mut Kept::default(), &events).await?;
            let until = position + events.len() as u64;
            step(&mut transaction, projection, self.kind, position..until).await?;
            position = until;
        }
        // Less than deadlock_timeout: it is never a reader that is cancelled.
        sqlx::query!("set local lock_timeout = '300ms'").execute(&mut *transaction).await?;
        match self.kind {
            Kind::Next => sqlx::query!("select projection.switch_build($1)", name).execute(&mut *transaction).await?,
            Kind::Previous => {
                sqlx::query!("select projection.switch_back($1)", name).execute(&mut *transaction).await?
            }
        };
        transaction.commit().await?;
        self.goes_on_at(position);
        Ok(position)
    }

    /// Gives the lock back at once rather than when the server finds the connection closed.
    pub async fn close(mut self) {
        if let Ok(mut connection) = self.writer.take().await {
            let _ = sqlx::query!("select pg_advisory_unlock_all()").execute(&mut connection).await;
            let _ = connection.close().await;
        }
    }
}

/// Where the live version is, as the connection's transaction sees it.
pub async fn live(connection: &mut PgConnection, projection: Projection) -> Result<u64, RebuildError> {
    let position =
        sqlx::query_scalar!("select position from projection.checkpoint where name = $1", projection.as_str())
            .fetch_one(connection)
            .await?;
    Ok(position.unsigned_abs())
}

/// The first events of a stretch that the log has.
pub async fn stretch(connection: &mut PgConnection, positions: Range<u64>) -> Result<Vec<Recorded>, RebuildError> {
    let most = u32::try_from(positions.end - positions.start).unwrap_or(BATCH).min(BATCH);
    let events = feed::read(connection, positions.start, most).await?;
    if events.len() as u64 == u64::from(most) {
        Ok(events)
    } else {
        Err(FeedError::Gap { position: positions.start + events.len() as u64 }.into())
    }
}

/// Moves the checkpoint from where it was left.
pub async fn step(
    connection: &mut PgConnection,
    projection: Projection,
    kind: Kind,
    positions: Range<u64>,
) -> Result<(), RebuildError> {
    let (name, from, until) = (projection.as_str(), to_i64(positions.start), to_i64(positions.end));
    let moved = match kind {
        Kind::Next => {
            sqlx::query!(
                "update projection.build set position = $3 where name = $1 and position = $2",
                name,
                from,
                until
            )
            .execute(connection)
            .await?
        }
        Kind::Previous => {
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
    if moved.rows_affected() == 1 { Ok(()) } else { Err(RebuildError::Overtaken(projection)) }
}

/// Whether somebody else held a lock for too long.
fn is_busy(error: &sqlx::Error) -> bool {
    // lock_not_available, deadlock_detected.
    error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == "55P03" || code == "40P01")
}
