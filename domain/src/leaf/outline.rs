//! The fields of a leaf that whoever verifies a whole log compares, read in the one pass that judges its form. Stricter than
//! [`super::read`]: members in the order of the encoder, and each value as it writes it.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::canonical::{MAX_DEPTH, array, digits, literal, value, word};
use super::time::parse_time;
use crate::event::{Category, SealedDigest};
use crate::sealed_field::SealedField;

/// The fields of a leaf in canonical form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeafOutline<'a> {
    /// The category of the stream.
    pub category: Category,
    /// The id of the aggregate.
    pub stream: Uuid,
    /// The version of the stream after the event.
    pub version: u64,
    /// The time of the commit.
    pub time: DateTime<Utc>,
    sealed: &'a [u8],
}

impl<'a> LeafOutline<'a> {
    /// Reads a leaf; `None` if it is not an event in canonical form. `data` may have any schema.
    #[must_use]
    pub fn read(leaf: &'a [u8]) -> Option<Self> {
        let rest = &mut &*leaf;
        literal(rest, b"{\"actor\":")?;
        actor(rest)?;
        literal(rest, b",\"category\":")?;
        let category = word(rest)?;
        let category = Category::ALL.into_iter().find(|known| known.as_str().as_bytes() == category)?;
        literal(rest, b",\"causation\":")?;
        optional_id(rest)?;
        literal(rest, b",\"correlation\":")?;
        id(rest)?;
        literal(rest, b",\"data\":")?;
        // The leaf itself is one.
        value(rest, MAX_DEPTH - 1)?;
        literal(rest, b",\"id\":")?;
        id(rest)?;
        literal(rest, b",\"policy_version\":")?;
        u32::try_from(digits(rest)?).ok()?;
        literal(rest, b",\"schema_version\":")?;
        u32::try_from(digits(rest)?).ok()?;
        literal(rest, b",\"sealed\":")?;
        let sealed = digests(rest)?;
        literal(rest, b",\"stream\":")?;
        let stream = Uuid::try_parse_ascii(id(rest)?).ok()?;
        literal(rest, b",\"subject\":")?;
        optional_id(rest)?;
        literal(rest, b",\"time\":")?;
        let time = parse_time(word(rest)?)?;
        literal(rest, b",\"type\":")?;
        word(rest)?;
        literal(rest, b",\"version\":")?;
        let version = digits(rest)?;
        literal(rest, b"}")?;
        rest.is_empty().then_some(Self { category, stream, version, time, sealed })
    }

    /// The digests of the personal fields sealed alongside the event.
    #[must_use]
    pub fn sealed(&self) -> Vec<SealedDigest> {
        // Read already.
        serde_json::from_slice(self.sealed).unwrap_or_default()
    }
}

/// Takes an id, and returns its text.
fn id<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8; 36]> {
    const SHAPE: &[u8; 36] = b"00000000-0000-0000-0000-000000000000";
    let (quoted, behind) = rest.split_first_chunk::<38>()?;
    *rest = behind;
    let [b'"', text @ .., b'"'] = quoted else { return None };
    // Without branches, which a compiler makes a few instructions: each leaf has about five ids.
    let is_odd = text.iter().zip(SHAPE).fold(false, |is_odd, (byte, shape)| {
        let is_digit = (byte.wrapping_sub(b'0') < 10) | (byte.wrapping_sub(b'a') < 6);
        is_odd | (is_digit != (*shape == b'0')) | ((*byte == b'-') != (*shape == b'-'))
    });
    (!is_odd).then_some(text)
}

fn optional_id(rest: &mut &[u8]) -> Option<()> {
    match literal(rest, b"null") {
        Some(()) => Some(()),
        None => id(rest).map(|_| ()),
    }
}

fn actor(rest: &mut &[u8]) -> Option<()> {
    let has_id = literal(rest, b"{\"id\":").is_some();
    if has_id {
        id(rest)?;
        literal(rest, b",\"kind\":")?;
    } else {
        literal(rest, b"{\"kind\":")?;
    }
    let is_known = match word(rest)? {
        b"account" | b"api_key" => has_id,
        b"anonymous" | b"operator" | b"system" => !has_id,
        _ => false,
    };
    literal(rest, b"}").filter(|()| is_known)
}

