//! Tiles (C2SP tlog-tiles): their paths, which ones a tree has, and the hashes in them. A tile holds up to 256 consecutive
//! hashes; each hash of a tile at level 1 and above is the root of a full tile one level below.

use std::fmt::{self, Display, Formatter};

use crate::decimal::decimal;
use crate::hash::{HASH_LENGTH, TreeHash};
use crate::tree::{MAX_SIZE, Subtree};

/// The number of hashes of a full tile, and of entries of a full bundle.
pub const FULL_WIDTH: u16 = 256;
/// The logarithm of that number.
const TILE_HEIGHT: u8 = 8;
/// The highest level that a path may name.
const MAX_LEVEL: u8 = 63;
/// The length of the longest path, in bytes; a longer text is not read.
const MAX_PATH: usize = 64;

/// The content of a tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TileKind {
    /// Hashes at this level; level 0 has the hashes of leaves.
    Hashes(u8),
    /// The leaves themselves: an entry bundle.
    Entries,
}

/// A tile, whole or in part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tile {
    /// Its content.
    pub kind: TileKind,
    /// The number of tiles of its level before it.
    pub index: u64,
    /// The number of its hashes or entries, from 1 to [`FULL_WIDTH`].
    pub width: u16,
}

impl TileKind {
    /// The height of the subtrees whose roots it holds.
    const fn height(self) -> u32 {
        match self {
            Self::Hashes(level) => level as u32 * TILE_HEIGHT as u32,
            Self::Entries => 0,
        }
    }

    /// The number of hashes, or entries, that a tree of this size has in all tiles of this kind.
    #[must_use]
    pub const fn count(self, size: u64) -> u64 {
        match size.checked_shr(self.height()) {
            Some(count) => count,
            None => 0,
        }
    }

    /// The tile at this index as a tree of this size has it; `None` if it has none there.
    #[must_use]
    pub fn tile(self, index: u64, size: u64) -> Option<Tile> {
        let before = index.checked_mul(u64::from(FULL_WIDTH))?;
        let rest = self.count(size).checked_sub(before).filter(|rest| *rest > 0)?;
        let width = u16::try_from(rest).map_or(FULL_WIDTH, |rest| rest.min(FULL_WIDTH));
        Some(Tile { kind: self, index, width })
    }
}

impl Tile {
    /// Reads a path such as `tile/0/x001/067.p/8` or `tile/entries/000`; `None` unless it is the one spelling of a tile.
    #[must_use]
    pub fn parse(path: &str) -> Option<Self> {
        if path.len() > MAX_PATH {
            return None;
        }
        let (level, rest) = path.strip_prefix("tile/")?.split_once('/')?;
        let kind = match level {
            "entries" => TileKind::Entries,
            _ => TileKind::Hashes(decimal(level)?.try_into().ok().filter(|level| *level <= MAX_LEVEL)?),
        };
        let (index, width) = match rest.split_once(".p/") {
            Some((index, width)) => {
                let width = decimal(width)?.try_into().ok().filter(|width| (1..FULL_WIDTH).contains(width))?;
                (index, width)
            }
            None => (rest, FULL_WIDTH),
        };
        Some(Self { kind, index: parse_index(index)?, width })
    }

    /// `true` if a tree of this size has all of the tile's hashes or entries.
    #[must_use]
    pub fn exists_at(&self, size: u64) -> bool {
        self.kind.tile(self.index, size).is_some_and(|tile| tile.width >= self.width)
    }

    /// The positions of its first entry and of the first one behind it, of an entry bundle or a tile of level 0.
    #[must_use]
    pub const fn positions(&self) -> std::ops::Range<u64> {
        let first = self.index * FULL_WIDTH as u64;
        first..first + self.width as u64
    }

    /// Returns the full tile, or the beginning of one, in which the hash of a subtree is found, or those of its descendants.
    /// Its width is what this subtree takes.
    #[must_use]
    pub const fn of_subtree(subtree: Subtree) -> Self {
        let (level, below) = (subtree.height / TILE_HEIGHT, subtree.height % TILE_HEIGHT);
        // The position of the first descendant in the tile's level.
        let first = subtree.index << below;
        let index = first / FULL_WIDTH as u64;
        let width = (first % FULL_WIDTH as u64) as u16 + (1 << below);
        Self { kind: TileKind::Hashes(level), index, width }
    }

    /// Returns the hash of a subtree from the content of the tile that [`Tile::of_subtree`] names, or of a wider one; `None` if
    /// the content is too short.
    #[must_use]
    pub fn hash_in(content: &[u8], subtree: Subtree) -> Option<TreeHash> {
        let below = subtree.height % TILE_HEIGHT;
        let first = usize::try_from((subtree.index << below) % u64::from(FULL_WIDTH)).ok()?;
        let bytes = content.get(first * HASH_LENGTH..(first + (1 << below)) * HASH_LENGTH)?;
        let mut hashes = hashes(bytes)?;
        for _ in 0..below {
            hashes = hashes.as_chunks().0.iter().map(|[left, right]| TreeHash::of_node(left, right)).collect();
        }
        hashes.first().copied()
    }
}

/// Reads the hashes of a tile; `None` if the content is no whole number of hashes.
#[must_use]
pub fn hashes(content: &[u8]) -> Option<Vec<TreeHash>> {
    let (hashes, rest) = content.as_chunks::<HASH_LENGTH>();
    rest.is_empty().then(|| hashes.iter().copied().map(TreeHash).collect())
}

/// Returns every tile of this kind in a tree of this size, in order.
pub fn tiles(kind: TileKind, size: u64) -> impl Iterator<Item = Tile> {
    (0..kind.count(size).div_ceil(u64::from(FULL_WIDTH))).filter_map(move |index| kind.tile(index, size))
}

/// Returns the levels of hashes that a tree of this size has.
pub fn levels(size: u64) -> impl Iterator<Item = TileKind> {
    (0..=MAX_LEVEL).map(TileKind::Hashes).take_while(move |kind| kind.count(size) > 0)
}

impl Display for Tile {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.kind {
            TileKind::Hashes(level) => write!(f, "tile/{level}/")?,
            TileKind::Entries => f.write_str("tile/entries/")?,
        }
        write_groups(f, self.index / 1_000)?;
        write!(f, "{:03}", self.index % 1_000)?;
        if self.width < FULL_WIDTH { write!(f, ".p/{}", self.width) } else { Ok(()) }
    }
}

/// Writes the groups of an index before its last one.
fn write_groups(f: &mut Formatter<'_>, groups: u64) -> fmt::Result {
    if groups == 0 {
        return Ok(());
    }
    write_groups(f, groups / 1_000)?;
    write!(f, "x{:03}/", groups % 1_000)
}

/// Reads an index: groups of three digits, all but the last with an `x` in front, and no group of zeros before the others.
fn parse_index(text: &str) -> Option<u64> {
    let (mut index, mut groups) = (0_u64, text.split('/').peekable());
    let mut is_first = true;
    while let Some(group) = groups.next() {
        let is_last = groups.peek().is_none();
        let digits = if is_last { group } else { group.strip_prefix('x')? };
        if digits.len() != 3 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
            return None;
        }
        let number: u64 = digits.parse().ok()?;
        if is_first && !is_last && number == 0 {
            return None;
        }
        index = index.checked_mul(1_000)?.checked_add(number)?;
        is_first = false;
    }
    // No tile of a tree lies behind its last possible leaf.
    (index <= MAX_SIZE / u64::from(FULL_WIDTH)).then_some(index)
}
