//! The canonical form of a leaf: the subset of RFC 8785 that [`super`] describes, judged in one pass over the bytes.

/// The largest integer, and the negative of the smallest one.
const BOUND: u64 = 1 << 53;
/// The most arrays and objects inside one another.
pub(super) const MAX_DEPTH: u8 = 32;

/// `true` if the bytes are one value in canonical form: as an encoder writes it, and nothing else.
#[must_use]
pub fn is_canonical_json(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    value(&mut rest, MAX_DEPTH).is_some() && rest.is_empty()
}

pub(super) fn value(rest: &mut &[u8], depth: u8) -> Option<()> {
    match rest.first()? {
        b'"' => string(rest).map(|_| ()),
        b'{' => object(rest, depth.checked_sub(1)?),
        b'[' => {
            let depth = depth.checked_sub(1)?;
            array(rest, |rest| value(rest, depth))
        }
        b'n' => literal(rest, b"null"),
        b't' => literal(rest, b"true"),
        b'f' => literal(rest, b"false"),
        _ => integer(rest),
    }
}

#[inline(always)]
pub(super) fn literal(rest: &mut &[u8], word: &[u8]) -> Option<()> {
    *rest = rest.strip_prefix(word)?;
    Some(())
}

/// Takes the byte if it comes next.
#[inline]
fn takes(rest: &mut &[u8], byte: u8) -> bool {
    match rest.split_first() {
        Some((first, behind)) if *first == byte => {
            *rest = behind;
            true
        }
        _ => false,
    }
}

fn object(rest: &mut &[u8], depth: u8) -> Option<()> {
    literal(rest, b"{")?;
    if takes(rest, b'}') {
        return Some(());
    }
    let mut last: Option<&[u8]> = None;
    loop {
        let key = word(rest)?;
        // Without escapes, bytes are in the order of characters.
        if last.is_some_and(|last| last >= key) {
            return None;
        }
        last = Some(key);
        literal(rest, b":")?;
        value(rest, depth)?;
        if !takes(rest, b',') {
            return literal(rest, b"}");
        }
    }
}

/// Takes an array of what `item` takes.
pub(super) fn array<'a>(rest: &mut &'a [u8], item: impl Fn(&mut &'a [u8]) -> Option<()>) -> Option<()> {
    literal(rest, b"[")?;
    if takes(rest, b']') {
        return Some(());
    }
    loop {
        item(rest)?;
        if !takes(rest, b',') {
            return literal(rest, b"]");
        }
    }
}

/// Takes a string, and returns what is between its quotes: UTF-8, as everything else in a value is.
pub(super) fn string<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    literal(rest, b"\"")?;
    let whole = *rest;
    let mut is_ascii = true;
    loop {
        is_ascii &= plain(rest);
        match rest.first()? {
            b'"' => {
                let content = whole.get(..whole.len() - rest.len())?;
                literal(rest, b"\"")?;
                return (is_ascii || std::str::from_utf8(content).is_ok()).then_some(content);
            }
            b'\\' => escape(rest)?,
            // A control character has to be escaped.
            _ => return None,
        }
    }
}

/// Takes a string of ASCII without escapes, and returns what is between its quotes.
pub(super) fn word<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    literal(rest, b"\"")?;
    let whole = *rest;
    let is_ascii = plain(rest);
    let content = whole.get(..whole.len() - rest.len())?;
    literal(rest, b"\"")?;
    (is_ascii || content.is_ascii()).then_some(content)
}

/// Takes what comes before the first quote, backslash or control character. Returns `true` if that is certainly ASCII. Reads
/// eight bytes at a time: strings are most of a leaf.
#[inline(always)]
fn plain(rest: &mut &[u8]) -> bool {
    const ONES: u64 = u64::MAX / 255;
    const HIGH: u64 = ONES << 7;
    let mut seen = 0;
    while let Some((eight, behind)) = rest.split_first_chunk::<8>() {
        let eight = u64::from_le_bytes(*eight);
        seen |= eight;
        // The high bit of the first byte that is less, and perhaps of bytes behind it.
        let below = |bytes: u64, bound: u8| bytes.wrapping_sub(ONES * u64::from(bound)) & !bytes;
        let is = |byte: u8| below(eight ^ (ONES * u64::from(byte)), 1);
        let found = (below(eight, b' ') | is(b'"') | is(b'\\')) & HIGH;
        if found != 0 {
            *rest = rest.get(found.trailing_zeros() as usize / 8..).unwrap_or_default();
            return seen & HIGH == 0;
        }
        *rest = behind;
    }
    let plain = rest.iter().position(|byte| *byte < b' ' || *byte == b'"' || *byte == b'\\').unwrap_or(rest.len());
    let (plain, behind) = rest.split_at(plain);
    *rest = behind;
    seen & HIGH == 0 && plain.is_ascii()
}

/// Takes an escape: the short form where there is one, else the code in lower case, and only where one is needed.
fn escape(rest: &mut &[u8]) -> Option<()> {
    let (escaped, behind) = rest.split_first_chunk::<2>()?;
    *rest = behind;
    match escaped {
        [_, b'"' | b'\\' | b'b' | b'f' | b'n' | b'r' | b't'] => Some(()),
        [_, b'u'] => {
            let (code, behind) = rest.split_first_chunk::<4>()?;
            *rest = behind;
            let [b'0', b'0', high @ (b'0' | b'1'), low @ (b'0'..=b'9' | b'a'..=b'f')] = code else { return None };
            let has_short_form = *high == b'0' && matches!(low, b'8' | b'9' | b'a' | b'c' | b'd');
            (!has_short_form).then_some(())
        }
        _ => None,
    }
}

