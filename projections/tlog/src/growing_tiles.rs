//! Tiles while a log grows: which ones a new leaf completes, and the unfinished one of each level.

use crate::hash::TreeHash;
use crate::tile::{FULL_WIDTH, Tile, TileKind};
use crate::tree::GrowingTree;

/// The hashes of a tile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HashTile {
    /// The tile, with the number of its hashes.
    pub tile: Tile,
    /// The hashes.
    pub hashes: Vec<TreeHash>,
}

/// The unfinished tile of each level of a log, to which leaves are added.
#[derive(Debug, Clone, Default)]
pub struct GrowingTiles {
    size: u64,
    /// The hashes of the unfinished tiles, from level 0 on. Each has fewer than [`FULL_WIDTH`].
    unfinished: Vec<Vec<TreeHash>>,
}

impl GrowingTiles {
    /// Resumes at this size with what [`GrowingTiles::unfinished`] returned there; `None` if that belongs to another size.
    #[must_use]
    pub fn resume(size: u64, unfinished: impl IntoIterator<Item = HashTile>) -> Option<Self> {
        let mut resumed = Self { size, unfinished: Vec::new() };
        for level in 0.. {
            let count = TileKind::Hashes(level).count(size);
            if count == 0 {
                break;
            }
            resumed.unfinished.push(Vec::with_capacity(usize::from(FULL_WIDTH)));
        }
        let mut missing = resumed.expected().count();
        for HashTile { tile, hashes } in unfinished {
            let TileKind::Hashes(level) = tile.kind else { return None };
            if !resumed.expected().any(|expected| expected == tile) || hashes.len() != usize::from(tile.width) {
                return None;
            }
            let held = resumed.unfinished.get_mut(usize::from(level)).filter(|held| held.is_empty())?;
            held.extend(hashes);
            missing -= 1;
        }
        (missing == 0).then_some(resumed)
    }

    /// The tiles that are unfinished at this size.
    fn expected(&self) -> impl Iterator<Item = Tile> {
        let size = self.size;
        (0..).zip(&self.unfinished).filter_map(move |(level, _)| {
            let kind = TileKind::Hashes(level);
            let tile = kind.tile(kind.count(size) / u64::from(FULL_WIDTH), size)?;
            (tile.width < FULL_WIDTH).then_some(tile)
        })
    }

    /// The number of leaves.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Adds a leaf, and hands every tile that is complete with it to `complete`, from the lowest level up.
    pub fn push(&mut self, leaf: TreeHash, mut complete: impl FnMut(HashTile)) {
        self.size += 1;
        let mut next = Some(leaf);
        for level in 0.. {
            let Some(hash) = next.take() else { return };
            if self.unfinished.len() == usize::from(level) {
                self.unfinished.push(Vec::with_capacity(usize::from(FULL_WIDTH)));
            }
            let Some(unfinished) = self.unfinished.get_mut(usize::from(level)) else { return };
            unfinished.push(hash);
            if unfinished.len() == usize::from(FULL_WIDTH) {
                let hashes = std::mem::replace(unfinished, Vec::with_capacity(usize::from(FULL_WIDTH)));
                next = Some(root_of(&hashes));
                let kind = TileKind::Hashes(level);
                let index = kind.count(self.size) / u64::from(FULL_WIDTH) - 1;
                complete(HashTile { tile: Tile { kind, index, width: FULL_WIDTH }, hashes });
            }
        }
    }

    /// The unfinished tiles, from the lowest level up.
    pub fn unfinished(&self) -> impl Iterator<Item = HashTile> {
        self.expected().filter_map(|tile| {
            let TileKind::Hashes(level) = tile.kind else { return None };
            Some(HashTile { tile, hashes: self.unfinished.get(usize::from(level))?.clone() })
        })
    }

    /// The root over all leaves.
    #[must_use]
    pub fn root(&self) -> TreeHash {
        // From the right: each level's unfinished tile lies to the left of the ones below.
        let mut joined: Option<TreeHash> = None;
        for unfinished in &self.unfinished {
            let mut tree = GrowingTree::default();
            unfinished.iter().for_each(|hash| tree.push(*hash));
            for left in tree.subtrees().iter().rev() {
                joined = Some(joined.map_or(*left, |right| TreeHash::of_node(left, &right)));
            }
        }
        joined.unwrap_or_else(TreeHash::of_empty_tree)
    }
}

/// The root of a full tile.
fn root_of(hashes: &[TreeHash]) -> TreeHash {
    let mut tree = GrowingTree::default();
    hashes.iter().for_each(|hash| tree.push(*hash));
    tree.root()
}

impl HashTile {
    /// The content as it is served: the hashes one after another.
    #[must_use]
    pub fn content(&self) -> Vec<u8> {
        self.hashes.iter().flat_map(|hash| hash.0).collect()
    }
}
