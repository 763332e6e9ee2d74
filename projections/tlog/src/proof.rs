//! Proofs about a tree (RFC 6962, sections 2.1.1 and 2.1.2): the ranges whose roots make up a proof, and its verification
//! (RFC 9162, sections 2.1.3.2 and 2.1.4.2).

use std::ops::Range;

use crate::hash::TreeHash;
use crate::tree::MAX_SIZE;

/// The most hashes of a proof: a tree of 63 bits has no more levels.
pub const MAX_PROOF: usize = 63;

/// A proof does not show what it is said to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// Position and sizes are no such that a proof could exist.
    #[error("no proof exists for this position and these sizes")]
    OutOfRange,
    /// The proof has more or fewer hashes than one of these sizes has.
    #[error("the proof has the wrong number of hashes")]
    WrongLength,
    /// The hashes do not lead to the root.
    #[error("the proof does not lead to the root")]
    WrongRoot,
}

/// Returns the ranges whose roots prove that the tree of `size` has a leaf at `position`, in the order of the proof; `None` if
/// it has none there.
#[must_use]
pub fn inclusion_ranges(position: u64, size: u64) -> Option<Vec<Range<u64>>> {
    if position >= size || size > MAX_SIZE {
        return None;
    }
    let (mut whole, mut path) = (0..size, Vec::new());
    while whole.end - whole.start > 1 {
        let middle = split(&whole);
        let (left, right) = (whole.start..middle, middle..whole.end);
        let (inside, beside) = if position < middle { (left, right) } else { (right, left) };
        path.push(beside);
        whole = inside;
    }
    path.reverse();
    Some(path)
}

/// Returns the ranges whose roots prove that the tree of `size` begins with all leaves of the tree of `old_size`, in the order
/// of the proof; `None` unless 0 < `old_size` ≤ `size`.
#[must_use]
pub fn consistency_ranges(old_size: u64, size: u64) -> Option<Vec<Range<u64>>> {
    if old_size == 0 || old_size > size || size > MAX_SIZE {
        return None;
    }
    let (mut whole, mut path, mut is_old_root) = (0..size, Vec::new(), true);
    while old_size < whole.end {
        let middle = split(&whole);
        if old_size <= middle {
            path.push(middle..whole.end);
            whole = whole.start..middle;
        } else {
            path.push(whole.start..middle);
            whole = middle..whole.end;
            is_old_root = false;
        }
    }
    // The verifier has the root of the old tree already.
    if !is_old_root {
        path.push(whole);
    }
    path.reverse();
    Some(path)
}

/// Returns the position at which a range of at least two leaves divides: after the largest power of two smaller than its length.
const fn split(range: &Range<u64>) -> u64 {
    range.start + (1 << (range.end - range.start - 1).ilog2())
}

/// Verifies that the tree of this size and root has this leaf at this position.
///
/// # Errors
/// [`ProofError`].
pub fn verify_inclusion(
    leaf: TreeHash,
    position: u64,
    size: u64,
    proof: &[TreeHash],
    root: TreeHash,
) -> Result<(), ProofError> {
    let ranges = inclusion_ranges(position, size).ok_or(ProofError::OutOfRange)?;
    if ranges.len() != proof.len() {
        return Err(ProofError::WrongLength);
    }
    let joined = ranges.iter().zip(proof).fold(leaf, |inside, (range, beside)| {
        if range.start > position { TreeHash::of_node(&inside, beside) } else { TreeHash::of_node(beside, &inside) }
    });
    if joined == root { Ok(()) } else { Err(ProofError::WrongRoot) }
}

/// Verifies that the tree of `size` and `root` begins with all leaves of the tree of `old_size` and `old_root`. Every tree begins
/// with the empty one, which takes an empty proof.
///
/// # Errors
/// [`ProofError`].
pub fn verify_consistency(
    old_size: u64,
    old_root: TreeHash,
    size: u64,
    root: TreeHash,
    proof: &[TreeHash],
) -> Result<(), ProofError> {
    if old_size == 0 {
        return match (proof, old_root == TreeHash::of_empty_tree()) {
            ([], true) => Ok(()),
            ([], false) => Err(ProofError::WrongRoot),
            (_, _) => Err(ProofError::WrongLength),
        };
    }
    let ranges = consistency_ranges(old_size, size).ok_or(ProofError::OutOfRange)?;
    if ranges.len() != proof.len() {
        return Err(ProofError::WrongLength);
    }
    let mut steps = ranges.iter().zip(proof);
    // The first range ends where the old tree ends, unless the old tree is a subtree of the new one, which is not in the proof.
    let seed = match ranges.first() {
        Some(first) if first.end == old_size => steps.next().map_or(old_root, |(_, hash)| *hash),
        _ => old_root,
    };
    let (old, new) = steps.fold((seed, seed), |(old, new), (range, hash)| {
        if range.start >= old_size {
            (old, TreeHash::of_node(&new, hash))
        } else {
            (TreeHash::of_node(hash, &old), TreeHash::of_node(hash, &new))
        }
    });
    if old == old_root && new == root { Ok(()) } else { Err(ProofError::WrongRoot) }
}
