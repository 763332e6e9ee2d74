//! Erasure: what was sealed of a person is gone everywhere, what was proven stays proven, and whoever asks has a receipt.

use std::sync::Arc;

use fulexo_domain::leaf;
use fulexo_tests::{
    Answer, Authenticator, Client, Database, Node, PASSWORD, consistent, eventually, log_size, superuser, there,
};
use fulexo_tlog::entry_proof::EntryProof;
use fulexo_tlog::key::{VerifierKey, verify};
use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;

/// Puts the current policy in force with this time to withdraw an erasure.
async fn withdrawn_within(admin: &Client, days: u32) {
    let mut policy = admin.get("/v1/policy").await.json;
    policy.as_object_mut().unwrap().remove("version");
    policy["reason"] = json!("tests");
    policy["erasure"]["withdrawal_days"] = json!(days);
    let changed = admin.put("/v1/policy", policy).await;
    assert_eq!(changed.status, 200, "{changed:?}");
}

async fn erase(admin: &Client, account: Uuid) -> Answer {
    admin.post(&format!("/v1/accounts/{account}/erasure"), json!({"reason": "asked for by letter"})).await
}

/// Waits until the erasure of the account is completed.
async fn completed(node: &Node, account: Uuid) -> Value {
    let path = format!("/v1/erasures/{account}");
    eventually("the erasure is completed", async || node.anonymous().get(&path).await.json["state"] == "completed")
        .await;
    node.anonymous().get(&path).await.json
}

async fn count(pool: &PgPool, statement: &str, account: Uuid) -> i64 {
    sqlx::query_scalar(sqlx::AssertSqlSafe(statement)).bind(account).fetch_one(pool).await.unwrap()
}

