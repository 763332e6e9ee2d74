//! Keeps a node current: woken by its own commits, by other nodes' doorbells, and by a clock that trusts neither. What it
//! has read it reports to the others, and a renewal becomes a lease here.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fulexo_domain::event::Recorded;
use fulexo_domain::leaf;
use fulexo_domain::values::Epoch;
use sqlx::{PgConnection, PgPool};
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, sleep_until};
use uuid::Uuid;

use crate::feed::{self, FeedError};
use crate::gate::Gate;
use crate::nodes::{Nodes, promptly, within};
use crate::to_i64;

/// Without a doorbell the log is asked this often; well within a lease.
const TICK: Duration = Duration::from_millis(200);
/// Between two looks at the log, however often the doorbell rings.
const LEAST: Duration = Duration::from_millis(1);
/// Most events read at once.
const BATCH: u32 = 2_000;
/// How long the database has for so many.
const LONG: Duration = Duration::from_secs(5);
/// Between two reports, when there is always something new. After a pause the first one is made at once.
const REPORT: Duration = Duration::from_millis(5);

/// Follows the log for the gate and wakes the projections.
pub struct Follower {
    pool: PgPool,
    gate: Arc<Gate>,
    nodes: Arc<Nodes>,
    doorbell: Arc<Notify>,
    head: watch::Sender<u64>,
    /// When the renewal began that no catch-up has confirmed yet.
    renewal: Option<Instant>,
    reported: u64,
    reported_at: Option<Instant>,
}

impl Follower {
    /// `doorbell` is rung when there may be something new; `head` tells how long the log is.
    #[must_use]
    pub const fn new(
        pool: PgPool,
        gate: Arc<Gate>,
        nodes: Arc<Nodes>,
        doorbell: Arc<Notify>,
        head: watch::Sender<u64>,
    ) -> Self {
        Self { pool, gate, nodes, doorbell, head, renewal: None, reported: 0, reported_at: None }
    }

    /// Runs until cancelled.
    pub async fn run(mut self) {
        loop {
            let began = tokio::time::Instant::now();
            let pause = match self.step().await {
                Ok(true) => self.report().await,
                Ok(false) => {
                    self.report().await;
                    continue;
                }
                // The lease runs out by itself, and requests are judged by the database, or refused.
                Err(error) => {
                    tracing::warn!(%error, "the log cannot be followed; trying again");
                    TICK
                }
            };
            tokio::select! {
                () = self.doorbell.notified() => {}
                () = sleep(pause) => {}
            }
            // Whoever may publish can ring without pause; after a pause the first ring is answered at once.
            sleep_until(began + LEAST).await;
        }
    }

    /// Reads what is new; whether that was all.
    async fn step(&mut self) -> Result<bool, FeedError> {
        // Taken before the log's head is read: a renewal counts once everything is known that was there after it.
        self.renewal = self.nodes.take_renewal().or(self.renewal);
        let (is_current, size) = catch_up(&self.gate, &self.pool, BATCH).await?;
        self.head.send_if_modified(|head| {
            let moved = size > *head;
            *head = size.max(*head);
            moved
        });
        if is_current && let Some(asked) = self.renewal.take() {
            self.gate.renew_lease(asked);
        }
        Ok(is_current)
    }

    /// Tells the others how far this node is, if that is new; answers when to look again.
    async fn report(&mut self) -> Duration {
        let applied = self.gate.applied();
        if applied == self.reported {
            return TICK;
        }
        if let Some(wait) = self.reported_at.and_then(|at| REPORT.checked_sub(at.elapsed())) {
            return wait;
        }
        self.reported_at = Some(Instant::now());
        match self.nodes.report(applied).await {
            Ok(true) => self.reported = applied,
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "what is enforced here cannot be reported; trying again"),
        }
        TICK
    }
}

/// How long the log is, which history it tells, and what it has before a position.
pub(crate) struct Head {
    pub size: u64,
    pub epoch: Epoch,
    pub before: Option<Uuid>,
}

/// The head of the log, and the event before this position.
pub(crate) async fn head(connection: &mut PgConnection, position: u64) -> Result<Head, FeedError> {
    let row = sqlx::query!(
        r#"select h.position, h.epoch, (select e.leaf from log.event e where e.position = $1) as leaf
           from log.head h"#,
        to_i64(position) - 1
    )
    .fetch_one(connection)
    .await?;
    let before = row.leaf.map(|leaf| leaf::decode(position.saturating_sub(1), &leaf)).transpose()?;
    let before = before.map(|event| event.id);
    Ok(Head { size: row.position.unsigned_abs(), epoch: row.epoch.into(), before })
}

/// Reads what other nodes appended, at most `most` events; `true` when the log had nothing, at some time since the call,
/// that is not known here. It takes no lease.
///
/// # Errors
/// The feed's.
pub async fn catch_up(gate: &Gate, pool: &PgPool, most: u32) -> Result<(bool, u64), FeedError> {
    let (known, last) = gate.end();
    let Head { size, epoch, before } = promptly(pool, async |connection| head(connection, known).await).await?;
    // The epoch is for people to change, after a restore. A log that grew again past what is known here, after a failover
    // that lost the end of it, has another event there.
    if epoch != gate.epoch() || size < known || before != last {
        gate.replaced();
        return Ok((true, size));
    }
    let applied = gate.applied();
    if applied < size {
        let events = within(LONG, pool, async |connection| feed::read(connection, applied, most).await).await?;
        let events: Vec<Arc<Recorded>> = events.into_iter().map(Arc::new).collect();
        gate.observe(&events);
    }
    Ok((gate.applied() >= size, size))
}
