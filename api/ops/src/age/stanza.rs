//! The stanzas of a header: what they are addressed to, and their text.

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use super::error::AgeError;
use super::file_key::BODY_BYTES;
use super::hybrid::{ENCAPSULATED_BYTES, HybridWrapped};
use super::x25519::{POINT_BYTES, X25519Wrapped};

const X25519_TYPE: &str = "X25519";
const HYBRID_TYPE: &str = "mlkem768x25519";
const SCRYPT_TYPE: &[u8] = b"scrypt";

/// A file key, wrapped for one recipient.
pub enum WrappedFileKey {
    /// For an X25519 recipient.
    X25519(X25519Wrapped),
    /// For a hybrid recipient.
    Hybrid(HybridWrapped),
}

impl WrappedFileKey {
    /// Returns the stanza. A body of 32 bytes has one line.
    pub fn text(&self) -> String {
        let (kind, argument, body) = match self {
            Self::X25519(wrapped) => (X25519_TYPE, wrapped.share.as_slice(), &wrapped.body),
            Self::Hybrid(wrapped) => (HYBRID_TYPE, wrapped.encapsulated.as_slice(), &wrapped.body),
        };
        format!("-> {kind} {}\n{}\n", STANDARD_NO_PAD.encode(argument), STANDARD_NO_PAD.encode(body))
    }
}

/// The first line of a stanza.
pub enum Addressee {
    /// An X25519 recipient, with the sender's share.
    X25519([u8; POINT_BYTES]),
    /// A hybrid recipient, with the encapsulated key.
    Hybrid(Box<[u8; ENCAPSULATED_BYTES]>),
    /// A passphrase.
    Passphrase,
    /// Somebody of a kind that is not known here.
    Unknown,
}

impl Addressee {
    /// Parses what follows `-> `.
    pub fn parse(line: &[u8]) -> Result<Self, AgeError> {
        let arguments: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
        let visible = |argument: &&[u8]| !argument.is_empty() && argument.iter().all(u8::is_ascii_graphic);
        if !arguments.iter().all(visible) {
            return Err(AgeError::InvalidHeader("an argument of a stanza is empty, or not of visible characters"));
        }
        match arguments.as_slice() {
            [kind, rest @ ..] if *kind == X25519_TYPE.as_bytes() => Ok(Self::X25519(*only(rest)?)),
            [kind, rest @ ..] if *kind == HYBRID_TYPE.as_bytes() => Ok(Self::Hybrid(only(rest)?)),
            [kind, ..] if *kind == SCRYPT_TYPE => Ok(Self::Passphrase),
            _ => Ok(Self::Unknown),
        }
    }

    /// Adds the body; `None` if nobody here can unwrap it.
    pub fn with_body(self, body: &[u8]) -> Result<Option<WrappedFileKey>, AgeError> {
        let file_key =
            || <[u8; BODY_BYTES]>::try_from(body).map_err(|_| AgeError::InvalidHeader("a body has not 32 bytes"));
        Ok(match self {
            Self::X25519(share) => Some(WrappedFileKey::X25519(X25519Wrapped { share, body: file_key()? })),
            Self::Hybrid(encapsulated) => {
                Some(WrappedFileKey::Hybrid(HybridWrapped { encapsulated, body: file_key()? }))
            }
            Self::Passphrase | Self::Unknown => None,
        })
    }
}

/// Decodes the only argument, which must have this length.
fn only<const BYTES: usize>(arguments: &[&[u8]]) -> Result<Box<[u8; BYTES]>, AgeError> {
    let [argument] = arguments else {
        return Err(AgeError::InvalidHeader("a stanza of a known type has another number of arguments"));
    };
    let bytes = decode(argument)?.into_boxed_slice();
    bytes.try_into().map_err(|_| AgeError::InvalidHeader("an argument of a stanza has another length"))
}

/// Decodes canonical base64: no padding, and no bits behind the last byte.
pub fn decode(text: &[u8]) -> Result<Vec<u8>, AgeError> {
    // Where the text is wrong does not matter.
    STANDARD_NO_PAD.decode(text).map_err(|_| AgeError::InvalidHeader("a text is not canonical base64"))
}
