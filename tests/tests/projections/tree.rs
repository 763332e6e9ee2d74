//! The tree over the log, against one that is built in memory from the same leaves.

use std::time::Duration;

use fulexo_projections::tree::{Integrator, TreeError, TreeReader, TreeState};
use fulexo_tests::{Database, Dice, eventually, history};
use fulexo_tlog::bundle::entries;
use fulexo_tlog::hash::TreeHash;
use fulexo_tlog::proof::{verify_consistency, verify_inclusion};
use fulexo_tlog::tile::{Tile, TileKind, hashes, levels, tiles};
use fulexo_tlog::tree::{GrowingTree, MAX_SIZE};
use sqlx::PgPool;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::superuser;

/// The leaves of a log, and the root at each size.
struct Expected {
    leaves: Vec<Vec<u8>>,
    roots: Vec<TreeHash>,
}

impl Expected {
    async fn of(database: &Database) -> Self {
        let leaves: Vec<Vec<u8>> = sqlx::query_scalar("select leaf from log.event order by position")
            .fetch_all(&mut superuser(database).await)
            .await
            .unwrap();
        let mut tree = GrowingTree::default();
        let mut roots = vec![tree.root()];
        for leaf in &leaves {
            tree.push(TreeHash::of_leaf(leaf));
            roots.push(tree.root());
        }
        Self { leaves, roots }
    }

    fn size(&self) -> u64 {
        self.leaves.len() as u64
    }

    fn root(&self, size: u64) -> TreeHash {
        self.roots[usize::try_from(size).unwrap()]
    }

    fn leaf(&self, position: u64) -> &[u8] {
        &self.leaves[usize::try_from(position).unwrap()]
    }
}

/// Panics unless roots, proofs, tiles and bundles are those of the log, at sizes and positions at random.
async fn assert_is_the_logs_tree(pool: &PgPool, expected: &Expected, dice: &mut Dice) {
    let mut connection = pool.acquire().await.unwrap();
    let mut reader = TreeReader::open(&mut connection).await.unwrap();
    let whole = expected.size();
    assert_eq!(reader.size(), whole);
    assert_eq!(reader.root(whole).await.unwrap(), Some(expected.root(whole)));
    assert_eq!(reader.root(0).await.unwrap(), Some(TreeHash::of_empty_tree()));
    for _ in 0..40 {
        let size = dice.roll(whole) + 1;
        let (position, old_size) = (dice.roll(size), dice.roll(size + 1));
        let root = reader.root(size).await.unwrap().unwrap();
        assert_eq!(root, expected.root(size));
        let proof = reader.inclusion(position, size).await.unwrap().unwrap();
        let leaf = TreeHash::of_leaf(expected.leaf(position));
        verify_inclusion(leaf, position, size, &proof, root).unwrap();
        let proof = reader.consistency(old_size, size).await.unwrap().unwrap();
        verify_consistency(old_size, expected.root(old_size), size, root, &proof).unwrap();

        let kind = levels(size).nth(dice.index(levels(size).count())).unwrap();
        let tile = kind.tile(dice.roll(kind.count(size).div_ceil(256)), size).unwrap();
        let content = reader.tile(tile).await.unwrap().unwrap();
        assert_eq!(hashes(&content).unwrap().len(), usize::from(tile.width), "{tile}");
        let bundle = TileKind::Entries.tile(position / 256, size).unwrap();
        let content = reader.tile(bundle).await.unwrap().unwrap();
        let leaves = bundle.positions().map(|position| expected.leaf(position));
        assert!(leaves.eq(entries(&content, bundle.width).unwrap()), "{bundle}");
    }
    // What the tree does not have.
    for (position, size) in [(whole, whole), (0, whole + 1), (0, MAX_SIZE), (u64::MAX, u64::MAX)] {
        assert_eq!(reader.inclusion(position, size).await.unwrap(), None);
    }
    assert_eq!(reader.consistency(1, whole + 1).await.unwrap(), None);
    assert_eq!(reader.consistency(whole + 1, whole).await.unwrap(), None);
    assert_eq!(reader.root(whole + 1).await.unwrap(), None);
    let beyond = Tile { kind: TileKind::Hashes(0), index: whole / 256 + 1, width: 1 };
    assert_eq!(reader.tile(beyond).await.unwrap(), None);
    assert_eq!(reader.tile(Tile { kind: TileKind::Hashes(63), index: 0, width: 1 }).await.unwrap(), None);
}

