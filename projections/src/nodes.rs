//! The nodes on one database: this node's registration, the state of the others, and the nodes that enforce an event.
//!
//! ```text
//! renew:   note the time | commit "renewed" | read the log's head, catch up | lease until the time noted + LEASE
//! revoke:  commit the event | read the registry | each node: past the event, or its lease has run out
//! ```
//! Suppose that a process commits an event, reads the registry, and does not see a renewal. Then the renewing node
//! reads the log's head after that commit, and the lease from that renewal covers the event. If the process does see
//! the renewal, its time was noted before: at the latest `LEASE` after it was seen, that lease has run out. Only
//! monotonic clocks are compared, each with itself.
//!
//! This file does not judge requests (`gate`) and does not read the log (`follower`).

mod enforcement_wait;
mod registry_snapshot;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fulexo_database::chain;
use sqlx::PgPool;
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, sleep_until, timeout};
use uuid::Uuid;

use self::enforcement_wait::EnforcementWait;
use self::registry_snapshot::{RegistryEntry, rows_to_sweep};
use crate::dedicated_connection::DedicatedConnection;
use crate::gate::{Gate, LEASE};
use crate::to_i64;

/// The interval between renewals; a lease outlives three that fail.
const RENEWAL_INTERVAL: Duration = Duration::from_millis(500);
/// The interval between reads of the registry while nobody waits.
const IDLE_POLL_INTERVAL: Duration = Duration::from_millis(500);
/// The shortest interval while somebody waits, and the longest to which it grows.
const MIN_POLL_INTERVAL: Duration = Duration::from_millis(2);
const MAX_POLL_INTERVAL: Duration = Duration::from_millis(50);
/// The time within which a wait must read the registry for the first time.
const REGISTRY_TIMEOUT: Duration = Duration::from_secs(3);
/// The maximum number of rows deleted per read of the registry.
const SWEEP_LIMIT: usize = 10;

/// The registry of nodes, and this node's part in it.
pub struct NodeRegistry {
    pool: PgPool,
    name: Arc<str>,
    gate: Arc<Gate>,
    /// The keys that this node has and uses, as it announces them.
    keys: Mutex<Arc<[String]>>,
    own: Mutex<Option<NodeRegistration>>,
    /// The start of the last committed renewal, until the follower takes it.
    renewed: Mutex<Option<Instant>>,
    /// The time of the last acknowledged commit.
    commit_heartbeat: watch::Sender<Option<Instant>>,
    snapshot: watch::Sender<RegistrySnapshot>,
    poll_requested: Notify,
    waiters: AtomicUsize,
}

/// The part of this node's row that it must remember.
#[derive(Clone, Copy)]
struct NodeRegistration {
    id: Uuid,
    renewals: u64,
}

/// The registry as last read.
#[derive(Clone, Default)]
struct RegistrySnapshot {
    /// The start of that read.
    asked: Option<Instant>,
    nodes: Arc<[RegistryEntry]>,
}

/// A node's status in the health report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeStatus {
    /// The node's name.
    pub name: Arc<str>,
    /// `true` if the node may judge requests from memory. Otherwise it asks the database, or has stopped.
    pub is_up: bool,
}

/// The keys of a node: of each a name and a check value, never the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeHoldings {
    /// The node's name.
    pub name: Arc<str>,
    /// `true` if the node has renewed its registration lately.
    pub is_up: bool,
    /// The keys that it has and uses.
    pub keys: Arc<[String]>,
}

/// The enforcement of an event, once each node has applied it or has lost its lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enforcement {
    /// The number of nodes that have applied it.
    pub enforced_on: usize,
    /// The names of the other nodes. They judge nothing from memory until they have caught up.
    pub down: Vec<Arc<str>>,
    /// The time spent waiting for this result.
    pub waited: Duration,
}

/// The registry could not be read, so it is unknown which nodes enforce the event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the registry of nodes cannot be read")]
pub struct RegistryUnavailable;

