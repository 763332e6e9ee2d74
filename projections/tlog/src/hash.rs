//! Hashes of the tree (RFC 6962, section 2.1): SHA-256, with a byte in front that separates leaves from inner nodes.

use std::fmt::{self, Debug, Display, Formatter};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

/// The length of a hash, in bytes.
pub const HASH_LENGTH: usize = 32;
/// The length of a hash as base64, in characters.
const TEXT_LENGTH: usize = 44;

/// The hash of a leaf, of an inner node, or of a whole tree.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TreeHash(pub [u8; HASH_LENGTH]);

impl TreeHash {
    /// The root of the empty tree: the SHA-256 of nothing.
    #[must_use]
    pub fn of_empty_tree() -> Self {
        Self(Sha256::digest([]).into())
    }

    /// The hash of a leaf with this content.
    #[must_use]
    pub fn of_leaf(leaf: &[u8]) -> Self {
        Self(Sha256::new_with_prefix([0]).chain_update(leaf).finalize().into())
    }

    /// The hash of an inner node with these children.
    #[must_use]
    pub fn of_node(left: &Self, right: &Self) -> Self {
        let mut node = [1; 1 + 2 * HASH_LENGTH];
        let (_, children) = node.split_at_mut(1);
        let (first, second) = children.split_at_mut(HASH_LENGTH);
        first.copy_from_slice(&left.0);
        second.copy_from_slice(&right.0);
        Self(Sha256::digest(node).into())
    }

    /// Reads the canonical base64 of a hash; `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        // The decoder refuses bits that stand for nothing, and padding that is missing.
        (text.len() == TEXT_LENGTH).then(|| STANDARD.decode(text).ok()).flatten()?.try_into().ok().map(Self)
    }
}

impl Display for TreeHash {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl Debug for TreeHash {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        Display::fmt(self, f)
    }
}
