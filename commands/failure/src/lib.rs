//! Failures, for all crates that speak to PostgreSQL: what a caller can do about one ([`DatabaseFailure`]), and how it is
//! written into the log ([`chain`]). It knows nothing of ours, and does nothing by itself.

mod chain;
mod database;

pub use crate::chain::{Chain, chain};
pub use crate::database::DatabaseFailure;