impl NodeRegistry {
    /// Creates the registry of this database. This node is not in it until it joins.
    #[must_use]
    pub fn new(pool: PgPool, name: Arc<str>, gate: Arc<Gate>) -> Self {
        Self {
            pool,
            name,
            gate,
            keys: Mutex::default(),
            own: Mutex::new(None),
            renewed: Mutex::new(None),
            commit_heartbeat: watch::Sender::default(),
            snapshot: watch::Sender::default(),
            poll_requested: Notify::new(),
            waiters: AtomicUsize::new(0),
        }
    }

    /// Registers this node. From now on [`NodeRegistry::run`] renews the registration, on which the lease depends.
    ///
    /// # Errors
    /// [`sqlx::Error`].
    pub async fn join(&self) -> Result<(), sqlx::Error> {
        let asked = Instant::now();
        self.register(&mut DedicatedConnection::new(self.pool.clone())).await?;
        self.note_renewal(asked);
        Ok(())
    }

    /// The time at which the database last acknowledged a commit: a renewal, or one that another component notes here.
    /// It is `None` while this process is not registered. If it is old, the database is unreachable or acknowledges no
    /// commits.
    #[must_use]
    pub fn commit_heartbeat(&self) -> watch::Sender<Option<Instant>> {
        self.commit_heartbeat.clone()
    }

    /// Announces these keys to the others, with this node's next renewal.
    pub fn announce_keys(&self, keys: Vec<String>) {
        *lock(&self.keys) = keys.into();
    }

    fn announced_keys(&self) -> Arc<[String]> {
        Arc::clone(&lock(&self.keys))
    }

    /// Returns the keys that each node had announced when this was called, or later. A node that has stopped counts as up
    /// until its lease has run out.
    ///
    /// # Errors
    /// [`RegistryUnavailable`].
    pub async fn holdings(&self) -> Result<Vec<NodeHoldings>, RegistryUnavailable> {
        let began = Instant::now();
        let _waiting = self.register_waiter();
        let mut snapshot = self.snapshot.subscribe();
        let read = snapshot.wait_for(|snapshot| snapshot.asked.is_some_and(|asked| asked >= began));
        let read = timeout(REGISTRY_TIMEOUT, read).await.map_err(|_| RegistryUnavailable)?;
        let nodes = Arc::clone(&read.map_err(|_| RegistryUnavailable)?.nodes);
        let holdings = nodes.iter().map(|node| NodeHoldings {
            name: Arc::clone(&node.name),
            is_up: !node.lease_is_over(Instant::now()),
            keys: Arc::clone(&node.keys),
        });
        Ok(holdings.collect())
    }

    fn note_renewal(&self, asked: Instant) {
        *lock(&self.renewed) = Some(asked);
        self.commit_heartbeat.send_replace(Some(Instant::now()));
    }

    /// Deregisters this node: gives up the lease, then deletes the row, so that nobody waits for this node. Before the
    /// call, the node must have stopped serving and [`NodeRegistry::run`] must have ended.
    ///
    /// # Errors [`sqlx::Error`]. Then the row stays, and the other nodes wait until its lease has run out.
    pub async fn leave(&self) -> Result<(), sqlx::Error> {
        let Some(own) = lock(&self.own).take() else { return Ok(()) };
        self.gate.drop_lease();
        sqlx::query!("delete from projection.node where node_id = $1", own.id).execute(&self.pool).await?;
        Ok(())
    }

    /// Renews the registration and polls the registry until cancelled. It notifies `renewed` of each renewal. A lease
    /// begins once the log's head was read after a renewal and everything up to that head has been applied.
    pub async fn run(self: Arc<Self>, renewed: Arc<Notify>) {
        let renew = async {
            let mut connection = DedicatedConnection::new(self.pool.clone());
            loop {
                let asked = Instant::now();
                match self.renew(&mut connection).await {
                    Ok(true) => {
                        self.note_renewal(asked);
                        renewed.notify_one();
                    }
                    Ok(false) => {}
                    // The lease runs out by itself.
                    Err(error) => tracing::warn!(error = %chain(&error), "the lease cannot be renewed; trying again"),
                }
                sleep(RENEWAL_INTERVAL).await;
            }
        };
        tokio::join!(renew, self.watch());
    }

    /// Takes the start of the last renewal. Call it before reading the log's head.
    pub(crate) fn take_renewal(&self) -> Option<Instant> {
        lock(&self.renewed).take()
    }

