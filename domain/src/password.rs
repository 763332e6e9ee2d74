//! Passwords and the rules for them. Hashing, and the history of verifiers, belong to the write side.
//!
//! zxcvbn tries every reading of a password in which digits and signs stand for letters: up to a thousand readings,
//! each compared with every word in its lists. `limit_readings` limits the number of readings.

use zeroize::Zeroizing;
use zxcvbn::{Score, zxcvbn};

use crate::values::{DisplayName, EmailAddress, opaque_string};

/// A clear-text password in its normal form, OpaqueString (RFC 8265, section 4.2), which is independent of keyboards
/// and systems. Cannot be printed or serialised; wiped when dropped.
#[derive(Clone)]
pub struct Password {
    text: Zeroizing<String>,
    /// `true` if the text has a form as OpaqueString.
    is_opaque_string: bool,
}

impl Password {
    /// Accepts any text. The policy decides on its acceptance, and a guess may be any text.
    #[must_use]
    pub fn new(text: String) -> Self {
        let text = Zeroizing::new(text);
        if text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            return Self { text, is_opaque_string: true };
        }
        if text.len() > MAX_NORMALISED_BYTES {
            return Self { text, is_opaque_string: false };
        }
        match opaque_string(&text) {
            Some(text) => Self { text, is_opaque_string: true },
            None => Self { text, is_opaque_string: false },
        }
    }

    /// The text itself, for hashing.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.text
    }
}

/// The minimum number of characters.
pub const MIN_CHARS: usize = 12;
/// The maximum number of bytes. bcrypt reads no more, and a password is never truncated.
pub const MAX_BYTES: usize = 72;
/// The maximum number of bytes normalised as OpaqueString. The normal form of a longer text exceeds 72 bytes in any
/// case.
const MAX_NORMALISED_BYTES: usize = 1_024;

/// A broken rule of the password policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PasswordViolation {
    /// Fewer than 12 characters.
    TooShort,
    /// More than 72 bytes.
    TooLong,
    /// No lower-case letter.
    NoLowercase,
    /// No upper-case letter.
    NoUppercase,
    /// No digit.
    NoDigit,
    /// No character other than letters, digits and spaces.
    NoSymbol,
    /// An invisible character, or one that not every keyboard can type, such as a control character.
    UnprintableCharacter,
    /// A common password, or one that is easy to guess from common ones.
    Common,
    /// Contains the local part of the e-mail address, or is part of it.
    SimilarToEmail,
    /// Contains the display name, or is part of it.
    SimilarToName,
    /// One of the last five passwords.
    Reused,
}

impl PasswordViolation {
    /// The sentence shown to the person who chose the password.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TooShort => "must be at least 12 characters long",
            Self::TooLong => "must be at most 72 bytes long",
            Self::NoLowercase => "must contain a lower-case letter",
            Self::NoUppercase => "must contain an upper-case letter",
            Self::NoDigit => "must contain a digit",
            Self::NoSymbol => "must contain a symbol",
            Self::UnprintableCharacter => "must not contain control characters or invisible characters",
            Self::Common => "must not be a common or easily guessed password",
            Self::SimilarToEmail => "must not resemble the e-mail address",
            Self::SimilarToName => "must not resemble the display name",
            Self::Reused => "must not be one of the last five passwords",
        }
    }
}

/// Returns every rule that the password breaks; empty if it is acceptable.
///
/// Never returns [`PasswordViolation::Reused`], which depends on the previous verifiers.
#[must_use]
pub fn violations(password: &Password, email: &EmailAddress, name: Option<&DisplayName>) -> Vec<PasswordViolation> {
    let text = password.expose();
    let lower = text.to_lowercase();
    let resembles = |personal: &str| {
        let personal = personal.to_lowercase();
        personal.chars().count() >= 4 && (lower.contains(&personal) || personal.contains(&lower))
    };
    let name_parts = || name.into_iter().flat_map(|name| name.as_str().split_whitespace());

    let rules = [
        (text.chars().count() < MIN_CHARS, PasswordViolation::TooShort),
        (text.len() > MAX_BYTES, PasswordViolation::TooLong),
        (!text.chars().any(char::is_lowercase), PasswordViolation::NoLowercase),
        (!text.chars().any(char::is_uppercase), PasswordViolation::NoUppercase),
        (!text.chars().any(|c| c.is_ascii_digit()), PasswordViolation::NoDigit),
        (!text.chars().any(|c| !c.is_alphanumeric() && !c.is_whitespace()), PasswordViolation::NoSymbol),
        (!password.is_opaque_string, PasswordViolation::UnprintableCharacter),
        (is_guessable(text, email, name), PasswordViolation::Common),
        (resembles(email.local_part()) || resembles(email.as_str()), PasswordViolation::SimilarToEmail),
        (name_parts().any(resembles), PasswordViolation::SimilarToName),
    ];
    rules.into_iter().filter_map(|(broken, violation)| broken.then_some(violation)).collect()
}

