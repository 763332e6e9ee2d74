//! The body of `add-checkpoint` (C2SP tlog-witness): what a log sends to a witness, and the name that a witness has for a log.

use std::fmt::{self, Display, Formatter, Write};

use sha2::{Digest, Sha256};

use crate::decimal::decimal;
use crate::hash::TreeHash;
use crate::note::{KeyName, MAX_NOTE, Note};
use crate::proof::MAX_PROOF;
use crate::tree::MAX_SIZE;

/// The length of the longest body that is read, in bytes.
pub const MAX_SUBMISSION: usize = MAX_NOTE + 4_096;

/// A proof that a tree extends an earlier one: the lines before the checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtensionProof {
    /// The size of the earlier tree; 0 for none.
    pub old_size: u64,
    /// The consistency proof from that size.
    pub hashes: Vec<TreeHash>,
}

/// A checkpoint with the proof that it extends an earlier one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submission {
    /// The proof that it extends the checkpoint that the witness cosigned last.
    pub extension: ExtensionProof,
    /// The checkpoint, signed by the log.
    pub checkpoint: Note,
}

impl ExtensionProof {
    /// Reads the proof before a blank line, and returns what follows; `None` if there is none.
    #[must_use]
    pub fn split(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let end = bytes.windows(2).position(|pair| pair == b"\n\n")?;
        let (head, rest) = bytes.split_at(end);
        let mut lines = std::str::from_utf8(head).ok()?.split('\n');
        let old_size = decimal(lines.next()?.strip_prefix("old ")?).filter(|size| *size <= MAX_SIZE)?;
        let mut hashes = Vec::new();
        for line in lines {
            if hashes.len() == MAX_PROOF {
                return None;
            }
            hashes.push(TreeHash::parse(line)?);
        }
        Some((Self { old_size, hashes }, rest.get(2..)?))
    }
}

/// Writes the lines, without the blank one.
impl Display for ExtensionProof {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "old {}", self.old_size)?;
        self.hashes.iter().try_for_each(|hash| writeln!(f, "{hash}"))
    }
}

impl Submission {
    /// Reads a body; `None` if it is none.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (extension, note) = ExtensionProof::split(bytes).filter(|_| bytes.len() <= MAX_SUBMISSION)?;
        Some(Self { extension, checkpoint: Note::parse(note).ok()? })
    }
}

impl Display for Submission {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n{}", self.extension, self.checkpoint)
    }
}
/// The SHA-256 of an origin as lowercase hexadecimal, by which a witness's monitoring interface names a log.
#[must_use]
pub fn origin_hash(origin: &KeyName) -> String {
    Sha256::digest(origin.as_str()).iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}
