//! The reasons that administrators give.

use super::invalid::InvalidValue;

/// An administrator's reason for an act, 1 to 500 characters. Free text may name people. It is therefore sealed like
/// personal data, and has no `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Reason(String);

impl Reason {
    /// The maximum length, in characters.
    pub const MAX_CHARS: usize = 500;

    /// Reads a reason.
    ///
    /// # Errors
    /// The text is empty after trimming, or longer than 500 characters.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        let text = text.trim();
        if text.is_empty() {
            return Err(InvalidValue("must not be empty"));
        }
        if text.chars().count() > Self::MAX_CHARS {
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