fn is_guessable(text: &str, email: &EmailAddress, name: Option<&DisplayName>) -> bool {
    // zxcvbn is slow on long input, and such a password is refused in any case.
    if text.len() > MAX_BYTES {
        return false;
    }
    let personal: Vec<&str> =
        [email.as_str(), email.local_part()].into_iter().chain(name.map(DisplayName::as_str)).collect();
    zxcvbn(&limit_readings(text), &personal).score() < Score::Three
}

/// Signs that stand for letters, as in zxcvbn's own table.
const SUBSTITUTIONS: [(char, &[char]); 12] = [
    ('a', &['4', '@']),
    ('b', &['8']),
    ('c', &['(', '{', '[', '<']),
    ('e', &['3']),
    ('g', &['6', '9']),
    ('i', &['1', '!', '|']),
    ('l', &['1', '|', '7']),
    ('o', &['0']),
    ('s', &['$', '5']),
    ('t', &['+', '7']),
    ('x', &['%']),
    ('z', &['2']),
];
/// The maximum number of readings of a password. Common passwords in disguise have fewer.
const MAX_READINGS: usize = 16;
/// A character that occurs in no word.
const NEUTRAL: char = '\u{7f}';

/// Returns the password with at most [`MAX_READINGS`] readings. Further signs, each of which would double the
/// readings, become neutral characters. These are harder to guess.
fn limit_readings(text: &str) -> Zeroizing<String> {
    let mut kept = Vec::with_capacity(text.len());
    let read = text.chars().map(|c| {
        let is_substitute = SUBSTITUTIONS.iter().any(|(_, signs)| signs.contains(&c));
        if !is_substitute || kept.contains(&c) {
            return c;
        }
        kept.push(c);
        if count_readings(&kept) <= MAX_READINGS {
            return c;
        }
        kept.pop();
        NEUTRAL
    });
    // Never longer than the text, so the string is never reallocated and leaves no copy.
    let mut readable = Zeroizing::new(String::with_capacity(text.len()));
    read.for_each(|c| readable.push(c));
    readable
}

