//! The formats of an export, and an event as a line of each.

use fulexo_domain::leaf::{self, LeafError};
use serde::Serialize;
use serde_json::Value;

use super::item::ExportItem;
use super::ocsf::{OcsfRecord, OcsfVersion};
use crate::feed::FeedError;
use crate::read_models::audit::AuditEntry;
use crate::tree::TreeError;

/// The form of the lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExportFormat {
    /// Events as the API lists them, with the hashes of their leaves.
    Ndjson,
    /// Events of the Open Cybersecurity Schema Framework.
    Ocsf(OcsfVersion),
    /// The exact leaves, which were hashed.
    Leaves,
}

/// The reason why an export cannot continue.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The log cannot be read, or is not what was recorded.
    #[error(transparent)]
    Feed(#[from] FeedError),
    /// The tree, which has the hashes of the leaves, cannot be read.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// A leaf would be two lines.
    #[error("the leaf at position {position} has a line break, which no canonical leaf has")]
    LineBreak {
        /// The position of the event.
        position: u64,
    },
}

impl ExportFormat {
    /// The names of the formats.
    pub const NAMES: [&'static str; 3] = ["ndjson", "ocsf", "leaves"];

    /// The format of this name; `version` is that of OCSF.
    #[must_use]
    pub fn find(name: &str, version: OcsfVersion) -> Option<Self> {
        [Self::Ndjson, Self::Ocsf(version), Self::Leaves].into_iter().find(|format| format.as_str() == name)
    }

    /// The name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ndjson => "ndjson",
            Self::Ocsf(_) => "ocsf",
            Self::Leaves => "leaves",
        }
    }

    /// Appends the event as a line. Its leaf must have the hash that is recorded with it.
    ///
    /// # Errors
    /// [`ExportError`]; then nothing of the event is appended.
    pub fn append_line(self, entry: &AuditEntry, lines: &mut Vec<u8>) -> Result<(), ExportError> {
        let position = entry.position.unsigned_abs();
        if leaf::hash(&entry.leaf) != entry.leaf_hash.as_slice() {
            return Err(FeedError::WrongHash { position }.into());
        }
        let begin = lines.len();
        let appended = self.append(position, entry, lines);
        if appended.is_err() {
            lines.truncate(begin);
        }
        appended
    }

    /// The position of the event in a line of this format; `None` for any other line, and for leaves, which do not say it.
    #[must_use]
    pub fn position_of(self, line: &[u8]) -> Option<u64> {
        let line: Value = serde_json::from_slice(line).ok()?;
        let position = match self {
            Self::Ndjson => line.get("leaf_hash").and_then(|_| line.get("position")),
            Self::Ocsf(version) => {
                let metadata = line.get("metadata")?;
                let is_its = metadata.get("version").is_some_and(|of| of == version.as_str());
                metadata.get("sequence").filter(|_| is_its)
            }
            Self::Leaves => None,
        };
        position?.as_u64()
    }

    fn append(self, position: u64, entry: &AuditEntry, lines: &mut Vec<u8>) -> Result<(), ExportError> {
        match self {
            Self::Ndjson => {
                let raw = leaf::read(position, &entry.leaf).map_err(FeedError::from)?;
                serialise(position, &ExportItem::of(position, &raw, &entry.leaf_hash), lines)?;
            }
            Self::Ocsf(version) => {
                let event = leaf::decode(position, &entry.leaf).map_err(FeedError::from)?;
                let raw = leaf::read(position, &entry.leaf).map_err(FeedError::from)?;
                let record = OcsfRecord::of(version, &event, &raw, &entry.leaf_hash, entry.leaf.len());
                serialise(position, &record, lines)?;
            }
            Self::Leaves if entry.leaf.contains(&b'\n') => return Err(ExportError::LineBreak { position }),
            Self::Leaves => lines.extend_from_slice(&entry.leaf),
        }
        lines.push(b'\n');
        Ok(())
    }
}

