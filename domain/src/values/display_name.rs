//! The display names of persons.

use super::invalid::InvalidValue;
use super::opaque_string::opaque_string;

/// A display name of 1 to 100 characters. Personal data: no `Debug`, no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct DisplayName(String);

impl DisplayName {
    /// The maximum number of bytes read.
    const MAX_BYTES: usize = 2_000;

    /// Reads a name, trimmed, in NFC and with plain spaces.
    ///
    /// # Errors
    /// The name is empty after trimming, is longer than 100 characters, or contains an invisible character.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        const EMPTY: InvalidValue = InvalidValue("must not be empty");
        const TOO_LONG: InvalidValue = InvalidValue("must be at most 100 characters long");
        // A blank Braille pattern is as invisible as a space, but its category is that of a symbol.
        let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\u{2800}');
        if text.is_empty() {
            return Err(EMPTY);
        }
        if text.len() > Self::MAX_BYTES {
            return Err(TOO_LONG);
        }
        if text.chars().any(char::is_control) {
            return Err(InvalidValue("must not contain control characters"));
        }
        let name = opaque_string(text).ok_or(InvalidValue("must not contain invisible characters"))?;
        if name.chars().count() > 100 {
            return Err(TOO_LONG);
        }
        Ok(Self(name.to_string()))
    }

    /// Restores a name that was accepted earlier, under the rules of its time.
    #[must_use]
    pub fn from_stored(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The name, trimmed and in NFC.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_display_name_is_visible() {
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
}
