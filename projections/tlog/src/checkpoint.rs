//! Checkpoints (C2SP tlog-checkpoint): the text of a note that states a log's size and root.

use std::fmt::{self, Display, Formatter};

use crate::decimal::decimal;
use crate::hash::TreeHash;
use crate::note::KeyName;
use crate::tree::MAX_SIZE;

/// A tree that a log, or a witness, vouches for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The log's identity. Ours are names of keys, too, which is more than the specification asks for.
    pub origin: KeyName,
    /// The number of leaves.
    pub size: u64,
    /// The root over them.
    pub root: TreeHash,
}

/// The text of a note is not a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the text is not a checkpoint of an origin, a size and a root")]
pub struct CheckpointError;

impl Checkpoint {
    /// Reads the text of a note. Lines behind the third one, which say what nobody can verify, are refused. That the root of an empty
    /// tree is the right one is for [`crate::extension::judge`].
    ///
    /// # Errors
    /// [`CheckpointError`].
    pub fn parse(text: &str) -> Result<Self, CheckpointError> {
        let mut lines = text.strip_suffix('\n').ok_or(CheckpointError)?.split('\n');
        let (Some(origin), Some(size), Some(root), None) = (lines.next(), lines.next(), lines.next(), lines.next())
        else {
            return Err(CheckpointError);
        };
        let origin = KeyName::parse(origin).ok_or(CheckpointError)?;
        let size = decimal(size).filter(|size| *size <= MAX_SIZE).ok_or(CheckpointError)?;
        let root = TreeHash::parse(root).ok_or(CheckpointError)?;
        Ok(Self { origin, size, root })
    }
}

/// Writes the text, with its last line feed.
impl Display for Checkpoint {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n{}\n{}\n", self.origin, self.size, self.root)
    }
}