fn serialise(position: u64, line: &impl Serialize, lines: &mut Vec<u8>) -> Result<(), FeedError> {
    let begin = lines.len();
    serde_json::to_writer(&mut *lines, line).map_err(|source| LeafError::Unreadable { position, source })?;
    // The data are copied: between its tokens a leaf that is not canonical may have anything that JSON allows.
    for byte in lines.iter_mut().skip(begin) {
        if matches!(byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAF: &str = r#"{"actor":{"kind":"system"},"category":"lockdown","causation":null,"correlation":"01935c2e-7000-7000-8000-000000000007","data":{},"id":"01935c2e-7000-7000-8000-000000000001","policy_version":1,"schema_version":1,"sealed":[],"stream":"00000000-0000-0000-0000-000000000000","subject":null,"time":"2026-10-26T07:33:20.000042Z","type":"lockdown.lifted","version":7}"#;

    fn formats() -> [ExportFormat; 4] {
        [
            ExportFormat::Ndjson,
            ExportFormat::Ocsf(OcsfVersion::V1_8),
            ExportFormat::Ocsf(OcsfVersion::V1_9),
            ExportFormat::Leaves,
        ]
    }

    fn entry(leaf: &str) -> AuditEntry {
        AuditEntry { position: 3, leaf: leaf.into(), leaf_hash: leaf::hash(leaf.as_bytes()).to_vec() }
    }

    #[test]
    fn a_line_is_an_event_and_ends_with_a_line_break() {
        for format in formats() {
            let mut lines = b"first\n".to_vec();
            format.append_line(&entry(LEAF), &mut lines).unwrap();
            let text = String::from_utf8(lines).unwrap();
            assert_eq!(text.lines().count(), 2, "{text}");
            assert!(text.starts_with("first\n{") && text.ends_with("}\n"), "{text}");
            let line = text.lines().last().unwrap().as_bytes();
            for other in formats() {
                let wanted = (other == format && format != ExportFormat::Leaves).then_some(3);
                assert_eq!(other.position_of(line), wanted, "{format:?} read as {other:?}");
            }
        }
    }

    #[test]
    fn an_altered_leaf_is_an_error_and_leaves_no_part_of_a_line() {
        let mut altered = entry(LEAF);
        altered.leaf = LEAF.replace("\"version\":7", "\"version\":8").into();
        let unknown = entry(&LEAF.replace("lockdown.lifted", "lockdown.vanished"));
        for format in formats() {
            let mut lines = b"first\n".to_vec();
            let error = format.append_line(&altered, &mut lines).unwrap_err();
            assert!(matches!(error, ExportError::Feed(FeedError::WrongHash { position: 3 })), "{error}");
            if matches!(format, ExportFormat::Ocsf(_)) {
                assert!(format.append_line(&unknown, &mut lines).is_err());
            }
            assert_eq!(lines, b"first\n");
        }
    }

    #[test]
    fn a_leaf_with_a_line_break_is_never_two_lines() {
        let broken = entry(&LEAF.replace("\"data\":{}", "\"data\":{\n}"));
        for format in formats() {
            let mut lines = Vec::new();
            match format.append_line(&broken, &mut lines) {
                Ok(()) => assert_eq!(lines.iter().filter(|byte| **byte == b'\n').count(), 1),
                Err(error) => assert!(matches!(error, ExportError::LineBreak { position: 3 }), "{error}"),
            }
        }
    }

    #[test]
    fn formats_are_found_by_their_names() {
        for format in formats() {
            let version = if let ExportFormat::Ocsf(version) = format { version } else { OcsfVersion::V1_8 };
            assert_eq!(ExportFormat::find(format.as_str(), version), Some(format));
            assert!(ExportFormat::NAMES.contains(&format.as_str()));
        }
        assert_eq!(ExportFormat::find("csv", OcsfVersion::V1_8), None);
    }
}
