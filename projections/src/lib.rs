//! What readers see: everything here is derived from the log and could be derived again.
//!
//! Two kinds. `access` gates requests: its tables are written in the transaction of the event, and each node keeps
//! the recent part in memory. The read models (`accounts`, `sessions`, `roles`, `metrics`, `audit`) follow the log on
//! their own, each with a checkpoint; a reader may wait until one has seen a position. Those with a history (`versions`)
//! are asked of the past (`as_of`), and held against the log (`replay`), as are the snapshots that commands go on from.
//!
//! `nodes` is who else derives the same: which nodes are there, and how far each has got.
//!
//! `preview` derives something for one question: what another lockout policy would have done.
//!
//! Nothing here decides or appends, and nothing here can open what is sealed.

pub mod access;
pub mod as_of;
pub mod feed;
pub mod follower;
pub mod gate;
mod line;
pub mod nodes;
pub mod page;
pub mod preview;
pub mod read_models;
pub mod rebuild;
pub mod replay;
pub mod runner;
pub mod snapshots;
pub mod status;

pub(crate) fn to_i64(position: u64) -> i64 {
    i64::try_from(position).unwrap_or(i64::MAX)
}
