//! The tree over the log, as transparency logs have it: its tiles in PostgreSQL, and every root and proof that follows from
//! them, and the checkpoint that is published. It signs nothing.

mod anchored;
mod integration;
mod published;
mod reader;

pub use self::anchored::{AnchoredCheckpoint, WitnessStatus};
pub use self::integration::{IntegrationError, Integrator, TreeState};
pub use self::published::{EndedRefusal, PublishedCheckpoint, PublishingTurn};
pub use self::reader::{TreeError, TreeReader};
