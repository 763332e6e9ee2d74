//! The start of a transaction on a connection of a pool.

use sqlx::{PgConnection, PgPool, PgTransaction};

/// Begins a transaction. Unlike [`sqlx::Pool::begin`], it may be dropped at any moment: no connection returns to the pool in
/// an open transaction.
///
/// The driver notes a transaction when the server has confirmed it. If its future is dropped before, nobody rolls back;
/// the next statement on the connection is acknowledged, and undone with the transaction that it did not ask for. Here the
/// exchange with the server runs in a task, which the caller's end does not stop, and a transaction that arrives for nobody
/// is rolled back. The wait for a place in the pool stays with the caller, so nobody waits for a caller that has left.
///
/// # Errors
/// [`sqlx::Error`], as from [`sqlx::Pool::begin`].
pub async fn begin(pool: &PgPool) -> Result<PgTransaction<'static>, sqlx::Error> {
    let connection = pool.acquire().await?;
    // A part of sqlx without a promise. The versions after 0.9.0 close the gap: there this is `pool.begin()`.
    let begun = tokio::spawn(PgTransaction::begin(connection, None)).await;
    // A task ends early only with its runtime.
    begun.unwrap_or(Err(sqlx::Error::WorkerCrashed))
}

/// Begins a transaction on a connection that ends with the future that uses it. If that is dropped meanwhile, the server sees
/// the connection end and rolls back. A connection that may return to a pool is not such a one.
///
/// # Errors
/// [`sqlx::Error`], as from [`sqlx::Connection::begin`].
pub async fn begin_on(connection: &mut PgConnection) -> Result<PgTransaction<'_>, sqlx::Error> {
    PgTransaction::begin(connection, None).await
}
