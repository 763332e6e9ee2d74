//! The shape of the tree (RFC 6962, section 2.1): which perfect subtrees make up a range of leaves, and the roots that follow
//! from their hashes. It stores nothing: a caller brings the hashes of perfect subtrees, which never change.

use std::ops::Range;

use crate::hash::TreeHash;

/// The most leaves of a tree: sizes and positions are numbers of 63 bits, as PostgreSQL and most verifiers have them.
pub const MAX_SIZE: u64 = i64::MAX as u64;

/// A perfect subtree: the `index`-th of its height, over the leaves from `index << height` to the next one's first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subtree {
    /// The number of levels below its root; 0 is a leaf.
    pub height: u8,
    /// The number of subtrees of this height before it.
    pub index: u64,
}

impl Subtree {
    /// The leaf at this position.
    #[must_use]
    pub const fn leaf(position: u64) -> Self {
        Self { height: 0, index: position }
    }
}

/// Returns the perfect subtrees that make up these leaves, from left to right. The range begins where a range of a proof may
/// begin: at a multiple of the power of two that its length does not exceed.
pub fn subtrees(range: Range<u64>) -> impl Iterator<Item = Subtree> {
    let mut start = range.start;
    std::iter::from_fn(move || {
        let length = range.end.checked_sub(start).filter(|length| *length > 0)?;
        // The largest power of two that fits.
        let height = length.ilog2();
        let subtree = Subtree { height: u8::try_from(height).ok()?, index: start >> height };
        start += 1 << height;
        Some(subtree)
    })
}

/// Returns the root over these leaves: `MTH(D[start:end])` of the RFC.
///
/// # Errors
/// The error of `hash_of`, which knows the hashes of perfect subtrees.
pub fn root<E>(range: Range<u64>, mut hash_of: impl FnMut(Subtree) -> Result<TreeHash, E>) -> Result<TreeHash, E> {
    let hashes = subtrees(range).map(&mut hash_of).collect::<Result<Vec<_>, E>>()?;
    let joined = hashes.into_iter().rev().reduce(|right, left| TreeHash::of_node(&left, &right));
    Ok(joined.unwrap_or_else(TreeHash::of_empty_tree))
}

/// A tree that leaves are added to. It keeps one hash a level: the perfect subtrees that make it up.
#[derive(Debug, Clone, Default)]
pub struct GrowingTree {
    size: u64,
    /// The roots of [`subtrees`] of all leaves, from left to right.
    subtrees: Vec<TreeHash>,
}

impl GrowingTree {
    /// A tree of this size, from the hashes of [`subtrees`] of all its leaves; `None` if their number is another.
    #[must_use]
    pub fn resume(size: u64, subtrees: Vec<TreeHash>) -> Option<Self> {
        (subtrees.len() == size.count_ones() as usize).then_some(Self { size, subtrees })
    }

    /// The number of leaves.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The roots of [`subtrees`] of all leaves, from left to right.
    #[must_use]
    pub fn subtrees(&self) -> &[TreeHash] {
        &self.subtrees
    }

    /// Adds a leaf.
    pub fn push(&mut self, leaf: TreeHash) {
        let mut hash = leaf;
        // Each perfect subtree that the leaf completes becomes the left half of a larger one.
        for _ in 0..self.size.trailing_ones() {
            if let Some(left) = self.subtrees.pop() {
                hash = TreeHash::of_node(&left, &hash);
            }
        }
        self.subtrees.push(hash);
        self.size += 1;
    }

    /// The root over all leaves.
    #[must_use]
    pub fn root(&self) -> TreeHash {
        let joined = self.subtrees.iter().rev().copied().reduce(|right, left| TreeHash::of_node(&left, &right));
        joined.unwrap_or_else(TreeHash::of_empty_tree)
    }
}
