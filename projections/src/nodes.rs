//! The nodes on one database: what this one says of itself, what it sees of the others, and who enforces what.
//!
//! ```text
//! renew:   note the time | commit "renewed" | read the log's head, catch up | lease until the time noted + LEASE
//! revoke:  commit the event | read the registry | each node: past the event, or its lease has run out
//! ```
//! Whoever reads the registry after their commit and does not see a renewal knows that its head is read after that
//! commit: the lease it leads to knows of the event. What they do see was noted before they saw it: by `LEASE` later
//! that lease is over. Only monotonic clocks are compared, each with itself.
//!
//! It does not judge requests (`gate`) and does not read the log (`follower`).

mod seen;
mod wait;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sqlx::PgPool;
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, sleep_until, timeout};
use uuid::Uuid;

use self::seen::{SeenNode, swept};
use self::wait::Wait;
use crate::gate::{Gate, LEASE};
use crate::line::Line;
use crate::to_i64;

/// Between two renewals; a lease outlives three that fail.
const RENEW: Duration = Duration::from_millis(500);
/// Between two looks at the registry while nobody waits.
const IDLE: Duration = Duration::from_millis(500);
/// The same while somebody has just begun to wait, and the longest that it becomes.
const QUICK: Duration = Duration::from_millis(2);
const SLOW: Duration = Duration::from_millis(50);
/// How long a wait has for its first look at the registry.
const PATIENCE: Duration = Duration::from_secs(3);
/// Most rows taken away after one look.
const SWEPT: usize = 10;

/// The registry, as this node takes part in it.
pub struct Nodes {
    pool: PgPool,
    name: Arc<str>,
    gate: Arc<Gate>,
    own: Mutex<Option<Own>>,
    /// When the last renewal that was committed began, until the follower takes it.
    renewed: Mutex<Option<Instant>>,
    /// The same, for whoever wants to know whether commits are acknowledged.
    pulse: watch::Sender<Option<Instant>>,
    seen: watch::Sender<Seen>,
    wanted: Notify,
    waiting: AtomicUsize,
}

/// This node's row, as far as it has to be remembered.
#[derive(Clone, Copy)]
struct Own {
    id: Uuid,
    renewals: u64,
}

/// What a look at the registry showed.
#[derive(Clone, Default)]
struct Seen {
    /// When the look began.
    asked: Option<Instant>,
    nodes: Arc<[SeenNode]>,
}

/// A node, for those who ask who is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeStatus {
    /// Its name.
    pub name: Arc<str>,
    /// Whether it may be judging requests from memory; one that is not asks the database, or is gone.
    pub is_up: bool,
}

/// Who enforces what was recorded, once each node either does or has lost its lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enforcement {
    /// How many nodes have applied it.
    pub enforced_on: usize,
    /// The names of the others, which judge nothing from memory before they have caught up.
    pub down: Vec<Arc<str>>,
    /// How long that took to know.
    pub waited: Duration,
}

/// The registry could not be read: nobody knows who enforces what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the registry of nodes cannot be read")]
pub struct Unreadable;

impl Nodes {
    /// The registry of this database. The node is not in it before it joins.
    #[must_use]
    pub fn new(pool: PgPool, name: Arc<str>, gate: Arc<Gate>) -> Self {
        Self {
            pool,
            name,
            gate,
            own: Mutex::new(None),
            renewed: Mutex::new(None),
            pulse: watch::Sender::default(),
            seen: watch::Sender::default(),
            wanted: Notify::new(),
            waiting: AtomicUsize::new(0),
        }
    }

    /// Takes part: from here on [`Nodes::run`] renews, which is what a lease takes.
    ///
    /// # Errors
    /// The database.
    pub async fn join(&self) -> Result<(), sqlx::Error> {
        let asked = Instant::now();
        self.register(&mut Line::new(self.pool.clone())).await?;
        self.is_renewed(asked);
        Ok(())
    }

    /// When the database last acknowledged a commit, a renewal or what others note here; nothing as long as this process is
    /// no node. What is old says that the database is gone, or acknowledges no commit.
    #[must_use]
    pub fn pulse(&self) -> watch::Sender<Option<Instant>> {
        self.pulse.clone()
    }

    fn is_renewed(&self, asked: Instant) {
        *lock(&self.renewed) = Some(asked);
        self.pulse.send_replace(Some(Instant::now()));
    }

