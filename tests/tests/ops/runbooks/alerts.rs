//! Alerts of read models, nodes, keys, streams and certificates, produced and ended.

use std::fs;
use std::sync::Arc;

use fulexo_database::begin;
use fulexo_tests::{Database, Node, Program, eventually, history, own_dir, superuser};
use tokio::task::block_in_place;
use uuid::Uuid;

use super::super::tls_servers::{authority, certificate};
use super::Desk;
use super::page::{Page, Section};

#[tokio::test(flavor = "multi_thread")]
async fn a_read_model_that_stopped_and_one_that_waits_are_over_when_their_pages_say_so() {
    let node = Node::start().await;
    let (desk, pool) = (Desk::new(&node.database, &node.database.env()), superuser(&node.database).await);
    let sql = async |statement: &'static str| {
        sqlx::query(statement).execute(&pool).await.unwrap();
    };
    let values = [("URL", node.url.as_str())];

    sql("alter table read.session add constraint obstacle check (false) not valid").await;
    node.customer().await;
    let mend = async || sql("alter table read.session drop constraint obstacle").await;
    desk.alert(&Page::read("read-model-stopped"), &node, &values, mend).await;

    // A person who forgot to end a transaction.
    let mut open = begin(&pool).await.unwrap();
    sqlx::query("lock table read.session in access exclusive mode").execute(&mut *open).await.unwrap();
    history::fill(&node.database, 1_500).await;
    desk.alert(&Page::read("read-model-lag"), &node, &values, async || open.rollback().await.unwrap()).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_a_lease_one_that_is_down_and_a_replaced_log_are_over_when_their_pages_say_so() {
    let database = Arc::new(Database::create().await);
    let (desk, pool) = (Desk::new(&database, &database.env()), superuser(&database).await);
    let made = Program::run(&["signer", "new-key", "log.example/replaced", "--out", &desk.path("log.key")], &desk.env);
    assert_eq!(made.status.code(), Some(0), "{}", made.errors);
    let mut signing = database.env();
    for (variable, file) in [("FULEXO_LOG_KEY_FILE", "log.key"), ("FULEXO_SIGNER_MEMORY", "signer.json")] {
        signing.insert(variable.to_owned(), desk.path(file));
    }
    let node = Node::with(&database, signing.clone()).await;
    let values = [("URL", node.url.as_str()), ("NODE", "there")];

    let mut open = begin(&pool).await.unwrap();
    sqlx::query("lock table projection.node in access exclusive mode").execute(&mut *open).await.unwrap();
    let end = async || open.rollback().await.unwrap();
    desk.alert(&Page::read("node-without-lease"), &node, &values, end).await;

    let mut env = database.env();
    env.insert("FULEXO_NODE_NAME".to_owned(), "there".to_owned());
    let start = || {
        let mut there = Program::start(&["serve", "--port", "0"], &env);
        there.says("listening on ");
        there
    };
    let mut there = block_in_place(start);
    let page = Page::read("node-down");
    eventually("it is known", async || desk.is_over(&page, &values)).await;
    block_in_place(|| there.kill());
    let mut again = None;
    desk.work_through(&page, &values, async || again = Some(block_in_place(start))).await;
    drop(again);

    // A restore under running nodes.
    sqlx::query("update log.head set epoch = gen_random_uuid()").execute(&pool).await.unwrap();
    let page = Page::read("log-replaced");
    eventually("it is noticed", async || !desk.is_over(&page, &values)).await;
    eventually("it says so", async || node.anonymous().get("/health/ready").await.code() == "log_replaced").await;
    desk.follow_sections(&page, &[Section::First, Section::Cause], &values);
    node.stop().await;
    let node = Node::with(&database, signing).await;
    eventually("it is over", async || desk.is_over(&page, &[("URL", node.url.as_str())])).await;
    node.stop().await;
}

