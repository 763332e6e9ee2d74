//! The HTTP contract: the rules for every operation, every header and every refusal.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

mod authority;
mod bodies;
mod bounded;
mod document;
mod documents;
mod headers;
mod heads;
mod help;
mod idempotency;
mod injection;
mod ocsf;
mod ownership;
mod pagination;
mod parameters;
mod positions;
mod queries;
mod wire;

use fulexo_tests::{Answer, log_size};

/// Panics unless the answer has the whole shape of a refusal (RFC 9457).
#[track_caller]
fn assert_problem(answer: &Answer, status: u16, code: &str) {
    let problem = &answer.json;
    assert_eq!((answer.status, answer.code()), (status, code), "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{answer:?}");
    let kind = problem["type"].as_str().unwrap();
    assert!(kind.ends_with(&format!("/problems#{code}")), "{answer:?}");
    assert!(problem["title"].as_str().is_some_and(|title| !title.is_empty()), "{answer:?}");
    assert_eq!(problem["status"], status, "{answer:?}");
    assert_eq!(problem["instance"], format!("urn:uuid:{}", answer.header("request-id").unwrap()), "{answer:?}");
}

/// Returns the members at fault, in the order of the answer.
fn pointers(answer: &Answer) -> Vec<&str> {
    let errors = answer.json["errors"].as_array().map(Vec::as_slice).unwrap_or_default();
    errors.iter().map(|error| error["pointer"].as_str().unwrap()).collect()
}
