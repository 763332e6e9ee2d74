//! The one task of a process that appends. No timer: while one batch commits, the next one forms.
//!
//! ```text
//!            +------ rejected: halve the batch, try each half ------+
//!            v                                                      |
//! queue -> [ begin, lock, plan, append, gate, vault, commit ] -> answers
//!            ^                                                      |
//!            +-- connection lost: reconnect; at COMMIT, the log ----+
//!                itself says what became of the batch
//! ```

use std::time::Duration;

use fulexo_domain::event::Stream;
use sqlx::pool::PoolConnection;
use sqlx::{Connection, PgConnection, PgPool, Postgres};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep};

use super::batch::{Plan, Seen, Wanted, to_i64};
use super::{AppendError, Appended, BATCH_EVENTS, Hooks, Queued};
use crate::vault::write;

/// How long a batch is kept waiting for a database that went away.
const PATIENCE: Duration = Duration::from_secs(15);

/// Orders the appends of one process.
pub struct Sequencer {
    pool: PgPool,
    changes: mpsc::Receiver<Queued>,
    observations: mpsc::Receiver<Queued>,
    hooks: Hooks,
    connection: Option<PoolConnection<Postgres>>,
}

type Answers = Vec<Result<Appended, AppendError>>;

enum Failure {
    /// The database said no: one of the requests is at fault.
    Rejected(String),
    /// The connection broke before COMMIT was sent: nothing was written.
    Lost(sqlx::Error),
    /// It broke at COMMIT: only the log knows.
    LostAtCommit(Box<Plan>),
}

impl Sequencer {
    pub(super) fn new(
        pool: PgPool,
        changes: mpsc::Receiver<Queued>,
        observations: mpsc::Receiver<Queued>,
        hooks: Hooks,
    ) -> Self {
        Self { pool, changes, observations, hooks, connection: None }
    }

    /// Runs until `stop` resolves or every log handle is gone, then commits what is still waiting.
    pub async fn run(mut self, mut stop: oneshot::Receiver<()>) {
        let mut batch = Vec::new();
        loop {
            let first = tokio::select! {
                biased;
                _ = &mut stop, if !self.changes.is_closed() => {
                    self.changes.close();
                    self.observations.close();
                    continue;
                }
                Some(queued) = self.changes.recv() => queued,
                Some(queued) = self.observations.recv() => queued,
                else => return,
            };
            self.fill(&mut batch, first);
            self.commit(&mut batch).await;
        }
    }

    /// Takes what is waiting, state changes first, up to the size of a batch.
    fn fill(&mut self, batch: &mut Vec<Queued>, first: Queued) {
        let mut events = first.request.events.len();
        batch.push(first);
        while events < BATCH_EVENTS {
            let Ok(next) = self.changes.try_recv().or_else(|_| self.observations.try_recv()) else { return };
            events += next.request.events.len();
            batch.push(next);
        }
    }

    async fn commit(&mut self, batch: &mut Vec<Queued>) {
        let answers = self.settle(batch).await;
        for (queued, answer) in batch.drain(..).zip(answers) {
            // A caller that went away has no use for its answer.
            let _ = queued.reply.send(answer);
        }
    }

    /// Commits the batch in as few transactions as it takes, and answers each request.
    async fn settle(&mut self, batch: &[Queued]) -> Answers {
        let deadline = Instant::now() + PATIENCE;
        let mut answers = Vec::with_capacity(batch.len());
        let mut parts = vec![batch];
        while let Some(part) = parts.pop() {
            let outcome = self.settle_part(part, deadline).await;
            match outcome {
                Ok(part_answers) => answers.extend(part_answers),
                Err(Failure::Rejected(reason)) if part.len() == 1 => {
                    tracing::error!(reason, "the database refused an append");
                    answers.push(Err(AppendError::Rejected(reason)));
                }
                Err(Failure::Rejected(_)) => {
                    let (left, right) = part.split_at(part.len() / 2);
                    parts.extend([right, left]);
                }
                Err(Failure::Lost(_) | Failure::LostAtCommit(_)) => {
                    answers.extend(part.iter().map(|_| Err(AppendError::Unavailable)));
                }
            }
        }
        answers
    }

    /// One part, tried again for as long as the connection is the problem.
    async fn settle_part(&mut self, part: &[Queued], deadline: Instant) -> Result<Answers, Failure> {
        let mut uncertain: Option<Box<Plan>> = None;
        let mut pause = Duration::from_millis(10);
        loop {
            let failure = match self.attempt(part, &mut uncertain).await {
                Ok(plan) => {
                    (self.hooks.on_commit)(&plan.events);
                    return Ok(plan.answers);
                }
                Err(failure @ Failure::Rejected(_)) => return Err(failure),
                Err(failure) => failure,
            };
            // What is left of the transaction ends with its connection.
            self.connection = None;
            if Instant::now() >= deadline {
                return Err(failure);
            }
            match failure {
                Failure::LostAtCommit(plan) => uncertain = Some(plan),
                Failure::Lost(error) => tracing::warn!(%error, "the log's connection is lost; trying again"),
                Failure::Rejected(_) => {}
            }
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }

    async fn attempt(&mut self, part: &[Queued], uncertain: &mut Option<Box<Plan>>) -> Result<Box<Plan>, Failure> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            vacant => vacant.insert(self.pool.acquire().await.map_err(Failure::Lost)?),
        };
        let mut transaction = connection.begin().await.map_err(Failure::Lost)?;
        let seen =
            lock(&mut transaction, &Wanted::of(part.iter().map(|queued| &queued.request))).await.map_err(sort)?;

