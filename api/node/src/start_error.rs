//! The error of a start.

use std::error::Error;

use fulexo_database::chain;

/// The failure of a start, for the operator, with advice.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StartError(pub String);

/// Returns the error of a part of the service that cannot be opened.
pub(crate) fn failed(what: &str, error: &(dyn Error + 'static)) -> StartError {
    StartError(format!("cannot open {what}: {}", chain(error)))
}
