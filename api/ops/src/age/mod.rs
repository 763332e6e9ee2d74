//! The encryption of backups: files of the format age (age-encryption.org/v1), as C2SP specifies it.
//!
//! Encryption takes recipients only. Identities, which decrypt, belong on another machine. Two kinds of recipients are
//! supported: X25519, and the hybrid of ML-KEM-768 with X25519, which also withstands quantum computers. Passphrases,
//! plugins, SSH keys and ASCII armour are not supported.

mod chunks;
mod error;
mod file_key;
mod header;
mod hybrid;
mod identity;
mod key_text;
mod reader;
mod recipient;
mod stanza;
mod writer;
mod x25519;

#[cfg(test)]
mod tests;

pub use error::AgeError;
pub use identity::{Identity, parse_identities};
pub use reader::DecryptingReader;
pub use recipient::{Recipient, parse_recipients};
pub use writer::EncryptingWriter;