        // The lock waited for the transaction whose end was not seen, so its outcome can be read now.
        if let Some(plan) = uncertain.take() {
            if was_committed(&mut transaction, &plan).await.map_err(Failure::Lost)? {
                tracing::info!(
                    first_position = plan.first_position,
                    "the batch was committed before the connection broke"
                );
                return Ok(plan);
            }
            tracing::info!("the batch was not committed before the connection broke; appending it again");
        }

        let (plan, vault) = Plan::of(part.iter().map(|queued| &queued.request), seen, (self.hooks.clock)());
        let plan = Box::new(plan);
        if plan.is_empty() {
            return Ok(plan);
        }
        append(&mut transaction, &plan).await.map_err(sort)?;
        if !plan.events.is_empty() {
            (self.hooks.gate)(&mut transaction, &plan.events).await.map_err(sort)?;
        }
        write::write(&mut transaction, &vault).await.map_err(sort)?;
        match transaction.commit().await {
            Ok(()) => Ok(plan),
            Err(error) if is_rejection(&error) => Err(sort(error)),
            Err(error) => {
                tracing::warn!(%error, "the connection broke at commit");
                Err(Failure::LostAtCommit(plan))
            }
        }
    }
}

async fn lock(connection: &mut PgConnection, wanted: &Wanted) -> Result<Seen, sqlx::Error> {
    let row = sqlx::query!(
        r#"select head_position as "position!", head_recorded_at as "recorded_at!", versions as "versions!",
                  command_hashes as "command_hashes: Vec<Option<Vec<u8>>>",
                  command_results as "command_results: Vec<Option<String>>",
                  key_holders as "key_holders: Vec<Option<uuid::Uuid>>"
           from log.lock($1, $2, $3, $4, $5)"#,
        &wanted.categories as &[&str],
        &wanted.streams,
        &wanted.commands,
        &wanted.scopes as &[&str],
        &wanted.keys
    )
    .fetch_one(connection)
    .await?;

    let categories = fulexo_domain::event::Category::ALL;
    let streams = wanted.categories.iter().zip(&wanted.streams).filter_map(|(name, id)| {
        let category = *categories.iter().find(|category| category.as_str() == *name)?;
        Some(Stream { category, id: *id })
    });
    let hashes = row.command_hashes.unwrap_or_default();
    let results = row.command_results.unwrap_or_default();
    let commands = wanted.commands.iter().zip(hashes.into_iter().zip(results));
    let holders = row.key_holders.unwrap_or_default();
    let keys = wanted.scopes.iter().zip(&wanted.keys).zip(holders);
    Ok(Seen {
        position: row.position.unsigned_abs(),
        recorded_at: row.recorded_at,
        versions: streams.zip(row.versions.into_iter().map(i64::unsigned_abs)).collect(),
        commands: commands.filter_map(|(id, (hash, result))| Some((id.clone(), (hash?, result?)))).collect(),
        keys: keys.filter_map(|((scope, key), holder)| Some(((*scope, key.clone()), holder?))).collect(),
    })
}

async fn append(connection: &mut PgConnection, plan: &Plan) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "select log.append($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)",
        to_i64(plan.first_position),
        &plan.leaves,
        &plan.hashes,
        &plan.sealed.positions,
        &plan.sealed.ordinals,
        &plan.sealed.subjects as &[Option<uuid::Uuid>],
        &plan.sealed.periods as &[Option<chrono::NaiveDate>],
        &plan.sealed.nonces,
        &plan.sealed.ciphertexts,
        &plan.claimed_scopes as &[&str],
        &plan.claimed_keys,
        &plan.claimed_by,
        &plan.command_ids,
        &plan.command_hashes,
        &plan.command_results
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Positions are given once, so the event that stands at the first position of the batch tells whose batch won.
async fn was_committed(connection: &mut PgConnection, plan: &Plan) -> Result<bool, sqlx::Error> {
    if let Some(first) = plan.events.first() {
        let found = sqlx::query_scalar!("select event_id from log.event where position = $1", to_i64(first.position))
            .fetch_optional(connection)
            .await?;
        Ok(found == Some(first.id))
    } else {
        // A batch without events only remembers commands; the lock's answer for them is in the next plan.
        Ok(false)
    }
}

fn is_rejection(error: &sqlx::Error) -> bool {
    match error {
        // 08 connection, 53 resources, 57 shutdown, 25006 read-only standby, 40 serialisation: try again. All
        // else is an answer.
        sqlx::Error::Database(error) => !error.code().is_some_and(|code| {
            code == "25006" || ["08", "40", "53", "57"].iter().any(|class| code.starts_with(class))
        }),
        sqlx::Error::Encode(_) | sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. } => true,
        _ => false,
    }
}

fn sort(error: sqlx::Error) -> Failure {
    if is_rejection(&error) { Failure::Rejected(error.to_string()) } else { Failure::Lost(error) }
}
