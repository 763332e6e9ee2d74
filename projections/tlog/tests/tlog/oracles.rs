//! The tree, its proofs, tiles and notes against four other implementations, at sizes around every power of two and at random.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ops::Range;

use ct_merkle::mem_backed_tree::MemoryBackedTree;
use fulexo_tlog::checkpoint::Checkpoint;
use fulexo_tlog::extension::{ExtensionError, judge};
use fulexo_tlog::growing_tiles::GrowingTiles;
use fulexo_tlog::hash::TreeHash;
use fulexo_tlog::note::KeyName;
use fulexo_tlog::proof::{ProofError, consistency_ranges, inclusion_ranges, verify_consistency, verify_inclusion};
use fulexo_tlog::submission::ExtensionProof;
use fulexo_tlog::tile::{Tile, TileKind, hashes, levels, tiles};
use fulexo_tlog::tree::{GrowingTree, Subtree, root};
use sigstore_merkle::{verify_consistency_proof, verify_inclusion_proof};
use sigstore_types::Sha256Hash;
use tlog_tiles::tile::{Tile as OracleTile, TileHashReader, TileReader};
use tlog_tiles::tlog;

/// Numbers that look random (SplitMix64), from a seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}

fn leaf(position: u64) -> Vec<u8> {
    format!("leaf {position}").into_bytes()
}

/// Every perfect subtree of a log of this size.
struct Log(Vec<Vec<TreeHash>>);

impl Log {
    fn of(size: u64) -> Self {
        let mut levels = vec![(0..size).map(|position| TreeHash::of_leaf(&leaf(position))).collect::<Vec<_>>()];
        while levels.last().unwrap().len() > 1 {
            let above = levels.last().unwrap().chunks_exact(2).map(|pair| TreeHash::of_node(&pair[0], &pair[1]));
            levels.push(above.collect());
        }
        Self(levels)
    }

    fn hash(&self, subtree: Subtree) -> TreeHash {
        self.0[usize::from(subtree.height)][usize::try_from(subtree.index).unwrap()]
    }

    fn root(&self, range: Range<u64>) -> TreeHash {
        root(range, |subtree| Ok::<_, Infallible>(self.hash(subtree))).unwrap()
    }

    fn proof(&self, ranges: Option<Vec<Range<u64>>>) -> Vec<TreeHash> {
        ranges.unwrap().into_iter().map(|range| self.root(range)).collect()
    }

    /// The content of a tile.
    fn tile(&self, tile: Tile) -> Vec<u8> {
        let TileKind::Hashes(level) = tile.kind else { panic!("no hashes") };
        tile.positions().flat_map(|index| self.hash(Subtree { height: 8 * level, index }).0).collect()
    }
}

fn theirs(hash: &TreeHash) -> Sha256Hash {
    Sha256Hash::new(hash.0)
}

fn all_theirs(hashes: &[TreeHash]) -> Vec<Sha256Hash> {
    hashes.iter().map(theirs).collect()
}

const SIZE: u64 = 1_100;

/// Sizes around powers of two, and at random.
fn sizes(dice: &mut Dice) -> Vec<u64> {
    let edges = (0..=10).flat_map(|bit| [(1_u64 << bit) - 1, 1 << bit, (1 << bit) + 1]);
    edges.chain((0..30).map(|_| dice.below(SIZE) + 1)).filter(|size| (1..=SIZE).contains(size)).collect()
}

#[test]
fn roots_are_those_of_the_certificate_transparency_vectors() {
    let inputs = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];
    let expected = [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];
    let bytes = |hex: &str| -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    };
    let mut tree = GrowingTree::default();
    assert_eq!(tree.root(), TreeHash::of_empty_tree());
    for (input, root) in inputs.iter().zip(expected) {
        tree.push(TreeHash::of_leaf(&bytes(input)));
        assert_eq!(tree.root().0.to_vec(), bytes(root));
    }
}

#[test]
fn roots_are_those_of_ct_merkle_and_of_a_growing_tree() {
    let log = Log::of(SIZE);
    let (mut growing, mut oracle) = (GrowingTree::default(), MemoryBackedTree::<sha2::Sha256, Vec<u8>>::new());
    for position in 0..SIZE {
        growing.push(TreeHash::of_leaf(&leaf(position)));
        oracle.push(leaf(position));
        let size = position + 1;
        assert_eq!(growing.root(), log.root(0..size));
        if size < 70 || size % 37 == 0 {
            assert_eq!(growing.root().0, <[u8; 32]>::try_from(oracle.root().as_bytes().as_slice()).unwrap());
        }
    }
}

