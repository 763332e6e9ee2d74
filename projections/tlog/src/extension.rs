//! The judgement of whoever signs checkpoints one after another, a log's signer or a witness: a new one has to extend the last
//! one that it signed (C2SP tlog-witness, add-checkpoint).

use crate::checkpoint::Checkpoint;
use crate::hash::TreeHash;
use crate::proof::verify_consistency;
use crate::submission::ExtensionProof;

/// The reason for which a checkpoint is not signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ExtensionError {
    /// The proof begins at a larger tree than the one that is to be signed.
    #[error("the old size is larger than the checkpoint's")]
    Shrinks,
    /// The proof does not begin at the checkpoint that was signed last.
    #[error("the checkpoint that was signed last has size {last}")]
    NotLast {
        /// The size of the checkpoint that was signed last; 0 for none.
        last: u64,
    },
    /// The new tree is not shown to begin with the old one.
    #[error("the tree is not shown to extend the one that was signed last")]
    Inconsistent,
}

/// Judges a checkpoint: `proof` shows that it extends the `last` one that was signed.
/// A larger tree has all leaves of the last one, and one of the same size is the same.
///
/// # Errors
/// [`ExtensionError`].
pub fn judge(last: Option<&Checkpoint>, proof: &ExtensionProof, next: &Checkpoint) -> Result<(), ExtensionError> {
    let old_size = proof.old_size;
    if old_size > next.size {
        return Err(ExtensionError::Shrinks);
    }
    // There is one empty tree.
    if next.size == 0 && next.root != TreeHash::of_empty_tree() {
        return Err(ExtensionError::Inconsistent);
    }
    let (size, root) = last.map_or_else(|| (0, TreeHash::of_empty_tree()), |last| (last.size, last.root));
    if old_size != size {
        return Err(ExtensionError::NotLast { last: size });
    }
    verify_consistency(old_size, root, next.size, next.root, &proof.hashes).map_err(|_| ExtensionError::Inconsistent)
}
