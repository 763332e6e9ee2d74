//! The build of one read model's new version, up to the switch.

use fulexo_database::begin_on;
use fulexo_domain::event::RecordedEvent;
use sqlx::PgPool;
use tokio::sync::mpsc;

use super::report::{BATCH, BuildComparison, EventBatch, RebuildError, RebuildOptions, RebuildProgress, RebuildReport};
use super::shadow_version::{self, ShadowKind, ShadowVersion, advance_checkpoint, read_events};
use crate::feed;
use crate::read_models::{Projection, RowCache};
use crate::to_i64;

/// The maximum number of events left to the switch itself.
const MAX_SWITCH_EVENTS: u64 = 1_000;

pub struct Build {
    shadow: ShadowVersion,
    version: u32,
    comparison: Option<BuildComparison>,
    indexed: bool,
    /// The live version's position when last read. Until the comparison, the build does not pass it.
    live: u64,
    progress: mpsc::Sender<(Projection, RebuildProgress)>,
}

impl Build {
    /// Starts a build, or resumes the existing one.
    pub async fn open(
        pool: &PgPool,
        projection: Projection,
        options: &RebuildOptions,
        progress: mpsc::Sender<(Projection, RebuildProgress)>,
    ) -> Result<Self, RebuildError> {
        let name = projection.as_str();
        let mut shadow = ShadowVersion::open(pool, projection, ShadowKind::Next).await?;
        let mut transaction = begin_on(shadow.connection().await?).await?;
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
        shadow.resume_at(row.position.unsigned_abs());
        let comparison = row.compared_at.map(|position| BuildComparison {
            position: position.unsigned_abs(),
            differing: row.differing.unsigned_abs(),
            examples: row.examples,
        });
        let version = row.version.unsigned_abs();
        let build = Self { shadow, version, comparison, indexed: row.indexed, live: 0, progress };
        let discarded = !resumes && found.is_some();
        build.report(RebuildProgress::Started { version, position: build.position(), discarded }).await;
        Ok(build)
    }

    pub const fn projection(&self) -> Projection {
        self.shadow.projection
    }

    pub const fn position(&self) -> u64 {
        self.shadow.position()
    }

    /// Applies the batches that it receives, catches up with the head, and switches.
    pub async fn run(mut self, mut batches: mpsc::Receiver<EventBatch>) -> Result<RebuildReport, RebuildError> {
        while let Some(batch) = batches.recv().await {
            self.take(&batch).await?;
        }
        let comparison = loop {
            if let Some(comparison) = self.comparison.clone() {
                break comparison;
            }
            self.update_live_position().await?;
            if self.live - self.position() < u64::from(BATCH) {
                self.compare().await?;
            } else {
                self.shadow.advance(self.live).await?;
            }
        };
        self.catch_up().await?;
        if !self.indexed {
            self.report(RebuildProgress::Indexing).await;
            self.shadow.flush().await?;
            let name = self.projection().as_str();
            sqlx::query!("select projection.finish_build($1)", name).execute(self.shadow.connection().await?).await?;
            self.catch_up().await?;
        }
        let projection = self.projection();
        let events = self.shadow.switch(&self.progress).await?;
        self.shadow.close().await;
        Ok(RebuildReport { projection, version: self.version, events, comparison })
    }

    /// Applies the part of a batch that is not applied yet.
    async fn take(&mut self, batch: &[RecordedEvent]) -> Result<(), RebuildError> {
        loop {
            let begins = batch.first().map_or(u64::MAX, |recorded| recorded.position);
            // It cannot be before the batch: the reader started at the build that is furthest behind.
            let known = self.position().checked_sub(begins).and_then(|known| usize::try_from(known).ok());
            let events = known.and_then(|known| batch.get(known..)).unwrap_or_default();
            if events.is_empty() {
                return Ok(());
            }
            let mut most = events.len() as u64;
            if self.comparison.is_none() {
                if self.live <= self.position() {
                    self.update_live_position().await?;
                    if self.live - self.position() < u64::from(BATCH) {
                        self.compare().await?;
                        continue;
                    }
                }
                most = most.min(self.live - self.position());
            }
            let events = events.get(..usize::try_from(most).unwrap_or(usize::MAX)).unwrap_or(events);
            self.shadow.apply(events).await?;
            self.report_position().await;
        }
    }

    /// Reads the position of the live version.
    async fn update_live_position(&mut self) -> Result<(), RebuildError> {
        self.live = self.shadow.live().await?;
        // The live version never goes back.
        if self.live < self.position() { Err(RebuildError::CheckpointMoved(self.projection())) } else { Ok(()) }
    }

    /// Advances to exactly the position of the live version and compares both in one snapshot. Of the live tables,
    /// which keep moving, it sees the state from when it began; of its own, the state that it wrote.
    async fn compare(&mut self) -> Result<(), RebuildError> {
        self.report(RebuildProgress::Comparing).await;
        self.shadow.flush().await?;
        let (projection, name, mut position) = (self.projection(), self.projection().as_str(), self.shadow.position());
        let mut transaction = begin_on(self.shadow.connection().await?).await?;
        sqlx::query!("set transaction isolation level repeatable read").execute(&mut *transaction).await?;
        let live = shadow_version::live(&mut transaction, projection).await?;
        while position < live {
            let events = read_events(&mut transaction, position..live).await?;
            let until = position + events.len() as u64;
            projection.apply(&mut transaction, &mut RowCache::default(), &events).await?;
            advance_checkpoint(&mut transaction, projection, ShadowKind::Next, position..until).await?;
            position = until;
        }
        let relations = sqlx::query!(
            r#"select relation as "relation!", differing as "differing!", examples as "examples!"
               from projection.compare_build($1)"#,
            name
        )
        .fetch_all(&mut *transaction)
        .await?;
        let comparison = BuildComparison {
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
        self.shadow.resume_at(position);
        self.comparison = Some(comparison);
        self.report_position().await;
        Ok(())
    }

    /// Advances close to the head.
    async fn catch_up(&mut self) -> Result<(), RebuildError> {
        loop {
            let size = feed::size(self.shadow.connection().await?).await?;
            if size.saturating_sub(self.position()) < MAX_SWITCH_EVENTS {
                return Ok(());
            }
            self.shadow.advance(size).await?;
            self.report_position().await;
        }
    }

    async fn report_position(&self) {
        self.report(RebuildProgress::Advanced { position: self.position() }).await;
    }

    async fn report(&self, progress: RebuildProgress) {
        // Nobody listens after the rebuild was cancelled.
        let _ = self.progress.send((self.projection(), progress)).await;
    }
}
