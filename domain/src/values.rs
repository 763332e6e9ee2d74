//! Values parsed once at the edge: whoever holds one knows that it is sound. Nothing here compares or stores.

mod email;
mod timestamp;
mod typed_code;
mod typed_text;

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

pub use email::EmailAddress;
pub use timestamp::parse_timestamp;
pub use typed_code::TypedCode;
pub(crate) use typed_text::opaque_string;

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

/// A name to show, 1 to 100 characters. Personal data: no `Debug`, no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct DisplayName(String);

impl DisplayName {
    /// Most bytes that are read.
    const LONGEST: usize = 2_000;

    /// Reads a name, trimmed, in NFC and with plain spaces.
    ///
    /// # Errors
    /// Empty after trimming, longer than 100 characters, or holding a character that cannot be seen.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        const EMPTY: InvalidValue = InvalidValue("must not be empty");
        const TOO_LONG: InvalidValue = InvalidValue("must be at most 100 characters long");
        // A blank of Braille is seen as little as a space, and is a symbol.
        let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\u{2800}');
        if text.is_empty() {
            return Err(EMPTY);
        }
        if text.len() > Self::LONGEST {
            return Err(TOO_LONG);
        }
        if text.chars().any(char::is_control) {
            return Err(InvalidValue("must not contain control characters"));
        }
        let name = opaque_string(text).ok_or(InvalidValue("must not contain characters that cannot be seen"))?;
        if name.chars().count() > 100 {
            return Err(TOO_LONG);
        }
        Ok(Self(name.to_string()))
    }

    /// A name that was accepted once, under the rules of its time.
    #[must_use]
    pub fn recorded(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The name, trimmed and in NFC.
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
    fn a_name_is_one_that_can_be_seen() {
        let name = |text: &str| DisplayName::parse(text).ok().map(|name| name.as_str().to_owned());
        for (typed, read) in [
            (" Ann ", "Ann"),
            ("Jose\u{301}", "José"),
            ("Ann\u{a0}Lee", "Ann Lee"),
            ("می\u{200c}خواهم", "می\u{200c}خواهم"),
            ("ක්\u{200d}ෂ", "ක්\u{200d}ෂ"),
            ("O’Neil 🦊 ™", "O’Neil 🦊 ™"),
        ] {
            assert_eq!(name(typed).as_deref(), Some(read));
        }
        let unseen = ["\u{200b}", "\u{3164}", "\u{2800}", "A\u{202e}nn", "A\u{2066}nn", "A\u{2028}nn", "A\u{200d}nn"];
        for text in unseen.into_iter().chain(["", " \u{3000} ", "A\u{7}nn", "A\u{feff}nn", "A\u{ad}nn", "A\u{e000}nn"])
        {
            assert_eq!(name(text), None, "{text:?}");
        }
        assert!(name(&"é".repeat(100)).is_some() && name(&"é".repeat(101)).is_none());
        assert!(name(&"e\u{301}".repeat(100)).is_some() && name(&"x".repeat(100_000)).is_none());
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
