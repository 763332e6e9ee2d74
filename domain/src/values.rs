//! Values parsed once at the edge: whoever holds one knows that it is sound. Nothing here compares or stores.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// The id of an account; also the id of its streams and the subject of its events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AccountId(pub Uuid);

/// The id of a session; also the id of its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SessionId(pub Uuid);

/// Which history of the log: it changes when a backup is restored, so that what comes from an undone history is known as
/// such. The first half of `log.head.epoch`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Epoch(u64);

impl From<Uuid> for Epoch {
    fn from(epoch: Uuid) -> Self {
        Self(epoch.as_u64_pair().0)
    }
}

impl From<Epoch> for String {
    fn from(epoch: Epoch) -> Self {
        format!("{:016x}", epoch.0)
    }
}

impl TryFrom<String> for Epoch {
    type Error = InvalidValue;

    fn try_from(text: String) -> Result<Self, InvalidValue> {
        let epoch = u64::from_str_radix(&text, 16).ok().map(Self).filter(|epoch| String::from(*epoch) == text);
        epoch.ok_or(InvalidValue("must be 16 hexadecimal digits"))
    }
}

impl fmt::Display for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The id of an API key; also the id of its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ApiKeyId(pub Uuid);

impl fmt::Display for ApiKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why a value was refused; the text is meant for whoever sent it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidValue(pub &'static str);

/// An e-mail address, as given; compared by [`EmailAddress::normalised`]. Personal data: no `Debug`, no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct EmailAddress(String);

impl EmailAddress {
    /// Accepts what mail servers accept in practice: one `@`, a local part of 1 to 64 bytes, a domain of at
    /// least two labels, 254 bytes in all (RFC 5321, section 4.5.3.1), no white space or control character.
    ///
    /// # Errors
    /// The rule that was broken.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        const SHAPE: InvalidValue = InvalidValue("must be an e-mail address such as name@example.com");
        if text.len() > 254 {
            return Err(InvalidValue("must be at most 254 bytes long"));
        }
        let Some((local, domain)) = text.rsplit_once('@') else { return Err(SHAPE) };
        let unsound = |c: char| c.is_whitespace() || c.is_control() || "@<>()[],;:\\\"".contains(c);
        if local.is_empty() || local.len() > 64 || local.contains(unsound) {
            return Err(SHAPE);
        }
        let label_is_sound = |label: &str| {
            !label.is_empty()
                && label.len() <= 63
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.chars().all(|c| c.is_alphanumeric() || c == '-')
        };
        if domain.split('.').count() < 2 || !domain.split('.').all(label_is_sound) {
            return Err(SHAPE);
        }
        Ok(Self(text.to_owned()))
    }

    /// The address as it was given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The form under which an address is unique: lower case throughout.
    #[must_use]
    pub fn normalised(&self) -> String {
        self.0.to_lowercase()
    }

    /// The part before the `@`.
    #[must_use]
    pub fn local_part(&self) -> &str {
        self.0.rsplit_once('@').map_or("", |(local, _)| local)
    }
}

/// A name to show, 1 to 100 characters. Personal data: no `Debug`, no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct DisplayName(String);

impl DisplayName {
    /// # Errors
    /// Empty after trimming, longer than 100 characters, or holding a control character.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        let text = text.trim();
        if text.is_empty() {
            return Err(InvalidValue("must not be empty"));
        }
        if text.chars().count() > 100 {
            return Err(InvalidValue("must be at most 100 characters long"));
        }
        if text.chars().any(char::is_control) {
            return Err(InvalidValue("must not contain control characters"));
        }
        Ok(Self(text.to_owned()))
    }

    /// The name as it was given, trimmed.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The name of a role: `[a-z][a-z0-9_-]{0,62}`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RoleName(String);

impl RoleName {
    /// # Errors
    /// Anything outside the pattern.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        let sound = text.len() <= 63
            && text.starts_with(|c: char| c.is_ascii_lowercase())
            && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-');
        if sound {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidValue("must start with a lower-case letter and hold only a-z, 0-9, _ and -, 63 at most"))
        }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id of the role's stream, which follows from its name (UUIDv8, RFC 9562, section 5.8).
    #[must_use]
    pub fn stream_id(&self) -> Uuid {
        let digest = Sha256::new_with_prefix("fulexo/role/").chain_update(&self.0).finalize();
        let mut bytes = [0; 16];
        bytes.iter_mut().zip(digest).for_each(|(byte, from)| *byte = from);
        uuid::Builder::from_custom_bytes(bytes).into_uuid()
    }
}

impl TryFrom<String> for RoleName {
    type Error = InvalidValue;
    fn try_from(text: String) -> Result<Self, InvalidValue> {
        Self::parse(&text)
    }
}

impl From<RoleName> for String {
    fn from(name: RoleName) -> Self {
        name.0
    }
}

impl fmt::Display for RoleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of an API key: that of a service, never of a person, since it stands in the log:
/// `[a-z0-9][a-z0-9._-]{0,62}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyName(String);

impl KeyName {
    /// # Errors
    /// Anything outside the pattern.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let sound = text.len() <= 63 && text.starts_with(plain) && text.chars().all(|c| plain(c) || "._-".contains(c));
        if sound {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidValue("must start with a-z or 0-9 and hold only a-z, 0-9, ., _ and -, 63 at most"))
        }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for KeyName {
    type Error = InvalidValue;
    fn try_from(text: String) -> Result<Self, InvalidValue> {
        Self::parse(&text)
    }
}

impl From<KeyName> for String {
    fn from(name: KeyName) -> Self {
        name.0
    }
}

/// Why an administrator did something, 1 to 500 characters. Free text may name people, so it is sealed like
/// personal data and has no `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Reason(String);

impl Reason {
    /// # Errors
    /// Empty after trimming, or longer than 500 characters.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        let text = text.trim();
        if text.is_empty() {
            return Err(InvalidValue("must not be empty"));
        }
        if text.chars().count() > 500 {
            return Err(InvalidValue("must be at most 500 characters long"));
        }
        Ok(Self(text.to_owned()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_needs_a_local_part_and_a_dotted_domain() {
        for good in ["a@b.co", "first.last+tag@sub.example.com", "ünï@exämple.de", "o'neil@example.ie"] {
            assert!(EmailAddress::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "a", "@b.co", "a@", "a@b", "a@b..co", "a b@c.de", "a@-b.co", "a@b.co\n", "a@b@c.de", "<a@b.co>"]
        {
            assert!(EmailAddress::parse(bad).is_err(), "{bad:?}");
        }
        assert!(EmailAddress::parse(&format!("{}@example.com", "x".repeat(65))).is_err());
    }

    #[test]
    fn addresses_are_compared_without_case() {
        let (a, b) = (EmailAddress::parse("Ann@Example.COM").unwrap(), EmailAddress::parse("ann@example.com").unwrap());
        assert_eq!(a.normalised(), b.normalised());
        assert_eq!(a.as_str(), "Ann@Example.COM");
    }

    #[test]
    fn role_names_are_plain_words() {
        assert!(RoleName::parse("customer").is_ok());
        assert!(RoleName::parse("support-tier_2").is_ok());
        for bad in ["", "Admin", "1st", "a b", "ä", "a.b", "admin\u{0}"] {
            assert!(RoleName::parse(bad).is_err(), "{bad:?}");
        }
    }
}
