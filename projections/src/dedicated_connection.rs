//! A connection that one task owns. Renewing a lease and enforcing a revocation wait neither for a place in the pool
//! nor for the pool's liveness check.

use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::{PgConnection, PgPool, Postgres};
use tokio::time::timeout;

/// The deadline of one exchange with the database: shorter than a lease, and ample for these statements.
const DEADLINE: Duration = Duration::from_millis(1_500);

/// One connection, acquired on first use and kept until it fails.
pub(crate) struct DedicatedConnection {
    pool: PgPool,
    connection: Option<PoolConnection<Postgres>>,
}

impl DedicatedConnection {
    pub const fn new(pool: PgPool) -> Self {
        Self { pool, connection: None }
    }

    /// Runs statements under the deadline, which does not cover connecting. If packets of the connection are lost, the
    /// kernel retries for a long time without an answer: the connection is then given up, and the next call acquires
    /// another one.
    pub async fn with_deadline<T, E: From<sqlx::Error>>(
        &mut self,
        ask: impl AsyncFnOnce(&mut PgConnection) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.pool.acquire().await?,
        };
        match timeout(DEADLINE, ask(&mut connection)).await {
            Ok(answer) => {
                // After an error the connection returns to the pool, which checks that it is alive.
                self.connection = answer.is_ok().then_some(connection);
                answer
            }
            Err(_) => {
                // If it returned to the pool, the pool's liveness check would hold its place for just as long.
                drop(connection.detach());
                Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()).into())
            }
        }
    }
}
