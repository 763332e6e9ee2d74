//! The release of the relay's lease.

use std::time::Duration;

use fulexo_database::DatabaseFailure;
use sqlx::PgPool;
use tokio::time::timeout;
use uuid::Uuid;

/// The time limit for a release. The node is stopping, and has to leave before it is killed.
const LIMIT: Duration = Duration::from_secs(15);

/// The reason for which a lease was not released. It then expires.
#[derive(Debug, thiserror::Error)]
pub enum LeaseReleaseError {
    /// The database refused.
    #[error("the database refused to release the lease")]
    Database(#[from] sqlx::Error),
    /// The database gave no connection or no answer in time.
    #[error("the database did not release the lease in time")]
    Timeout,
}

/// Releases the lease of a relay that has ended, so that other nodes need not wait for its expiry. The relay never
/// acquires another one: a statement that was in flight when its task ended may arrive after this one. Returns within
/// 15 seconds.
///
/// # Errors
/// [`LeaseReleaseError`].
pub async fn release_lease(pool: &PgPool, holder: Uuid) -> Result<(), LeaseReleaseError> {
    release_within(LIMIT, || release(pool, holder)).await
}

/// Retries only if no connection was free. A refused statement would be refused again, and one without an answer may be
/// in flight.
async fn release_within<F>(limit: Duration, attempt: impl Fn() -> F) -> Result<(), LeaseReleaseError>
where
    F: Future<Output = Result<(), sqlx::Error>>,
{
    let attempts = async {
        loop {
            match attempt().await {
                // Connections of tasks that have just ended return in a moment; on a busy machine, it takes several.
                Err(error) if DatabaseFailure::of(&error) == DatabaseFailure::NoConnection => {
                    tracing::debug!("no connection is free to release the lease; waiting for one");
                }
                ended => return ended,
            }
        }
    };
    Ok(timeout(limit, attempts).await.map_err(|_| LeaseReleaseError::Timeout)??)
}

async fn release(pool: &PgPool, holder: Uuid) -> Result<(), sqlx::Error> {
    let mut connection = pool.acquire().await?;
    // Returned to the pool without an answer, it would keep the pool from closing while the statement runs.
    connection.close_on_drop();
    // The last 16 are enough: a statement arrives within moments, or never.
    sqlx::query!(
        "update log.relay
         set ended = (array_prepend($1, ended))[1:16],
             held_until = case when holder = $1 then clock_timestamp() else held_until end",
        holder
    )
    .execute(&mut *connection)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::pending;

    use super::*;

    #[tokio::test]
    async fn a_database_that_hangs_is_not_waited_for() {
        let attempts = Cell::new(0);
        let hang = || async {
            attempts.set(attempts.get() + 1);
            pending().await
        };
        let ended = release_within(Duration::from_millis(20), hang).await;
        assert!(matches!(ended, Err(LeaseReleaseError::Timeout)));
        assert_eq!(attempts.get(), 1);
    }

    #[tokio::test]
    async fn a_missing_connection_is_asked_for_again() {
        let attempts = Cell::new(0);
        let third = || async {
            attempts.set(attempts.get() + 1);
            tokio::task::yield_now().await;
            if attempts.get() < 3 { Err(sqlx::Error::PoolTimedOut) } else { Ok(()) }
        };
        release_within(LIMIT, third).await.unwrap();
        assert_eq!(attempts.get(), 3);
    }

    #[tokio::test]
    async fn a_refusal_is_final() {
        let attempts = Cell::new(0);
        let refused = || async {
            attempts.set(attempts.get() + 1);
            Err(sqlx::Error::PoolClosed)
        };
        let ended = release_within(LIMIT, refused).await;
        assert!(matches!(ended, Err(LeaseReleaseError::Database(sqlx::Error::PoolClosed))));
        assert_eq!(attempts.get(), 1);
    }

    #[tokio::test]
    async fn connections_that_never_come_end_in_time() {
        let never = || async {
            tokio::task::yield_now().await;
            Err(sqlx::Error::PoolTimedOut)
        };
        assert!(matches!(release_within(Duration::from_millis(20), never).await, Err(LeaseReleaseError::Timeout)));
    }
}