    /// Takes no part any more: gives up the lease, then the row, so that nobody waits for this node. It must serve
    /// nobody when this is called, and [`Nodes::run`] must have ended.
    ///
    /// # Errors
    /// The database; then the row stays, and the others find the lease run out.
    pub async fn leave(&self) -> Result<(), sqlx::Error> {
        let Some(own) = lock(&self.own).take() else { return Ok(()) };
        self.gate.drop_lease();
        sqlx::query!("delete from projection.node where node_id = $1", own.id).execute(&self.pool).await?;
        Ok(())
    }

    /// Renews and watches until cancelled. `renewed` is told of each renewal: a lease begins once the log's head was
    /// read after it, and everything up to there is known.
    pub async fn run(self: Arc<Self>, renewed: Arc<Notify>) {
        let renew = async {
            let mut line = Line::new(self.pool.clone());
            loop {
                let asked = Instant::now();
                match self.renew(&mut line).await {
                    Ok(true) => {
                        self.is_renewed(asked);
                        renewed.notify_one();
                    }
                    Ok(false) => {}
                    // The lease runs out by itself.
                    Err(error) => tracing::warn!(%error, "the lease cannot be renewed; trying again"),
                }
                sleep(RENEW).await;
            }
        };
        tokio::join!(renew, self.watch());
    }

    /// When the last renewal began, once: to be asked before the log's head is read.
    pub(crate) fn take_renewal(&self) -> Option<Instant> {
        lock(&self.renewed).take()
    }