#[test]
fn an_inclusion_proof_is_ct_merkles_and_convinces_sigstore_and_tlog_tiles() {
    let (log, mut dice) = (Log::of(SIZE), Dice(1));
    for size in sizes(&mut dice) {
        let mut oracle = MemoryBackedTree::<sha2::Sha256, Vec<u8>>::new();
        (0..size).for_each(|position| oracle.push(leaf(position)));
        let root = log.root(0..size);
        for _ in 0..8 {
            let position = dice.below(size);
            let proof = log.proof(inclusion_ranges(position, size));
            let bytes: Vec<u8> = proof.iter().flat_map(|hash| hash.0).collect();
            assert_eq!(bytes, oracle.prove_inclusion(usize::try_from(position).unwrap()).as_bytes());
            let leaf = TreeHash::of_leaf(&leaf(position));
            verify_inclusion(leaf, position, size, &proof, root).unwrap();
            verify_inclusion_proof(&theirs(&leaf), position, size, &all_theirs(&proof), &theirs(&root)).unwrap();
            let proof: Vec<tlog::Hash> = proof.iter().map(|hash| tlog::Hash(hash.0)).collect();
            tlog::check_record(&proof, size, tlog::Hash(root.0), position, tlog::Hash(leaf.0)).unwrap();
        }
    }
}

#[test]
fn a_signer_extends_the_last_tree_that_it_signed_and_nothing_else() {
    let (log, mut dice) = (Log::of(SIZE), Dice(6));
    let origin = KeyName::parse("example.com/log").unwrap();
    let at = |size: u64, root: TreeHash| Checkpoint { origin: origin.clone(), size, root };
    let tree = |size: u64| at(size, log.root(0..size));
    let from = |old_size: u64, hashes: Vec<TreeHash>| ExtensionProof { old_size, hashes };
    for size in sizes(&mut dice) {
        let (old, next) = (dice.below(size) + 1, tree(size));
        let last = tree(old);
        let proof = from(old, log.proof(consistency_ranges(old, size)));
        assert_eq!(judge(Some(&last), &proof, &next), Ok(()));
        assert_eq!(judge(None, &from(0, Vec::new()), &next), Ok(()));
        // From another size than the last one's, and to a smaller one.
        assert_eq!(judge(Some(&last), &from(0, Vec::new()), &next), Err(ExtensionError::NotLast { last: old }));
        assert_eq!(judge(None, &proof, &next), Err(ExtensionError::NotLast { last: 0 }));
        assert_eq!(judge(Some(&next), &from(size, Vec::new()), &tree(size - 1)), Err(ExtensionError::Shrinks));
        // Another tree of this size, and of the same size as the last one.
        let other = at(size, TreeHash::of_leaf(b"other"));
        assert_eq!(judge(Some(&last), &proof, &other), Err(ExtensionError::Inconsistent));
        assert_eq!(judge(Some(&next), &from(size, Vec::new()), &other), Err(ExtensionError::Inconsistent));
        let other_last = at(old, TreeHash::of_leaf(b"other"));
        assert_eq!(judge(Some(&other_last), &proof, &next), Err(ExtensionError::Inconsistent));
        let longer = from(old, [proof.hashes.clone(), vec![next.root]].concat());
        assert_eq!(judge(Some(&last), &longer, &next), Err(ExtensionError::Inconsistent));
        assert_eq!(judge(None, &from(0, vec![next.root]), &next), Err(ExtensionError::Inconsistent));
    }
    assert_eq!(judge(None, &from(0, Vec::new()), &tree(0)), Ok(()));
    assert_eq!(judge(None, &from(0, Vec::new()), &at(0, TreeHash::of_leaf(b""))), Err(ExtensionError::Inconsistent));
}

#[test]
fn a_consistency_proof_is_ct_merkles_and_convinces_sigstore_and_tlog_tiles() {
    let (log, mut dice) = (Log::of(SIZE), Dice(2));
    for size in sizes(&mut dice) {
        let mut oracle = MemoryBackedTree::<sha2::Sha256, Vec<u8>>::new();
        (0..size).for_each(|position| oracle.push(leaf(position)));
        let root = log.root(0..size);
        for _ in 0..8 {
            let old_size = dice.below(size) + 1;
            let (old_root, proof) = (log.root(0..old_size), log.proof(consistency_ranges(old_size, size)));
            let bytes: Vec<u8> = proof.iter().flat_map(|hash| hash.0).collect();
            if old_size < size {
                let added = usize::try_from(size - old_size).unwrap();
                assert_eq!(bytes, oracle.prove_consistency(added).as_bytes());
                let proof: Vec<tlog::Hash> = proof.iter().map(|hash| tlog::Hash(hash.0)).collect();
                tlog::check_tree(&proof, size, tlog::Hash(root.0), old_size, tlog::Hash(old_root.0)).unwrap();
            }
            verify_consistency(old_size, old_root, size, root, &proof).unwrap();
            verify_consistency_proof(old_size, size, &all_theirs(&proof), &theirs(&old_root), &theirs(&root)).unwrap();
        }
    }
}

