//! The body of `add-checkpoint` (C2SP tlog-witness): what a log sends to a witness.

use std::fmt::{self, Display, Formatter};

use crate::decimal::decimal;
use crate::hash::TreeHash;
use crate::note::{MAX_NOTE, Note};
use crate::proof::MAX_PROOF;
use crate::tree::MAX_SIZE;

/// The length of the longest body that is read, in bytes.
pub const MAX_SUBMISSION: usize = MAX_NOTE + 4_096;

/// A checkpoint with the proof that it extends an earlier one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submission {
    /// The size of the checkpoint that the witness cosigned last; 0 for none.
    pub old_size: u64,
    /// The consistency proof from that size.
    pub proof: Vec<TreeHash>,
    /// The checkpoint, signed by the log.
    pub checkpoint: Note,
}

impl Submission {
    /// Reads a body; `None` if it is none.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let end =
            (bytes.len() <= MAX_SUBMISSION).then(|| bytes.windows(2).position(|pair| pair == b"\n\n")).flatten()?;
        let (head, note) = bytes.split_at(end);
        let mut lines = std::str::from_utf8(head).ok()?.split('\n');
        let old_size = decimal(lines.next()?.strip_prefix("old ")?).filter(|size| *size <= MAX_SIZE)?;
        let mut proof = Vec::new();
        for line in lines {
            if proof.len() == MAX_PROOF {
                return None;
            }
            proof.push(TreeHash::parse(line)?);
        }
        Some(Self { old_size, proof, checkpoint: Note::parse(note.get(2..)?).ok()? })
    }
}

impl Display for Submission {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "old {}", self.old_size)?;
        self.proof.iter().try_for_each(|hash| writeln!(f, "{hash}"))?;
        write!(f, "\n{}", self.checkpoint)
    }
}
