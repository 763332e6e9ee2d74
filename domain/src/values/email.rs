//! E-mail addresses. A mailbox has at most one account. An address is therefore parsed once into the identity of its
//! mailbox, which serves the unique key, the look-up, the mailer and the similarity check of passwords.
//!
//! The local part is a Dot-string (RFC 5321, section 4.1.2) with characters beyond ASCII (RFC 6531, section 3.3), in
//! NFC (RFC 6532, section 3.1). UTS 46 converts the domain to A-labels (RFC 5890, section 2.3.2.1), for comparison and
//! for delivery. An address that looks like another one, or contains invisible characters, is refused (UTS 39, section
//! 3.3).

use std::ops::Range;

use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};
use unicode_normalization::UnicodeNormalization;

use super::invalid::InvalidValue;
use super::opaque_string::{is_joiner, is_visible};

/// The maximum number of bytes in a local part (RFC 5321, section 4.5.3.1.1).
const MAX_LOCAL_PART_BYTES: usize = 64;
/// The maximum number of bytes in an address, from the maximum path (RFC 5321, section 4.5.3.1.3).
const MAX_BYTES: usize = 254;

/// An e-mail address. Personal data: no `Debug`, no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct EmailAddress {
    /// The address as given, in NFC.
    text: String,
    local: Range<usize>,
    /// The domain in A-labels, in lower case.
    domain: String,
}

impl EmailAddress {
    /// Reads an address such as `name@example.com`: a local part of 1 to 64 bytes, a domain of at least two labels, 254
    /// bytes in all.
    ///
    /// # Errors
    /// The broken rule.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        const SHAPE: InvalidValue = InvalidValue("must be an e-mail address such as name@example.com");
        const DOMAIN: InvalidValue = InvalidValue("must end with a domain name such as example.com");
        const INVISIBLE: InvalidValue =
            InvalidValue("must not contain invisible characters, or characters that resemble others");
        const TOO_LONG: InvalidValue = InvalidValue("must be at most 254 bytes long");
        if text.len() > MAX_BYTES {
            return Err(TOO_LONG);
        }
        let (typed_local, typed_domain) = text.rsplit_once('@').ok_or(SHAPE)?;
        let (local, domain): (String, String) = (typed_local.nfc().collect(), typed_domain.nfc().collect());
        // UTS 46 drops most invisible characters from a domain.
        let is_seen = |c: char| c.is_ascii() || is_visible(c);
        if !typed_local.chars().all(is_its_own_normal_form)
            || !local.chars().all(is_seen)
            || !domain.chars().all(|c| is_seen(c) || is_joiner(c))
        {
            return Err(INVISIBLE);
        }
        if local.len() > MAX_LOCAL_PART_BYTES || !local.split('.').all(is_atom) {
            return Err(SHAPE);
        }
        let ascii = ascii_domain(&domain).ok_or(DOMAIN)?;
        if local.len() + 1 + ascii.len() > MAX_BYTES {
            return Err(TOO_LONG);
        }
        Ok(Self { text: format!("{local}@{domain}"), local: 0..local.len(), domain: ascii })
    }

    /// Restores an address that was accepted earlier, under the rules of its time.
    #[must_use]
    pub fn from_stored(text: &str) -> Self {
        Self::parse(text).unwrap_or_else(|_| {
            let (local, domain) = text.rsplit_once('@').unwrap_or((text, ""));
            Self { text: text.to_owned(), local: 0..local.len(), domain: domain.to_lowercase() }
        })
    }

    /// The address as given, in NFC.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The part before the `@`.
    #[must_use]
    pub fn local_part(&self) -> &str {
        self.text.get(self.local.clone()).unwrap_or_default()
    }

    /// The domain as mail servers look it up: A-labels, in lower case.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The key by which a mailbox is unique: the local part in lower case, the domain in A-labels.
    #[must_use]
    pub fn normalised(&self) -> String {
        // The Greek sigma has two lower-case forms, which depend on its place in the word.
        let local = self.local_part().to_lowercase().replace('ς', "σ");
        format!("{local}@{}", self.domain)
    }
}

/// Converts a domain of at least two labels to A-labels; `None` for domains that IDNA refuses, and for IP addresses.
fn ascii_domain(domain: &str) -> Option<String> {
    let ascii = Uts46::new()
        .to_ascii(domain.as_bytes(), AsciiDenyList::STD3, Hyphens::CheckFirstLast, DnsLength::Verify)
        .ok()?
        .into_owned();
    let (_, last) = ascii.rsplit_once('.')?;
    // A host that ends in a number is an IPv4 address (WHATWG URL, section 3.5), and no top-level domain begins with a
    // digit.
    last.starts_with(|c: char| c.is_ascii_alphabetic()).then_some(ascii)
}

/// `true` for an Atom of RFC 5321, section 4.1.2, or of RFC 6531, section 3.3.
fn is_atom(text: &str) -> bool {
    let is_sound = |c: char| {
        c.is_ascii_alphanumeric()
            || "!#$%&'*+-/=?^_`{|}~".contains(c)
            || (!c.is_ascii() && !c.is_whitespace() && !c.is_control())
    };
    !text.is_empty() && text.chars().all(is_sound)
}

