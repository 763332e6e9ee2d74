//! Cosignatures of witnesses under the log's checkpoints: the client of one witness, and the rounds in which all are asked.

mod client;
mod collector;

pub use self::collector::{CosignatureCollector, CosigningState};