/// A database whose nodes take their encryption keys from a file.
pub async fn keyed() -> (Arc<Database>, Desk) {
    let database = Arc::new(Database::create().await);
    let mut env = database.env();
    let key = env.remove("ENCRYPTION_KEY").unwrap();
    let mut desk = Desk::new(&database, &env);
    fs::write(desk.path("keys"), format!("first:{key}\n")).unwrap();
    desk.env.insert("ENCRYPTION_KEYS_FILE".to_owned(), desk.path("keys"));
    (database, desk)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_due_and_a_rotation_that_is_not_finished_are_over_when_their_pages_say_so() {
    let (database, desk) = keyed().await;
    let node_env = desk.env.clone();
    let (node, pool) = (Node::with(&database, node_env.clone()).await, superuser(&database).await);
    let values = [("URL", node.url.as_str())];
    let older =
        "update vault.key_epoch set first_used_at = now() - interval '40 days', added_at = now() - interval '40 days'
                 where kind = 'encryption'";
    sqlx::query(older).execute(&pool).await.unwrap();
    desk.alert(&Page::read("key-due"), &node, &values, async || {}).await;

    // Another machine has a file of its own.
    let elsewhere = desk.path("elsewhere");
    fs::copy(desk.path("keys"), &elsewhere).unwrap();
    let mut env = node_env;
    env.insert("FULEXO_NODE_NAME".to_owned(), "away".to_owned());
    env.insert("ENCRYPTION_KEYS_FILE".to_owned(), elsewhere.clone());
    let away = Node::with(&database, env).await;
    let checks = || away.app().commands.vault().key_checks().len();
    let rotate = || Program::run(&["keys", "rotate", "encryption", "--wait", "5"], &desk.env);
    let lacking = rotate();
    assert!(lacking.errors.contains("do not have the key"), "{}", lacking.errors);
    fs::copy(desk.path("keys"), &elsewhere).unwrap();
    eventually("it has both", async || checks() == 2).await;
    eventually("the old key is kept elsewhere", async || rotate().errors.contains("still have it")).await;
    fs::copy(desk.path("keys"), &elsewhere).unwrap();
    eventually("it has one", async || checks() == 1).await;
    desk.alert(&Page::read("keys-leaving"), &node, &values, async || {}).await;
    away.stop().await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_without_a_place_are_over_when_their_page_says_so() {
    let node = Node::start().await;
    let desk = Desk::new(&node.database, &node.database.env());
    let places = &node.app().streams.places;
    let taken: Vec<_> = (0..200).map(|caller| places.take(Uuid::from_u128(caller)).unwrap()).collect();
    let values = [("URL", node.url.as_str())];
    desk.alert(&Page::read("streams-full"), &node, &values, async || drop(taken)).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_ends_soon_is_over_when_its_page_says_so() {
    let (database, dir, root) = (Arc::new(Database::create().await), own_dir(), authority("the root", None));
    let path = |name: &str| dir.path().join(name).display().to_string();
    let put = |days: (i64, i64)| {
        let shown = certificate("localhost", days, Some(&root));
        dir.store("cert.pem", &pem(&shown.der)).unwrap();
        dir.store("key.pem", &shown.key.serialize_pem()).unwrap();
    };
    put((-80, 10));
    dir.store("root.pem", &root.pem()).unwrap();
    let mut env = database.env();
    env.insert("TLS_CERT".to_owned(), path("cert.pem"));
    env.insert("TLS_KEY".to_owned(), path("key.pem"));
    let node = Node::with(&database, env).await;
    let mut desk = Desk::bare();
    desk.env.insert("SSL_CERT_FILE".to_owned(), path("root.pem"));
    let host = format!("localhost:{}", node.port());
    let values = [("HOST", host.as_str())];
    desk.work_through(&Page::read("certificate-ending"), &values, async || put((-1, 80))).await;
    desk.follow(&Page::read("check-ssl"), &values);
    node.stop().await;
}

fn pem(der: &[u8]) -> String {
    use base64::Engine;
    let body = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
}
