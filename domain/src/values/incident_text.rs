//! What responders write about an incident.

use super::invalid::InvalidValue;

/// The summary, a note or the lessons of an incident, 1 to 4,000 characters. Free text may name people. It is therefore
/// sealed like personal data, and has no `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct IncidentText(String);

impl IncidentText {
    /// The maximum length, in characters.
    pub const MAX_CHARS: usize = 4_000;

    /// Reads a text.
    ///
    /// # Errors
    /// The text is empty after trimming, or longer than 4,000 characters.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        let text = text.trim();
        if text.is_empty() {
            return Err(InvalidValue("must not be empty"));
        }
        if text.chars().count() > Self::MAX_CHARS {
            return Err(InvalidValue("must be at most 4000 characters long"));
        }
        Ok(Self(text.to_owned()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
