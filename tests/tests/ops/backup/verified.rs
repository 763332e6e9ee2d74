//! Backups of a living service, verified up to the read models.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use fulexo_ops::age::{DecryptingReader, parse_identities};
use fulexo_tests::{Node, PASSWORD, eventually, log_size, signed, superuser};
use serde_json::{Value, json};

use super::{Ground, assert_stops, rungs};

/// A service with people, sessions and an erased person; and one who is not erased yet.
async fn service() -> Node {
    let node = Node::signed().await;
    let admin = node.admin().await;
    let gone = node.customer().await;
    let erased = admin.post(&format!("/v1/accounts/{}/erasure", gone.account), json!({"reason": "a letter"})).await;
    assert_eq!(erased.status, 200, "{erased:?}");
    let path = format!("/v1/erasures/{}", gone.account);
    eventually("the erasure is completed", async || admin.get(&path).await.json["state"] == "completed").await;
    let left = node.customer().await;
    assert_eq!(left.post_nothing("/v1/auth/logout").await.status, 204);
    node
}

fn contains(dir: &std::path::Path, text: &[u8]) -> bool {
    fs::read_dir(dir).unwrap().any(|entry| {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        bytes.windows(text.len()).any(|window| window == text)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_a_living_service_climbs_every_rung() {
    let node = service().await;
    let ground = Ground::new(&node.database);
    let (checkpoint, key) = signed(&node.database).await;
    fs::write(ground.file("checkpoint"), checkpoint).unwrap();
    // The service goes on.
    node.customer().await;
    signed(&node.database).await;
    let path = ground.create();

    let mode = |name: &str| fs::metadata(path.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(""), mode("database.age"), mode("keys.age")), (0o700, 0o600, 0o600));
    for clear in ["PGDMP", "AGE-SECRET-KEY-"] {
        assert!(!contains(&path, clear.as_bytes()), "{clear} is in clear");
    }
    let manifest: Value = serde_json::from_slice(&fs::read(path.join("manifest.json")).unwrap()).unwrap();
    assert_eq!(manifest["database"]["erasures"]["completed"], 1);
    assert_eq!(manifest["database"]["keys"]["encryption"], json!(["default"]));

    let name = path.file_name().unwrap().to_str().unwrap();
    let keys = ground.encryption_keys();
    let given = ["--key", &key, "--encryption-keys", &keys];
    let (code, report) = ground.verify("latest", &[&given[..], &["--checkpoint", &ground.file("checkpoint")]].concat());
    assert_eq!((code, &report["verdict"]), (0, &json!("clean")), "{report:#}");
    assert!(rungs(&report).iter().all(|(_, result)| result == "passed") && rungs(&report).len() == 7, "{report:#}");
    let left: Vec<_> = fs::read_dir(ground.dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().starts_with("fulexo-backup-verify-")), "{left:?}");
    let listed: Value = serde_json::from_str(&ground.run(&["list", "--json"]).said).unwrap();
    assert_eq!((&listed["backup"], &listed["verified"]["has_findings"]), (&json!(name), &json!(false)));
    assert_eq!(listed["verified"]["rungs"].as_array().unwrap().len(), 7);

    // The newest checkpoint is from after the backup: only the service can show that it goes on from there.
    node.customer().await;
    let (newer, _) = signed(&node.database).await;
    fs::write(ground.file("newer"), newer).unwrap();
    let (code, report) = ground.verify(name, &[&given[..], &["--checkpoint", &ground.file("newer")]].concat());
    assert_eq!(code, 3, "{report:#}");
    assert_eq!(rungs(&report)[4], ("log".to_owned(), "not_checked".to_owned()), "{report:#}");
    let (code, report) = ground.verify(path.to_str().unwrap(), &[&given[..], &["--checkpoint", &node.url]].concat());
    assert_eq!(code, 0, "{report:#}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_log_and_a_changed_read_model_are_found_where_they_are() {
    let node = service().await;
    let (pool, ground) = (superuser(&node.database).await, Ground::new(&node.database));
    let (checkpoint, key) = signed(&node.database).await;
    fs::write(ground.file("checkpoint"), checkpoint).unwrap();
    let (admin, position) = (node.admin().await, log_size(&node).await);
    assert_eq!(admin.seeing(position - 1).get("/v1/accounts").await.status, 200, "the read models have caught up");
    signed(&node.database).await;
    node.stop().await;

    sqlx::query("update read.account set suspended = not suspended where account_id = (select min(account_id::text)::uuid from read.account)")
        .execute(&pool).await.unwrap();
    ground.create();
    let arguments = ["--key", &key, "--checkpoint", &ground.file("checkpoint")];
    let (code, report) = ground.verify("latest", &arguments);
    assert_eq!(code, 1, "{report:#}");
    assert_stops(&report, "read-models", "found");
    assert!(report["checks"][5].to_string().contains("read.account"), "{report:#}");

    // Whoever owns the database writes another event over one.
    for statement in [
        "alter table log.event disable trigger append_only",
        "alter table log.event_0 disable trigger append_only",
        "update log.event set leaf = replaced.leaf, leaf_hash = sha256('\\x00'::bytea || replaced.leaf)
         from (select leaf from log.event where position = 4) replaced where position = 3",
    ] {
        sqlx::query(statement).execute(&pool).await.unwrap();
    }
    ground.create();
    let (code, report) = ground.verify("latest", &arguments);
    assert_eq!(code, 1, "{report:#}");
    assert_eq!(rungs(&report)[4], ("log".to_owned(), "found".to_owned()), "{report:#}");
    assert!(report["checks"][4].to_string().contains("position 3"), "{report:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrapped_keys_go_before_their_backup_and_the_last_good_backup_stays() {
    let node = Node::signed().await;
    node.customer().await;
    let ground = Ground::new(&node.database);
    let (checkpoint, key) = signed(&node.database).await;
    fs::write(ground.file("checkpoint"), checkpoint).unwrap();
    node.stop().await;
    let good = ground.create();
    let (checkpoint, keys) = (ground.file("checkpoint"), ground.encryption_keys());
    let arguments = ["--key", key.as_str(), "--checkpoint", &checkpoint, "--encryption-keys", &keys];
    let (code, report) = ground.verify("latest", &arguments);
    assert_eq!(code, 0, "{report:#}");
    // Names tell the age: these are older by years.
    let renamed = |year: &str| {
        let name = good.file_name().unwrap().to_str().unwrap();
        good.with_file_name(format!("{year}{}", &name[4..]))
    };
    for year in ["2020", "2021"] {
        fs::create_dir(renamed(year)).unwrap();
        for file in ["manifest.json", "manifest.note", "database.age", "keys.age"] {
            fs::copy(good.join(file), renamed(year).join(file)).unwrap();
        }
    }
    std::thread::sleep(std::time::Duration::from_secs(1));
    let newest = ground.create();

    let refused = ground.run(&["prune", "--keep-keys-days", "31"]);
    assert_eq!(refused.status.code(), Some(2), "longer than a key epoch: {}", refused.errors);
    let pruned = ground.run(&["prune", "--keep-keys-days", "1", "--json"]);
    let pruned: Value = serde_json::from_str(&pruned.said).unwrap();
    assert_eq!((pruned["backups"].as_array().unwrap().len(), pruned["keys"].as_array().unwrap().len()), (0, 2));
    assert!(!renamed("2021").join("keys.age").exists() && newest.join("keys.age").exists());

    // A backup without its wrapped keys is still verified: here, it is not what its name says.
    let (code, report) = ground.verify(renamed("2021").to_str().unwrap(), &[]);
    assert_eq!(code, 1, "{report:#}");
    assert_stops(&report, "signature", "found");
    fs::remove_file(good.join("keys.age")).unwrap();
    let main = ground.file("main");
    let (code, report) = ground.verify_with(good.to_str().unwrap(), &[&main], &arguments);
    assert_eq!(code, 3, "{report:#}");
    assert_stops(&report, "canary", "not_checked");
    assert!(report.to_string().contains("without the wrapped keys"), "{report:#}");

    let pruned = ground.run(&["prune", "--keep", "1", "--json"]);
    assert_eq!(pruned.status.code(), Some(0), "{}", pruned.errors);
    let left = [&good, &newest].map(|path| path.file_name().unwrap().to_str().unwrap().to_owned());
    assert_eq!(ground.names(), left, "the last good one and the newest one");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_service_stores_is_in_a_restored_backup() {
    let node = Node::start().await;
    let ann = node.customer().await;
    let ground = Ground::new(&node.database);
    let path = ground.create();
    node.stop().await;
    // As docs/backups.md says, with pg_restore alone.
    let restored = fulexo_tests::Database { name: format!("{}_restored", node_name(&ground)) };
    let server = superuser(&fulexo_tests::Database { name: "postgres".to_owned() }).await;
    sqlx::query(sqlx::AssertSqlSafe(format!("create database {}", restored.name))).execute(&server).await.unwrap();
    for (part, identity) in [("database.age", "main"), ("keys.age", "keys")] {
        tokio::task::block_in_place(|| {
            let identities = parse_identities(&fs::read_to_string(ground.file(identity)).unwrap()).unwrap();
            let file = fs::File::open(path.join(part)).unwrap();
            let mut clear = DecryptingReader::new(&identities, file).unwrap();
            let mut pg_restore = Command::new("pg_restore")
                .args(["--exit-on-error", "--dbname", &restored.superuser_url()])
                .stdin(Stdio::piped())
                .spawn()
                .unwrap();
            std::io::copy(&mut clear, &mut pg_restore.stdin.take().unwrap()).unwrap();
            assert!(pg_restore.wait().unwrap().success(), "{part}");
        });
    }
    let node = Node::join(&std::sync::Arc::new(restored)).await;
    let answer = node.anonymous().post("/v1/auth/login", json!({"email": ann.email, "password": PASSWORD})).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    node.stop().await;
}

fn node_name(ground: &Ground) -> String {
    ground.env["DATABASE_OWNER_URL"].rsplit('/').next().unwrap().split('?').next().unwrap().to_owned()
}
