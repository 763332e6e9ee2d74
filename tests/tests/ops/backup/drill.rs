//! Drills: the newest backup, verified unattended, against goals.

use std::fs;

use fulexo_tests::{Ended, Node, eventually, log_size, superuser};
use serde_json::{Value, json};

use super::Ground;

/// Runs a drill with all identities, and returns its end and its report.
fn drill(ground: &Ground, arguments: &[&str]) -> (Ended, Value) {
    let (main, keys, scratch) = (ground.file("main"), ground.file("keys"), ground.file(""));
    let mut all = vec!["drill", "--json", "--identity", &main, "--identity", &keys, "--scratch", &scratch];
    all.extend(arguments);
    let ended = ground.run(&all);
    let report = serde_json::from_str(&ended.said).unwrap_or_else(|_| panic!("{}", ended.errors));
    (ended, report)
}

fn check<'a>(report: &'a Value, id: &str) -> &'a Value {
    let checks = report["checks"].as_array().unwrap();
    checks.iter().find(|check| check["id"] == id).unwrap_or_else(|| panic!("{id}: {report:#}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_measures_a_recovery_against_goals_and_leaves_its_report() {
    let node = Node::signed().await;
    node.customer().await;
    let (admin, pool, mut ground) = (node.admin().await, superuser(&node.database).await, Ground::new(&node.database));
    ground.env.insert("DATABASE_URL".to_owned(), node.database.url());
    ground.create();
    let size = log_size(&node).await;
    let key: String = sqlx::query_scalar("select vkey from tree.checkpoint").fetch_one(&pool).await.unwrap();
    let place = ground.file("reports");
    fs::create_dir(&place).unwrap();
    let keys = ground.encryption_keys();
    let outside = ["--key", &key, "--checkpoint", &node.url, "--out", &place, "--encryption-keys", &keys];
    eventually("the log is signed", async || {
        let signed: i64 = sqlx::query_scalar("select size from tree.checkpoint").fetch_one(&pool).await.unwrap();
        signed.unsigned_abs() >= size
    })
    .await;

    let (ended, report) = drill(&ground, &[&outside[..], &["--rto", "1h", "--rpo", "1d"]].concat());
    assert_eq!(ended.status.code(), Some(0), "{report:#} {}", ended.errors);
    for id in ["restore", "log", "read-models", "canary", "recovery-time", "recovery-point"] {
        assert_eq!(check(&report, id)["result"], "passed", "{report:#}");
    }
    let seconds = report["facts"]["seconds"].as_object().unwrap();
    assert!(
        ["signature", "checksums", "format", "restore", "log", "read-models", "canary"]
            .iter()
            .all(|id| seconds.contains_key(*id))
    );
    // The event of the backup itself, at least.
    assert!(report["facts"]["lost_events"].as_u64().unwrap() >= 1, "{report:#}");

    let files: Vec<_> = fs::read_dir(&place).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 2, "{files:?}");
    for file in &files {
        let text = fs::read_to_string(file).unwrap();
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("json") => assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), report),
            Some("html") => assert!(text.contains("recovery-time") && !text.contains("<script"), "{text}"),
            other => panic!("{other:?}"),
        }
    }

    let found = async || admin.get("/v1/audit/events?type=backup.verified").await.json["items"].clone();
    eventually("the drill is in the trail", async || found().await.as_array().is_some_and(|items| items.len() == 1))
        .await;
    let recorded = found().await[0]["data"]["drill"].clone();
    assert_eq!(
        (&recorded["recovery_time_goal_ms"], &recorded["recovery_point_goal_ms"]),
        (&json!(3_600_000), &json!(86_400_000))
    );
    assert!(recorded["recovery_time_ms"].as_u64().unwrap() > 0, "{recorded}");

    // Goals that nothing reaches.
    let (ended, report) = drill(&ground, &[&outside[..], &["--rto", "0s", "--rpo", "0s"]].concat());
    assert_eq!(ended.status.code(), Some(1), "{report:#}");
    for id in ["recovery-time", "recovery-point"] {
        assert_eq!(check(&report, id)["result"], "found", "{report:#}");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_that_cannot_restore_measures_nothing_and_says_so() {
    let node = Node::signed().await;
    let ground = Ground::new(&node.database);
    ground.create();
    let other = ground.file("other");
    let ended = ground.run(&["drill", "--json", "--identity", &other, "--rto", "1h"]);
    let report: Value = serde_json::from_str(&ended.said).unwrap();
    assert_eq!(ended.status.code(), Some(3), "{report:#}");
    assert_eq!(check(&report, "recovery-time")["result"], "not_checked", "{report:#}");
    let wrong = ground.run(&["drill", "--rto", "soon"]);
    assert_eq!(wrong.status.code(), Some(2), "{}", wrong.errors);
    node.stop().await;
}
