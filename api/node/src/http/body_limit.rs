//! Reads the whole body before any handler runs: at most so many bytes, in at most so much time.
//!
//! Every body of this API is small, so nothing is lost by not streaming, and a slow client holds no slot, no
//! connection to the database and no half-done command while it dawdles. poem's own `SizeLimit` answers 411 to
//! a body of unknown length and believes the `Content-Length` it is given.

use std::sync::Arc;
use std::time::Duration;

use hyper::body::Bytes;
use poem::http::{HeaderValue, Method, header};
use poem::{Body, Request};
use tokio::io::AsyncReadExt;
use tokio::time;

use super::body_budget::TakenBytes;
use super::problem::Problem;

/// Replaces the request's body by the bytes it has. 413 over `limit` bytes, at once where `Content-Length`
/// already says so; 503 where `take` has no room for it; 408 after `patience`; 400 if it breaks off.
pub(super) async fn read(
    request: &mut Request,
    limit: usize,
    patience: Duration,
    take: impl FnOnce(usize) -> Result<TakenBytes, Problem>,
) -> Result<(), Problem> {
    let declared = declared_length(request);
    if declared.is_some_and(|length| length > limit as u64) {
        return Err(Problem::body_too_large(limit));
    }
    let body = request.take_body();
    if body.is_empty() {
        // A body that may be left out may also lack a type; poem-openapi would answer 415 to the lack of one.
        if request.method() == Method::DELETE {
            let json = HeaderValue::from_static("application/json");
            request.headers_mut().entry(header::CONTENT_TYPE).or_insert(json);
        }
        return Ok(());
    }
    // Held by the request, wherever that goes. Of an unknown length it may be any.
    let taken = take(declared.and_then(|length| usize::try_from(length).ok()).unwrap_or(limit))?;
    request.set_data(Arc::new(taken));
    // It grows with what arrives: a length is easily declared.
    let mut bytes = Vec::new();
    // One byte more than allowed is enough to know.
    let mut reader = body.into_async_read().take(limit as u64 + 1);
    // Boxed, so that the many requests without a body need not carry its state along.
    match Box::pin(time::timeout(patience, reader.read_to_end(&mut bytes))).await {
        Ok(Ok(_)) if bytes.len() > limit => Err(Problem::body_too_large(limit)),
        Ok(Ok(_)) => {
            request.set_body(Body::from_bytes(Bytes::from(bytes)));
            Ok(())
        }
        Ok(Err(_)) => {
            Err(Problem::invalid_input(Vec::new()).with_detail("The body is incomplete or malformed. Send it again."))
        }
        Err(_) => Err(Problem::slow_request()),
    }
}

fn declared_length(request: &Request) -> Option<u64> {
    request.headers().get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;
    use crate::http::body_budget::BodyBudget;

    const PATIENCE: Duration = Duration::from_secs(5);

    fn stream_of(chunks: Vec<&'static str>) -> Body {
        Body::from_bytes_stream(stream::iter(chunks.into_iter().map(Ok::<_, std::io::Error>)))
    }

    fn anything(bytes: usize) -> Result<TakenBytes, Problem> {
        BodyBudget::of(50_000).take([192, 0, 2, 1].into(), bytes)
    }

    async fn code(request: &mut Request) -> Result<(), &'static str> {
        read(request, 8, PATIENCE, anything).await.map_err(|problem| problem.code())
    }

    #[tokio::test]
    async fn a_request_without_a_body_passes() {
        let mut request = Request::builder().finish();
        assert_eq!(code(&mut request).await, Ok(()));
    }

    #[tokio::test]
    async fn a_declared_length_over_the_limit_is_refused_unread() {
        let unread = Body::from_bytes_stream(stream::pending::<Result<&'static str, std::io::Error>>());
        let mut request = Request::builder().header("content-length", "9").body(unread);
        assert_eq!(code(&mut request).await, Err("body_too_large"));
    }

    #[tokio::test]
    async fn a_body_of_unknown_length_is_counted() {
        let mut request = Request::builder().body(stream_of(vec!["12345", "6789"]));
        assert_eq!(code(&mut request).await, Err("body_too_large"));
    }

    #[tokio::test]
    async fn a_length_that_lies_is_found_out() {
        let mut request = Request::builder().header("content-length", "2").body(stream_of(vec!["123456789"]));
        assert_eq!(code(&mut request).await, Err("body_too_large"));
    }

    #[tokio::test]
    async fn a_body_of_exactly_the_limit_reaches_the_handler_whole() {
        let mut request = Request::builder().body(stream_of(vec!["1234", "5678"]));
        assert_eq!(code(&mut request).await, Ok(()));
        assert_eq!(request.take_body().into_vec().await.unwrap(), b"12345678");
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_bad_input() {
        let chunks = [Ok("12"), Err(std::io::Error::other("reset"))];
        let mut request = Request::builder().body(Body::from_bytes_stream(stream::iter(chunks)));
        assert_eq!(code(&mut request).await, Err("invalid_input"));
    }

    #[tokio::test]
    async fn a_body_that_dawdles_is_given_up() {
        let stalled = Body::from_bytes_stream(stream::pending::<Result<&'static str, std::io::Error>>());
        let mut request = Request::builder().body(stalled);
        let refusal = read(&mut request, 8, Duration::from_millis(10), anything).await;
        assert_eq!(refusal.map_err(|problem| problem.code()), Err("slow_request"));
    }
}
