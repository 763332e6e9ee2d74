//! Failures of PostgreSQL, for every crate that uses it: their meaning for a caller ([`DatabaseFailure`]), and the text of an
//! error with its causes ([`chain`]). It depends on no other crate of the workspace.

mod chain;
mod database;

pub use crate::chain::{Chain, chain};
pub use crate::database::DatabaseFailure;
