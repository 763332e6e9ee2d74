//! A connection of a task's own: what a lease and a revocation take waits for no place in a pool, and no statement for the
//! question whether its connection lives.

use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::{PgConnection, PgPool, Postgres};
use tokio::time::timeout;

/// How long the database has for what a lease takes: less than a lease, and more than it ever needs.
const PROMPT: Duration = Duration::from_millis(1_500);

/// One connection, taken when it is first needed and kept until something is wrong with it.
pub(crate) struct Line {
    pool: PgPool,
    connection: Option<PoolConnection<Postgres>>,
}

impl Line {
    pub const fn new(pool: PgPool) -> Self {
        Self { pool, connection: None }
    }

    /// Asks the database, for a moment at most; making a connection may take longer. A connection whose packets vanish
    /// answers nothing for as long as the kernel tries: it is given up, and another one taken.
    pub async fn promptly<T, E: From<sqlx::Error>>(
        &mut self,
        ask: impl AsyncFnOnce(&mut PgConnection) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.pool.acquire().await?,
        };
        match timeout(PROMPT, ask(&mut connection)).await {
            Ok(answer) => {
                // After an error it goes back to the pool, which finds out whether it lives.
                self.connection = answer.is_ok().then_some(connection);
                answer
            }
            Err(_) => {
                // Given back, it would be asked whether it lives, and keep its place in the pool for as long.
                drop(connection.detach());
                Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()).into())
            }
        }
    }
}
