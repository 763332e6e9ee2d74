//! The private servers behind `fulexo dev` and the test-suite: one PostgreSQL, one nats-server.
//!
//! They live in a [`DataDir`], listen on 127.0.0.1 only and end with their owner, however the owner
//! ends. Nothing here knows a schema, a role or a stream. Linux only: it reads `/proc`.
//!
//! ```text
//! DIR/lock                        held while anybody uses DIR
//! DIR/SERVER.{log,password,port}  ours, mode 0600
//! DIR/SERVER/                     the server's home; it belongs to the user the server runs as
//! ```

mod data_dir;
mod nats;
mod postgres;
mod server;
#[cfg(test)]
mod tests;

pub use crate::data_dir::{DataDir, ServerError, free_port};
pub use crate::nats::{ClusterOptions, Nats, NatsOptions};
pub use crate::postgres::{Options, Postgres};
pub use crate::server::Ended;
