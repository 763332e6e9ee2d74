//! Erasures between a backup and its restore: carried out again, from whatever copy of the log tells of them.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

use fulexo_tests::{
    Client, Database, NatsCluster, NatsVersion, Node, PASSWORD, Program, caught_up, eventually, signed, superuser,
};
use serde_json::json;
use uuid::Uuid;

use super::{Restoring, result};
use crate::rules;

/// A node with an administrator and two people, in a backup; one of them is erased after it.
async fn erased_after_the_backup(node: &Node, restoring: &Restoring) -> (Client, Client) {
    let (admin, ann, gone) = (node.admin().await, node.customer().await, node.customer().await);
    caught_up(node, &admin).await;
    restoring.ground.create();
    erase(&admin, gone.account).await;
    (ann, gone)
}

async fn erase(admin: &Client, account: Uuid) {
    let erased = admin.post(&format!("/v1/accounts/{account}/erasure"), json!({"reason": "a letter"})).await;
    assert_eq!(erased.status, 200, "{erased:?}");
    let path = format!("/v1/erasures/{account}");
    eventually("the erasure is completed", async || admin.get(&path).await.json["state"] == "completed").await;
}

/// Sees that one person is there, and the other one is gone for good.
async fn assert_gone(restoring: &Restoring, ann: &Client, gone: &Client) {
    let node = restoring.node().await;
    assert_eq!(node.log_in(&ann.email, ann.account).await.get("/v1/me").await.status, 200);
    let login = json!({"email": gone.email, "password": PASSWORD});
    assert_eq!(node.anonymous().post("/v1/auth/login", login).await.status, 401);
    let admin = node.admin().await;
    let path = format!("/v1/erasures/{}", gone.account);
    eventually("the erasure is completed", async || admin.get(&path).await.json["state"] == "completed").await;
    let pool = superuser(&restoring.database).await;
    let keys: i64 =
        sqlx::query_scalar("select count(*) from vault.subject_key where subject_id = $1 and wrapped is not null")
            .bind(gone.account)
            .fetch_one(&pool)
            .await
            .unwrap();
    assert_eq!(keys, 0, "its key is destroyed");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_was_erased_after_the_backup_is_erased_again() {
    let node = Node::start().await;
    let restoring = Restoring::of(&node.database);
    let (ann, gone) = erased_after_the_backup(&node, &restoring).await;
    node.stop().await;
    let (code, report) = restoring.restore(&["--clean", "--lose-newer-events"]);
    assert_eq!((code, &report["facts"]["erased"]), (1, &json!(1)), "{report:#}");
    assert_eq!(result(&report, "erasures"), "passed");
    assert_gone(&restoring, &ann, &gone).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_old_database_an_export_or_a_list_says_who_was_erased() {
    let node = Node::signed().await;
    let restoring = Restoring::of(&node.database);
    let (ann, gone) = erased_after_the_backup(&node, &restoring).await;
    let (key, copy) = (restoring.ground.file("log.vkey"), restoring.ground.file("copy"));
    let (note, vkey) = signed(&restoring.database).await;
    fs::write(&key, vkey).unwrap();
    let checkpoint = restoring.ground.file("checkpoint");
    fs::write(&checkpoint, note).unwrap();
    let ended = Program::run(&["audit", "export", &copy, "--key", &key], &restoring.env);
    assert_eq!(ended.status.code(), Some(0), "{}", ended.errors);
    node.stop().await;
    restoring.drop_database().await;

    // The checkpoint proves that there was more, and nobody says what.
    let known = ["--checkpoint", &checkpoint, "--key", &key];
    let (code, report) = restoring.restore(&known);
    assert_eq!((code, rules(&report)), (3, vec!["restore.unknown", "restore.erasures"]), "{report:#}");
    assert_eq!(restoring.others().await, [""; 0], "nothing is left");
    // With the export the list is complete, and proven by the checkpoint.
    let (code, report) = restoring.restore(&[&known[..], &["--copy", &copy]].concat());
    assert_eq!((code, &report["facts"]["erased"]), (1, &json!(1)), "{report:#}");
    assert_eq!((result(&report, "history"), result(&report, "erasures")), ("passed", "passed"), "{report:#}");
    assert_gone(&restoring, &ann, &gone).await;

    // Once more, from a list, with somebody who is not in the backup.
    restoring.drop_database().await;
    let list = restoring.ground.file("list");
    fs::write(&list, format!("# from the lawyer\n\n{}\n{}\n", gone.account, Uuid::from_u128(7))).unwrap();
    let (code, report) = restoring.restore(&["--erasures", &list]);
    assert_eq!((code, &report["facts"]["restored"]), (3, &json!(true)), "{report:#}");
    assert_eq!(report["facts"]["erased"], 1, "{report:#}");
    assert_gone(&restoring, &ann, &gone).await;
    fs::write(&list, "ann@example.com\n").unwrap();
    let ended = Program::run(&["restore", "finish", "--erasures", &list], &restoring.env);
    assert_eq!(ended.status.code(), Some(2), "{}", ended.errors);
    assert!(!ended.errors.contains("ann@"), "{}", ended.errors);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_copy_in_nats_says_who_was_erased_and_what_was_lost() {
    let (nats, database) = (NatsCluster::start(NatsVersion::Current, 1).await, Arc::new(Database::create().await));
    let mut env = database.env();
    env.insert("NATS_URL".to_owned(), nats.url());
    env.insert("FULEXO_NATS_REPLICAS".to_owned(), "1".to_owned());
    let restoring = Restoring::with(&database, env);
    let node = restoring.node().await;
    let (ann, gone) = erased_after_the_backup(&node, &restoring).await;
    let (_, size, _) = restoring.log().await;
    let admin = node.admin().await;
    eventually("everything is copied", async || {
        admin.get("/health/ready").await.json["relay"]["position"].as_i64() >= Some(size)
    })
    .await;
    node.stop().await;
    restoring.drop_database().await;
    let list = restoring.ground.file("lost");
    let (code, report) = restoring.restore(&["--lost", &list]);
    assert_eq!((code, &report["facts"]["erased"]), (1, &json!(1)), "{report:#}");
    let listed = fs::read_to_string(&list).unwrap();
    assert!(listed.lines().any(|line| line.contains("account.erased") && line.contains(&gone.account.to_string())));
    assert_gone(&restoring, &ann, &gone).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_somebody_else_has_signed_erases_nobody() {
    let node = Node::signed().await;
    let restoring = Restoring::of(&node.database);
    let (admin, ann) = (node.admin().await, node.customer().await);
    caught_up(&node, &admin).await;
    node.stop().await;
    restoring.ground.create();
    // The forger goes on from the same events, and signs with a key of their own.
    let forged = Arc::new(Database { name: format!("{}_forged", restoring.database.name) });
    let fork = format!("create database {} template {}", forged.name, restoring.database.name);
    sqlx::query(sqlx::AssertSqlSafe(fork)).execute(&super::server().await).await.unwrap();
    let (key, copy) = (restoring.ground.file("forged.key"), restoring.ground.file("forged"));
    let made = Program::run(&["signer", "new-key", "log.example/forged", "--out", &key], &BTreeMap::new());
    assert!(made.status.success(), "{}", made.errors);
    let mut env = forged.env();
    env.insert("FULEXO_LOG_KEY_FILE".to_owned(), key);
    env.insert("FULEXO_SIGNER_MEMORY".to_owned(), restoring.ground.file("forged.json"));
    let node = Node::with(&forged, env.clone()).await;
    erase(&node.admin().await, ann.account).await;
    let pool = superuser(&forged).await;
    eventually("everything is signed", async || {
        let signed =
            "select c.size = h.position and c.vkey like 'log.example/forged+%' from tree.checkpoint c, log.head h";
        sqlx::query_scalar(signed).fetch_one(&pool).await.unwrap()
    })
    .await;
    pool.close().await;
    let ended = Program::run(&["audit", "export", &copy], &env);
    assert_eq!(ended.status.code(), Some(0), "{}", ended.errors);
    node.stop().await;
    let (code, report) = restoring.restore(&["--clean", "--copy", &copy]);
    assert_eq!((code, rules(&report)), (1, vec!["restore.history"]), "{report:#}");
    assert_eq!((&report["facts"]["erased"], &report["facts"]["lost"]["count"]), (&json!(0), &json!(0)), "{report:#}");
    let node = restoring.node().await;
    assert_eq!(node.log_in(&ann.email, ann.account).await.get("/v1/me").await.status, 200);
    node.stop().await;
}
