//! Connections to PostgreSQL: how one is made, and which part of a node waits for which. It runs no statement of its own
//! but the question whether the server is the primary.

use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection, PgConnection, PgPool, Row};
use tokio::time::{sleep, timeout};

use crate::start_error::StartError;

/// Connections for what a lease and a revocation take, one a task: the sequencer, and those that renew, watch and follow.
const VITAL: u32 = 4;
/// Connections on which callers are judged whom memory cannot judge: all of them, in a bad hour.
const JUDGING: u32 = 3;
/// The fewest connections of a node: two to read, two for background work, three for commands, and those above.
pub const LEAST_CONNECTIONS: u32 = 14;
/// A connection that was used so lately is not asked whether it lives; another one has as long to say so.
const FRESH: Duration = Duration::from_secs(1);

/// A node's connections. Slow or locked work in one pool takes no connections of another.
pub struct Pools {
    /// The lease, the registry, the log's head; appends.
    pub vital: PgPool,
    /// Callers whom memory cannot judge.
    pub judging: PgPool,
    /// The data by which commands decide.
    pub work: PgPool,
    /// Background work: read models kept up, the copy, sweeps.
    pub behind: PgPool,
    /// Questions about the read models.
    pub reads: PgPool,
    /// The number of connections for `reads`.
    pub readers: u32,
}

impl Pools {
    /// Divides so many connections among the pools. They are made when they are needed.
    ///
    /// # Errors
    /// [`StartError`], without the password in the URL.
    pub async fn connect(url: &str, connections: u32) -> Result<Self, StartError> {
        let rest = connections.max(LEAST_CONNECTIONS) - VITAL - JUDGING;
        let readers = rest / 3;
        let behind = rest / 3;
        let options = options(url, "60s")?;
        try_once(&options).await?;
        Ok(Self {
            // A connection whose packets vanish would not answer whether it lives, either: what it is asked has its time.
            vital: of(VITAL).before_acquire(|_, _| Box::pin(async { Ok(true) })).connect_lazy_with(options.clone()),
            judging: of(JUDGING).connect_lazy_with(options.clone()),
            work: of(rest - readers - behind).connect_lazy_with(options.clone()),
            behind: of(behind).connect_lazy_with(options),
            // A request has 30 seconds.
            reads: of(readers).connect_lazy_with(self::options(url, "10s")?),
            readers,
        })
    }

    /// Opens what is not open yet, and stays so. To log in at the database takes a task 800 turns (its proof of a password,
    /// 4,096 rounds, gives way after every fifth), which in the middle of a storm of requests are seconds.
    pub async fn open(&self) {
        let Self { vital, judging, work, behind, reads, readers: _ } = self;
        let pools = [vital, judging, work, behind, reads];
        if join_all(pools.map(fill)).await.into_iter().all(|filled| filled.is_ok()) {
            return;
        }
        // A pool says only that it waited. The database tells a connection outside the pool the reason, unless it was
        // only slow.
        if let Err(StartError(reason)) = try_once(&vital.connect_options()).await {
            let open: u32 = pools.map(PgPool::size).iter().sum();
            let wanted: u32 = pools.map(|pool| pool.options().get_max_connections()).iter().sum();
            tracing::warn!(open, wanted, reason, "not all connections to the database could be opened");
        }
    }

    /// Ends them all.
    pub async fn close(&self) {
        let Self { vital, judging, work, behind, reads, readers: _ } = self;
        tokio::join!(vital.close(), judging.close(), work.close(), behind.close(), reads.close());
    }
}

