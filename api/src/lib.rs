//! The faces of the service put together: routes, pages, command line. The service itself is `fulexo_node`.

// A print panics where nobody reads: the command line has a writer of its own, `cli::output`.
#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod cli;
#[cfg(test)]
mod edge_tests;
pub mod faces;
mod pages;
pub mod routes;

/// The allocator of the service, and of the programs that measure it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
