//! Reads of the tree, at any size that it has had: tiles, entry bundles, roots and proofs.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;

use fulexo_tlog::bundle;
use fulexo_tlog::hash::{HASH_LENGTH, TreeHash};
use fulexo_tlog::proof::{consistency_ranges, inclusion_ranges};
use fulexo_tlog::tile::{FULL_WIDTH, Tile, TileKind, hashes};
use fulexo_tlog::tree::{self, Subtree, subtrees};
use sqlx::PgConnection;

use crate::to_i64;

/// The reason why a part of the tree cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// The database failed.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    /// A tile, or leaves, that the tree has are missing, or are not what they should be.
    #[error("{0} is missing from the tree, or damaged")]
    Damaged(Tile),
}

/// The tree at a moment: everything below its size.
pub struct TreeReader<'a> {
    connection: &'a mut PgConnection,
    size: u64,
}

impl<'a> TreeReader<'a> {
    /// Reads the tree's size, and then up to it.
    ///
    /// # Errors
    /// [`sqlx::Error`].
    pub async fn open(connection: &'a mut PgConnection) -> Result<Self, sqlx::Error> {
        let size = sqlx::query_scalar!("select size from tree.head").fetch_one(&mut *connection).await?;
        Ok(Self { connection, size: size.unsigned_abs() })
    }

    /// The number of leaves.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The content of a tile or an entry bundle; `None` if the tree does not have it.
    ///
    /// # Errors
    /// [`TreeError`].
    pub async fn tile(&mut self, tile: Tile) -> Result<Option<Vec<u8>>, TreeError> {
        if !tile.exists_at(self.size) {
            return Ok(None);
        }
        match tile.kind {
            TileKind::Entries => self.bundle(tile).await.map(Some),
            TileKind::Hashes(_) => Ok(self.contents(&BTreeSet::from([tile])).await?.remove(&(tile.kind, tile.index))),
        }
    }

    /// The hashes that the tree has for the leaves at these positions, of those that it has.
    ///
    /// # Errors
    /// [`TreeError`].
    pub async fn leaf_hashes_of(&mut self, positions: &[u64]) -> Result<HashMap<u64, TreeHash>, TreeError> {
        let width = u64::from(FULL_WIDTH);
        let tile_of = |position: &u64| TileKind::Hashes(0).tile(position / width, self.size);
        let tiles: BTreeSet<Tile> = positions.iter().filter_map(tile_of).collect();
        let contents = self.contents(&tiles).await?;
        let found = positions.iter().filter_map(|position| {
            let content = contents.get(&(TileKind::Hashes(0), position / width))?;
            let (whole, _) = content.as_chunks::<HASH_LENGTH>();
            let hash = whole.get(usize::try_from(position % width).ok()?)?;
            Some((*position, TreeHash(*hash)))
        });
        Ok(found.collect())
    }

    /// The root over the first `size` leaves; `None` if the tree has fewer.
    ///
    /// # Errors
    /// [`TreeError`].
    pub async fn root(&mut self, size: u64) -> Result<Option<TreeHash>, TreeError> {
        if size > self.size {
            return Ok(None);
        }
        let whole = 0..size;
        Ok(self.roots(std::slice::from_ref(&whole)).await?.pop())
    }

    /// The proof that the tree of `size` has the leaf at `position`; `None` if it does not, or the tree has fewer leaves.
    ///
    /// # Errors
    /// [`TreeError`].
    pub async fn inclusion(&mut self, position: u64, size: u64) -> Result<Option<Vec<TreeHash>>, TreeError> {
        match inclusion_ranges(position, size).filter(|_| size <= self.size) {
            Some(ranges) => self.roots(&ranges).await.map(Some),
            None => Ok(None),
        }
    }

    /// The proof that the tree of `size` begins with the one of `old_size`, which is empty for the empty tree; `None` if there
    /// is none, or the tree has fewer leaves.
    ///
    /// # Errors
    /// [`TreeError`].
    pub async fn consistency(&mut self, old_size: u64, size: u64) -> Result<Option<Vec<TreeHash>>, TreeError> {
        if old_size == 0 && size <= self.size {
            return Ok(Some(Vec::new()));
        }
        match consistency_ranges(old_size, size).filter(|_| size <= self.size) {
            Some(ranges) => self.roots(&ranges).await.map(Some),
            None => Ok(None),
        }
    }

