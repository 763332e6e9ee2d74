//! Leaked keys, lost and stolen things, requests, and what goes wrong around the service.

use std::fs;
use std::sync::Arc;

use fulexo_tests::{Database, Node, rsa_key, signed, superuser};
use serde_json::json;

use super::alerts::keyed;
use super::page::Page;
use super::{Desk, Section};

#[tokio::test(flavor = "multi_thread")]
async fn the_pages_of_accounts_and_keys_work() {
    let node = Node::start().await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    let wrong = json!({"email": ann.email, "password": "wrong-Horse7battery"});
    assert_eq!(node.anonymous().post("/v1/auth/login", wrong).await.status, 401);
    let expires_at = fulexo_node::clock::now() + chrono::TimeDelta::days(1);
    let key = json!({"name": "siem", "permissions": ["audit.read"], "expires_at": expires_at});
    let key = admin.post("/v1/api-keys", key).await;
    let (key_id, secret) = (key.json["api_key_id"].as_str().unwrap(), key.json["secret"].as_str().unwrap());
    let desk = Desk::new(&node.database, &node.database.env());
    let account = ann.account.to_string();
    let values = [
        ("URL", node.url.as_str()),
        ("ACCOUNT", &account),
        ("KEY", key_id),
        ("EMAIL", "second-admin@example.com"),
        ("DISK", "/var/lib/postgresql"),
    ];
    let pages = [
        Page::read("password-guessing"),
        Page::read("compromised-account"),
        Page::read("compromised-api-key"),
        Page::read("lost-administrator"),
        Page::read("disk-full"),
        Page::read("clock-wrong"),
    ];
    for page in &pages {
        desk.follow(page, &values);
    }
    assert_eq!(ann.get("/v1/auth/session").await.status, 401);
    let holder = fulexo_tests::Client { access_token: Some(secret.to_owned()), ..node.anonymous() };
    assert_eq!(holder.get("/v1/audit/events").await.status, 401);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaked_signing_key_signs_nothing_once_its_page_is_done() {
    let database = Arc::new(Database::create().await);
    let mut env = database.env();
    env.remove("JWT_SECRET");
    let mut desk = Desk::new(&database, &env);
    fs::write(desk.path("jwt.pem"), rsa_key()).unwrap();
    desk.env.insert("JWT_PRIVATE_KEY_FILE".to_owned(), desk.path("jwt.pem"));
    let node = Node::with(&database, desk.env.clone()).await;
    let ann = node.customer().await;
    let page = Page::read("leaked-signing-key");
    desk.follow_sections(&page, &[Section::First, Section::Cause, Section::Over], &[("URL", &node.url)]);
    assert_eq!(ann.get("/v1/auth/session").await.status, 401, "a token of the leaked key");
    node.log_in(&ann.email, ann.account).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaked_encryption_key_and_a_stolen_dump_open_nothing_once_their_pages_are_done() {
    let (database, desk) = keyed().await;
    let node = Node::with(&database, desk.env.clone()).await;
    let ann = node.customer().await;
    let before = fs::read_to_string(desk.path("keys")).unwrap();
    desk.follow(&Page::read("leaked-encryption-key"), &[]);
    desk.follow(&Page::read("stolen-database-dump"), &[]);
    let after = fs::read_to_string(desk.path("keys")).unwrap();
    assert!(!after.contains(before.trim()) && after.lines().count() == 1, "the old key is nowhere");
    node.log_in(&ann.email, ann.account).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_is_erased_and_a_restored_log_has_an_epoch_of_its_own_once_their_pages_are_done() {
    let node = Node::signed().await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    let pool = superuser(&node.database).await;
    let (checkpoint, key) = signed(&node.database).await;
    let desk = Desk::new(&node.database, &node.database.env());
    fs::write(desk.path("authorization"), format!("Authorization: Bearer {}\n", admin.access_token.unwrap())).unwrap();
    fs::write(desk.path("known.txt"), format!("{}\n", ann.email)).unwrap();
    fs::write(desk.path("checkpoint"), checkpoint).unwrap();
    let (account, checkpoint, url) = (ann.account.to_string(), desk.path("checkpoint"), node.url.clone());
    let values = [
        ("URL", url.as_str()),
        ("TOKEN_FILE", "authorization"),
        ("ACCOUNT", &account),
        ("LOG_KEY", &key),
        ("VALUES", "known.txt"),
        ("CHECKPOINT", &checkpoint),
    ];
    desk.follow(&Page::read("erasure-request"), &values);
    let node_database = std::sync::Arc::clone(&node.database);
    node.stop().await;
    let epoch = async || {
        let epoch = "select epoch::text from log.head";
        sqlx::query_scalar::<_, String>(epoch).fetch_one(&pool).await.unwrap()
    };
    let before = epoch().await;
    let lost = desk.path("lost");
    let mut desk = desk;
    desk.env.insert("DATABASE_OWNER_URL".to_owned(), node_database.owner_url());
    desk.follow(&Page::read("database-restored"), &[&values[..], &[("LOST", &lost)]].concat());
    assert_ne!(epoch().await, before);
}