/// The number of events of this type in the account's stream.
async fn events(pool: &PgPool, account: Uuid, event_type: &str) -> usize {
    let leaves: Vec<Vec<u8>> =
        sqlx::query_scalar("select leaf from log.event where stream_id = $1 and category = 'account'")
            .bind(account)
            .fetch_all(pool)
            .await
            .unwrap();
    leaves.iter().filter(|leaf| leaf::read(0, leaf).unwrap().r#type == event_type).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_was_sealed_of_a_person_is_left_and_every_node_refuses_them() {
    let node = Node::signed().await;
    let nodes = [Node::join(&node.database).await, Node::join(&node.database).await];
    let admin = node.admin().await;
    let (email, account) = node.register(&["customer"]).await;
    let ann = node.log_in(&email, account).await;
    let started = ann.post_nothing("/v1/me/second-factor/totp").await;
    let code = Authenticator::of(started.json["secret"].as_str().unwrap()).code(-1);
    assert_eq!(ann.post("/v1/me/second-factor/totp/confirm", json!({"code": code})).await.status, 200);
    let pool = superuser(&node.database).await;
    // Whatever may have a row of theirs.
    for other in &nodes {
        let wrong = json!({"email": email, "password": "wrong-Horse7battery"});
        assert_eq!(other.anonymous().post("/v1/auth/login", wrong).await.status, 401);
    }
    let keyed = ann.with_header("idempotency-key", "1").post_nothing("/v1/me/recovery-codes").await;
    assert_eq!(keyed.status, 200, "{keyed:?}");
    let wrapped: Vec<u8> = sqlx::query_scalar("select wrapped from vault.subject_key where subject_id = $1")
        .bind(account)
        .fetch_one(&pool)
        .await
        .unwrap();
    let sealed = count(&pool, "select count(*) from log.sealed where subject_id = $1", account).await;
    assert!(sealed > 3, "{sealed}");
    assert!(in_key_file(&pool, &wrapped).await);
    let registered = position_of(&admin, account, "account.registered").await;
    let (proof, leaf) = proven(&node, &pool, registered).await;

    let erased = erase(&admin, account).await;
    assert_eq!(erased.status, 200, "{erased:?}");
    assert!(erased.json["down"].as_array().unwrap().is_empty(), "{erased:?}");
    for other in [&nodes[0], &nodes[1], &node] {
        let refused = there(other, &ann).get("/v1/me").await;
        assert_eq!((refused.status, refused.code()), (401, "invalid_token"), "{refused:?}");
    }
    let found = completed(&node, account).await;
    assert_eq!(found["destroyed"]["sealed"], json!(sealed), "{found}");
    assert_eq!(found["destroyed"]["addresses"], 1);
    assert!(found["destroyed"]["verifiers"].as_u64() >= Some(2), "{found}");
    assert_eq!(found["destroyed"]["recovery_codes"], 10);
    assert_eq!(found["destroyed"]["outcomes"], 1);
    assert_eq!(found["wrapping_key"], "default");
    for (table, column) in [
        ("log.sealed", "subject_id"),
        ("log.unique_key", "stream_id"),
        ("log.command", "account_id"),
        ("vault.credential", "account_id"),
        ("vault.password_history", "account_id"),
        ("vault.recovery_code", "account_id"),
        ("vault.refresh_root", "account_id"),
        ("vault.known_device", "account_id"),
        ("vault.attempt", "account_id"),
        ("vault.mail", "account_id"),
        ("vault.mail_token", "account_id"),
        ("access.role_grant", "account_id"),
        ("read.role_grant", "account_id"),
    ] {
        let left = format!("select count(*) from {table} where {column} = $1");
        eventually(&left, async || count(&pool, &left, account).await == 0).await;
    }
    let kept: Option<Vec<u8>> = sqlx::query_scalar("select wrapped from vault.subject_key where subject_id = $1")
        .bind(account)
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(kept, None);
    assert!(!in_key_file(&pool, &wrapped).await, "the wrapped key is still in the table's file");

    // The past is as it was, without what was sealed.
    let admin = admin.seeing(log_size(&node).await - 1);
    let now = admin.get(&format!("/v1/accounts/{account}")).await;
    assert_eq!((&now.json["erased"], &now.json["email"], &now.json["roles"]), (&json!(true), &Value::Null, &json!([])));
    let then = admin.get(&format!("/v1/accounts/{account}?as_of={}", erased.position() - 3)).await;
    assert_eq!(
        (then.status, &then.json["erased"], &then.json["email"]),
        (200, &json!(false), &Value::Null),
        "{then:?}"
    );
    assert_eq!(then.json["roles"], json!(["customer"]));
    let closed = admin.post(&format!("/v1/audit/events/{registered}/unseal"), json!({"reason": "curious"})).await;
    assert_eq!(closed.code(), "nothing_sealed", "{closed:?}");
    assert_eq!(proven(&node, &pool, registered).await.1, leaf);
    proof.verify(&leaf).unwrap();

    // The address is free, and who has it now is somebody else.
    let login = node.anonymous().post("/v1/auth/login", json!({"email": email, "password": PASSWORD})).await;
    assert_eq!((login.status, login.code()), (401, "invalid_credentials"));
    let again = json!({"email": email, "password": PASSWORD});
    let again = nodes[1].anonymous().post("/v1/auth/register", again).await;
    assert_eq!(again.status, 201, "{again:?}");
    assert_ne!(again.json["account_id"], json!(account));

    // Nothing happens to the erased account any more.
    for act in ["suspend", "expire-password", "unlock"] {
        let refused = admin.post(&format!("/v1/accounts/{account}/{act}"), json!({"reason": "too late"})).await;
        assert!([404, 409].contains(&refused.status), "{act}: {refused:?}");
    }
    let twice = erase(&admin, account).await;
    assert_eq!(twice.status, 200, "{twice:?}");
    assert_eq!(events(&pool, account, "account.erased").await, 1);
    let [one, other] = nodes;
    consistent(&node.database.clone(), &[node, one, other]).await;
}

/// `true` if the file of the table of keys has these bytes.
async fn in_key_file(pool: &PgPool, bytes: &[u8]) -> bool {
    sqlx::query("checkpoint").execute(pool).await.unwrap();
    let content: Vec<u8> = sqlx::query_scalar("select pg_read_binary_file(pg_relation_filepath('vault.subject_key'))")
        .fetch_one(pool)
        .await
        .unwrap();
    content.windows(bytes.len()).any(|window| window == bytes)
}

async fn position_of(reader: &Client, account: Uuid, event_type: &str) -> u64 {
    let list = reader.get(&format!("/v1/audit/events?subject={account}&type={event_type}")).await;
    list.json["items"][0]["position"].as_u64().unwrap()
}

/// The proof of the event at this position, and its leaf.
async fn proven(node: &Node, pool: &PgPool, position: u64) -> (EntryProof, Vec<u8>) {
    let path = format!("/v1/audit/log/proof/{position}");
    eventually("a checkpoint covers the event", async || node.anonymous().get(&path).await.status == 200).await;
    let proof = EntryProof::parse(&node.anonymous().get(&path).await.bytes).unwrap();
    let leaf = sqlx::query_scalar("select leaf from log.event where position = $1")
        .bind(i64::try_from(position).unwrap())
        .fetch_one(pool)
        .await
        .unwrap();
    (proof, leaf)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_receipt_is_an_event_that_the_log_key_has_signed() {
    let node = Node::signed().await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    let receipt = format!("/v1/erasures/{}/receipt", ann.account);
    for path in [format!("/v1/erasures/{}", ann.account), receipt.clone(), format!("/v1/erasures/{}", Uuid::nil())] {
        assert_eq!(node.anonymous().get(&path).await.status, 404);
    }
    assert_eq!(erase(&admin, ann.account).await.status, 200);
    let found = completed(&node, ann.account).await;
    eventually("a checkpoint covers the receipt", async || node.anonymous().get(&receipt).await.status == 200).await;
    let proof = EntryProof::parse(&node.anonymous().get(&receipt).await.bytes).unwrap();
    let key = node.anonymous().get("/v1/audit/log/log.vkey").await.text;
    verify(&proof.checkpoint, &[VerifierKey::parse(key.trim_end()).unwrap()]).unwrap();
    let mut leaf = proof.extra.clone().unwrap();
    proof.verify(&leaf).unwrap();
    let event: Value = serde_json::from_slice(&leaf).unwrap();
    assert_eq!(event["type"], "account.erasure_completed");
    assert_eq!((&event["subject"], &event["data"]["destroyed"]), (&json!(ann.account), &found["destroyed"]));
    let at = leaf.iter().rposition(|byte| byte.is_ascii_digit()).unwrap();
    leaf[at] ^= 1;
    assert!(proof.verify(&leaf).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_withdraws_an_erasure_until_it_is_due() {
    let node = Node::start().await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    assert_eq!(ann.get("/v1/me/erasure").await.json["state"], "none");
    assert_eq!(ann.delete("/v1/me/erasure").await.code(), "erasure_not_started");
    let started = ann.post_nothing("/v1/me/erasure").await;
    assert_eq!((started.status, &started.json["state"]), (200, &json!("scheduled")), "{started:?}");
    let again = ann.post_nothing("/v1/me/erasure").await;
    assert_eq!((again.status, &again.json["due_at"]), (200, &started.json["due_at"]));
    let view = admin.seeing(started.position()).get(&format!("/v1/accounts/{}", ann.account)).await;
    assert_eq!(view.json["erasure_due_at"], started.json["due_at"], "{view:?}");
    let days = started.json["due_at"].as_str().unwrap().parse::<chrono::DateTime<chrono::Utc>>().unwrap();
    let days = (days - fulexo_node::clock::now()).num_hours();
    assert!((167..=168).contains(&days), "{days}");
    // It works as before.
    assert_eq!(ann.get("/v1/me").await.status, 200);
    assert_eq!(ann.delete("/v1/me/erasure").await.status, 204);
    assert_eq!(ann.get("/v1/me/erasure").await.json["state"], "none");

    let old = node.as_if_logged_in(chrono::TimeDelta::minutes(11), &ann, &["customer"]);
    assert_eq!(old.post_nothing("/v1/me/erasure").await.code(), "step_up_required");

    withdrawn_within(&admin, 0).await;
    let other = node.customer().await;
    assert_eq!(other.post_nothing("/v1/me/erasure").await.status, 200);
    completed(&node, other.account).await;
    eventually("the session is refused", async || other.get("/v1/me").await.status == 401).await;
    assert_eq!(ann.get("/v1/me").await.status, 200);
    consistent(&node.database.clone(), &[node]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_erase_is_refused() {
    let node = Node::start().await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    let defined = json!({"permissions": ["accounts.read", "accounts.manage"], "reason": "tests"});
    assert_eq!(admin.put("/v1/roles/support", defined).await.status, 200);
    let support = node.user(&["support"]).await;
    let defined = json!({"permissions": ["accounts.erase"], "reason": "tests"});
    assert_eq!(admin.put("/v1/roles/eraser", defined).await.status, 200);
    let eraser = node.user(&["eraser"]).await;
    let old = node.as_if_logged_in(chrono::TimeDelta::minutes(11), &admin, &["admin"]);
    for (client, account, status, code) in [
        (&node.anonymous(), ann.account, 401, "unauthenticated"),
        (&ann, admin.account, 403, "permission_denied"),
        (&support, ann.account, 403, "permission_denied"),
        (&old, ann.account, 403, "step_up_required"),
        (&eraser, admin.account, 403, "grant_exceeds_own"),
        (&admin, Uuid::from_u128(7), 404, "not_found"),
        // The last one.
        (&admin, admin.account, 409, "last_admin"),
    ] {
        let refused = erase(client, account).await;
        assert_eq!((refused.status, refused.code()), (status, code), "{refused:?}");
    }
    assert_eq!(admin.post_nothing("/v1/me/erasure").await.code(), "last_admin");
    let without = admin.post(&format!("/v1/accounts/{}/erasure", ann.account), json!({})).await;
    assert_eq!(without.status, 400, "{without:?}");
    assert_eq!(ann.get("/v1/me").await.status, 200);
    assert_eq!(erase(&eraser, ann.account).await.status, 200);
    let status = support.get(&format!("/v1/accounts/{}/erasure", ann.account)).await;
    assert_eq!(status.status, 200, "{status:?}");
    assert_eq!(ann.get(&format!("/v1/accounts/{}/erasure", ann.account)).await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_erase_an_account_at_once_one_does_and_all_are_told_so() {
    let node = Node::start().await;
    let nodes = [Node::join(&node.database).await, Node::join(&node.database).await];
    let (admin, people) = (node.admin().await, [node.customer().await, node.customer().await, node.customer().await]);
    let pool = superuser(&node.database).await;
    for person in &people {
        let admins: Vec<Client> =
            [&node, &nodes[0], &nodes[1]].into_iter().cycle().take(9).map(|node| there(node, &admin)).collect();
        let logins = (0..20).map(|_| {
            let body = json!({"email": person.email, "password": PASSWORD});
            let client = nodes[1].anonymous();
            async move { client.post("/v1/auth/login", body).await }
        });
        let erasures = admins.iter().map(|admin| erase(admin, person.account));
        let (answers, _) =
            tokio::join!(futures_util::future::join_all(erasures), futures_util::future::join_all(logins));
        for answer in answers {
            assert_eq!(answer.status, 200, "{answer:?}");
        }
        completed(&node, person.account).await;
        assert_eq!(events(&pool, person.account, "account.erased").await, 1);
        assert_eq!(events(&pool, person.account, "account.erasure_completed").await, 1);
        let left = "select count(*) from log.sealed where subject_id = $1";
        eventually("late rows are gone", async || count(&pool, left, person.account).await == 0).await;
    }
    let [one, other] = nodes;
    consistent(&node.database.clone(), &[node, one, other]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whichever_step_was_the_last_another_node_goes_on() {
    let database = Arc::new(Database::create().await);
    let node = Node::join(&database).await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    assert_eq!(erase(&admin, ann.account).await.status, 200);
    let whole = completed(&node, ann.account).await;
    let pool = superuser(&database).await;
    node.stop().await;
    for state in [
        // Nothing but the event.
        "update vault.erasure set purged_at = null, rewritten_at = null, log_switched = null, completed_at = null",
        "update vault.erasure set rewritten_at = null, log_switched = null, completed_at = null",
        "update vault.erasure set log_switched = null, completed_at = null",
        // The event is in the log, but the client of the database never learnt of its commit.
        "update vault.erasure set completed_at = null",
    ] {
        sqlx::query(sqlx::AssertSqlSafe(state)).execute(&pool).await.unwrap();
        let node = Node::join(&database).await;
        let found = completed(&node, ann.account).await;
        assert_eq!(found["destroyed"], whole["destroyed"], "{state}");
        assert_eq!(events(&pool, ann.account, "account.erasure_completed").await, 1, "{state}");
        node.stop().await;
    }
}
