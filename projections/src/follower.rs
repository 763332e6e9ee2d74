//! Keeps a node current: woken by its own commits, by other nodes' doorbells, and by a clock that trusts neither.

use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;
use tokio::sync::{Notify, watch};
use tokio::time::sleep;

use crate::gate::{Gate, catch_up};

/// Without a doorbell the log is asked this often; well within a lease.
const TICK: Duration = Duration::from_millis(200);
/// Most events read at once.
const BATCH: u32 = 2_000;

/// Follows the log for the gate and wakes the projections.
pub struct Follower {
    pool: PgPool,
    gate: Arc<Gate>,
    doorbell: Arc<Notify>,
    head: watch::Sender<u64>,
}

impl Follower {
    /// `doorbell` is rung when there may be something new; `head` tells how long the log is.
    #[must_use]
    pub const fn new(pool: PgPool, gate: Arc<Gate>, doorbell: Arc<Notify>, head: watch::Sender<u64>) -> Self {
        Self { pool, gate, doorbell, head }
    }

    /// Runs until cancelled.
    pub async fn run(self) {
        loop {
            match catch_up(&self.gate, &self.pool, BATCH).await {
                Ok((is_current, size)) => {
                    self.head.send_if_modified(|head| {
                        let moved = size > *head;
                        *head = size.max(*head);
                        moved
                    });
                    if !is_current {
                        continue;
                    }
                }
                // The lease runs out by itself, and requests are judged by the database, or refused.
                Err(error) => tracing::warn!(%error, "the log cannot be followed; trying again"),
            }
            tokio::select! {
                () = self.doorbell.notified() => {}
                () = sleep(TICK) => {}
            }
        }
    }
}
