//! One writer at a time in a bucket.

use std::fs;

use fulexo_tests::{Database, Program};
use tokio::task::block_in_place;

use super::ground_at;
use super::store::{Fault, Store};

#[tokio::test(flavor = "multi_thread")]
async fn two_runs_at_once_are_refused_in_a_bucket() {
    let (database, store) = (Database::create().await, Store::start().await);
    let ground = ground_at(&database, &store);
    store.plan("PUT", "database.age", 1, Fault::Hang);
    let mut program = block_in_place(|| Program::start(&["backup", "create"], &ground.env));
    store.sees("PUT", "database.age").await;
    for verb in [&["create"][..], &["prune", "--keep", "1"]] {
        let refused = ground.run(verb);
        assert_eq!(refused.status.code(), Some(3), "{verb:?}: {}", refused.errors);
        assert!(refused.errors.contains("another run of `fulexo backup` works in s3://"), "{}", refused.errors);
    }
    block_in_place(|| program.kill());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_lost_its_turn_ends_without_a_backup() {
    let (database, store) = (Database::create().await, Store::start().await);
    let ground = ground_at(&database, &store);
    // A store that does not know the condition, and a run whose lock somebody else writes over.
    store.plan("PUT", "/lock", 100, Fault::Unconditional);
    store.plan("PUT", "manifest.note", 1, Fault::Delay);
    let mut program = block_in_place(|| Program::start(&["backup", "create"], &ground.env));
    store.sees("PUT", "manifest.note").await;
    let lock = store.dir().join("lock");
    fs::write(&lock, r#"{"holder":"somebody else","lease_seconds":300}"#).unwrap();
    let ended = block_in_place(|| program.wait());
    assert_eq!(ended.status.code(), Some(3), "{}", ended.errors);
    assert!(ended.errors.contains("another run of `fulexo backup` works in"), "{}", ended.errors);
    assert_eq!(store.objects(), Vec::<String>::new(), "{}", ended.errors);
    assert!(lock.exists(), "it is not ours to remove");
}
