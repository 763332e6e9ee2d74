//! The verbs of operations, end to end: against real servers, with faults planted, by their exit codes and reports.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

mod age;
mod backup;
mod incident;
mod pentest;
