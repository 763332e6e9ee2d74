//! Backups that are older than an erasure: they have the person while the key of that time exists, and nobody from then on.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use fulexo_commands::vault::SymmetricKey;
use fulexo_tests::{Database, Node, PASSWORD, Program, columns, eventually, superuser};
use serde_json::json;
use sqlx::PgPool;
use tokio::task::block_in_place;

use crate::keys::Keyed;

/// Runs a program of PostgreSQL, which must succeed.
pub fn run(program: &str, arguments: &[&str]) {
    let ended = block_in_place(|| Command::new(program).args(arguments).output().unwrap());
    assert!(ended.status.success(), "{program}: {}", String::from_utf8_lossy(&ended.stderr));
}

/// Writes a backup of everything that the service has, in the format of `pg_restore`.
fn back_up(database: &Database, file: &Path) {
    run("pg_dump", &["--format=custom", "--file", &file.display().to_string(), "--dbname", &database.superuser_url()]);
}

/// Restores a backup to a new database, as docs/production.md says.
async fn restore(file: &Path, name: String) -> Database {
    let (restored, server) = (Database { name }, Database { name: "postgres".to_owned() });
    let create = format!("create database {}", restored.name);
    sqlx::query(sqlx::AssertSqlSafe(create)).execute(&superuser(&server).await).await.unwrap();
    let (url, file) = (restored.superuser_url(), file.display().to_string());
    run("pg_restore", &["--exit-on-error", "--dbname", &url, &file]);
    let epoch = "update log.head set epoch = gen_random_uuid()";
    sqlx::query(epoch).execute(&superuser(&restored).await).await.unwrap();
    restored
}

/// The number of wrapped keys in a database, and of those that one of these keys opens, whatever key they name.
async fn wrapped_and_opened(pool: &PgPool, keys: &BTreeMap<String, SymmetricKey>) -> (usize, usize) {
    let rows =
        "select 'fulexo/data-key/1/subject/' || subject_id, wrapped from vault.subject_key where wrapped is not null
                union all select 'fulexo/data-key/1/period/' || period, wrapped from vault.period_key
                union all select 'fulexo/service-key/1', wrapped from vault.service_key";
    let rows: Vec<(String, Vec<u8>)> = sqlx::query_as(rows).fetch_all(pool).await.unwrap();
    let opens = |(context, wrapped): &&(String, Vec<u8>)| {
        keys.values().any(|key| key.unwrap_key(context.as_bytes(), wrapped).is_ok())
    };
    (rows.len(), rows.iter().filter(opens).count())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_from_before_an_erasure_has_the_person_until_the_key_of_that_time_is_destroyed() {
    const NAME: &str = "Žofie Thistlewood";
    const AGENT: &str = "Bandersnatch/7.7 (Jabberwock)";
    let keyed = Keyed::new().await;
    let node = keyed.node("one").await;
    let admin = node.admin().await;
    let mut ann = node.anonymous().with_header("user-agent", AGENT);
    ann.email = format!("restored.quokka.{}@heliotrope.example", std::process::id());
    let body = json!({"email": ann.email, "password": PASSWORD, "display_name": NAME});
    let registered = ann.post("/v1/auth/register", body).await;
    ann.account = registered.json["account_id"].as_str().unwrap().parse().unwrap();
    let login = json!({"email": ann.email, "password": PASSWORD});
    assert_eq!(ann.post("/v1/auth/login", login.clone()).await.status, 200);
    // Sealed under the key of the month.
    let nobody = json!({"email": format!("no-{}", ann.email), "password": "wrong"});
    assert_eq!(ann.post("/v1/auth/login", nobody).await.status, 401);
    let (backup, then) = (keyed.dir.path().join("backup"), keyed.dir.path().join("keys-of-then"));
    block_in_place(|| back_up(&keyed.database, &backup));
    fs::copy(keyed.file(), &then).unwrap();

    let erased = admin.post(&format!("/v1/accounts/{}/erasure", ann.account), json!({"reason": "a letter"})).await;
    assert_eq!(erased.status, 200, "{erased:?}");
    let path = format!("/v1/erasures/{}", ann.account);
    eventually("the erasure is completed", async || admin.get(&path).await.json["state"] == "completed").await;
    assert_eq!(admin.get(&path).await.json["wrapping_key"], "first", "the key that has to be destroyed");
    let ended = keyed.rotate("120");
    assert!(ended.status.success() && ended.said.contains("destroyed  first"), "{} {}", ended.said, ended.errors);
    assert_eq!(admin.get("/v1/me").await.status, 200, "everybody else is as before");
    node.stop().await;

    let restored = Arc::new(restore(&backup, format!("{}_restored", keyed.database.name)).await);
    let pool = superuser(&restored).await;
    let env_with = |keys: &Path| {
        let mut env = keyed.env.clone();
        env.insert("DATABASE_URL".into(), restored.url());
        env.insert("ENCRYPTION_KEYS_FILE".into(), keys.display().to_string());
        env
    };
    // Nobody opens it with the keys that are left, and no node starts.
    let (wrapped, opened) = wrapped_and_opened(&pool, &keyed.keys()).await;
    assert!(wrapped >= 4 && opened == 0, "{opened} of {wrapped}");
    for verb in [&["serve", "--port", "0"][..], &["keys", "rotate", "encryption"]] {
        let refused = Program::run(verb, &env_with(&keyed.file()));
        assert_eq!(refused.status.code(), Some(1), "{verb:?}: {}", refused.errors);
        assert!(
            refused.errors.contains(r#"no configured encryption key has the id "first""#),
            "{verb:?}: {}",
            refused.errors
        );
    }
    // Nor with another key under the name of the one that is destroyed.
    let other = keyed.dir.path().join("other-keys");
    let text = fs::read_to_string(keyed.file()).unwrap();
    let (_, left) = text.rsplit_once(':').unwrap();
    fs::write(&other, format!("first:{left}")).unwrap();
    let refused = Program::run(&["serve", "--port", "0"], &env_with(&other));
    assert_eq!(refused.status.code(), Some(1), "{}", refused.errors);
    assert!(refused.errors.contains("no configured encryption key opens the service key"), "{}", refused.errors);
    // What anybody can read has nothing of the person.
    for column in columns(&pool).await {
        for planted in [ann.email.as_str(), NAME, AGENT] {
            let is_it = |value: &Vec<u8>| value.windows(planted.len()).any(|window| window == planted.as_bytes());
            assert!(!column.values.iter().any(is_it), "{planted} in {}", column.name);
        }
    }

    // Whoever kept the key of then has the person again: that is what its destruction is for.
    assert_eq!(wrapped_and_opened(&pool, &crate::keys::keys(&then)).await, (wrapped, wrapped));
    let node = Node::with(&restored, env_with(&then)).await;
    let ann = node.log_in(&ann.email, ann.account).await;
    assert_eq!(ann.get("/v1/me").await.json["display_name"], NAME);
}
