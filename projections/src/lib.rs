//! The read side: everything here is derived from the log and can be derived again.
//!
//! There are two kinds. `access` gates requests: its tables are written in the transaction of the event, and each node
//! keeps the recent part in memory. The read models (`accounts`, `sessions`, `roles`, `metrics`, `audit`) follow the
//! log independently, each with a checkpoint, and a reader may wait until one has applied a position. Read models with
//! a history (`versions`) answer for a past position (`as_of`). `replay` compares them with the log, and `snapshots`
//! compares the snapshots that commands start from.
//!
//! `nodes` is the registry of the nodes that derive the same state, and of how far each has applied the log.
//!
//! `trail` verifies the log as a whole, `export` writes its events for other systems.
//!
//! `preview` derives the answer to one question: the effect that another lockout policy would have had.
//!
//! Nothing here decides or appends, and nothing here can open sealed data.

pub mod access;
pub mod as_of;
mod dedicated_connection;
pub mod export;
pub mod feed;
pub mod follower;
pub mod gate;
pub mod nodes;
pub mod page;
pub mod preview;
pub mod read_models;
pub mod rebuild;
pub mod replay;
pub mod runner;
pub mod snapshots;
pub mod status;
pub mod trail;
pub mod tree;

pub(crate) fn to_i64(position: u64) -> i64 {
    i64::try_from(position).unwrap_or(i64::MAX)
}
