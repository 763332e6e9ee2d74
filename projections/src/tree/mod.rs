//! The tree over the log, as transparency logs have it: its tiles in PostgreSQL, and every root and proof that follows from
//! them. It signs nothing.

mod integration;
mod reader;

pub use self::integration::{Integrator, TreeState};
pub use self::reader::{TreeError, TreeReader};
