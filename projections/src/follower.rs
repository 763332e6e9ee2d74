//! Keeps this node current. It is woken by the node's own commits, by the doorbells of other nodes, and by a timer in
//! case both fail. It reports its position to the other nodes, and turns a renewal into a lease.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fulexo_database::chain;
use fulexo_domain::event::RecordedEvent;
use fulexo_domain::leaf;
use fulexo_domain::values::Epoch;
use sqlx::{PgConnection, PgPool};
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, sleep_until};
use uuid::Uuid;

use crate::dedicated_connection::DedicatedConnection;
use crate::feed::{self, FeedError};
use crate::gate::Gate;
use crate::nodes::NodeRegistry;
use crate::to_i64;

/// The interval between reads of the log without a doorbell; well within a lease.
const POLL_INTERVAL: Duration = Duration::from_millis(200);
/// The shortest interval between reads of the log, however often the doorbell rings.
const MIN_POLL_INTERVAL: Duration = Duration::from_millis(1);
/// The maximum number of events per read: few enough for the statement timeout.
const BATCH: u64 = 250;
/// The interval between reports while events keep arriving. After a pause the first report is sent at once.
const REPORT_INTERVAL: Duration = Duration::from_millis(5);

/// Follows the log for the gate and wakes the projections.
pub struct Follower {
    connection: DedicatedConnection,
    gate: Arc<Gate>,
    nodes: Arc<NodeRegistry>,
    doorbell: Arc<Notify>,
    head: watch::Sender<u64>,
    /// The start of a renewal that no catch-up has confirmed yet.
    renewal: Option<Instant>,
    reported: u64,
    reported_at: Option<Instant>,
}

impl Follower {
    /// `doorbell` is rung when there may be new events; `head` carries the size of the log.
    #[must_use]
    pub const fn new(
        pool: PgPool,
        gate: Arc<Gate>,
        nodes: Arc<NodeRegistry>,
        doorbell: Arc<Notify>,
        head: watch::Sender<u64>,
    ) -> Self {
        Self {
            connection: DedicatedConnection::new(pool),
            gate,
            nodes,
            doorbell,
            head,
            renewal: None,
            reported: 0,
            reported_at: None,
        }
    }

    /// Reads until every event that was in the log at the call has been applied.
    ///
    /// # Errors
    /// [`FeedError`]: the database failed, or the log cannot be read.
    pub async fn catch_up_to_head(&mut self) -> Result<(), FeedError> {
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
                    // A caller may be waiting for enforcement here; the read models, which have more work to do, come
                    // after that.
                    let pause = self.report().await;
                    self.wake(size);
                    if !is_current {
                        continue;
                    }
                    pause
                }
                // The lease runs out by itself. Then the database judges requests, or they are refused.
                Err(error) => {
                    tracing::warn!(error = %chain(&error), "the log cannot be followed; trying again");
                    POLL_INTERVAL
                }
            };
            tokio::select! {
                () = self.doorbell.notified() => {}
                () = sleep(pause) => {}
            }
            // Anyone who may publish can ring without pause. After a pause, the first ring is answered at once.
            sleep_until(began + MIN_POLL_INTERVAL).await;
        }
    }

    /// Reads new events; returns `true` if there were no more, and the size of the log.
    async fn step(&mut self) -> Result<(bool, u64), FeedError> {
        // Taken before the log's head is read: a renewal counts once everything that was there after it has been
        // applied.
        self.renewal = self.nodes.take_renewal().or(self.renewal);
        let (is_current, size) = catch_up(&self.gate, &mut self.connection).await?;
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

    /// Reports this node's position to the others if it has changed; returns the time until the next read.
    async fn report(&mut self) -> Duration {
        let applied = self.gate.applied();
        if applied == self.reported {
            return POLL_INTERVAL;
        }
        if let Some(wait) = self.reported_at.and_then(|at| REPORT_INTERVAL.checked_sub(at.elapsed())) {
            return wait;
        }
        self.reported_at = Some(Instant::now());
        match self.nodes.report(&mut self.connection, applied).await {
            Ok(true) => self.reported = applied,
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(error = %chain(&error), "this node's position cannot be reported; trying again")
            }
        }
        POLL_INTERVAL
    }
}

/// The end of the log, from a position on.
struct LogTail {
    size: u64,
    epoch: Epoch,
    /// The event before that position.
    before: Option<Uuid>,
    events: Vec<Arc<RecordedEvent>>,
}

/// Reads the log from a position on, up to one batch.
async fn read_tail(connection: &mut PgConnection, from: u64) -> Result<Option<LogTail>, FeedError> {
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
            let row = feed::LogEventRow { position, stream_id, category, version, leaf, leaf_hash };
            events.push(Arc::new(row.verify()?));
        }
    }
    Ok(Some(LogTail { size, epoch, before, events }))
}

/// Reads the first batch of events that other nodes appended. Returns `true` if, at some time since the call, the log
/// had no event that is not applied here. It does not renew a lease.
async fn catch_up(gate: &Gate, connection: &mut DedicatedConnection) -> Result<(bool, u64), FeedError> {
    let (known, last) = gate.applied_end();
    let tail = connection.with_deadline(async |connection| read_tail(connection, known).await).await?;
    // Operators change the epoch after a restore. If a failover lost the end of the log and the log has grown past it
    // since, the event before the position is a different one.
    let Some(tail) = tail.filter(|tail| tail.epoch == gate.epoch() && tail.size >= known && tail.before == last) else {
        gate.mark_log_replaced();
        return Ok((true, known));
    };
    gate.observe(&tail.events);
    Ok((gate.applied() >= tail.size, tail.size))
}
