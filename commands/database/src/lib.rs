//! PostgreSQL, for every crate that uses it: the meaning of a failure for a caller ([`DatabaseFailure`]), the text of an error
//! with its causes ([`chain`]), and transactions whose caller may leave ([`begin`]). It depends on no other crate of the
//! workspace.

mod chain;
mod failure;
mod transaction;

pub use crate::chain::{Chain, chain};
pub use crate::failure::DatabaseFailure;
pub use crate::transaction::{begin, begin_on};
