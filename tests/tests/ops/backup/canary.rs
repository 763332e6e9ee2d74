//! The last rung: with the encryption keys, sealed data of a backup opens, and an account logs in.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use fulexo_tests::{Client, Node, PASSWORD, eventually, log_size, superuser};
use serde_json::{Value, json};
use sqlx::PgPool;

use super::Ground;

/// A service that has stopped, and its database.
struct Service {
    ann: Client,
    erased: Client,
    pool: PgPool,
    ground: Ground,
    key: String,
    checkpoint: String,
}

impl Service {
    async fn new() -> Self {
        let node = Node::signed().await;
        let (admin, ann, erased) = (node.admin().await, node.customer().await, node.customer().await);
        let done = admin.post(&format!("/v1/accounts/{}/erasure", erased.account), json!({"reason": "a letter"})).await;
        assert_eq!(done.status, 200, "{done:?}");
        let path = format!("/v1/erasures/{}", erased.account);
        eventually("the erasure is completed", async || admin.get(&path).await.json["state"] == "completed").await;
        let (pool, ground) = (superuser(&node.database).await, Ground::new(&node.database));
        let size = log_size(&node).await;
        assert_eq!(admin.seeing(size - 1).get("/v1/accounts").await.status, 200, "the read models have caught up");
        let signed = "select size from tree.checkpoint";
        eventually("the log is signed", async || {
            sqlx::query_scalar::<_, i64>(signed).fetch_one(&pool).await.unwrap().unsigned_abs() >= size
        })
        .await;
        let (note, key): (String, String) =
            sqlx::query_as("select note, vkey from tree.checkpoint").fetch_one(&pool).await.unwrap();
        node.stop().await;
        let checkpoint = ground.file("checkpoint");
        fs::write(&checkpoint, note).unwrap();
        Self { ann, erased, pool, ground, key, checkpoint }
    }