/// Returns the proof with one change at random; `None` if the change is none.
fn changed(proof: &[TreeHash], dice: &mut Dice) -> Option<Vec<TreeHash>> {
    let mut changed = proof.to_vec();
    let at = usize::try_from(dice.below(proof.len().max(1) as u64)).unwrap();
    match dice.below(4) {
        0 => changed.push(TreeHash([0; 32])),
        1 => drop(changed.pop()),
        2 if !proof.is_empty() => changed[at].0[usize::try_from(dice.below(32)).unwrap()] ^= 1 << dice.below(8),
        _ if proof.len() > 1 => changed.swap(at, (at + 1) % proof.len()),
        _ => {}
    }
    (changed != proof).then_some(changed)
}

#[test]
fn whatever_is_changed_in_a_proof_it_is_refused_as_sigstore_refuses_it() {
    let (log, mut dice) = (Log::of(SIZE), Dice(3));
    let mut refused = 0;
    for _ in 0..4_000 {
        let size = dice.below(SIZE) + 1;
        let (position, root) = (dice.below(size), log.root(0..size));
        let leaf = TreeHash::of_leaf(&leaf(position));
        let proof = log.proof(inclusion_ranges(position, size));
        // Other positions and sizes, too, as neighbours claim them.
        let (claimed_position, claimed_size) = match dice.below(3) {
            0 => (position + dice.below(3), size),
            1 => (position, size + dice.below(3)),
            _ => (position, size),
        };
        let claimed = changed(&proof, &mut dice).unwrap_or(proof.clone());
        let ours = verify_inclusion(leaf, claimed_position, claimed_size, &claimed, root).is_ok();
        let sigstores = verify_inclusion_proof(
            &theirs(&leaf),
            claimed_position,
            claimed_size,
            &all_theirs(&claimed),
            &theirs(&root),
        );
        assert_eq!(ours, sigstores.is_ok(), "{claimed_position} of {claimed_size}: {sigstores:?}");
        refused += usize::from(!ours);

        let old_size = dice.below(size) + 1;
        let old_root = log.root(0..old_size);
        let proof = log.proof(consistency_ranges(old_size, size));
        let claimed = changed(&proof, &mut dice).unwrap_or(proof);
        let claimed_old = old_size + dice.below(2);
        let ours = verify_consistency(claimed_old, old_root, size, root, &claimed).is_ok();
        let sigstores =
            verify_consistency_proof(claimed_old, size, &all_theirs(&claimed), &theirs(&old_root), &theirs(&root));
        assert_eq!(ours, sigstores.is_ok(), "{claimed_old} of {size}: {sigstores:?}");
        refused += usize::from(!ours);
    }
    assert!(refused > 4_000, "{refused} proofs were wrong");
}

#[test]
fn no_proof_exists_beyond_the_tree() {
    let hash = TreeHash([0; 32]);
    for (position, size) in [(0, 0), (1, 1), (5, 3), (u64::MAX, u64::MAX), (0, u64::MAX)] {
        assert_eq!(verify_inclusion(hash, position, size, &[], hash), Err(ProofError::OutOfRange));
    }
    assert_eq!(verify_consistency(3, hash, 2, hash, &[]), Err(ProofError::OutOfRange));
    assert_eq!(verify_consistency(1, hash, u64::MAX, hash, &[]), Err(ProofError::OutOfRange));
    let empty = TreeHash::of_empty_tree();
    assert_eq!(verify_consistency(0, empty, 9, hash, &[]), Ok(()));
    assert_eq!(verify_consistency(0, hash, 9, hash, &[]), Err(ProofError::WrongRoot));
    assert_eq!(verify_consistency(0, empty, 9, hash, &[hash]), Err(ProofError::WrongLength));
}

/// Reads our tiles for tlog_tiles.
struct OurTiles<'a> {
    log: &'a Log,
    size: u64,
}

