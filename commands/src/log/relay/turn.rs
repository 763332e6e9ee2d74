//! The end of a relay's turn to copy the log.

use std::time::Duration;

use sqlx::PgPool;
use tokio::time::timeout;
use uuid::Uuid;

/// The time that a node takes to end its turn, at most. It is stopping, and has to leave before it is killed.
const LIMIT: Duration = Duration::from_secs(15);

/// Why a turn was not ended. It then runs out.
#[derive(Debug, thiserror::Error)]
pub enum LeaseReleaseError {
    /// The database refused.
    #[error("the database refused to end the turn")]
    Database(#[from] sqlx::Error),
    /// The database gave no connection, or no answer, in time.
    #[error("the database did not end the turn in time")]
    Timeout,
}

/// Ends the turn of a relay that has ended, so that another node need not wait until it runs out. The relay takes no other
/// turn: a statement that was on its way when its task ended may arrive after this one. Returns within 15 seconds.
///
/// # Errors
/// [`LeaseReleaseError`].
pub async fn give_up(pool: &PgPool, holder: Uuid) -> Result<(), LeaseReleaseError> {
    end_within(LIMIT, || end_turn(pool, holder)).await
}

/// Tries again where a connection was missing, and in no other case: a statement that was refused would be refused again,
/// and one without an answer may be under way.
async fn end_within<F>(limit: Duration, attempt: impl Fn() -> F) -> Result<(), LeaseReleaseError>
where
    F: Future<Output = Result<(), sqlx::Error>>,
{
    let attempts = async {
        loop {
            match attempt().await {
                // Those of tasks that were ended just now come back in a moment, on a busy machine in several.
                Err(sqlx::Error::PoolTimedOut) => {
                    tracing::debug!("no connection is free to end the turn; waiting for one")
                }
                ended => return ended,
            }
        }
    };
    Ok(timeout(limit, attempts).await.map_err(|_| LeaseReleaseError::Timeout)??)
}

async fn end_turn(pool: &PgPool, holder: Uuid) -> Result<(), sqlx::Error> {
    let mut connection = pool.acquire().await?;
    // Given back unanswered, it would keep its pool from closing for as long as the statement takes.
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
        let ended = end_within(Duration::from_millis(20), hang).await;
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
        end_within(LIMIT, third).await.unwrap();
        assert_eq!(attempts.get(), 3);
    }

    #[tokio::test]
    async fn a_refusal_is_final() {
        let attempts = Cell::new(0);
        let refused = || async {
            attempts.set(attempts.get() + 1);
            Err(sqlx::Error::PoolClosed)
        };
        let ended = end_within(LIMIT, refused).await;
        assert!(matches!(ended, Err(LeaseReleaseError::Database(sqlx::Error::PoolClosed))));
        assert_eq!(attempts.get(), 1);
    }

    #[tokio::test]
    async fn connections_that_never_come_end_in_time() {
        let never = || async {
            tokio::task::yield_now().await;
            Err(sqlx::Error::PoolTimedOut)
        };
        assert!(matches!(end_within(Duration::from_millis(20), never).await, Err(LeaseReleaseError::Timeout)));
    }
}
