//! The form of the log's copy in NATS JetStream: names of streams, subjects and headers. `docs/consumers.md` is the
//! contract. The relay writes the copy; a feed reads and verifies it.

use std::fmt::{self, Display, Formatter, Write};

use uuid::Uuid;

/// The subjects of a stream that holds the copy.
pub const SUBJECTS: &str = "log.>";

/// The prefix of a subject, before the event type. Few event types exist, so few subjects do.
pub const SUBJECT_PREFIX: &str = "log.";

/// The position of the event in the log. In a stream of this service it is one less than the sequence of the message.
pub const POSITION: &str = "Fulexo-Position";
/// The stream of the aggregate: category, slash, id.
pub const STREAM: &str = "Fulexo-Stream";
/// The version of the aggregate's stream after this event.
pub const VERSION: &str = "Fulexo-Version";
/// The epoch: the history of the log that the event belongs to.
pub const EPOCH: &str = "Fulexo-Epoch";
/// The hash of the leaf (RFC 6962, section 2.1), in hex.
pub const LEAF_HASH: &str = "Fulexo-Leaf-Hash";
/// The authentication code by which nodes recognise their own messages, in hex.
pub const MAC: &str = "Fulexo-Mac";

/// The name of a JetStream stream: the history of the log, and the generation of its copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamName {
    history: String,
    /// The number of this copy of the history, starting with 1.
    pub generation: u32,
}

impl StreamName {
    /// The first stream of a history.
    #[must_use]
    pub fn first(epoch: Uuid) -> Self {
        let mut history = epoch.simple().to_string();
        // Short enough for the name of a directory. The headers hold the whole epoch.
        history.truncate(16);
        Self { history, generation: 1 }
    }

    /// Parses the name of a stream of this service.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let (history, generation) = name.strip_prefix("FULEXO_")?.split_once('_')?;
        let generation = generation.parse().ok()?;
        let name = Self { history: history.to_owned(), generation };
        (history.len() == 16 && history.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(name)
    }

    /// `true` if both streams hold the same history.
    #[must_use]
    pub fn shares_history_with(&self, other: &Self) -> bool {
        self.history == other.history
    }
}

impl Display for StreamName {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "FULEXO_{}_{}", self.history, self.generation)
    }
}

/// Formats bytes in lower-case hex, as in the headers.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Parses the result of [`hex`].
#[must_use]
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2);
    let byte = |pair: &[u8]| match pair {
        [high, low] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
            u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()
        }
        _ => None,
    };
    pairs.map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_name_is_read_as_it_was_written() {
        let name = StreamName { generation: 7, ..StreamName::first(Uuid::from_u128(0xabc << 100)) };
        assert_eq!(name.to_string(), "FULEXO_0000abc000000000_7");
        assert_eq!(StreamName::parse("FULEXO_0000abc000000000_7"), Some(name));
        for other in ["ORDERS", "FULEXO_", "FULEXO_0000abc000000000", "FULEXO_0000abc00000000z_1", "FULEXO_abc_1"] {
            assert_eq!(StreamName::parse(other), None, "{other}");
        }
    }

    #[test]
    fn hex_is_read_as_it_was_written_and_nothing_else_is_read() {
        assert_eq!(unhex(&hex(&[0, 9, 255])), Some(vec![0, 9, 255]));
        for other in ["0", "+1", "zz", "0g", "é"] {
            assert_eq!(unhex(other), None, "{other}");
        }
    }
}
