//! An end to every request: what has not answered in time is not waited for any longer, and the client told so.
//!
//! Bounds the time to the head of the response. A streamed body (server-sent events, exports) continues after it;
//! a stalled reader of one is the listener's business, and a slow body in the request is `body_limit`'s.

use tokio::time::{self, Instant};

use super::problem::Problem;

/// Runs `work` until `deadline`; 503 `timeout` after that. The work is dropped at its next await point: of a read that is
/// its end, of a command only that of the waiting for it (`tasks`).
pub(super) async fn by<T>(deadline: Instant, work: impl Future<Output = poem::Result<T>>) -> poem::Result<T> {
    match time::timeout_at(deadline, work).await {
        Ok(result) => result,
        Err(_) => Err(Problem::timeout().into()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn work_that_does_not_end_is_a_timeout() {
        let endless = std::future::pending::<poem::Result<()>>();
        let error = by(Instant::now() + Duration::from_millis(10), endless).await.unwrap_err();
        assert_eq!(Problem::from(error).code(), "timeout");
    }

    #[tokio::test]
    async fn work_that_ends_is_passed_on() {
        assert_eq!(by(Instant::now() + Duration::from_secs(5), async { Ok(7) }).await.unwrap(), 7);
    }
}