/// Opens connections until a pool has as many as it may have. Those that are open are held meanwhile, or no others would be
/// opened.
async fn fill(pool: &PgPool) -> Result<(), sqlx::Error> {
    let most = pool.options().get_max_connections();
    let mut patience = Duration::from_millis(100);
    let mut held = Vec::new();
    while pool.size() < most {
        // Another task may take one between this count and the requests, and keep it: then one request too many waits
        // until that task gives it back, which may be never.
        let missing = (most - pool.size()).saturating_add(u32::try_from(pool.num_idle()).unwrap_or(most));
        tokio::select! {
            acquired = try_join_all((0..missing).map(|_| pool.acquire())) => held.extend(acquired?),
            // Or the last ones are still being opened: those get more time after each look.
            () = is_full(pool, patience) => patience *= 2,
        }
    }
    Ok(())
}

/// Waits until a pool has as many connections as it may have, with a look now and then.
async fn is_full(pool: &PgPool, between: Duration) {
    loop {
        sleep(between).await;
        if pool.size() >= pool.options().get_max_connections() {
            return;
        }
    }
}

/// A pool for the application role, for a verb: what it has begun it does not give up because the machine is busy.
///
/// # Errors
/// [`StartError`], without the password in the URL.
pub async fn connect(url: &str, connections: u32) -> Result<PgPool, StartError> {
    let options = options(url, "60s")?;
    try_once(&options).await?;
    Ok(of(connections).acquire_timeout(Duration::from_secs(60)).connect_lazy_with(options))
}

fn options(url: &str, longest_statement: &str) -> Result<PgConnectOptions, StartError> {
    let options: PgConnectOptions =
        url.parse().map_err(|_| StartError("DATABASE_URL must be a PostgreSQL URL".to_owned()))?;
    Ok(options.application_name("fulexo").options([
        // A statement that hangs must not hold the log's lock forever.
        ("statement_timeout", longest_statement),
        ("idle_in_transaction_session_timeout", "60s"),
        // The server asks now and then: no firewall forgets a connection that is silent for a night, and the server
        // notices within 90 seconds that a machine has vanished, and its locks with it.
        ("tcp_keepalives_idle", "60"),
        ("tcp_keepalives_interval", "10"),
        ("tcp_keepalives_count", "3"),
    ]))
}

/// Opens one connection outside a pool first: the pool would say only that it waited.
async fn try_once(options: &PgConnectOptions) -> Result<(), StartError> {
    let trying = async {
        let mut connection = PgConnection::connect_with(options).await?;
        unless_standby(&mut connection).await?;
        connection.close().await
    };
    match timeout(Duration::from_secs(10), trying).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(StartError(format!("cannot reach the database: {}", reason(&error)))),
        Err(_) => Err(StartError("the database did not respond within 10 seconds".to_owned())),
    }
}

fn of(connections: u32) -> PgPoolOptions {
    PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(Duration::from_secs(5))
        // Open connections stay open: they should not have to be opened again in a storm ([`Pools::open`]).
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
        .before_acquire(|connection, connection_is| {
            Box::pin(async move {
                // One that was just used was asked when it was given back. One whose packets vanish does not answer: it
                // must not use up the time of its successor.
                Ok(connection_is.idle_for < FRESH
                    || timeout(FRESH, connection.ping()).await.is_ok_and(|alive| alive.is_ok()))
            })
        })
        // Once a connection: a primary becomes a standby by a restart, which ends its connections.
        .after_connect(|connection, _| Box::pin(unless_standby(connection)))
}

/// A standby lags: what was revoked a moment ago is good there.
async fn unless_standby(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    // Asked plainly: nothing is prepared for a question that is asked once.
    let row = sqlx::raw_sql("select pg_is_in_recovery()").fetch_one(connection).await?;
    if row.try_get::<bool, _>(0)? {
        let text = "DATABASE_URL leads to a standby, which lags; it must lead to the primary";
        return Err(sqlx::Error::Io(std::io::Error::other(text)));
    }
    Ok(())
}

/// Returns the message of the database, without the place in its source that reported it.
#[must_use]
pub fn reason(error: &sqlx::Error) -> String {
    error.as_database_error().map_or_else(|| error.to_string(), |error| error.message().to_owned())
}