    /// Reports this node's position to the others; returns `false` if no row was updated.
    ///
    /// # Errors
    /// [`sqlx::Error`].
    pub(crate) async fn report(&self, connection: &mut DedicatedConnection, applied: u64) -> Result<bool, sqlx::Error> {
        let Some(own) = *lock(&self.own) else { return Ok(false) };
        // If the database loses this update, a waiter waits for the next one: nobody has to wait for the disk.
        connection
            .with_deadline(async |connection| {
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

    /// Every node that was recently seen, in order of start.
    #[must_use]
    pub fn list(&self) -> Vec<NodeStatus> {
        let own = *lock(&self.own);
        let status = |node: &RegistryEntry| NodeStatus {
            name: Arc::clone(&node.name),
            is_up: match own {
                Some(own) if own.id == node.id => self.gate.holds_lease(),
                Some(_) | None => !node.lease_is_over(Instant::now()),
            },
        };
        self.snapshot.borrow().nodes.iter().map(status).collect()
    }

    /// Waits until each node has applied the committed event at `position` or cannot judge without it. Once the
    /// registry was read, that takes at most `LEASE` and a small margin.
    ///
    /// # Errors
    /// [`RegistryUnavailable`].
    pub async fn wait_until_enforced(&self, position: u64) -> Result<Enforcement, RegistryUnavailable> {
        let began = Instant::now();
        let _waiting = self.register_waiter();
        let mut snapshot = self.snapshot.subscribe();
        // A read from before the commit may lack the renewal of a lease that does not cover the event.
        let first =
            timeout(REGISTRY_TIMEOUT, snapshot.wait_for(|snapshot| snapshot.asked.is_some_and(|asked| asked >= began)))
                .await;
        // The task that polls the registry logs the cause.
        let first = first.map_err(|_| RegistryUnavailable)?.map_err(|_| RegistryUnavailable)?.clone();
        let wait = EnforcementWait::of(position, &first.nodes, lock(&self.own).map(|own| own.id));
        loop {
            let nodes = Arc::clone(&snapshot.borrow_and_update().nodes);
            // A lease of this node may still come from a head that was read before the event. Then its renewal also
            // began before.
            let here = EnforcementWait::state_of(self.gate.applied() > position, began + LEASE, Instant::now());
            let here = lock(&self.own).map(|_| (&self.name, here));
            match wait.outcome(&nodes, Instant::now(), here) {
                Ok((enforced_on, down)) => return Ok(Enforcement { enforced_on, down, waited: began.elapsed() }),
                Err(next) => {
                    // If the registry becomes unreadable, leases run out all the same.
                    let _ = tokio::time::timeout_at(next.into(), snapshot.changed()).await;
                }
            }
        }
    }

    fn register_waiter(&self) -> WaiterGuard<'_> {
        self.waiters.fetch_add(1, Ordering::Relaxed);
        self.poll_requested.notify_one();
        WaiterGuard(self)
    }

    /// Renews the registration; returns `false` if this node has not joined.
    async fn renew(&self, connection: &mut DedicatedConnection) -> Result<bool, sqlx::Error> {
        let own = {
            let mut own = lock(&self.own);
            let Some(own) = own.as_mut() else { return Ok(false) };
            // The counter is kept here, so no number is used twice even if the row is deleted.
            own.renewals += 1;
            *own
        };
        // This does not rely on the server's default: an acknowledgement may rest on the renewal that another node
        // sees. A missing row was swept. A row with a higher number was renewed by a copy of this process, which is
        // another node. A locked row is still being renewed on a connection that was given up: while no standby
        // acknowledges, one session waits rather than one per attempt.
        let keys = self.announced_keys();
        let renewed = connection.with_deadline(async |connection| {
            let renewed = sqlx::query!(
                "with durably as (select set_config('synchronous_commit', 'on', true),
                                         set_config('lock_timeout', '500ms', true))
                 update projection.node
                 set renewals = $2, renewed_at = clock_timestamp(), applied = greatest(applied, $3), keys = $4
                 from durably where node_id = $1 and renewals < $2",
                own.id,
                to_i64(own.renewals),
                to_i64(self.gate.applied()),
                &*keys
            )
            .execute(connection)
            .await?;
            Ok::<_, sqlx::Error>(renewed.rows_affected())
        });
        if renewed.await? == 0 {
            self.register(connection).await?;
        }
        Ok(true)
    }

    async fn register(&self, connection: &mut DedicatedConnection) -> Result<(), sqlx::Error> {
        let keys = self.announced_keys();
        let registered = connection.with_deadline(async |connection| {
            sqlx::query_scalar!(
                "with durably as (select set_config('synchronous_commit', 'on', true))
                 insert into projection.node (node_id, name, started_at, renewals, renewed_at, applied, keys)
                 select gen_random_uuid(), $1, clock_timestamp(), 1, clock_timestamp(), $2, $3 from durably
                 returning node_id",
                &*self.name,
                to_i64(self.gate.applied()),
                &*keys
            )
            .fetch_one(connection)
            .await
        });
        let id = registered.await?;
        *lock(&self.own) = Some(NodeRegistration { id, renewals: 1 });
        Ok(())
    }

    /// Polls the registry: rarely, to notice dead nodes, and often while somebody waits.
    async fn watch(&self) {
        let (mut connection, mut pace) = (DedicatedConnection::new(self.pool.clone()), MIN_POLL_INTERVAL);
        loop {
            let began = tokio::time::Instant::now();
            if let Err(error) = self.poll(&mut connection).await {
                tracing::warn!(error = %chain(&error), "the registry of nodes cannot be read; trying again");
            }
            let pause = if self.waiters.load(Ordering::Relaxed) > 0 { pace } else { IDLE_POLL_INTERVAL };
            tokio::select! {
                () = self.poll_requested.notified() => pace = MIN_POLL_INTERVAL,
                () = sleep(pause) => pace = (pace * 5 / 4).min(MAX_POLL_INTERVAL),
            }
            // This bounds the rate, however many waiters arrive.
            sleep_until(began + MIN_POLL_INTERVAL).await;
        }
    }

    async fn poll(&self, connection: &mut DedicatedConnection) -> Result<(), sqlx::Error> {
        let asked = Instant::now();
        let rows = connection.with_deadline(async |connection| {
            sqlx::query!(
                "select node_id, name, renewals, applied, keys from projection.node order by started_at, node_id"
            )
            .fetch_all(connection)
            .await
        });
        let rows = rows.await?;
        let now = Instant::now();
        let known = Arc::clone(&self.snapshot.borrow().nodes);
        let nodes: Arc<[RegistryEntry]> = rows
            .into_iter()
            .map(|row| {
                let renewals = row.renewals.unsigned_abs();
                let before = known.iter().find(|known| known.id == row.node_id);
                let name = before.map_or_else(|| row.name.into(), |known| Arc::clone(&known.name));
                let renewal_seen_at =
                    before.filter(|known| known.renewals == renewals).map_or(now, |known| known.renewal_seen_at);
                RegistryEntry {
                    id: row.node_id,
                    name,
                    renewals,
                    renewal_seen_at,
                    applied: row.applied.unsigned_abs(),
                    keys: row.keys.into(),
                }
            })
            .collect();
        self.snapshot.send_replace(RegistrySnapshot { asked: Some(asked), nodes: Arc::clone(&nodes) });
        self.sweep(connection, &nodes, now).await
    }

    /// Deletes the rows of dead nodes. A node that is alive after all registers again before its next lease.
    async fn sweep(
        &self,
        connection: &mut DedicatedConnection,
        nodes: &[RegistryEntry],
        now: Instant,
    ) -> Result<(), sqlx::Error> {
        let own = lock(&self.own).map(|own| own.id);
        for node in rows_to_sweep(nodes, now).filter(|node| Some(node.id) != own).take(SWEEP_LIMIT) {
            // Nobody has to wait for the disk or a standby: a deletion that is lost is repeated.
            let swept = connection.with_deadline(async |connection| {
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

/// A waiter: while there is one, the registry is polled often.
struct WaiterGuard<'a>(&'a NodeRegistry);

impl Drop for WaiterGuard<'_> {
    fn drop(&mut self) {
        self.0.waiters.fetch_sub(1, Ordering::Relaxed);
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}
