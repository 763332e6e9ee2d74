//! The audit trail: the verification of a log against SHA-256 of the same bytes, appends while nodes sign the log against
//! appends alone, the time from an append to the checkpoint that covers it, a proof in a log of ten million events, and a copy.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fulexo_node::checkpoints::CheckpointPublisher;
use fulexo_node::signer::{LogKeys, LogSigner, Signer};
use fulexo_projections::trail::TrailVerifier;
use fulexo_projections::tree::{Integrator, TreeReader};
use fulexo_tests::{Database, Dice, Node, Program, history, own_dir, superuser};
use fulexo_tlog::growing_tiles::{GrowingTiles, HashTile};
use fulexo_tlog::hash::TreeHash;
use fulexo_tlog::key::{KeyKind, SEED_LENGTH, SignerKey};
use fulexo_tlog::note::KeyName;
use fulexo_tlog::tile::TileKind;
use sha2::{Digest, Sha256};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::{appends, table};

const EVENTS: usize = 200_000;
/// A whole number of tiles: the log that would have the other leaves is not there.
const MANY: u64 = 39_063 * 256;
const ROUNDS: usize = 5;

pub fn run(runtime: &Runtime) {
    verified(runtime);
    appended(runtime);
    runtime.block_on(covered());
    runtime.block_on(proven());
    runtime.block_on(exported());
}

/// Every leaf of a log, on one core.
fn verified(runtime: &Runtime) {
    let leaves: Vec<Vec<u8>> = runtime.block_on(async {
        let database = Database::create().await;
        history::fill(&database, EVENTS).await;
        let pool = superuser(&database).await;
        sqlx::query_scalar("select leaf from log.event order by position").fetch_all(&pool).await.unwrap()
    });
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let began = Instant::now();
        let mut verifier = TrailVerifier::default();
        for leaf in &leaves {
            verifier.push(leaf, |_| {}).unwrap();
        }
        ours.push(leaves.len() as f64 / began.elapsed().as_secs_f64());
        let began = Instant::now();
        for leaf in &leaves {
            std::hint::black_box(Sha256::digest(leaf));
        }
        bare.push(leaves.len() as f64 / began.elapsed().as_secs_f64());
    }
    table::head("leaves/s of a log verified on one core (wanted: 1,000,000)", "verified", "bare SHA-256");
    table::line("leaves", table::median(ours), table::median(bare), None);
}

/// The variables of a node that signs.
fn signing(database: &Database) -> BTreeMap<String, String> {
    let (dir, name) = (own_dir(), KeyName::parse("log.example/bench").unwrap());
    dir.store("log.key", &SignerKey::text(name, KeyKind::Ed25519, &[7; SEED_LENGTH]).unwrap()).unwrap();
    let mut env = database.env();
    for (variable, file) in [("FULEXO_LOG_KEY_FILE", "log.key"), ("FULEXO_SIGNER_MEMORY", "signer.json")] {
        env.insert(variable.to_owned(), dir.path().join(file).display().to_string());
    }
    env
}

/// Appends by 64 callers, alone and beside what builds the tree and signs it.
fn appended(runtime: &Runtime) {
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let database = Arc::new(runtime.block_on(Database::create()));
        without.push(runtime.block_on(appends::appends(&database, 64)));
        let tree = runtime.spawn(build_and_sign(Arc::clone(&database)));
        with.push(runtime.block_on(appends::appends(&database, 64)));
        tree.abort();
    }
    table::head("appends/s, 64 callers, durable", "beside a signer", "alone");
    table::line("appends", table::median(with), table::median(without), Some(0.9));
}

