//! Proof files (C2SP tlog-proof): that a log has a certain entry, for anybody who has the entry and trusts the keys.

use std::fmt::{self, Display, Formatter};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::decimal::decimal;
use crate::hash::TreeHash;
use crate::note::{MAX_NOTE, Note, NoteError};
use crate::proof::{MAX_PROOF, ProofError, verify_inclusion};

/// The first line.
const HEADER: &str = "c2sp.org/tlog-proof@v1";
/// The length of the longest extra data that are read, in bytes: an entry, with room.
const MAX_EXTRA: usize = 128 * 1_024;
/// The length of the longest file that is read, in bytes: room for the extra data as base64, the proof and the checkpoint.
pub const MAX_ENTRY_PROOF: usize = MAX_NOTE + MAX_EXTRA / 3 * 4 + 4_096;

/// A proof that a log has an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryProof {
    /// Data beside the proof, which nothing in it vouches for.
    pub extra: Option<Vec<u8>>,
    /// The position of the entry.
    pub index: u64,
    /// The hashes from the entry's sibling to the root's child.
    pub hashes: Vec<TreeHash>,
    /// The checkpoint, signed.
    pub checkpoint: Note,
}

/// A text is not a proof file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EntryProofError {
    /// The lines before the checkpoint are not those of a proof.
    #[error("the file is not a proof of version 1")]
    Malformed,
    /// The checkpoint is not a signed note.
    #[error("the proof has no signed checkpoint")]
    Note(#[source] NoteError),
}

/// A proof does not prove an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EntryProofMismatch {
    /// The signed text is not a checkpoint.
    #[error("the signed text is not a checkpoint")]
    Checkpoint(#[source] CheckpointError),
    /// The hashes do not show the entry in the checkpoint's tree.
    #[error("the entry is not shown to be in the tree of the checkpoint")]
    Proof(#[source] ProofError),
}

impl EntryProof {
    /// Reads a proof file.
    ///
    /// # Errors
    /// [`EntryProofError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, EntryProofError> {
        if bytes.len() > MAX_ENTRY_PROOF {
            return Err(EntryProofError::Malformed);
        }
        let end = bytes.windows(2).position(|pair| pair == b"\n\n").ok_or(EntryProofError::Malformed)?;
        let (head, note) = bytes.split_at(end);
        let head = std::str::from_utf8(head).map_err(|_| EntryProofError::Malformed)?;
        let (extra, index, hashes) = parse_head(head).ok_or(EntryProofError::Malformed)?;
        let note = note.get(2..).unwrap_or_default();
        Ok(Self { extra, index, hashes, checkpoint: Note::parse(note).map_err(EntryProofError::Note)? })
    }

    /// Verifies that the tree of the checkpoint has this entry, and returns the checkpoint. Whether anybody vouches for it is
    /// another question: [`crate::key::verify`].
    ///
    /// # Errors
    /// [`EntryProofMismatch`].
    pub fn verify(&self, entry: &[u8]) -> Result<Checkpoint, EntryProofMismatch> {
        let checkpoint = Checkpoint::parse(self.checkpoint.text()).map_err(EntryProofMismatch::Checkpoint)?;
        verify_inclusion(TreeHash::of_leaf(entry), self.index, checkpoint.size, &self.hashes, checkpoint.root)
            .map_err(EntryProofMismatch::Proof)?;
        Ok(checkpoint)
    }
}

fn parse_head(head: &str) -> Option<(Option<Vec<u8>>, u64, Vec<TreeHash>)> {
    let mut lines = head.strip_prefix(HEADER)?.strip_prefix('\n')?.split('\n').peekable();
    let extra = match lines.next_if(|line| line.starts_with("extra ")) {
        Some(line) => {
            let encoded = line.strip_prefix("extra ")?;
            Some(STANDARD.decode(encoded).ok().filter(|extra| extra.len() <= MAX_EXTRA)?)
        }
        None => None,
    };
    let index = decimal(lines.next()?.strip_prefix("index ")?)?;
    let mut hashes = Vec::new();
    for line in lines {
        if hashes.len() == MAX_PROOF {
            return None;
        }
        hashes.push(TreeHash::parse(line)?);
    }
    Some((extra, index, hashes))
}

impl Display for EntryProof {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEADER}")?;
        if let Some(extra) = &self.extra {
            writeln!(f, "extra {}", STANDARD.encode(extra))?;
        }
        writeln!(f, "index {}", self.index)?;
        self.hashes.iter().try_for_each(|hash| writeln!(f, "{hash}"))?;
        write!(f, "\n{}", self.checkpoint)
    }
}
