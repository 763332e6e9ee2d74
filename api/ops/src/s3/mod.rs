//! A client of stores that speak the protocol of Amazon S3: objects are put, read in ranges, listed and removed, bounded in memory
//! and in time. Knows nothing of what the objects are.
//!
//! Calls block: a thread of its own has the connections, so that a client can be used inside and outside of a runtime.

mod client;
mod connection;
mod download;
mod error;
mod settings;
mod signature;
#[cfg(test)]
mod tests;
mod upload;
mod xml;

pub use self::client::{ObjectHead, S3Client, StoredObject, UnfinishedUpload};
pub use self::download::S3Download;
pub use self::settings::{S3Credentials, S3Settings};
pub use self::upload::{S3Upload, UPLOAD};
