//! The program itself, as a child process: started, killed, started again, stopped.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

mod arguments;
#[path = "../log/audit.rs"]
mod audit;
mod backups;
mod boundaries;
mod containments;
mod dev;
mod erasures;
mod exports;
mod forgotten;
mod keys;
mod log_key;
mod pipes;
mod rebuild;
mod replayed;
mod revocation;
mod secrets;
mod serve;
mod shapes;
mod signing;
mod stream;
mod terminal;
mod trail;
mod witness;