/// `true` if the character is its own normal form (NFKC), and is not a capital that only resembles the capital of its
/// lower-case letter.
fn is_its_own_normal_form(c: char) -> bool {
    if c.is_ascii() {
        return true;
    }
    let is_own_form = c.nfkc().eq(c.nfc()) && !has_singleton_form(c);
    let capital = || c.to_lowercase().flat_map(char::to_uppercase).nfc().eq(c.nfc());
    is_own_form && (!c.is_uppercase() || capital())
}

/// `true` if the canonical form of the character is a different single character, as K is for the Kelvin sign.
fn has_singleton_form(c: char) -> bool {
    let mut form = c.nfc();
    form.next() != Some(c) && form.next().is_none()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(text: &str) -> String {
        EmailAddress::parse(text).unwrap_or_else(|error| panic!("{text:?} {error}")).normalised()
    }

    #[test]
    fn an_address_needs_a_local_part_and_a_dotted_domain() {
        for good in [
            "a@b.co",
            "first.last+tag@sub.example.com",
            "ünï@exämple.de",
            "o'neil@example.ie",
            "test@नमस्ते.भारत",
            "test@डाटा.भारत",
            "test@இலங்கை.இலங்கை",
            "用户@例子.广告",
            "a@r1---sn-4g5e.example.com",
            "a@faß.de",
        ] {
            assert!(EmailAddress::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "a",
            "@b.co",
            "a@",
            "a@b",
            "a@b..co",
            "a b@c.de",
            "a@-b.co",
            "a@b.co\n",
            "a@b@c.de",
            "<a@b.co>",
            ".a@b.co",
            "a.@b.co",
            "a..b@b.co",
            "a@1.2.3.4",
            "a@[1.2.3.4]",
            "a@example.123",
            "a@xn--zzzzzz99999.com",
            "a@b_c.de",
            "a@example.com.",
            "a@b.0x1",
            "a@\u{301}b.de",
        ] {
            assert!(EmailAddress::parse(bad).is_err(), "{bad:?}");
        }
        assert!(EmailAddress::parse(&format!("{}@example.com", "x".repeat(65))).is_err());
        assert!(EmailAddress::parse(&format!("a@{}.example.com", "x".repeat(64))).is_err());
        // Too long after the conversion of the domain to ASCII.
        assert!(EmailAddress::parse(&format!("a@{}de", "é.".repeat(60))).is_err());
    }

    #[test]
    fn one_mailbox_has_one_key() {
        for (one, other) in [
            ("Ann@Example.COM", "ann@example.com"),
            ("a@exämple.com", "a@xn--exmple-cua.com"),
            ("a@exämple.com", "a@XN--EXMPLE-CUA.com"),
            ("a@exa\u{308}mple.com", "a@exämple.com"),
            ("a@example.com", "a@ｅｘａｍｐｌｅ.com"),
            ("a@example.com", "a@example。com"),
            ("jose\u{301}@example.com", "josé@example.com"),
            ("\u{1112}\u{1161}\u{11ab}@example.com", "한@example.com"),
            ("ÄNNE@example.com", "änne@example.com"),
            ("οδος@example.com", "ΟΔΟΣ@example.com"),
        ] {
            assert!(key(one) == key(other), "{one} {other}");
        }
        assert_eq!(EmailAddress::parse("Ann@Exämple.COM").unwrap().as_str(), "Ann@Exämple.COM");
    }

    #[test]
    fn look_alikes_and_invisible_characters_are_refused() {
        let hidden = ['\u{200b}', '\u{ad}', '\u{202e}', '\u{feff}', '\u{3164}', '\u{200d}', '\u{2060}', '\u{fe0f}'];
        let resembling = ['\u{212a}', '\u{1e9e}', 'ａ', 'ﬁ', '\u{2126}', 'ſ', '①', '\u{f900}'];
        for c in hidden.into_iter().chain(resembling) {
            assert!(EmailAddress::parse(&format!("a{c}b@example.com")).is_err(), "{c:?}");
        }
        for c in hidden {
            assert!(EmailAddress::parse(&format!("a@exam{c}ple.com")).is_err(), "{c:?}");
        }
    }

    proptest! {
        /// An accepted address has the same key after storage, and delivers to one mailbox.
        #[test]
        fn an_address_read_again_is_the_same(text in r"[a-zA-ZäÄéßẞKσςΣ\u{301}\u{200d}.+-]{1,12}@[a-zäÄéß.\u{301}-]{1,12}\.(com|भारत)") {
            if let Ok(address) = EmailAddress::parse(&text) {
                let again = EmailAddress::parse(address.as_str());
                prop_assert!(again.is_ok_and(|again| again == address));
                let key = address.normalised();
                prop_assert!(EmailAddress::parse(&key).is_ok_and(|again| again.normalised() == key), "{}", key);
                let mailbox = format!("{}@{}", address.local_part(), address.domain());
                prop_assert!(EmailAddress::parse(&mailbox).is_ok_and(|again| again.normalised() == key), "{}", key);
            }
        }

        /// No text causes a panic, and no accepted address contains invisible characters.
        #[test]
        fn every_text_is_judged(text in r"\PC{0,20}@\PC{0,20}") {
            if let Ok(address) = EmailAddress::parse(&text) {
                prop_assert!(address.as_str().chars().all(|c| c.is_ascii() || is_visible(c) || is_joiner(c)));
            }
        }
    }
}
