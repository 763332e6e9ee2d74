//! The keys of a node, which change while it runs, and their rotation: it changes files and the database, and no node has to be
//! restarted for it.

mod announcement;
pub mod compromise;
pub mod encryption;
mod key_file;
pub mod log;
mod node_keys;
pub mod rotation;
pub mod signing;

pub use self::node_keys::{KeyAge, NodeKeys};
