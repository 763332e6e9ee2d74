//! The foundation of the tests: a private Postgres and NATS for each test process, a database for each test made from a
//! template, nodes of the service, and clients that speak real HTTP to them.
//!
//! A test reads like this:
//!
//! ```text
//! let node = Node::start().await;
//! let admin = node.admin().await;
//! let answer = admin.get("/v1/accounts").await;
//! assert_eq!(answer.status, 200);
//! ```

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]
#![expect(clippy::missing_panics_doc, reason = "tests fail by panicking")]

mod authenticator;
mod client;
mod cluster;
mod consistent;
mod cut;
mod dice;
mod event_source;
mod held_commits;
pub mod history;
mod looking;
mod mailbox;
mod nats;
mod node;
mod port;
pub mod postgres_wire;
mod program;
pub mod second_tlog;
mod smtp;
pub mod spec;
mod writing;

pub use authenticator::Authenticator;
pub use client::{Answer, Client, Leave};
pub use cluster::{
    Database, application_url, env, nats_url, own_dir, owner_url, postgres_pid, prepare, use_durable_postgres,
};
pub use consistent::{consistent, consistent_after_kills};
pub use cut::Cut;
pub use dice::Dice;
pub use event_source::{EventSource, StreamBlock};
pub use fulexo_api::cli::operator;
pub use held_commits::{Fate, HeldCommits};
pub use looking::{Column, caught_up, columns, eventually, leaves, log_size, signed, superuser, there};
pub use mailbox::Mailbox;
pub use nats::{NatsCluster, NatsVersion, stored_messages};
pub use node::{Node, PASSWORD, rsa_key};
pub use port::free_port;
pub use program::{Ended, Program};
pub use smtp::{Behaviour, Mail, Sink};
pub use writing::{cut_off, draft, lengthen, poison};
