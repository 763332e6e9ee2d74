//! Tests of the format. The programs of others judge it in `tests/tests/ops/age.rs`.

mod keys;
mod malformed;
mod streams;
mod tampering;
mod vectors;

use std::io::{self, Read, Write};

use super::{AgeError, DecryptingReader, EncryptingWriter, Identity, Recipient};

/// Encrypts in one piece.
fn encrypt(recipients: &[Recipient], data: &[u8]) -> Vec<u8> {
    let mut writer = EncryptingWriter::new(recipients, Vec::new()).unwrap();
    writer.write_all(data).unwrap();
    writer.finish().unwrap()
}

/// Decrypts a file to its end, and returns what was given out until then, and the refusal, if there was one.
fn decrypt(identity: Identity, file: &[u8]) -> (Vec<u8>, Option<AgeError>) {
    decrypt_with(&[identity], file)
}

fn decrypt_with(identities: &[Identity], file: &[u8]) -> (Vec<u8>, Option<AgeError>) {
    let mut given = Vec::new();
    let refused = match DecryptingReader::new(identities, file) {
        Ok(mut reader) => reader.read_to_end(&mut given).err().map(reason),
        Err(error) => Some(error),
    };
    (given, refused)
}

/// Returns the refusal in an error of `Read` or `Write`.
fn reason(error: io::Error) -> AgeError {
    match error.downcast::<AgeError>() {
        Ok(reason) => reason,
        Err(error) => AgeError::Io(error),
    }
}

/// The same identity once more: it has no `Clone`.
fn again(identity: &Identity) -> Identity {
    Identity::parse(&identity.expose()).unwrap()
}
