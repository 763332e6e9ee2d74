//! The log's lock, held by the test, and those who wait for it.

use std::time::{Duration, Instant};

use fulexo_tests::Database;
use sqlx::{Connection, PgConnection};

/// The held lock: nobody appends until it is released.
pub struct Held {
    connection: PgConnection,
}

impl Held {
    pub async fn lock(database: &Database) -> Self {
        let mut connection = PgConnection::connect(&database.superuser_url()).await.unwrap();
        for statement in ["begin", "select from log.head for update"] {
            sqlx::query(statement).execute(&mut connection).await.unwrap();
        }
        Self { connection }
    }

    pub async fn release(mut self) {
        sqlx::query("rollback").execute(&mut self.connection).await.unwrap();
    }
}

/// Returns once this many sessions of the database wait for a lock.
pub async fn until_waiting(database: &Database, sessions: i64) {
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut connection = PgConnection::connect(&database.superuser_url()).await.unwrap();
    loop {
        let waiting: i64 = sqlx::query_scalar(
            "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'",
        )
        .fetch_one(&mut connection)
        .await
        .unwrap();
        if waiting >= sessions {
            return;
        }
        assert!(Instant::now() < deadline, "{waiting} of {sessions} sessions wait for the lock");
    }
}
