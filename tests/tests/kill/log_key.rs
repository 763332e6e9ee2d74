//! The rotation of the log's key under load, killed at any moment and resumed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fulexo_tests::{Client, Database, Dice, Node, Program, eventually, superuser};
use fulexo_tlog::checkpoint::Checkpoint;
use fulexo_tlog::key::{SignerKey, VerifierKey, verify};
use fulexo_tlog::note::Note;
use sqlx::PgPool;
use tokio::task::block_in_place;
use tokio::time::sleep;

use crate::signing::Signing;

const NOTE: &str = "select note from tree.checkpoint";

/// Logs in again and again until told to stop; returns how often.
async fn append(ann: Client, stop: Arc<AtomicBool>) -> usize {
    let mut rounds = 0;
    while !stop.load(Ordering::Relaxed) {
        let body = serde_json::json!({"email": ann.email, "password": fulexo_tests::PASSWORD});
        assert_eq!(ann.post("/v1/auth/login", body).await.status, 200);
        rounds += 1;
        sleep(Duration::from_millis(50)).await;
    }
    rounds
}

/// Collects every checkpoint that is published until told to stop.
async fn collect(pool: PgPool, stop: Arc<AtomicBool>) -> BTreeSet<String> {
    let mut notes = BTreeSet::new();
    while !stop.load(Ordering::Relaxed) {
        let note: Option<String> = sqlx::query_scalar(NOTE).fetch_one(&pool).await.unwrap();
        notes.extend(note);
        sleep(Duration::from_millis(20)).await;
    }
    notes
}

/// The public halves of the keys in a file.
fn keys_in(signing: &Signing) -> BTreeMap<String, VerifierKey> {
    let text = fs::read_to_string(signing.path("log.key")).unwrap();
    let keys = text.lines().map(|line| SignerKey::parse(line).unwrap().verifier().clone());
    keys.map(|key| (key.to_string(), key)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_of_the_log_is_replaced_while_it_signs_whenever_the_rotation_is_killed() {
    let (signing, database) = (Signing::new(), Arc::new(Database::create().await));
    let (_signer, pool) = (signing.start(), superuser(&database).await);
    let env = signing.node_env(&database);
    let node = Node::with(&database, env.clone()).await;
    let (ann, stop) = (node.customer().await, Arc::new(AtomicBool::new(false)));
    let appending = tokio::spawn(append(ann, Arc::clone(&stop)));
    let collecting = tokio::spawn(collect(pool.clone(), Arc::clone(&stop)));

    let file = signing.path("log.key").display().to_string();
    let rotate = ["keys", "rotate", "log", "--key-file", &file, "--overlap", "0"];
    let (mut dice, mut known) = (Dice(13), keys_in(&signing));
    for _ in 0..6 {
        let mut program = block_in_place(|| Program::start(&rotate, &env));
        sleep(Duration::from_millis(dice.roll(2_500))).await;
        block_in_place(|| program.kill());
        let keys = keys_in(&signing);
        assert!((1..=2).contains(&keys.len()), "one key and its successor at most: {:?}", keys.keys());
        known.extend(keys);
    }
    let ended = block_in_place(|| Program::run(&rotate, &env));
    assert_eq!(ended.status.code(), Some(0), "{}", ended.errors);
    let left = keys_in(&signing);
    known.extend(left.clone());
    let (text, last) = left.first_key_value().unwrap();
    assert_eq!((left.len(), ended.said.lines().next()), (1, Some(format!("in use     {text}").as_str())));
    assert_ne!(*last, signing.key);
    eventually("the new key signs alone", async || {
        let note: String = sqlx::query_scalar(NOTE).fetch_one(&pool).await.unwrap();
        verify(&Note::parse(note.as_bytes()).unwrap(), std::slice::from_ref(last)).is_ok()
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    assert!(appending.await.unwrap() > 0);

    // Each that was published is one of this log's, and there is one tree of each size.
    let known: Vec<VerifierKey> = known.into_values().collect();
    let mut roots = BTreeMap::new();
    for note in collecting.await.unwrap() {
        let note = Note::parse(note.as_bytes()).unwrap();
        assert!(known.iter().any(|key| verify(&note, std::slice::from_ref(key)).is_ok()), "{note}");
        let checkpoint = Checkpoint::parse(note.text()).unwrap();
        let root = *roots.entry(checkpoint.size).or_insert(checkpoint.root);
        assert_eq!(root, checkpoint.root, "two trees of {}", checkpoint.size);
    }
    assert!(roots.len() > 1, "{roots:?}");
    let verified = block_in_place(|| Program::run(&["audit", "verify", "--key", text], &env));
    assert!(verified.status.success(), "{}{}", verified.said, verified.errors);
    // Each that came into use took the place of the one before, and each that went was recorded.
    let events = "select convert_from(leaf, 'UTF8')::json from log.event where category = 'key' order by position";
    let events: Vec<serde_json::Value> = sqlx::query_scalar(events).fetch_all(&pool).await.unwrap();
    let of = |kind: &str, member: &str| -> Vec<serde_json::Value> {
        let of_kind = events.iter().filter(|event| event["type"] == kind);
        of_kind.map(|event| event["data"][member].clone()).collect()
    };
    let (from, to) = (of("key.rotated", "from"), of("key.rotated", "to"));
    assert!(!to.is_empty());
    assert_eq!(from[1..], to[..to.len() - 1], "{events:#?}");
    assert_eq!(of("key.destroyed", "id"), from, "{events:#?}");
}