/// The maximum number of readings that zxcvbn finds with these signs: one sign per letter, and both letters for a sign
/// that stands for two.
fn count_readings(signs: &[char]) -> usize {
    let of = |letter: &[char]| letter.iter().filter(|sign| signs.contains(sign)).count().max(1);
    let letters = |sign: &char| SUBSTITUTIONS.iter().filter(|(_, of)| of.contains(sign)).count();
    SUBSTITUTIONS.iter().map(|(_, letter)| of(letter)).product::<usize>() * signs.iter().map(letters).product::<usize>()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn judged(password: &str) -> Vec<PasswordViolation> {
        let email = EmailAddress::parse("annabel@example.com").unwrap();
        let name = DisplayName::parse("Annabel Lee").unwrap();
        violations(&Password::new(password.to_owned()), &email, Some(&name))
    }

    #[test]
    fn a_strong_password_breaks_nothing() {
        assert_eq!(judged("correct-Horse7battery"), []);
    }

    #[test]
    fn every_violation_is_named_at_once() {
        assert_eq!(
            judged("aaaa"),
            [
                PasswordViolation::TooShort,
                PasswordViolation::NoUppercase,
                PasswordViolation::NoDigit,
                PasswordViolation::NoSymbol,
                PasswordViolation::Common
            ]
        );
    }

    #[test]
    fn common_passwords_are_refused_even_when_they_meet_the_classes() {
        assert_eq!(judged("Password123!"), [PasswordViolation::Common]);
        assert_eq!(judged("Qwertyuiop1!"), [PasswordViolation::Common]);
    }

    #[test]
    fn a_password_made_of_its_owner_is_refused() {
        assert!(judged("xX9!annabel!9Zk").contains(&PasswordViolation::SimilarToEmail));
        assert!(judged("xX9!ANNABEL!9Zk").contains(&PasswordViolation::SimilarToName));
    }

    #[test]
    fn seventy_three_bytes_are_refused_not_cut() {
        assert_eq!(judged(&format!("{}aA1!", "kX4-".repeat(17))), []);
        assert_eq!(judged(&format!("{}aA1!x", "kX4-".repeat(17))), [PasswordViolation::TooLong]);
        assert!(judged(&"é".repeat(37)).contains(&PasswordViolation::TooLong));
    }

    #[test]
    fn a_password_is_the_same_however_it_was_typed() {
        let form = |text: &str| Password::new(text.to_owned()).expose().to_owned();
        assert_eq!(form("Zu\u{308}rich Ka\u{308}se"), "Zürich Käse");
        assert_eq!(form("a\u{a0}b\u{3000}c\u{2009}d"), "a b c d");
    }

    #[test]
    fn seventy_two_bytes_are_those_of_the_form() {
        let composed = format!("{}aA1!", "é".repeat(34));
        let typed = format!("{}aA1!", "e\u{301}".repeat(34));
        assert_eq!((composed.len(), typed.len()), (72, 106));
        assert!(!judged(&typed).contains(&PasswordViolation::TooLong));
        assert!(judged(&format!("{typed}x")).contains(&PasswordViolation::TooLong));
    }

    #[test]
    fn untypable_characters_are_refused() {
        for c in ["\u{0}", "\t", "\u{200b}", "\u{e000}"] {
            assert_eq!(
                judged(&format!("correct-Horse7{c}battery")),
                [PasswordViolation::UnprintableCharacter],
                "{c:?}"
            );
        }
        let long = "\u{200c}".repeat(400);
        assert!(
            judged(&long).contains(&PasswordViolation::TooLong)
                && judged(&long).contains(&PasswordViolation::UnprintableCharacter)
        );
    }

    #[test]
    fn common_passwords_are_known_in_disguise() {
        let disguised = ["P4$$w0rd123!", "P@55w0rd1234", "L3tm31n!2345", "Football99!!!"];
        for password in disguised {
            assert!(judged(password).contains(&PasswordViolation::Common), "{password}");
            assert_eq!(*limit_readings(password), password, "is judged as it is");
        }
    }

    proptest! {
        /// The most expensive password to judge consists of such signs only.
        #[test]
        fn a_judged_password_has_few_readings(text in r"[4@8({\[<369|1!70$5+%2a-eA-E é]{0,72}") {
            let readable = limit_readings(&text);
            let signs: std::collections::BTreeSet<char> =
                readable.chars().filter(|c| SUBSTITUTIONS.iter().any(|(_, signs)| signs.contains(c))).collect();
            prop_assert!(count_readings(&signs.into_iter().collect::<Vec<_>>()) <= MAX_READINGS);
            prop_assert_eq!(readable.chars().count(), text.chars().count());
            let changed = text.chars().zip(readable.chars()).filter(|(one, other)| one != other);
            prop_assert!(changed.into_iter().all(|(_, other)| other == NEUTRAL));
        }

        /// The normal form of a normal form is itself: a login with the stored form succeeds.
        #[test]
        fn a_password_has_one_form(text in r"[\PC\u{301}\u{308}\u{a0}\u{200d}]{0,40}") {
            let once = Password::new(text);
            let twice = Password::new(once.expose().to_owned());
            prop_assert_eq!(once.expose(), twice.expose());
        }

        /// No text makes zxcvbn panic.
        #[test]
        fn every_text_is_judged(text in r"\PC{0,40}") {
            judged(&text);
        }
    }
}
