//! The signer of the log's checkpoints, in this process or in one of its own, and a node's way to it.

mod client;
mod log_signer;
pub mod memory;
mod socket;
mod wire;

pub use self::client::{SignedLog, Signer};
pub use self::log_signer::{LogKeys, LogKeysError, LogSigner, SignerError, SigningRequest};
pub use self::socket::{SIZE, SignerSocket};
