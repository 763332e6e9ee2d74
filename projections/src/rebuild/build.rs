//! One read model's new version, from its beginning to the switch.

use fulexo_domain::event::Recorded;
use sqlx::{Connection, PgPool};
use tokio::sync::mpsc;

use super::beside::{self, Beside, Kind, step, stretch};
use super::report::{BATCH, Batch, Comparison, News, Options, RebuildError, Rebuilt};
use crate::feed;
use crate::read_models::{Kept, Projection};
use crate::to_i64;

/// A switch is tried once no more than so many events are left for it to apply.
const REST: u64 = 1_000;

pub struct Build {
    beside: Beside,
    version: u32,
    comparison: Option<Comparison>,
    indexed: bool,
    /// Where the live version was when last looked; until compared, the build does not go past it.
    live: u64,
    news: mpsc::Sender<(Projection, News)>,
}

impl Build {
    /// Begins a build, or goes on with the one that is there.
    pub async fn open(
        pool: &PgPool,
        projection: Projection,
        options: &Options,
        news: mpsc::Sender<(Projection, News)>,
    ) -> Result<Self, RebuildError> {
        let name = projection.as_str();
        let mut beside = Beside::open(pool, projection, Kind::Next).await?;
        let mut transaction = beside.connection().await?.begin().await?;
        let found = sqlx::query_scalar!("select program from projection.build where name = $1", name)
            .fetch_optional(&mut *transaction)
            .await?;
        let resumes = !options.restart && found.as_ref().is_some_and(|program| *program == options.program);
        if !resumes {
            sqlx::query!("select projection.discard_build($1)", name).execute(&mut *transaction).await?;
            sqlx::query!("select projection.begin_build($1, $2)", name, options.program)
                .execute(&mut *transaction)
                .await?;
        }
        let row = sqlx::query!(
            "select version, position, compared_at, differing, examples, indexed from projection.build where name = $1",
            name
        )
        .fetch_one(&mut *transaction)
        .await?;
        transaction.commit().await?;
        beside.goes_on_at(row.position.unsigned_abs());
        let comparison = row.compared_at.map(|position| Comparison {
            position: position.unsigned_abs(),
            differing: row.differing.unsigned_abs(),
            examples: row.examples,
        });
        let version = row.version.unsigned_abs();
        let build = Self { beside, version, comparison, indexed: row.indexed, live: 0, news };
        let discarded = !resumes && found.is_some();
        build.tell(News::Begun { version, position: build.position(), discarded }).await;
        Ok(build)
    }

    pub const fn projection(&self) -> Projection {
        self.beside.projection
    }

    pub const fn position(&self) -> u64 {
        self.beside.position()
    }

    /// Takes what it is given, goes on to the head by itself, and switches.
    pub async fn run(mut self, mut batches: mpsc::Receiver<Batch>) -> Result<Rebuilt, RebuildError> {
        while let Some(batch) = batches.recv().await {
            self.take(&batch).await?;
        }
        let comparison = loop {
            if let Some(comparison) = self.comparison.clone() {
                break comparison;
            }
            self.look().await?;
            if self.live - self.position() < u64::from(BATCH) {
                self.compare().await?;
            } else {
                self.beside.advance(self.live).await?;
            }
        };
        self.catch_up().await?;
        if !self.indexed {
            self.tell(News::Indexing).await;
            self.beside.write().await?;
            let name = self.projection().as_str();
            sqlx::query!("select projection.finish_build($1)", name).execute(self.beside.connection().await?).await?;
            self.catch_up().await?;
        }
        let projection = self.projection();
        let events = self.beside.switch(&self.news).await?;
        self.beside.close().await;
        Ok(Rebuilt { projection, version: self.version, events, comparison })
    }

    /// Applies what it does not have yet of a batch.
    async fn take(&mut self, batch: &[Recorded]) -> Result<(), RebuildError> {
        loop {
            let begins = batch.first().map_or(u64::MAX, |recorded| recorded.position);
            // Before the batch it cannot be: the reader began where the one furthest behind was.
            let known = self.position().checked_sub(begins).and_then(|known| usize::try_from(known).ok());
            let events = known.and_then(|known| batch.get(known..)).unwrap_or_default();
            if events.is_empty() {
                return Ok(());
            }
            let mut most = events.len() as u64;
            if self.comparison.is_none() {
                if self.live <= self.position() {
                    self.look().await?;
                    if self.live - self.position() < u64::from(BATCH) {
                        self.compare().await?;
                        continue;
                    }
                }
                most = most.min(self.live - self.position());
            }
            let events = events.get(..usize::try_from(most).unwrap_or(usize::MAX)).unwrap_or(events);
            self.beside.apply(events).await?;
            self.told().await;
        }
    }

    /// Where the live version is.
    async fn look(&mut self) -> Result<(), RebuildError> {
        self.live = self.beside.live().await?;
        // It never goes back.
        if self.live < self.position() { Err(RebuildError::Overtaken(self.projection())) } else { Ok(()) }
    }

    /// Goes on to exactly where the live version is, and looks whether both are the same, in one snapshot: of the live
    /// tables, which are followed meanwhile, it sees what was there when it began, of its own what it wrote.
    async fn compare(&mut self) -> Result<(), RebuildError> {
        self.tell(News::Comparing).await;
        self.beside.write().await?;
        let (projection, name, mut position) = (self.projection(), self.projection().as_str(), self.beside.position());
        let mut transaction = self.beside.connection().await?.begin().await?;
        sqlx::query!("set transaction isolation level repeatable read").execute(&mut *transaction).await?;
        let live = beside::live(&mut transaction, projection).await?;
        while position < live {
            let events = stretch(&mut transaction, position..live).await?;
            let until = position + events.len() as u64;
            projection.apply(&mut transaction, &mut Kept::default(), &events).await?;
            step(&mut transaction, projection, Kind::Next, position..until).await?;
            position = until;
        }
        let relations = sqlx::query!(
            r#"select relation as "relation!", differing as "differing!", examples as "examples!"
               from projection.compare_build($1)"#,
            name
        )
        .fetch_all(&mut *transaction)
        .await?;
        let comparison = Comparison {
            position: live,
            differing: relations.iter().map(|row| row.differing.unsigned_abs()).sum(),
            examples: relations
                .iter()
                .flat_map(|row| row.examples.iter().map(|key| format!("{} {key}", row.relation)))
                .collect(),
        };
        sqlx::query!(
            "update projection.build set compared_at = $2, differing = $3, examples = $4 where name = $1",
            name,
            to_i64(comparison.position),
            to_i64(comparison.differing),
            &comparison.examples
        )
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        self.beside.goes_on_at(position);
        self.comparison = Some(comparison);
        self.told().await;
        Ok(())
    }

    /// Goes on to near the head.
    async fn catch_up(&mut self) -> Result<(), RebuildError> {
        loop {
            let size = feed::size(self.beside.connection().await?).await?;
            if size.saturating_sub(self.position()) < REST {
                return Ok(());
            }
            self.beside.advance(size).await?;
            self.told().await;
        }
    }

    async fn told(&self) {
        self.tell(News::At { position: self.position() }).await;
    }

    async fn tell(&self, news: News) {
        // Nobody listens any more when the whole was cancelled.
        let _ = self.news.send((self.projection(), news)).await;
    }
}
