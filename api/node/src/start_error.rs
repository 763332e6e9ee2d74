//! The error of a start.

/// The reason why the service does not start, in words for the operator: they say what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StartError(pub String);

/// A part of the service that cannot be opened.
pub(crate) fn failed(what: &str, error: &dyn std::error::Error) -> StartError {
    StartError(format!("{what} cannot be opened: {error}"))
}
