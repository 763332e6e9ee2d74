//! The root over the first events, from the tiles of the tree: a few reads, however long the log.

use std::collections::{BTreeMap, BTreeSet};

use fulexo_tlog::hash::TreeHash;
use fulexo_tlog::tile::{Tile, TileKind};
use fulexo_tlog::tree::{self, subtrees};
use sqlx::PgConnection;

/// The reason for which a root is not known.
#[derive(Debug)]
pub enum RootFault {
    /// The database did not answer, which says nothing about the tree.
    Unread,
    /// A tile that the tree must have is missing or damaged.
    Damaged(Tile),
}

/// Returns the root over the first `size` events as the database has them.
pub async fn root_of_tiles(connection: &mut PgConnection, size: u64) -> Result<TreeHash, RootFault> {
    let tiles: BTreeSet<Tile> = subtrees(0..size).map(Tile::of_subtree).collect();
    // In the order of a set, the widest one of a place comes last.
    let widest: BTreeMap<(TileKind, u64), Tile> =
        tiles.into_iter().map(|tile| ((tile.kind, tile.index), tile)).collect();
    let mut contents: BTreeMap<(TileKind, u64), Vec<u8>> = BTreeMap::new();
    for (place, tile) in widest {
        let TileKind::Hashes(level) = tile.kind else { continue };
        let failed = |_: sqlx::Error| RootFault::Unread;
        let stored: Option<Vec<u8>> =
            sqlx::query_scalar("select hashes from tree.tile where level = $1 and index = $2")
                .bind(i16::from(level))
                .bind(i64::try_from(tile.index).unwrap_or(i64::MAX))
                .fetch_optional(&mut *connection)
                .await
                .map_err(failed)?;
        let content = match stored {
            Some(content) => content,
            // Of the last events there is no full tile yet.
            None if level == 0 => {
                let bound = |position: u64| i64::try_from(position).unwrap_or(i64::MAX);
                let positions = tile.positions();
                let hashes: Vec<Vec<u8>> = sqlx::query_scalar(
                    "select leaf_hash from log.event where position >= $1 and position < $2 order by position",
                )
                .bind(bound(positions.start))
                .bind(bound(positions.end))
                .fetch_all(&mut *connection)
                .await
                .map_err(failed)?;
                hashes.concat()
            }
            None => return Err(RootFault::Damaged(tile)),
        };
        contents.insert(place, content);
    }
    tree::root(0..size, |subtree| {
        let tile = Tile::of_subtree(subtree);
        let hash = contents.get(&(tile.kind, tile.index)).and_then(|content| Tile::hash_in(content, subtree));
        hash.ok_or(RootFault::Damaged(tile))
    })
}
