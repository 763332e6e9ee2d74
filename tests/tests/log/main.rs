//! The event log: what it acknowledges is in it once, in one order, for good; what it refuses is not.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

mod ahead;
mod append;
mod audit;
mod commit;
mod dropped;
mod guard;
mod processes;
mod proxy;
mod queue;
mod races;
mod storm;
mod waiting;
mod writing;
