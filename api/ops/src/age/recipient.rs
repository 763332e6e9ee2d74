//! Recipients: the public keys that files are encrypted for.

use std::fmt;

use super::error::AgeError;
use super::file_key::FileKey;
use super::hybrid::HybridPublicKey;
use super::key_text::{self, AgeKeyKind};
use super::stanza::WrappedFileKey;
use super::x25519::{self, POINT_BYTES, X25519Identity};

/// The most recipients of a file.
pub const MOST_RECIPIENTS: usize = 64;

const X25519_KIND: AgeKeyKind = AgeKeyKind::Public("age");
const HYBRID_KIND: AgeKeyKind = AgeKeyKind::Public("age1pq");
/// Everything that begins so is of the kind `age1pq`; the digit 1 ends the kind.
const HYBRID_PREFIX: &str = "age1pq1";

/// A public key that files are encrypted for.
#[derive(Clone, Eq, PartialEq)]
pub struct Recipient(PublicKey);

#[derive(Clone, Eq, PartialEq)]
enum PublicKey {
    X25519([u8; POINT_BYTES]),
    Hybrid(HybridPublicKey),
}

impl Recipient {
    /// Parses `age1…` or `age1pq1…`. Fails on any other text, and on a key that cannot keep a secret.
    pub fn parse(text: &str) -> Result<Self, AgeError> {
        if text.starts_with(HYBRID_PREFIX) {
            let key = key_text::decode(HYBRID_KIND, text).ok_or(AgeError::InvalidRecipient)?;
            let key = HybridPublicKey::parse(Box::new(*key))?.ok_or(AgeError::InvalidRecipient)?;
            return Ok(Self(PublicKey::Hybrid(key)));
        }
        let point = *key_text::decode(X25519_KIND, text).ok_or(AgeError::InvalidRecipient)?;
        x25519::agree(&X25519Identity::generate()?.scalar, &point)?.ok_or(AgeError::InvalidRecipient)?;
        Ok(Self(PublicKey::X25519(point)))
    }

    /// `true` if files for this recipient also withstand quantum computers.
    #[must_use]
    pub fn is_hybrid(&self) -> bool {
        match self.0 {
            PublicKey::X25519(_) => false,
            PublicKey::Hybrid(_) => true,
        }
    }

    pub(super) fn of_x25519(point: [u8; POINT_BYTES]) -> Self {
        Self(PublicKey::X25519(point))
    }

    pub(super) fn of_hybrid(key: HybridPublicKey) -> Self {
        Self(PublicKey::Hybrid(key))
    }

    pub(super) fn wrap(&self, file_key: &FileKey) -> Result<WrappedFileKey, AgeError> {
        Ok(match &self.0 {
            PublicKey::X25519(point) => WrappedFileKey::X25519(x25519::wrap(point, file_key)?),
            PublicKey::Hybrid(key) => WrappedFileKey::Hybrid(key.wrap(file_key)?),
        })
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match &self.0 {
            PublicKey::X25519(point) => key_text::encode(X25519_KIND, point),
            PublicKey::Hybrid(key) => key_text::encode(HYBRID_KIND, key.as_bytes()),
        };
        formatter.write_str(&text.ok_or(fmt::Error)?)
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// Parses a file of recipients, one per line. Empty lines and those that begin with `#` are left out.
pub fn parse_recipients(text: &str) -> Result<Vec<Recipient>, AgeError> {
    let recipients = keys(text, Recipient::parse)?;
    judge(&recipients)?;
    Ok(recipients)
}

/// Fails if no file can be encrypted for all of these at once.
pub fn judge(recipients: &[Recipient]) -> Result<(), AgeError> {
    if recipients.is_empty() {
        return Err(AgeError::NoRecipients);
    }
    if recipients.len() > MOST_RECIPIENTS {
        return Err(AgeError::TooManyKeys { most: MOST_RECIPIENTS });
    }
    let hybrid = recipients.iter().filter(|recipient| recipient.is_hybrid()).count();
    if hybrid != 0 && hybrid != recipients.len() {
        return Err(AgeError::MixedRecipients);
    }
    Ok(())
}

/// Parses the keys of a file, one per line.
pub fn keys<K>(text: &str, parse: impl Fn(&str) -> Result<K, AgeError>) -> Result<Vec<K>, AgeError> {
    let mut keys = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if keys.len() == MOST_RECIPIENTS {
            return Err(AgeError::TooManyKeys { most: MOST_RECIPIENTS });
        }
        keys.push(parse(line).map_err(|source| AgeError::Line { line: index + 1, source: Box::new(source) })?);
    }
    Ok(keys)
}