    /// The roots over these ranges of leaves.
    async fn roots(&mut self, ranges: &[Range<u64>]) -> Result<Vec<TreeHash>, TreeError> {
        let tiles = ranges.iter().cloned().flat_map(subtrees).map(Tile::of_subtree).collect();
        let contents = self.contents(&tiles).await?;
        let hash_of = |subtree: Subtree| {
            let tile = Tile::of_subtree(subtree);
            let content = contents.get(&(tile.kind, tile.index));
            content.and_then(|content| Tile::hash_in(content, subtree)).ok_or(TreeError::Damaged(tile))
        };
        ranges.iter().map(|range| tree::root(range.clone(), hash_of)).collect()
    }

    /// The contents of tiles of hashes, each as wide as the widest one wanted at its place.
    async fn contents(&mut self, tiles: &BTreeSet<Tile>) -> Result<HashMap<(TileKind, u64), Vec<u8>>, TreeError> {
        // In the order of a set, the widest one of a place comes last.
        let wanted: HashMap<(TileKind, u64), Tile> =
            tiles.iter().map(|tile| ((tile.kind, tile.index), *tile)).collect();
        let level_of = |kind| match kind {
            TileKind::Hashes(level) => i16::from(level),
            TileKind::Entries => -1,
        };
        let (levels, indexes): (Vec<i16>, Vec<i64>) =
            wanted.keys().map(|(kind, index)| (level_of(*kind), to_i64(*index))).unzip();
        let rows = sqlx::query!(
            "select t.level, t.index, t.hashes from unnest($1::smallint[], $2::bigint[]) w (level, index)
             join tree.tile t on t.level = w.level and t.index = w.index",
            &levels,
            &indexes
        )
        .fetch_all(&mut *self.connection)
        .await?;
        let mut stored: HashMap<(i16, i64), Vec<u8>> =
            rows.into_iter().map(|row| ((row.level, row.index), row.hashes)).collect();
        let mut contents = HashMap::with_capacity(wanted.len());
        for ((kind, index), tile) in wanted {
            let mut content = match stored.remove(&(level_of(kind), to_i64(index))) {
                Some(content) => content,
                // Of the last leaves there is no full tile yet.
                None if kind == TileKind::Hashes(0) => self.leaf_hashes(tile).await?,
                None => return Err(TreeError::Damaged(tile)),
            };
            let length = usize::from(tile.width) * HASH_LENGTH;
            if content.len() < length {
                return Err(TreeError::Damaged(tile));
            }
            content.truncate(length);
            contents.insert((kind, index), content);
        }
        Ok(contents)
    }

    /// The hashes of a tile of level 0, from the log.
    async fn leaf_hashes(&mut self, tile: Tile) -> Result<Vec<u8>, TreeError> {
        let Range { start, end } = tile.positions();
        let found = sqlx::query_scalar!(
            "select leaf_hash from log.event where position >= $1 and position < $2 order by position",
            to_i64(start),
            to_i64(end)
        )
        .fetch_all(&mut *self.connection)
        .await?;
        if found.len() == usize::from(tile.width) { Ok(found.concat()) } else { Err(TreeError::Damaged(tile)) }
    }

    /// The leaves of an entry bundle, each of which must have the hash that the tree has for it.
    async fn bundle(&mut self, tile: Tile) -> Result<Vec<u8>, TreeError> {
        let Range { start, end } = tile.positions();
        let leaves = sqlx::query_scalar!(
            "select leaf from log.event where position >= $1 and position < $2 order by position",
            to_i64(start),
            to_i64(end)
        )
        .fetch_all(&mut *self.connection)
        .await?;
        let of_hashes = Tile { kind: TileKind::Hashes(0), ..tile };
        let content = self.contents(&BTreeSet::from([of_hashes])).await?.remove(&(of_hashes.kind, of_hashes.index));
        let known = content.as_deref().and_then(hashes).unwrap_or_default();
        let mut content = Vec::new();
        for (leaf, hash) in leaves.iter().zip(&known) {
            if TreeHash::of_leaf(leaf) != *hash || bundle::push(&mut content, leaf).is_none() {
                return Err(TreeError::Damaged(tile));
            }
        }
        let is_whole = leaves.len() == usize::from(tile.width) && known.len() == leaves.len();
        if is_whole { Ok(content) } else { Err(TreeError::Damaged(tile)) }
    }
}
