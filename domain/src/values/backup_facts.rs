//! Facts of a backup as texts that the log has in clear: its name, digests, the root of its tree.

use serde::{Deserialize, Serialize};

use super::invalid::InvalidValue;

/// The name of a backup: `[0-9A-Za-z-]{1,64}`, such as `20261201T061402Z-4711`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BackupLabel(String);

impl BackupLabel {
    /// Reads a name.
    ///
    /// # Errors
    /// The text does not match the pattern.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        let sound = (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if sound {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidValue("must have 1 to 64 letters, digits and dashes"))
        }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A SHA-256, as 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sha256Hex(String);

impl Sha256Hex {
    /// Reads a digest.
    ///
    /// # Errors
    /// The text is not one.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        let sound = text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if sound { Ok(Self(text.to_owned())) } else { Err(InvalidValue("must be 64 lower-case hexadecimal digits")) }
    }

    /// The digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first half of the digest.
    #[must_use]
    pub(crate) fn first_half(&self) -> [u8; 16] {
        let mut half = [0; 16];
        let digit = |byte: &u8| if byte.is_ascii_digit() { byte - b'0' } else { byte.wrapping_sub(b'a' - 10) };
        for (byte, digits) in half.iter_mut().zip(self.0.as_bytes().chunks_exact(2)) {
            *byte = digits.iter().fold(0, |value, byte| (value << 4) | digit(byte));
        }
        half
    }
}

/// The root of the tree over a log (RFC 6962), in base64, as checkpoints have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TreeRoot(String);

impl TreeRoot {
    /// Reads a root.
    ///
    /// # Errors
    /// The text is not the base64 of 32 bytes.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        let digits = text.strip_suffix('=').unwrap_or_default();
        let is_digit = |b: u8| b.is_ascii_alphanumeric() || b == b'+' || b == b'/';
        // The last digit has two bits more than there are, which are zero.
        let is_canonical = digits.ends_with(|c: char| "AEIMQUYcgkosw048".contains(c));
        if digits.len() == 43 && digits.bytes().all(is_digit) && is_canonical {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidValue("must be the base64 of 32 bytes"))
        }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

macro_rules! as_text {
    ($($name:ident),*) => {$(
        impl TryFrom<String> for $name {
            type Error = InvalidValue;

            fn try_from(text: String) -> Result<Self, InvalidValue> {
                Self::parse(&text)
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.0
            }
        }
    )*};
}

as_text!(BackupLabel, Sha256Hex, TreeRoot);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_their_own_texts_are_read() {
        assert!(BackupLabel::parse("20261201T061402Z-4711").is_ok());
        for text in ["", "..", "a/b", "ä", "a b", &"a".repeat(65)] {
            assert!(BackupLabel::parse(text).is_err(), "{text}");
        }
        assert!(Sha256Hex::parse(&"0f".repeat(32)).is_ok());
        for text in ["", &"0F".repeat(32), &"0f".repeat(31), &"g".repeat(64), &"ä".repeat(32)] {
            assert!(Sha256Hex::parse(text).is_err(), "{text}");
        }
        assert!(TreeRoot::parse("47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=").is_ok());
        for text in
            ["", "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFV=", "47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU=", "="]
        {
            assert!(TreeRoot::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_first_half_of_a_digest_are_its_bytes() {
        let digest = Sha256Hex::parse(&"00ff10a9".repeat(8)).unwrap();
        assert_eq!(digest.first_half(), [0, 255, 16, 0xa9].repeat(4).as_slice());
    }
}
