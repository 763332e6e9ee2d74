//! Codes as people type and paste them: with the gap shown by an app, with the dash that a word processor makes of a
//! hyphen, in the digits of their script (RFC 4226, section 5.3: only the value counts).

use unicode_normalization::UnicodeNormalization;
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};
use zeroize::Zeroizing;

/// The maximum number of bytes read. Every code is much shorter, in any spacing.
const MAX_BYTES: usize = 256;

/// A normalised code: without white space, dashes and invisible characters, with ASCII digits, and with ASCII letters
/// in lower case. No `Debug`; wiped when dropped.
#[derive(Clone)]
pub struct CodeInput(Zeroizing<String>);

impl CodeInput {
    /// Normalises any text. The caller decides if the result is a code, and correct.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let mut read = Zeroizing::new(String::with_capacity(text.len()));
        if text.len() <= MAX_BYTES {
            let kept = text.nfkc().filter(|c| !is_separator(*c));
            kept.for_each(|c| read.push(decimal_digit(c).unwrap_or_else(|| c.to_ascii_lowercase())));
        }
        Self(read)
    }

    /// The normalised text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// `true` for white space, dashes and invisible characters. On Japanese keyboards the hyphen key produces a prolonged
/// sound mark.
fn is_separator(c: char) -> bool {
    let is_dash = matches!(c, '\u{2043}' | '\u{2053}' | '\u{2212}' | '\u{30fc}');
    let category = c.general_category();
    let is_unseen =
        matches!(category, GeneralCategory::Control | GeneralCategory::Format | GeneralCategory::NonspacingMark);
    is_dash || is_unseen || c.is_whitespace() || category == GeneralCategory::DashPunctuation
}

/// Returns the ASCII digit of a decimal digit. Unicode has them in rows of ten, starting with zero (Unicode Standard,
/// section 4.6).
fn decimal_digit(c: char) -> Option<char> {
    if c.is_ascii_digit() {
        return Some(c);
    }
    let is_digit = |c: char| c.general_category() == GeneralCategory::DecimalNumber;
    if c.is_ascii() || !is_digit(c) {
        return None;
    }
    let before = (1..).map_while(|steps| char::from_u32(u32::from(c).checked_sub(steps)?)).take_while(|c| is_digit(*c));
    let in_row = u32::try_from(before.count() % 10).ok()?;
    char::from_digit(in_row, 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> String {
        CodeInput::new(text).as_str().to_owned()
    }

    #[test]
    fn gaps_dashes_and_the_digits_of_any_script_are_read() {
        let typed = [
            "123456",
            "123 456",
            "123-456",
            " 123\u{a0}456\n",
            "123\u{202f}456",
            "123–456",
            "123\u{2011}456",
            "123−456",
            "1 2 3 4 5 6",
            "１２３４５６",
            "１２３ー４５６",
            "١٢٣٤٥٦",
            "۱۲۳۴۵۶",
            "१२३४५६",
            "১২৩৪৫৬",
            "๑๒๓๔๕๖",
            "𝟏𝟐𝟑𝟒𝟓𝟔",
            "\u{feff}123456",
            "123\u{200b}456",
            "\u{200e}123456\u{200f}",
            "123\u{3000}456",
            "𞥑𞥒𞥓𞥔𞥕𞥖",
        ];
        for text in typed {
            assert_eq!(read(text), "123456", "{text:?}");
        }
    }

    #[test]
    fn letters_are_read_small_and_other_signs_stay() {
        assert_eq!(read("ABCDE–fghjk"), "abcdefghjk");
        assert_eq!(read("ＡＢＣＤＥ－ｆｇｈｊｋ"), "abcdefghjk");
        assert_eq!(read("+12345"), "+12345");
        assert_eq!(read(&"1".repeat(MAX_BYTES + 1)), "");
    }

    #[test]
    fn every_decimal_digit_has_the_value_of_its_place_in_its_row() {
        let digits: Vec<char> =
            ('\u{80}'..=char::MAX).filter(|c| c.general_category() == GeneralCategory::DecimalNumber).collect();
        assert!(digits.len() >= 600 && digits.len().is_multiple_of(10), "{}", digits.len());
        for row in digits.chunks(10) {
            let values: String = row.iter().filter_map(|c| decimal_digit(*c)).collect();
            assert_eq!(values, "0123456789", "{row:?}");
        }
    }
}
