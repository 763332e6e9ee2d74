//! The event log: append and read. Positions have no gaps. Each process has one sequencer, which commits appends in
//! groups.
//!
//! A caller hands its append to the sequencer and waits. A caller that goes away does not cancel it. A refusal affects
//! one request, not the others of its batch.
//!
//! Projections and the tree are not here: they read the log. So does the relay, which copies it to JetStream.

mod append;
mod batch;
mod event_log;
mod read;
pub mod relay;
mod sequencer;
mod statements;

pub use self::append::{
    AppendError, AppendOutcome, AppendRequest, BATCH_EVENTS, CommandRecord, CommitHook, ExpectedVersion, GateHook,
    KeyClaim, LogHooks, QUEUE, Receipt, Rejection,
};
pub use self::event_log::EventLog;
pub use self::read::{LoadedStream, ReadError};
pub use self::sequencer::Sequencer;
