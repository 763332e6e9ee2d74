//! Identities: the secret keys that files are decrypted with.

use chrono::{DateTime, SecondsFormat, Utc};
use zeroize::Zeroizing;

use super::error::AgeError;
use super::file_key::FileKey;
use super::hybrid::HybridIdentity;
use super::key_text::{self, AgeKeyKind};
use super::recipient::{Recipient, keys};
use super::stanza::WrappedFileKey;
use super::x25519::X25519Identity;

const X25519_KIND: AgeKeyKind = AgeKeyKind::Secret("AGE-SECRET-KEY-");
const HYBRID_KIND: AgeKeyKind = AgeKeyKind::Secret("AGE-SECRET-KEY-PQ-");
const HYBRID_PREFIX: &str = "AGE-SECRET-KEY-PQ-1";

/// A secret key that decrypts files. It cannot be printed, and is wiped when it is dropped.
pub struct Identity {
    key: SecretKey,
    /// Its text, so that giving it out cannot fail.
    text: Zeroizing<String>,
}

enum SecretKey {
    X25519(X25519Identity),
    Hybrid(HybridIdentity),
}

impl Identity {
    /// Draws an X25519 identity, which every age program understands.
    pub fn generate() -> Result<Self, AgeError> {
        Self::new(SecretKey::X25519(X25519Identity::generate()?))
    }

    /// Draws a hybrid identity: what is encrypted for it also withstands quantum computers. age understands it from
    /// version 1.3.
    pub fn generate_hybrid() -> Result<Self, AgeError> {
        Self::new(SecretKey::Hybrid(HybridIdentity::generate()?))
    }

    /// Parses `AGE-SECRET-KEY-1…` or `AGE-SECRET-KEY-PQ-1…`.
    pub fn parse(text: &str) -> Result<Self, AgeError> {
        if text.starts_with(HYBRID_PREFIX) {
            let seed = key_text::decode(HYBRID_KIND, text).ok_or(AgeError::InvalidIdentity)?;
            return Self::new(SecretKey::Hybrid(HybridIdentity::from_seed(seed)?));
        }
        let scalar = key_text::decode(X25519_KIND, text).ok_or(AgeError::InvalidIdentity)?;
        Self::new(SecretKey::X25519(X25519Identity::from_scalar(scalar)?))
    }

    fn new(key: SecretKey) -> Result<Self, AgeError> {
        let text = match &key {
            SecretKey::X25519(identity) => key_text::encode(X25519_KIND, identity.scalar.as_slice()),
            SecretKey::Hybrid(identity) => key_text::encode(HYBRID_KIND, identity.seed.as_slice()),
        };
        Ok(Self { key, text: text.ok_or(AgeError::InvalidIdentity)? })
    }

    /// Returns the recipient whose files this identity decrypts.
    #[must_use]
    pub fn recipient(&self) -> Recipient {
        match &self.key {
            SecretKey::X25519(identity) => Recipient::of_x25519(identity.point),
            SecretKey::Hybrid(identity) => Recipient::of_hybrid(identity.public.clone()),
        }
    }

    /// Returns the text of the secret key, to be written where nobody else reads.
    #[must_use]
    pub fn expose(&self) -> Zeroizing<String> {
        self.text.clone()
    }

    /// Returns the file of this identity as `age-keygen` writes it: two comments, with the time and the recipient, and
    /// the secret key.
    #[must_use]
    pub fn key_file(&self, created_at: DateTime<Utc>) -> Zeroizing<String> {
        let created_at = created_at.to_rfc3339_opts(SecondsFormat::Secs, true);
        let head = format!("# created: {created_at}\n# public key: {}\n", self.recipient());
        // Large enough from the start: a text that moves would leave a copy.
        let mut file = Zeroizing::new(String::with_capacity(head.len() + self.text.len() + 1));
        file.push_str(&head);
        file.push_str(&self.text);
        file.push('\n');
        file
    }

    /// Returns the file key, or `None` if it was wrapped for another recipient.
    pub(super) fn unwrap(&self, wrapped: &WrappedFileKey) -> Result<Option<FileKey>, AgeError> {
        match (&self.key, wrapped) {
            (SecretKey::X25519(identity), WrappedFileKey::X25519(wrapped)) => identity.unwrap(wrapped),
            (SecretKey::Hybrid(identity), WrappedFileKey::Hybrid(wrapped)) => identity.unwrap(wrapped),
            (SecretKey::X25519(_), WrappedFileKey::Hybrid(_)) | (SecretKey::Hybrid(_), WrappedFileKey::X25519(_)) => {
                Ok(None)
            }
        }
    }
}

/// Parses a file of identities, one per line, as `age-keygen` writes it. Empty lines and those that begin with `#` are
/// left out.
pub fn parse_identities(text: &str) -> Result<Vec<Identity>, AgeError> {
    let identities = keys(text, Identity::parse)?;
    if identities.is_empty() {
        return Err(AgeError::NoIdentities);
    }
    Ok(identities)
}