impl TileReader for OurTiles<'_> {
    fn height(&self) -> u8 {
        8
    }

    fn read_tiles(&self, tiles: &[OracleTile]) -> Result<Vec<Vec<u8>>, tlog::Error> {
        let read = |tile: &OracleTile| {
            let index = tile.level_index();
            let width = u16::try_from(tile.width()).unwrap();
            let ours = Tile { kind: TileKind::Hashes(tile.level()), index, width };
            assert!(ours.exists_at(self.size), "{ours}");
            assert_eq!(Tile::parse(&ours.to_string()), Some(ours));
            self.log.tile(ours)
        };
        Ok(tiles.iter().map(read).collect())
    }

    fn save_tiles(&self, _: &[OracleTile], _: &[Vec<u8>]) {}
}

#[test]
fn tlog_tiles_proves_from_our_tiles_what_we_prove() {
    let size = 70_000;
    let (log, mut dice) = (Log::of(size), Dice(4));
    for _ in 0..30 {
        let size = dice.below(size) + 1;
        let root = log.root(0..size);
        let ours = OurTiles { log: &log, size };
        let reader = TileHashReader::new(size, tlog::Hash(root.0), &ours);
        assert_eq!(tlog::tree_hash(size, &reader).unwrap().0, root.0);
        let position = dice.below(size);
        let proof = tlog::prove_record(size, position, &reader).unwrap();
        let expected = log.proof(inclusion_ranges(position, size));
        assert_eq!(
            proof.iter().map(|hash| hash.0).collect::<Vec<_>>(),
            expected.iter().map(|hash| hash.0).collect::<Vec<_>>()
        );
    }
}

#[test]
fn a_growing_log_completes_every_tile_once_and_resumes_from_its_unfinished_ones() {
    let size = 70_000;
    let (log, mut dice, mut complete) = (Log::of(size), Dice(6), Vec::new());
    let mut growing = GrowingTiles::default();
    for position in 0..size {
        growing.push(TreeHash::of_leaf(&leaf(position)), |tile| complete.push(tile));
        if dice.below(500) == 0 {
            assert_eq!(growing.root(), log.root(0..position + 1));
            let unfinished: Vec<_> = growing.unfinished().collect();
            for tile in &unfinished {
                assert_eq!(tile.content(), log.tile(tile.tile), "{}", tile.tile);
            }
            assert!(GrowingTiles::resume(position + 2, unfinished.clone()).is_none());
            if !unfinished.is_empty() {
                assert!(GrowingTiles::resume(position + 1, unfinished[1..].to_vec()).is_none());
            }
            growing = GrowingTiles::resume(position + 1, unfinished).unwrap();
        }
    }
    let expected: Vec<_> = levels(size).flat_map(|kind| tiles(kind, size)).filter(|tile| tile.width == 256).collect();
    let mut found: Vec<_> = complete.iter().map(|complete| complete.tile).collect();
    found.sort_unstable();
    assert_eq!(found, expected);
    for tile in &complete {
        assert_eq!(tile.content(), log.tile(tile.tile), "{}", tile.tile);
    }
}

#[test]
fn every_subtree_is_found_in_its_tile() {
    let size = 70_000;
    let (log, mut dice) = (Log::of(size), Dice(5));
    for _ in 0..2_000 {
        let height = u8::try_from(dice.below(17)).unwrap();
        let subtree = Subtree { height, index: dice.below((size >> height).max(1)) };
        if (subtree.index + 1) << height > size {
            continue;
        }
        let tile = Tile::of_subtree(subtree);
        assert!(tile.exists_at(size), "{tile}");
        assert_eq!(Tile::hash_in(&log.tile(tile), subtree), Some(log.hash(subtree)));
    }
}

#[test]
fn a_tree_of_70000_leaves_has_the_tiles_that_the_specification_counts() {
    let names = |kind| -> BTreeMap<u16, usize> {
        tiles(kind, 70_000).fold(BTreeMap::new(), |mut widths, tile| {
            *widths.entry(tile.width).or_default() += 1;
            widths
        })
    };
    assert_eq!(levels(70_000).count(), 3);
    assert_eq!(names(TileKind::Hashes(0)), BTreeMap::from([(256, 273), (112, 1)]));
    assert_eq!(names(TileKind::Hashes(1)), BTreeMap::from([(256, 1), (17, 1)]));
    assert_eq!(names(TileKind::Hashes(2)), BTreeMap::from([(1, 1)]));
    assert_eq!(names(TileKind::Entries), names(TileKind::Hashes(0)));
    let kinds: Vec<_> = levels(256).flat_map(|kind| tiles(kind, 256)).map(|tile| tile.to_string()).collect();
    assert_eq!(kinds, ["tile/0/000", "tile/1/000.p/1"]);
    assert_eq!(levels(0).count() + tiles(TileKind::Entries, 0).count(), 0);
    assert!(hashes(&[0; 33]).is_none());
}
