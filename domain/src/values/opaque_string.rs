//! The normal form of typed text, independent of keyboard, browser and system: OpaqueString (RFC 8265, section 4.2.2).
//! This is NFC with plain spaces, of characters that are assigned and visible.
//!
//! It accepts more than the FreeformClass (RFC 8264, section 4.3) in two respects: characters that Unicode assigned
//! after version 6.3, the version of RFC 8264's registry; and visible characters in any context (CONTEXTO), such as a
//! middle dot.

use precis_core::{DerivedPropertyValue, FreeformClass, StringClass};
use unicode_normalization::UnicodeNormalization;
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};
use zeroize::Zeroizing;

/// Returns the normal form, for comparison and storage; `None` if the text contains invisible characters or is not
/// text.
pub(crate) fn opaque_string(text: &str) -> Option<Zeroizing<String>> {
    let mut form = Zeroizing::new(String::with_capacity(3 * text.len()));
    text.nfc().for_each(|c| form.push(if c.general_category() == GeneralCategory::SpaceSeparator { ' ' } else { c }));
    is_text(&form).then_some(form)
}

/// `true` if each character is assigned and visible. Joiners are allowed if their script needs them (RFC 5892, appendix
/// A).
fn is_text(text: &str) -> bool {
    if text.is_ascii() {
        return !text.chars().any(char::is_control);
    }
    if !text.chars().all(|c| is_visible(c) || is_joiner(c)) {
        return false;
    }
    let class = FreeformClass::default();
    let is_judged = |c| is_joiner(c) || class.get_value_from_char(c) == DerivedPropertyValue::PValid;
    // The rules for joiners depend only on letters and their marks.
    !text.contains(is_joiner)
        || class.allows(text.chars().map(|c| if is_judged(c) { c } else { ' ' }).collect::<String>()).is_ok()
}

/// `true` if the character is assigned, and is a visible one, a mark or a space.
pub(super) fn is_visible(c: char) -> bool {
    use DerivedPropertyValue::{ContextO, PValid, SpecClassPval, Unassigned};
    match FreeformClass::default().get_value_from_char(c) {
        PValid | SpecClassPval | ContextO => true,
        // The current Unicode version may have assigned it. The only variation selector added since is U+180F.
        Unassigned => {
            let category = c.general_category();
            let is_none =
                matches!(category, GeneralCategory::Unassigned | GeneralCategory::Format | GeneralCategory::PrivateUse);
            !is_none && c != '\u{180f}'
        }
        _ => false,
    }
}

pub(super) const fn is_joiner(c: char) -> bool {
    matches!(c, '\u{200c}' | '\u{200d}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_has_one_normal_form() {
        let form = |text: &str| opaque_string(text).map(|form| form.to_string());
        for (typed, kept) in [
            ("Zu\u{308}rich Ka\u{308}se", "Zürich Käse"),
            ("a\u{a0}b\u{3000}c\u{2009}d", "a b c d"),
            ("\u{1112}\u{1161}\u{11ab}\u{1100}\u{116e}\u{11a8}", "한국"),
            ("ﬁ ① Ａb", "ﬁ ① Ａb"),
            ("🦊🫠 l·l a·b ™", "🦊🫠 l·l a·b ™"),
            ("می\u{200c}خواهم", "می\u{200c}خواهم"),
            ("ක්\u{200d}ෂ", "ක්\u{200d}ෂ"),
        ] {
            assert_eq!(form(typed).as_deref(), Some(kept), "{typed:?}");
        }
    }

    #[test]
    fn invisible_and_unassigned_characters_are_refused() {
        let unseen = "\u{0}\t\u{7f}\u{85}\u{ad}\u{34f}\u{61c}\u{180e}\u{180f}\u{200b}\u{200e}\u{2028}\u{202e}\u{2060}\u{2066}\
                      \u{3164}\u{e000}\u{fe0f}\u{feff}\u{ffff}\u{1bca0}\u{1d173}\u{e0061}\u{f0000}\u{378}";
        for c in unseen.chars() {
            assert!(opaque_string(&format!("é{c}b")).is_none(), "{c:?}");
        }
        for text in ["a\u{200d}b", "\u{200c}", "👩\u{200d}💻"] {
            assert!(opaque_string(text).is_none(), "{text:?}");
        }
    }

    #[test]
    fn visible_characters_are_assigned_and_not_ignored() {
        let categories = |c: char| c.general_category();
        for c in ('\0'..=char::MAX).filter(|c| is_visible(*c)) {
            let category = categories(c);
            assert!(
                !matches!(
                    category,
                    GeneralCategory::Control
                        | GeneralCategory::PrivateUse
                        | GeneralCategory::Unassigned
                        | GeneralCategory::LineSeparator
                        | GeneralCategory::ParagraphSeparator
                ),
                "{c:?} {category:?}"
            );
        }
    }
}
