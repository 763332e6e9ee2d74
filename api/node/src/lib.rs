//! A node of the service without its faces: the edge, limits, TLS, configuration, who a caller is, start and stop, mail.
//!
//! It names no route, page or verb: its caller hands those in. The only crate, with `fulexo_api`, that reads the clock
//! and the environment.

#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod answer;
pub mod auditor;
pub mod caller;
pub mod checkpoints;
pub mod clock;
pub mod config;
pub mod containment;
pub mod copies;
pub mod cosigning;
pub mod database;
pub mod doorbell;
pub mod durable_file;
pub mod export_stream;
pub mod http;
pub mod keys;
pub mod limits;
pub mod log_size;
pub mod mail;
pub mod nats;
pub mod outbound;
pub mod refusals;
pub mod rejudged;
pub mod schema;
pub mod signer;
pub mod spelling;
pub mod start;
pub mod start_error;
pub mod state;
pub mod streams;
pub mod tasks;
pub mod timestamp;
pub mod tls;
pub mod token_cache;
pub mod vocabulary;
pub mod witness;
