//! The event log: append and read. One gapless position, one sequencer a process, group commit.
//!
//! An append is handed to the sequencer and waited for; a caller that goes away does not cancel it. What the log
//! refuses, it refuses for one request: its neighbours in the batch are not touched.
//!
//! Projections and the tree are not here: they read. So does the relay, which copies the log to JetStream.

mod append;
mod batch;
mod event_log;
mod read;
pub mod relay;
mod sequencer;
mod statements;

pub use self::append::{
    AppendError, AppendOutcome, AppendRequest, BATCH_EVENTS, CommandRecord, CommitHook, ExpectedVersion, GateHook,
    KeyClaim, LogHooks, QUEUE, Receipt,
};
pub use self::event_log::EventLog;
pub use self::read::{LoadedStream, ReadError};
pub use self::sequencer::Sequencer;
