//! The rules of checks, which the log names in clear.

use serde::{Deserialize, Serialize};

use super::invalid::InvalidValue;

/// The id of the rule that a finding of a check breaks: `[a-z][a-z0-9._-]{0,99}`. The subject of the finding is not part of
/// it, because it may name a person or an address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FindingRule(String);

impl FindingRule {
    /// Reads an id.
    ///
    /// # Errors
    /// The text does not match the pattern.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        let sound = text.len() <= 100
            && text.starts_with(|c: char| c.is_ascii_lowercase())
            && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c));
        if sound {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidValue(
                "must start with a lower-case letter, and have at most 100 lower-case letters, digits, dots, dashes and \
                 underscores",
            ))
        }
    }

    /// The id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for FindingRule {
    type Error = InvalidValue;

    fn try_from(text: String) -> Result<Self, InvalidValue> {
        Self::parse(&text)
    }
}

impl From<FindingRule> for String {
    fn from(rule: FindingRule) -> Self {
        rule.0
    }
}