fn integer(rest: &mut &[u8]) -> Option<()> {
    let is_negative = takes(rest, b'-');
    digits(rest).filter(|number| *number > 0 || !is_negative).map(|_| ())
}

/// Takes an integer that is not negative.
pub(super) fn digits(rest: &mut &[u8]) -> Option<u64> {
    let length = rest.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(rest.len());
    let (digits, behind) = rest.split_at_checked(length)?;
    *rest = behind;
    match digits {
        [] => None,
        [b'0', _, ..] => None,
        _ => {
            // A longer one is greater than the bound.
            let is_short = digits.len() <= 16;
            let number = digits.iter().take(16).fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
            (is_short && number <= BOUND).then_some(number)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::{btree_map, vec};
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    /// As a reader that knows all of JSON judges.
    fn judged(bytes: &[u8]) -> bool {
        serde_json::from_slice::<Value>(bytes).is_ok_and(|value| {
            super::super::is_canonical(&value) && has_plain_keys(&value) && value.to_string().as_bytes() == bytes
        })
    }

    /// `true` if no key has an escape: no event has such a key.
    fn has_plain_keys(value: &Value) -> bool {
        match value {
            Value::Array(items) => items.iter().all(has_plain_keys),
            Value::Object(members) => members.iter().all(|(key, value)| {
                !key.contains(|it: char| it < ' ' || it == '"' || it == '\\') && has_plain_keys(value)
            }),
            _ => true,
        }
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            (-10_i64..10).prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "\\PC*".prop_map(Value::from),
            vec(any::<char>(), 0..6).prop_map(|text| Value::from(text.into_iter().collect::<String>())),
            vec(0_u8..0x30, 0..4).prop_map(|text| Value::from(text.into_iter().map(char::from).collect::<String>())),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                vec(inner.clone(), 0..4).prop_map(Value::from),
                btree_map("[a-c\"\u{e9}]{0,2}", inner, 0..4).prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_an_encoder_writes_is_canonical_unless_it_is_outside_the_subset(value in values()) {
            let text = value.to_string();
            prop_assert_eq!(is_canonical_json(text.as_bytes()), judged(text.as_bytes()), "{}", text);
        }

        #[test]
        fn nearly_canonical_text_is_judged_as_by_a_whole_reader(
            value in values(),
            at in any::<prop::sample::Index>(),
            with in prop_oneof![Just(b' '), Just(b'0'), Just(b'-'), Just(b'.'), Just(b'e'), Just(b','), Just(b'"'), Just(b'\\'), any::<u8>()],
            how in 0_u8..3,
        ) {
            let mut bytes = value.to_string().into_bytes();
            let place = at.index(bytes.len());
            match how {
                0 => bytes[place] = with,
                1 => bytes.insert(place, with),
                _ => { bytes.remove(place); }
            }
            prop_assert_eq!(is_canonical_json(&bytes), judged(&bytes), "{}", String::from_utf8_lossy(&bytes));
        }

        #[test]
        fn a_string_ends_where_a_reader_of_single_bytes_ends_it(
            bytes in vec(prop_oneof![4 => b'a'..b'f', 1 => Just(b'"'), 1 => 0_u8..0x22, 1 => Just(b'\\'), 2 => any::<u8>()], 0..40),
        ) {
            let mut rest = bytes.as_slice();
            let is_ascii = plain(&mut rest);
            let special = |byte: &u8| *byte < b' ' || matches!(byte, b'"' | b'\\');
            let length = bytes.iter().position(special).unwrap_or(bytes.len());
            prop_assert_eq!(rest, &bytes[length..]);
            prop_assert!(!is_ascii || bytes[..length].is_ascii());
        }
    }

    #[test]
    fn each_fault_of_form_is_found() {
        for text in [r#"{"a":1,"b":[true,null,-7,"\u0001\n\u001f"],"c":{}}"#, "9007199254740992", "\"é\u{7f}\"", "[]"]
        {
            assert!(is_canonical_json(text.as_bytes()), "{text}");
        }
        let nested = format!("{}{}", "[".repeat(40), "]".repeat(40));
        for text in [
            "",
            " 1",
            "1 ",
            "01",
            "-0",
            "+1",
            "1.0",
            "1e3",
            "9007199254740993",
            "-9007199254740993",
            "99999999999999999999",
            r#"{"b":1,"a":1}"#,
            r#"{"a":1,"a":1}"#,
            r#"{"a": 1}"#,
            r#"{"a":1,}"#,
            r#"{,}"#,
            "[1,]",
            "[",
            "]",
            "{}{}",
            "nul",
            "truefalse",
            r#""\u000a""#,
            r#""\u001F""#,
            r#""\u0041""#,
            r#""\/""#,
            "\"\n\"",
            "\"",
            r#"{"\u0001":1}"#,
            r#"{"é":1}"#,
            r#"{1:1}"#,
            "NaN",
            &nested,
        ] {
            assert!(!is_canonical_json(text.as_bytes()), "{text}");
        }
        assert!(!is_canonical_json(b"\"\xff\""));
    }
}