/// Waits until the tree has as many leaves as the log.
async fn integrated(states: &mut watch::Receiver<TreeState>, size: u64) {
    let reached = states.wait_for(|state| state.size == size);
    tokio::time::timeout(Duration::from_secs(120), reached).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn however_the_log_grows_the_tree_of_two_nodes_is_the_logs_at_every_size() {
    let (database, mut dice) = (Database::create().await, Dice(1));
    let (head, known_head) = watch::channel(0);
    let mut nodes = JoinSet::new();
    let mut states = Vec::new();
    for _ in 0..2 {
        let (integrator, state) = Integrator::new(database.pool().await, known_head.clone());
        nodes.spawn(integrator.run());
        states.push(state);
    }
    let pool = database.pool().await;
    // Up to, at and beyond the ends of tiles; several batches; a tile of level 2 begins.
    for more in [1, 254, 1, 1, 255, 1, 300, 5_000, 60_500] {
        history::fill(&database, more).await;
        let expected = Expected::of(&database).await;
        head.send_replace(expected.size());
        for state in &mut states {
            integrated(state, expected.size()).await;
        }
        assert_is_the_logs_tree(&pool, &expected, &mut dice).await;
    }
    let mut connection = superuser(&database).await;
    let stored: Vec<(i16, i64, i32)> = sqlx::query_as("select level, index, octet_length(hashes) from tree.tile")
        .fetch_all(&mut connection)
        .await
        .unwrap();
    let size = Expected::of(&database).await.size();
    let of_leaves = stored.iter().filter(|(level, _, _)| *level == 0).count() as u64;
    assert_eq!(of_leaves, size / 256, "full tiles of leaves alone are stored");
    let above = levels(size).skip(1).flat_map(|kind| tiles(kind, size)).count();
    assert_eq!(stored.len() as u64 - of_leaves, above as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_integrator_that_is_stopped_at_any_moment_leaves_a_whole_tree() {
    let (database, mut dice) = (Database::create().await, Dice(2));
    let pool = database.pool().await;
    for _ in 0..25 {
        history::fill(&database, 1 + dice.index(2_000)).await;
        let (_head, known_head) = watch::channel(0);
        let (integrator, _) = Integrator::new(pool.clone(), known_head);
        let running = tokio::spawn(integrator.run());
        sleep(Duration::from_micros(dice.roll(40_000))).await;
        running.abort();
        let _ = running.await;
        let size: i64 = sqlx::query_scalar("select size from tree.head").fetch_one(&pool).await.unwrap();
        let mut expected = Expected::of(&database).await;
        expected.leaves.truncate(usize::try_from(size).unwrap());
        if size > 0 {
            assert_is_the_logs_tree(&pool, &expected, &mut dice).await;
        }
    }
    let (_head, known_head) = watch::channel(0);
    let (integrator, mut state) = Integrator::new(pool.clone(), known_head);
    let running = tokio::spawn(integrator.run());
    let expected = Expected::of(&database).await;
    integrated(&mut state, expected.size()).await;
    running.abort();
    assert_is_the_logs_tree(&pool, &expected, &mut dice).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaf_that_is_missing_stops_the_tree_before_it() {
    let database = Database::create().await;
    history::fill(&database, 1_000).await;
    let mut connection = superuser(&database).await;
    for statement in [
        "alter table log.event_0 disable trigger append_only",
        "delete from log.event_0 where position = 700",
        "alter table log.event_0 enable always trigger append_only",
    ] {
        sqlx::query(statement).execute(&mut connection).await.unwrap();
    }
    let (_head, known_head) = watch::channel(0);
    let (integrator, state) = Integrator::new(database.pool().await, known_head);
    let running = tokio::spawn(integrator.run());
    eventually("the tree says why it stopped", async || {
        let stored: Option<String> =
            sqlx::query_scalar("select stopped_because from tree.head").fetch_one(&mut connection).await.unwrap();
        stored.is_some_and(|because| because.contains("position 700 is missing"))
    })
    .await;
    assert!(state.borrow().stopped_because.is_some());
    running.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tile_that_was_altered_proves_nothing_and_one_that_is_missing_is_named() {
    let database = Database::create().await;
    history::fill(&database, 2_000).await;
    let (_head, known_head) = watch::channel(0);
    let (integrator, mut state) = Integrator::new(database.pool().await, known_head);
    let running = tokio::spawn(integrator.run());
    integrated(&mut state, 2_000).await;
    running.abort();
    let expected = Expected::of(&database).await;
    let mut connection = superuser(&database).await;
    let flip =
        "update tree.tile set hashes = set_byte(hashes, 40, get_byte(hashes, 40) # 1) where level = 0 and index = 3";
    sqlx::query(flip).execute(&mut connection).await.unwrap();
    let pool = database.pool().await;
    let mut acquired = pool.acquire().await.unwrap();
    let mut reader = TreeReader::open(&mut acquired).await.unwrap();
    // Leaf 768 has the altered hash as its sibling.
    let proof = reader.inclusion(768, 2_000).await.unwrap().unwrap();
    let leaf = TreeHash::of_leaf(expected.leaf(768));
    assert!(verify_inclusion(leaf, 768, 2_000, &proof, expected.root(2_000)).is_err());
    let bundle = TileKind::Entries.tile(3, 2_000).unwrap();
    assert!(matches!(reader.tile(bundle).await, Err(TreeError::Damaged(tile)) if tile == bundle));
    sqlx::query("delete from tree.tile where level = 1").execute(&mut connection).await.unwrap();
    assert!(matches!(reader.root(2_000).await, Err(TreeError::Damaged(_))));
}