    /// Tells the others how far this node is; answers whether there was anything to tell it by.
    ///
    /// # Errors
    /// The database.
    pub(crate) async fn report(&self, line: &mut Line, applied: u64) -> Result<bool, sqlx::Error> {
        let Some(own) = *lock(&self.own) else { return Ok(false) };
        // If the database loses it, somebody waits for the next one: nobody has to wait for the disk.
        line.promptly(async |connection| {
            let told = sqlx::query!(
                "with quickly as (select set_config('synchronous_commit', 'off', true),
                                         set_config('lock_timeout', '500ms', true))
                 update projection.node set applied = greatest(applied, $3)
                 from quickly where node_id = $1 and renewals <= $2",
                own.id,
                to_i64(own.renewals),
                to_i64(applied)
            )
            .execute(connection)
            .await?;
            Ok(told.rows_affected() > 0)
        })
        .await
    }

    /// Every node that was seen lately, in the order of their start.
    #[must_use]
    pub fn list(&self) -> Vec<NodeStatus> {
        let own = *lock(&self.own);
        let status = |node: &SeenNode| NodeStatus {
            name: Arc::clone(&node.name),
            is_up: match own {
                Some(own) if own.id == node.id => self.gate.holds_lease(),
                Some(_) | None => !node.is_over(Instant::now()),
            },
        };
        self.seen.borrow().nodes.iter().map(status).collect()
    }

    /// Waits until each node has applied the event at `position`, which is committed, or cannot judge without it: for
    /// `LEASE` and a little more at most, once the registry was read.
    ///
    /// # Errors
    /// [`Unreadable`].
    pub async fn enforced(&self, position: u64) -> Result<Enforcement, Unreadable> {
        let began = Instant::now();
        let _waiting = self.begin_to_wait();
        let mut seen = self.seen.subscribe();
        // What was read before the commit may lack the renewal that led to a lease without it.
        let first = timeout(PATIENCE, seen.wait_for(|seen| seen.asked.is_some_and(|asked| asked >= began))).await;
        let first = first.map_err(|_| Unreadable)?.map_err(|_| Unreadable)?.clone();
        let wait = Wait::of(position, &first.nodes, lock(&self.own).map(|own| own.id));
        loop {
            let nodes = Arc::clone(&seen.borrow_and_update().nodes);
            // A lease of this node's own may still come of a head that was read before the event, and then began before.
            let here = Wait::enforces(self.gate.applied() > position, began + LEASE, Instant::now());
            let here = lock(&self.own).map(|_| (&self.name, here));
            match wait.settled(&nodes, Instant::now(), here) {
                Ok((enforced_on, down)) => return Ok(Enforcement { enforced_on, down, waited: began.elapsed() }),
                Err(next) => {
                    // The registry may become unreadable; leases run out all the same.
                    let _ = tokio::time::timeout_at(next.into(), seen.changed()).await;
                }
            }
        }
    }

    fn begin_to_wait(&self) -> Waiting<'_> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        self.wanted.notify_one();
        Waiting(self)
    }

    /// Says that this node goes on; `false` when it has not joined.
    async fn renew(&self, line: &mut Line) -> Result<bool, sqlx::Error> {
        let own = {
            let mut own = lock(&self.own);
            let Some(own) = own.as_mut() else { return Ok(false) };
            // Counted here, so that a number never comes back, whatever becomes of the row.
            own.renewals += 1;
            *own
        };
        // Whatever the server's default: an acknowledgement may rest on what is seen of it. A row that is gone was
        // swept; one that is further was renewed by a copy of this process, which is another node. One that is locked is
        // being renewed still, on a connection given up: while no standby acknowledges, one session waits, not one a try.
        let renewed = line.promptly(async |connection| {
            let renewed = sqlx::query!(
                "with durably as (select set_config('synchronous_commit', 'on', true),
                                         set_config('lock_timeout', '500ms', true))
                 update projection.node set renewals = $2, renewed_at = clock_timestamp(), applied = greatest(applied, $3)
                 from durably where node_id = $1 and renewals < $2",
                own.id,
                to_i64(own.renewals),
                to_i64(self.gate.applied())
            )
            .execute(connection)
            .await?;
            Ok::<_, sqlx::Error>(renewed.rows_affected())
        });
        if renewed.await? == 0 {
            self.register(line).await?;
        }
        Ok(true)
    }

    async fn register(&self, line: &mut Line) -> Result<(), sqlx::Error> {
        let registered = line.promptly(async |connection| {
            sqlx::query_scalar!(
                "with durably as (select set_config('synchronous_commit', 'on', true))
                 insert into projection.node (node_id, name, started_at, renewals, renewed_at, applied)
                 select gen_random_uuid(), $1, clock_timestamp(), 1, clock_timestamp(), $2 from durably
                 returning node_id",
                &*self.name,
                to_i64(self.gate.applied())
            )
            .fetch_one(connection)
            .await
        });
        let id = registered.await?;
        *lock(&self.own) = Some(Own { id, renewals: 1 });
        Ok(())
    }

    /// Looks at the registry: seldom, so that the long dead are known as such; often, while somebody waits.
    async fn watch(&self) {
        let (mut line, mut pace) = (Line::new(self.pool.clone()), QUICK);
        loop {
            let began = tokio::time::Instant::now();
            if let Err(error) = self.look(&mut line).await {
                tracing::warn!(%error, "the registry of nodes cannot be read; trying again");
            }
            let pause = if self.waiting.load(Ordering::Relaxed) > 0 { pace } else { IDLE };
            tokio::select! {
                () = self.wanted.notified() => pace = QUICK,
                () = sleep(pause) => pace = (pace * 5 / 4).min(SLOW),
            }
            // However many begin to wait.
            sleep_until(began + QUICK).await;
        }
    }

    async fn look(&self, line: &mut Line) -> Result<(), sqlx::Error> {
        let asked = Instant::now();
        let rows = line.promptly(async |connection| {
            sqlx::query!("select node_id, name, renewals, applied from projection.node order by started_at, node_id")
                .fetch_all(connection)
                .await
        });
        let rows = rows.await?;
        let now = Instant::now();
        let known = Arc::clone(&self.seen.borrow().nodes);
        let nodes: Arc<[SeenNode]> = rows
            .into_iter()
            .map(|row| {
                let renewals = row.renewals.unsigned_abs();
                let before = known.iter().find(|known| known.id == row.node_id);
                let name = before.map_or_else(|| row.name.into(), |known| Arc::clone(&known.name));
                let since = before.filter(|known| known.renewals == renewals).map_or(now, |known| known.since);
                SeenNode { id: row.node_id, name, renewals, since, applied: row.applied.unsigned_abs() }
            })
            .collect();
        self.seen.send_replace(Seen { asked: Some(asked), nodes: Arc::clone(&nodes) });
        self.sweep(line, &nodes, now).await
    }

    /// Takes rows of the dead away. One that lives after all joins anew with its next renewal, before its next lease.
    async fn sweep(&self, line: &mut Line, nodes: &[SeenNode], now: Instant) -> Result<(), sqlx::Error> {
        let own = lock(&self.own).map(|own| own.id);
        for node in swept(nodes, now).filter(|node| Some(node.id) != own).take(SWEPT) {
            // Nobody need wait for the disk, or a standby: what is lost is swept again.
            let swept = line.promptly(async |connection| {
                sqlx::query!(
                    "with quickly as (select set_config('synchronous_commit', 'off', true),
                                             set_config('lock_timeout', '500ms', true))
                     delete from projection.node using quickly where node_id = $1 and renewals = $2",
                    node.id,
                    to_i64(node.renewals)
                )
                .execute(connection)
                .await
            });
            swept.await?;
        }
        Ok(())
    }
}

/// Somebody who waits: while there is one, the registry is looked at often.
struct Waiting<'a>(&'a Nodes);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}