    /// Writes a file of an account that only its owner may read.
    fn account(&self, email: &str, password: &str) -> String {
        let file = self.ground.file("account");
        fs::write(&file, format!("{email}\n{password}\n")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        file
    }

    /// Verifies the newest backup; returns the exit code, the check of the last rung, and the report as text.
    #[track_caller]
    fn verify(&self, arguments: &[&str]) -> (i32, Value, String) {
        let all = [&["--key", self.key.as_str(), "--checkpoint", &self.checkpoint], arguments].concat();
        let (code, report) = self.ground.verify("latest", &all);
        (code, report["checks"][6].clone(), report.to_string())
    }

    async fn execute(&self, sql: &str) {
        let done = sqlx::query(sqlx::AssertSqlSafe(sql.to_owned())).execute(&self.pool).await.unwrap();
        assert!(done.rows_affected() > 0, "{sql}");
    }

    /// Writes a backup that is newer than all.
    fn create(&self) {
        // Names have seconds.
        std::thread::sleep(std::time::Duration::from_secs(1));
        self.ground.create();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_its_keys_a_restored_backup_opens_what_is_sealed_and_lets_an_account_in() {
    let service = Service::new().await;
    service.ground.create();
    let keys = service.ground.encryption_keys();
    let account = service.account(&service.ann.email, PASSWORD);

    let (code, check, report) = service.verify(&["--encryption-keys", &keys, "--canary", &account]);
    assert_eq!((code, &check["id"], &check["result"]), (0, &json!("canary"), &json!("passed")), "{report}");
    let detail = check["detail"].as_str().unwrap();
    assert!(detail.contains("which logged in") && !detail.contains("of 0 events"), "{detail}");

    // Without an account the rung is that of the sealed data alone, and says so.
    let (code, check, report) = service.verify(&["--encryption-keys", &keys]);
    assert_eq!(code, 0, "{report}");
    assert!(check["detail"].as_str().unwrap().contains("no account was tried"), "{report}");

    let (code, check, report) = service.verify(&[]);
    assert_eq!((code, &check["result"]), (3, &json!("not_checked")), "{report}");
    assert!(check.to_string().contains("give --encryption-keys"), "{report}");

    // A wrong password, and an account that is not there any more.
    for (email, password) in [(&service.ann.email, "wrong-Horse7battery"), (&service.erased.email, PASSWORD)] {
        let account = service.account(email, password);
        let (code, check, report) = service.verify(&["--encryption-keys", &keys, "--canary", &account]);
        assert_eq!((code, &check["result"]), (1, &json!("found")), "{report}");
        assert!(check.to_string().contains("backup.login"), "{report}");
        assert!(!report.contains(password) && !report.contains(email.as_str()), "{report}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_are_wrong_or_missing_are_named() {
    let service = Service::new().await;
    service.ground.create();
    let file = service.ground.file("encryption");
    // Other bytes under the same id; another id.
    for (id, evidence) in [("default", "no key in the file opens"), ("other", "does not have the keys default")] {
        fs::write(&file, format!("{id}:b3RoZXItT3R0ZXI3IHBhaW50cyAxMiBncmVlbiBvd2w=\n")).unwrap();
        let (code, check, report) = service.verify(&["--encryption-keys", &file]);
        assert_eq!((code, &check["result"]), (1, &json!("found")), "{report}");
        let text = check.to_string();
        assert!(text.contains("backup.encryption_keys") && text.contains("needed are: default"), "{text}");
        assert!(text.contains(evidence), "{text}");
    }

    // Files that are none are refused before anything is read, and not repeated.
    let keys = service.ground.encryption_keys();
    let account = service.account("ann", "secret-Otter7paints");
    for arguments in [
        vec!["--encryption-keys", "missing"],
        vec!["--encryption-keys", &account],
        vec!["--encryption-keys", &keys, "--canary", &account],
        vec!["--encryption-keys", &keys, "--canary", &keys],
        vec!["--canary", &account],
    ] {
        let ended = service.ground.run(&[&["verify", "latest"], arguments.as_slice()].concat());
        assert_eq!(ended.status.code(), Some(2), "{arguments:?}: {}", ended.errors);
        assert!(!ended.errors.contains("Otter7paints"), "{}", ended.errors);
    }
    let open = service.account(&service.ann.email, PASSWORD);
    fs::set_permissions(&open, fs::Permissions::from_mode(0o640)).unwrap();
    let ended = service.ground.run(&["verify", "latest", "--encryption-keys", &keys, "--canary", &open]);
    assert_eq!(ended.status.code(), Some(2), "{}", ended.errors);
    assert!(ended.errors.contains("chmod 600"), "{}", ended.errors);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_was_changed_or_lost_is_found_and_the_erased_do_not_count() {
    let service = Service::new().await;
    let keys = service.ground.encryption_keys();
    let ann = service.ann.account;
    let altered = "set_byte(wrapped, 20, get_byte(wrapped, 20) # 1)";
    let positions: Vec<i64> =
        sqlx::query_scalar("select distinct position from log.sealed where subject_id = $1 order by position")
            .bind(ann)
            .fetch_all(&service.pool)
            .await
            .unwrap();
    assert!(!positions.is_empty());
    let found = |evidence: &str| {
        service.create();
        let (code, check, report) = service.verify(&["--encryption-keys", &keys]);
        assert_eq!((code, &check["result"]), (1, &json!("found")), "{report}");
        let findings = check["findings"].as_array().unwrap();
        assert_eq!(findings.len(), positions.len(), "each event of hers, and no other: {report}");
        for (finding, position) in findings.iter().zip(&positions) {
            let text = finding.to_string();
            assert!(text.contains("backup.sealed") && text.contains(&format!("/log.sealed/{position}\"")), "{text}");
            assert!(text.contains(evidence), "{text}");
        }
    };

    // Somebody who owns the database changes a key, and has the backup sign it.
    service.execute(&format!("update vault.subject_key set wrapped = {altered} where subject_id = '{ann}'")).await;
    found("no key in the file opens");
    service.execute(&format!("update vault.subject_key set wrapped = {altered} where subject_id = '{ann}'")).await;
    service
        .execute(&format!(
            "update vault.subject_key set wrapped = null, shredded_at = now() where subject_id = '{ann}'"
        ))
        .await;
    found("its key is not there");

    // The same of an erasure that is under way is right.
    service
        .execute(&format!(
            "insert into vault.erasure (account_id, erased_at, addresses, verifiers, recovery_codes, refresh_roots, devices,
                                        attempts, mails, mail_tokens, outcomes)
             select '{ann}', erased_at, addresses, verifiers, recovery_codes, refresh_roots, devices, attempts, mails,
                    mail_tokens, outcomes
             from vault.erasure"
        ))
        .await;
    service.create();
    let (code, _, report) = service.verify(&["--encryption-keys", &keys]);
    assert_eq!(code, 0, "{report}");
}