/// Takes 32 bytes in base64, or any other word.
fn hash_text(rest: &mut &[u8]) -> Option<()> {
    if let Some(([b'"', text @ .., b'"'], behind)) = rest.split_first_chunk::<45>()
        // Without branches, as in ids.
        && text.iter().fold(true, |is_plain, byte| {
            is_plain & (byte.wrapping_sub(b' ') < 0x60) & (*byte != b'"') & (*byte != b'\\')
        })
    {
        *rest = behind;
        return Some(());
    }
    word(rest).map(|_| ())
}

/// Takes the digests, and returns their text.
fn digests<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let whole = *rest;
    array(rest, |rest| {
        literal(rest, b"{\"commitment\":")?;
        hash_text(rest)?;
        literal(rest, b",\"digest\":")?;
        hash_text(rest)?;
        literal(rest, b",\"fields\":")?;
        array(rest, |rest| {
            let name = word(rest)?;
            SealedField::ALL.into_iter().find(|field| field.as_str().as_bytes() == name).map(|_| ())
        })?;
        literal(rest, b"}")
    })?;
    whole.get(..whole.len() - rest.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{is_canonical_json, read};
    use super::*;

    const LEAF: &str = r#"{"actor":{"id":"01935c2e-7000-7000-8000-000000000004","kind":"account"},"category":"account","causation":null,"correlation":"01935c2e-7000-7000-8000-000000000007","data":{"a":[1,{"b":"\n"}]},"id":"01935c2e-7000-7000-8000-000000000001","policy_version":1,"schema_version":1,"sealed":[{"commitment":"qL8R4QIcQ_ZsRqOAbeRfcZhilN_MksRtDaErMA-rbP0","digest":"n4bQgYhMfWWaL-qgxVrQFaO_TxsrC4Is0V1sFbDwCgg","fields":["device","ip"]},{"commitment":"","digest":"","fields":[]}],"stream":"01935c2e-7000-7000-8000-000000000006","subject":"01935c2e-7000-7000-8000-000000000002","time":"2026-10-26T07:33:20.000042Z","type":"account.registered","version":7}"#;

    /// As the readers that this one replaces judge.
    fn agrees(leaf: &[u8]) -> Result<(), TestCaseError> {
        if let Some(outline) = LeafOutline::read(leaf) {
            prop_assert!(is_canonical_json(leaf));
            let raw = read(0, leaf).map_err(|error| TestCaseError::fail(error.to_string()))?;
            let theirs = (raw.category, raw.stream, raw.version, raw.time, raw.sealed);
            prop_assert_eq!(
                (outline.category, outline.stream, outline.version, outline.time, outline.sealed()),
                theirs
            );
        }
        Ok(())
    }

    #[test]
    fn a_leaf_is_read_as_by_the_general_reader() {
        agrees(LEAF.as_bytes()).unwrap();
        let outline = LeafOutline::read(LEAF.as_bytes()).unwrap();
        assert_eq!((outline.version, outline.sealed().len()), (7, 2));
        for (from, to) in [
            (r#""fields":["device","ip"]"#, r#""fields":["device",]"#),
            (r#""fields":[]"#, r#""fields":[,]"#),
            (r#""kind":"account""#, r#""kind":"system""#),
            ("01935c2e-7000-7000-8000-000000000006", "01935C2E-7000-7000-8000-000000000006"),
            ("000042Z", "000042+00:00"),
            ("\"version\":7", "\"version\":-7"),
            ("\"version\":7", "\"version\":07"),
            ("\"policy_version\":1", "\"policy_version\":4294967296"),
            ("\"subject\"", "\"extra\":1,\"subject\""),
            ("account.registered", "account.\\n"),
        ] {
            assert!(LEAF.contains(from));
            assert_eq!(LeafOutline::read(LEAF.replace(from, to).as_bytes()), None, "{from} as {to}");
        }
    }

    #[test]
    fn data_is_nested_as_deeply_as_a_canonical_leaf_may_be() {
        for depth in 28..36 {
            let nested = format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
            let leaf = LEAF.replace(r#"{"a":[1,{"b":"\n"}]}"#, &nested);
            assert_eq!(LeafOutline::read(leaf.as_bytes()).is_some(), is_canonical_json(leaf.as_bytes()), "{depth}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_read_is_what_the_general_reader_reads(at in any::<prop::sample::Index>(), byte in any::<u8>(), how in 0_u8..3) {
            let mut leaf = LEAF.as_bytes().to_vec();
            let place = at.index(leaf.len());
            match how {
                0 => leaf[place] = byte,
                1 => leaf.insert(place, byte),
                _ => { leaf.remove(place); }
            }
            agrees(&leaf)?;
        }
    }
}
