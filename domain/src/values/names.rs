//! The names of roles and of API keys, which the log contains in clear.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::invalid::InvalidValue;

/// The name of a role: `[a-z][a-z0-9_-]{0,62}`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RoleName(String);

impl RoleName {
    /// Reads a name.
    ///
    /// # Errors
    /// The text does not match the pattern.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        let sound = text.len() <= 63
            && text.starts_with(|c: char| c.is_ascii_lowercase())
            && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-');
        if sound {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidValue(
                "must start with a lower-case letter and contain only a-z, 0-9, _ and -, at most 63 characters",
            ))
        }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id of the role's stream, derived from its name (UUIDv8, RFC 9562, section 5.8).
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

/// The name of an API key: `[a-z0-9][a-z0-9._-]{0,62}`. It names a service and never a person, because the log contains
/// it in clear.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ApiKeyName(String);

impl ApiKeyName {
    /// Reads a name.
    ///
    /// # Errors
    /// The text does not match the pattern.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let sound = text.len() <= 63 && text.starts_with(plain) && text.chars().all(|c| plain(c) || "._-".contains(c));
        if sound {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidValue("must start with a-z or 0-9 and contain only a-z, 0-9, ., _ and -, at most 63 characters"))
        }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ApiKeyName {
    type Error = InvalidValue;
    fn try_from(text: String) -> Result<Self, InvalidValue> {
        Self::parse(&text)
    }
}

impl From<ApiKeyName> for String {
    fn from(name: ApiKeyName) -> Self {
        name.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn role_names_are_plain_words() {
        assert!(RoleName::parse("customer").is_ok());
        assert!(RoleName::parse("support-tier_2").is_ok());
        for bad in ["", "Admin", "1st", "a b", "ä", "a.b", "admin\u{0}"] {
            assert!(RoleName::parse(bad).is_err(), "{bad:?}");
        }
    }
}
