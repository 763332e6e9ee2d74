//! A panic in a handler becomes a 500 for that one request; the process and the connection go on.
//!
//! The workspace must not set `panic = "abort"`, or there is nothing left to catch.

use std::future::poll_fn;
use std::panic::{self, AssertUnwindSafe};
use std::pin::pin;
use std::task::Poll;

use super::problem::Problem;

/// Sends the text of every panic to the log instead of standard error, once, in the span of the request it
/// happened in. Called once, at start.
pub fn log_panics() {
    panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let text = panic.payload_as_str().unwrap_or("not a text");
        tracing::error!(place, text, "panic");
    }));
}

/// Runs `work`; 500 if it panics.
pub(super) async fn caught<T>(work: impl Future<Output = poem::Result<T>>) -> poem::Result<T> {
    let mut work = pin!(work);
    poll_fn(|context| {
        // Nothing is left half-changed for others to see: after a panic the future is only dropped, and what
        // it shares sits behind locks and transactions.
        let polled = panic::catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context)));
        polled.unwrap_or_else(|_| Poll::Ready(Err(Problem::panicked().into())))
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_internal_problem() {
        let work = async {
            tokio::task::yield_now().await;
            panic!("secret");
        };
        let problem = Problem::from(caught::<()>(work).await.unwrap_err());
        assert_eq!(problem.code(), "internal");
        assert!(!format!("{problem:?}").contains("secret"));
    }
}
