//! HTTP and command line; composes the rest. The only crate that reads configuration, the clock and the environment.

// A print panics where nobody reads: the command line has a writer of its own, `cli::output`.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod answer;
mod caller;
pub mod cli;
pub mod clock;
pub mod config;
pub mod database;
mod doorbell;
pub mod http;
pub mod limits;
pub mod log_size;
pub mod mail;
mod nats;
mod pages;
pub mod routes;
pub mod schema;
mod spelling;
pub mod start;
pub mod start_error;
pub mod state;
pub mod tasks;
mod timestamp;
pub mod tls;
mod token_cache;
mod vocabulary;

/// Of the service, and of whatever measures it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
