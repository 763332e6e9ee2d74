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
use crate::line::Line;
use crate::nodes::Nodes;
use crate::to_i64;

/// Without a doorbell the log is asked this often; well within a lease.
const TICK: Duration = Duration::from_millis(200);
/// Between two looks at the log, however often the doorbell rings.
const LEAST: Duration = Duration::from_millis(1);
/// Most events read at once: few enough for the time that a statement has.
const BATCH: u64 = 250;
/// Between two reports, when there is always something new. After a pause the first one is made at once.
const REPORT: Duration = Duration::from_millis(5);

/// Follows the log for the gate and wakes the projections.
pub struct Follower {
    line: Line,
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
        Self { line: Line::new(pool), gate, nodes, doorbell, head, renewal: None, reported: 0, reported_at: None }
    }

    /// Reads until everything is known that was there when it was called.
    ///
    /// # Errors
    /// The database, or a log that cannot be read.
    pub async fn begin(&mut self) -> Result<(), FeedError> {
        loop {
            let (is_current, size) = self.step().await?;
            if is_current {
                self.wake(size);
                return Ok(());
            }
        }
    }

    /// Runs until cancelled.
    pub async fn run(mut self) {
        loop {
            let began = tokio::time::Instant::now();
            let pause = match self.step().await {
                Ok((is_current, size)) => {
                    // Somebody may wait to hear that it is enforced here; read models, which have work to do, come after.
                    let pause = self.report().await;
                    self.wake(size);
                    if !is_current {
                        continue;
                    }
                    pause
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

    /// Reads what is new; whether that was all, and how long the log is.
    async fn step(&mut self) -> Result<(bool, u64), FeedError> {
        // Taken before the log's head is read: a renewal counts once everything is known that was there after it.
        self.renewal = self.nodes.take_renewal().or(self.renewal);
        let (is_current, size) = catch_up(&self.gate, &mut self.line).await?;
        if is_current && let Some(asked) = self.renewal.take() {
            self.gate.renew_lease(asked);
        }
        Ok((is_current, size))
    }

    fn wake(&self, size: u64) {
        self.head.send_if_modified(|head| {
            let moved = size > *head;
            *head = size.max(*head);
            moved
        });
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
        match self.nodes.report(&mut self.line, applied).await {
            Ok(true) => self.reported = applied,
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "what is enforced here cannot be reported; trying again"),
        }
        TICK
    }
}

/// The log from a position on.
struct Seen {
    size: u64,
    epoch: Epoch,
    /// The event before the position.
    before: Option<Uuid>,
    events: Vec<Arc<Recorded>>,
}

/// Reads the log from a position on, as far as one statement shall.
async fn look(connection: &mut PgConnection, from: u64) -> Result<Option<Seen>, FeedError> {
    let rows = sqlx::query!(
        r#"select h.position as size, h.epoch, e.position as "position?", e.stream_id as "stream_id?",
                  e.category as "category?", e.version as "version?", e.leaf as "leaf?", e.leaf_hash as "leaf_hash?"
           from log.head h left join log.event e on e.position >= $1 and e.position < $2
           order by e.position"#,
        to_i64(from) - 1,
        to_i64(from.saturating_add(BATCH))
    )
    .fetch_all(connection)
    .await?;
    let Some(first) = rows.first() else { return Ok(None) };
    let (size, epoch) = (first.size.unsigned_abs(), first.epoch.into());
    let (mut before, mut events) = (None, Vec::new());
    for row in rows {
        let (Some(position), Some(stream_id), Some(category), Some(version), Some(leaf), Some(leaf_hash)) =
            (row.position, row.stream_id, row.category, row.version, row.leaf, row.leaf_hash)
        else {
            continue;
        };
        if position < to_i64(from) {
            before = Some(leaf::decode(position.unsigned_abs(), &leaf)?.id);
        } else {
            let next = from + events.len() as u64;
            if position.unsigned_abs() != next {
                return Err(FeedError::Gap { position: next });
            }
            let row = feed::Row { position, stream_id, category, version, leaf, leaf_hash };
            events.push(Arc::new(row.verify()?));
        }
    }
    Ok(Some(Seen { size, epoch, before, events }))
}

/// Reads what other nodes appended, the first of it; `true` when the log had nothing, at some time since the call, that is
/// not known here. It takes no lease.
async fn catch_up(gate: &Gate, line: &mut Line) -> Result<(bool, u64), FeedError> {
    let (known, last) = gate.end();
    let seen = line.promptly(async |connection| look(connection, known).await).await?;
    // The epoch is for people to change, after a restore. A log that grew again past what is known here, after a failover
    // that lost the end of it, has another event there.
    let Some(seen) = seen.filter(|seen| seen.epoch == gate.epoch() && seen.size >= known && seen.before == last) else {
        gate.replaced();
        return Ok((true, known));
    };
    gate.observe(&seen.events);
    Ok((gate.applied() >= seen.size, seen.size))
}
