//! Keeps a node current: woken by its own commits, by other nodes' doorbells, and by a clock that trusts neither. What it
//! has read it reports to the others, and a renewal becomes a lease here.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::PgPool;
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, sleep_until};

use crate::feed::FeedError;
use crate::gate::{Gate, catch_up};
use crate::nodes::Nodes;

/// Without a doorbell the log is asked this often; well within a lease.
const TICK: Duration = Duration::from_millis(200);
/// Between two looks at the log, however often the doorbell rings.
const LEAST: Duration = Duration::from_millis(1);
/// Most events read at once.
const BATCH: u32 = 2_000;
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