/// The parts of a node that integrate the log into the tree, and publish checkpoints of it.
async fn build_and_sign(database: Arc<Database>) {
    let (pool, env) = (database.pool().await, signing(&database));
    let keys = std::fs::read_to_string(&env["FULEXO_LOG_KEY_FILE"]).unwrap();
    let signer = LogSigner::open(LogKeys::parse(keys.lines()).unwrap(), PathBuf::from(&env["FULEXO_SIGNER_MEMORY"]));
    let (head, known_head) = watch::channel(0);
    let (integrator, tree) = Integrator::new(pool.clone(), known_head);
    let (publisher, _published) =
        CheckpointPublisher::new(pool.clone(), tree, Some(Signer::Here(Arc::new(signer.unwrap()))));
    let rings = async {
        loop {
            let size: i64 = sqlx::query_scalar("select position from log.head").fetch_one(&pool).await.unwrap();
            head.send_replace(size.unsigned_abs());
            sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::join!(integrator.run(), publisher.run(), rings);
}

/// The time until a checkpoint covers an append, in a log that is quiet otherwise.
async fn covered() {
    let database = Arc::new(Database::create().await);
    let node = Node::with(&database, signing(&database)).await;
    let (mut dice, mut times) = (Dice(1), Vec::new());
    for _ in 0..60 {
        sleep(Duration::from_millis(dice.roll(1_500))).await;
        let began = Instant::now();
        node.register(&["customer"]).await;
        let position = fulexo_tests::log_size(&node).await - 1;
        assert!(node.app().checkpoint_for(position).await.is_some());
        times.push(began.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times[((share * times.len() as f64) as usize).min(times.len() - 1)];
    println!("from an append to its checkpoint, milliseconds: p50 {:.0}, p99 {:.0}", at(0.5), at(0.99));
    node.stop().await;
}

/// The proof of an event in a log of ten million.
async fn proven() {
    let database = Database::create().await;
    let pool = superuser(&database).await;
    let mut tiles = GrowingTiles::default();
    let mut complete: Vec<HashTile> = Vec::new();
    for position in 0..MANY {
        tiles.push(TreeHash::of_leaf(&position.to_be_bytes()), |tile| complete.push(tile));
        if complete.len() >= 2_000 {
            store(&pool, complete.drain(..)).await;
        }
    }
    let unfinished = tiles.unfinished().filter(|tile| tile.tile.kind != TileKind::Hashes(0));
    store(&pool, complete.into_iter().chain(unfinished)).await;
    sqlx::query("update tree.head set size = $1").bind(MANY as i64).execute(&pool).await.unwrap();
    sqlx::query("analyze tree.tile").execute(&pool).await.unwrap();
    let mut connection = pool.acquire().await.unwrap();
    let (mut dice, mut times) = (Dice(2), Vec::new());
    for _ in 0..500 {
        let position = dice.roll(MANY);
        let began = Instant::now();
        let mut tree = TreeReader::open(&mut connection).await.unwrap();
        tree.inclusion(position, MANY).await.unwrap().unwrap();
        times.push(began.elapsed().as_secs_f64() * 1e3);
    }
    table::head("the proof of one of 10,000,128 events, milliseconds, median", "a proof", "wanted");
    table::line_at_most("proof", table::median(times), 5.0, 1.0);
}

/// A copy of a log by `fulexo audit export`, against the same files written and synced alone.
async fn exported() {
    let database = Arc::new(Database::create().await);
    history::fill(&database, EVENTS).await;
    let (pool, env) = (superuser(&database).await, signing(&database));
    let node = Node::with(&database, env.clone()).await;
    loop {
        let (covered, size): (i64, i64) =
            sqlx::query_as("select c.size, h.position from tree.checkpoint c, log.head h")
                .fetch_one(&pool)
                .await
                .unwrap();
        if covered == size {
            break;
        }
        sleep(Duration::from_millis(100)).await;
    }
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let (copy, again) = (own_dir(), own_dir());
        let directory = copy.path().join("copy");
        let began = Instant::now();
        let done = Program::run(&["audit", "export", &directory.display().to_string()], &env);
        let seconds = began.elapsed().as_secs_f64();
        assert!(done.status.success(), "{}", done.errors);
        let mut files = Vec::new();
        files_below(&directory, &mut files);
        let megabytes = files.iter().map(|content| content.len() as f64).sum::<f64>() / 1e6;
        ours.push(megabytes / seconds);
        let began = Instant::now();
        for (number, content) in files.iter().enumerate() {
            let mut file = File::create(again.path().join(number.to_string())).unwrap();
            file.write_all(content).and_then(|()| file.sync_all()).unwrap();
        }
        bare.push(megabytes / began.elapsed().as_secs_f64());
    }
    node.stop().await;
    table::head("export of a log, MB/s", "exported", "written, synced");
    table::line("200,000 events", table::median(ours), table::median(bare), None);
}

fn files_below(directory: &Path, contents: &mut Vec<Vec<u8>>) {
    for entry in std::fs::read_dir(directory).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => files_below(&entry.path(), contents),
            false => contents.push(std::fs::read(entry.path()).unwrap()),
        }
    }
}

async fn store(pool: &sqlx::PgPool, tiles: impl Iterator<Item = HashTile>) {
    let (mut levels, mut indexes, mut contents) = (Vec::new(), Vec::new(), Vec::new());
    for tile in tiles {
        let TileKind::Hashes(level) = tile.tile.kind else { continue };
        levels.push(i16::from(level));
        indexes.push(tile.tile.index as i64);
        contents.push(tile.content());
    }
    sqlx::query("insert into tree.tile select * from unnest($1::smallint[], $2::bigint[], $3::bytea[])")
        .bind(levels)
        .bind(indexes)
        .bind(contents)
        .execute(pool)
        .await
        .unwrap();
}
