//! The error of a start.

use std::error::Error;

use fulexo_failure::chain;

/// The reason why the service does not start, in words for the operator: they say what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StartError(pub String);

/// A part of the service that cannot be opened.
pub(crate) fn failed(what: &str, error: &(dyn Error + 'static)) -> StartError {
    StartError(format!("{what} cannot be opened: {}", chain(error)))
}
