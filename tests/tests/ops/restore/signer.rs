//! The signer after a restore: what it has signed is compared with what was restored, and a log that lost signed events ends.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use fulexo_tests::{Database, Node, Program, caught_up, eventually, superuser};
use serde_json::json;
use sqlx::PgPool;

use super::{Restoring, result};
use crate::rules;

/// Adds the variables of a signer in the process of a node; returns the public key.
fn signing(env: &mut BTreeMap<String, String>, dir: &Path, name: &str) -> String {
    let file = |end: &str| dir.join(format!("{}{end}", name.replace('/', "-"))).display().to_string();
    let made = Program::run(&["signer", "new-key", name, "--out", &file(".key")], &BTreeMap::new());
    assert!(made.status.success(), "{}", made.errors);
    env.insert("FULEXO_LOG_KEY_FILE".to_owned(), file(".key"));
    env.insert("FULEXO_SIGNER_MEMORY".to_owned(), file(".json"));
    made.said.trim().to_owned()
}

async fn covered(pool: &PgPool, key: &str) {
    eventually("everything is signed", async || {
        sqlx::query_scalar("select c.size = h.position and c.vkey = $1 from tree.checkpoint c, log.head h")
            .bind(key)
            .fetch_one(pool)
            .await
            .unwrap()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_lost_signed_events_ends_and_another_one_begins() {
    let (database, dir) = (Arc::new(Database::create().await), fulexo_tests::own_dir());
    let mut env = database.env();
    let key = signing(&mut env, dir.path(), "log.example/one");
    let mut restoring = Restoring::with(&database, env);
    let node = restoring.node().await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    caught_up(&node, &admin).await;
    let pool = superuser(&database).await;
    covered(&pool, &key).await;
    restoring.ground.create();
    node.log_in(&ann.email, ann.account).await;
    covered(&pool, &key).await;
    pool.close().await;
    node.stop().await;

    let (code, report) = restoring.restore(&["--clean", "--lose-newer-events"]);
    assert_eq!((code, rules(&report)), (1, vec!["restore.lost", "restore.ended_log"]), "{report:#}");
    assert_eq!(result(&report, "history"), "passed", "the lost events are those that were signed: {report:#}");
    // Under the same name nothing is signed any more.
    let node = restoring.node().await;
    let admin = node.admin().await;
    eventually("the signer refuses", async || {
        admin.get("/health/ready").await.json["checkpoint"]["refused"].as_str().is_some()
            || admin.get("/health/ready").await.json["checkpoint"]["status"] == "failed"
    })
    .await;
    node.stop().await;
    // Under another one everything is, from the first event on.
    let other = signing(&mut restoring.env, dir.path(), "log.example/two");
    let node = restoring.node().await;
    let pool = superuser(&database).await;
    covered(&pool, &other).await;
    let ended = Program::run(&["audit", "verify", "--key", &other], &restoring.env);
    assert_eq!(ended.status.code(), Some(0), "{}", ended.errors);
    pool.close().await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signer_that_has_signed_another_log_forbids_the_restore() {
    let (database, dir) = (Arc::new(Database::create().await), fulexo_tests::own_dir());
    let mut env = database.env();
    let key = signing(&mut env, dir.path(), "log.example/one");
    let restoring = Restoring::with(&database, env);
    let node = restoring.node().await;
    let admin = node.admin().await;
    caught_up(&node, &admin).await;
    let pool = superuser(&database).await;
    covered(&pool, &key).await;
    pool.close().await;
    node.stop().await;
    restoring.ground.create();
    let (code, report) = restoring.restore(&["--clean"]);
    assert_eq!((code, &report["verdict"]), (0, &json!("clean")), "{report:#}");

    // The memory tells of another root at a size that the backup has.
    let memory = &restoring.env["FULEXO_SIGNER_MEMORY"];
    let text = fs::read_to_string(memory).unwrap();
    let mut told: serde_json::Value = serde_json::from_str(&text).unwrap();
    told["root"] = json!("47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=");
    fs::write(memory, told.to_string()).unwrap();
    let before = restoring.log().await;
    let (code, report) = restoring.restore(&["--clean", "--lose-newer-events", "--no-erasures"]);
    assert_eq!((code, rules(&report)), (3, vec!["restore.history", "restore.lost"]), "{report:#}");
    assert_eq!(report["facts"]["restored"], false);
    assert_eq!(restoring.log().await, before);
    assert_eq!(restoring.others().await.len(), 1, "the database that the first restore put aside");
    // It is open again.
    let node = Node::with(&database, database.env()).await;
    node.stop().await;
}
