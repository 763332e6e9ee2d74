//! Certificates from a real ACME server, which checks the answers of the nodes.

use std::sync::Arc;

use fulexo_tests::{Client, Database, Node, columns, eventually, free_port, superuser};
use rustls::ClientConfig;
use sqlx::PgPool;

use crate::pebble::{Pebble, Place, with};
use crate::redirect::head;
use crate::{log, shown};

const YEAR: u32 = 365 * 24 * 60 * 60;

async fn joins(database: &Arc<Database>, pebble: &Pebble, names: &str, http_port: u16) -> Node {
    Node::with(database, with(database, pebble.env(names, http_port))).await
}

async fn is_served(node: &Node, name: &str, config: &Arc<ClientConfig>) {
    eventually("a certificate is served", async || shown(node.port(), name, config).await.is_ok()).await;
}

/// Returns the versions of certificates by their names, and the number of accounts.
async fn kept(pool: &PgPool) -> (Vec<(String, i64)>, i64) {
    let versions = sqlx::query_as("select names, version from vault.acme_certificate order by names");
    let accounts = sqlx::query_scalar("select count(*) from vault.acme_account");
    (versions.fetch_all(pool).await.unwrap(), accounts.fetch_one(pool).await.unwrap())
}

/// Ends the wait after a failure.
async fn end_the_wait(pool: &PgPool) {
    sqlx::query("update vault.acme_certificate set order_after = now()").execute(pool).await.unwrap();
}

async fn has_failed(pool: &PgPool, times: i32) {
    eventually("an order fails", async || {
        let failures = sqlx::query_scalar::<_, i32>("select max(failures) from vault.acme_certificate");
        failures.fetch_optional(pool).await.ok().flatten() >= Some(times)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_ordered_proved_served_and_kept_across_restarts_and_nodes() {
    let pebble = Place::new().start(YEAR).await;
    let config = pebble.believed().await;
    let database = Arc::new(Database::create().await);
    let pool = superuser(&database).await;
    let names = "a.fulexo.test,b.fulexo.test";
    let node = joins(&database, &pebble, names, pebble.http_port).await;
    is_served(&node, "a.fulexo.test", &config).await;
    let first = shown(node.port(), "b.fulexo.test", &config).await.unwrap();

    // Another node takes it from the vault, and the first one does after a restart, without a request to the server.
    let place = pebble.stop();
    let other = Node::with(&database, with(&database, place.env(names, free_port()))).await;
    assert_eq!(shown(other.port(), "a.fulexo.test", &config).await.unwrap(), first);
    node.stop().await;
    let again = Node::with(&database, with(&database, place.env(names, place.http_port()))).await;
    assert_eq!(shown(again.port(), "a.fulexo.test", &config).await.unwrap(), first);
    assert_eq!(kept(&pool).await, (vec![(names.to_owned(), 1)], 1));

    // Neither the account's key nor the certificate's is in the clear.
    for column in columns(&pool).await {
        for value in column.values {
            let text = String::from_utf8_lossy(&value);
            assert!(!text.contains("PRIVATE KEY") && !text.contains("key_pkcs8"), "{}", column.name);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_renewed_before_its_end() {
    // At 24 seconds the next one is due.
    let pebble = Place::new().start(36).await;
    let config = pebble.believed().await;
    let database = Arc::new(Database::create().await);
    let node = joins(&database, &pebble, "short.fulexo.test", pebble.http_port).await;
    is_served(&node, "short.fulexo.test", &config).await;
    let first = shown(node.port(), "short.fulexo.test", &config).await.unwrap();
    // The node never serves one that clients refuse.
    eventually("a newer one", async || shown(node.port(), "short.fulexo.test", &config).await.unwrap() != first).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_node_answers_for_the_order_of_another() {
    let pebble = Place::new().start(YEAR).await;
    let config = pebble.believed().await;
    let database = Arc::new(Database::create().await);
    // The server looks at the first node alone; the second one orders its own names.
    let first = joins(&database, &pebble, "first.fulexo.test", pebble.http_port).await;
    is_served(&first, "first.fulexo.test", &config).await;
    let second = joins(&database, &pebble, "second.fulexo.test", free_port()).await;
    is_served(&second, "second.fulexo.test", &config).await;
    let (versions, accounts) = kept(&superuser(&database).await).await;
    let expected = [("first.fulexo.test".to_owned(), 1), ("second.fulexo.test".to_owned(), 1)];
    assert_eq!((versions.as_slice(), accounts), (&expected[..], 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn several_nodes_that_start_at_once_order_once() {
    let pebble = Place::new().start(YEAR).await;
    let config = pebble.believed().await;
    let database = Arc::new(Database::create().await);
    // One is there already, for the server to look at.
    let _there = joins(&database, &pebble, "there.fulexo.test", pebble.http_port).await;
    let name = "once.fulexo.test";
    let joins = || joins(&database, &pebble, name, free_port());
    let (one, two, three) = tokio::join!(joins(), joins(), joins());
    for node in [&one, &two, &three] {
        is_served(node, name, &config).await;
    }
    let (versions, accounts) = kept(&superuser(&database).await).await;
    assert!(versions.contains(&(name.to_owned(), 1)) && accounts == 1, "{versions:?} {accounts}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_is_down_keeps_no_node_from_starting_and_is_asked_again_later() {
    log::keep();
    let place = Place::new();
    let database = Arc::new(Database::create().await);
    let pool = superuser(&database).await;
    let node = Node::with(&database, with(&database, place.env("late.fulexo.test", place.http_port()))).await;
    has_failed(&pool, 1).await;
    log::says(&["ERROR", "no certificate was issued", "the directory", "Connection refused"]).await;
    // No node asks again at once, not even one that has just started; it says so.
    let started = Node::with(&database, with(&database, place.env("late.fulexo.test", free_port()))).await;
    log::says(&["INFO", "late.fulexo.test", "no certificate yet"]).await;
    started.stop().await;
    let wait = "select order_after > now() + interval '30 seconds' from vault.acme_certificate";
    assert!(sqlx::query_scalar::<_, bool>(wait).fetch_one(&pool).await.unwrap());

    // Until there is a certificate, a handshake is refused, and the plain listener works.
    let pebble = place.start(YEAR).await;
    let config = pebble.believed().await;
    let refused = shown(node.port(), "late.fulexo.test", &config).await.unwrap_err();
    assert!(refused.to_string().contains("alert"), "{refused}");
    let plain = Client::new(&format!("http://127.0.0.1:{}", pebble.http_port));
    assert_eq!(plain.get("/.well-known/acme-challenge/evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ").await.status, 404);
    let answer = head(pebble.http_port, "GET /x HTTP/1.1\r\nhost: late.fulexo.test").await;
    assert!(answer.contains("\r\nlocation: https://late.fulexo.test/x\r\n"), "{answer}");

    end_the_wait(&pool).await;
    is_served(&node, "late.fulexo.test", &config).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_logged_with_what_the_directory_saw() {
    log::keep();
    let pebble = Place::new().start(YEAR).await;
    let database = Arc::new(Database::create().await);
    // Nobody listens where the server looks.
    let _node = joins(&database, &pebble, "unseen.fulexo.test", free_port()).await;
    log::says(&["ERROR", "no certificate was issued", "http://unseen.fulexo.test", "connection refused"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_the_directory_has_forgotten_is_registered_anew() {
    let pebble = Place::new().start(YEAR).await;
    let database = Arc::new(Database::create().await);
    let pool = superuser(&database).await;
    let node = joins(&database, &pebble, "before.fulexo.test", pebble.http_port).await;
    is_served(&node, "before.fulexo.test", &pebble.believed().await).await;
    // It starts again and knows nobody. Its directory is the same.
    let pebble = pebble.stop().start(YEAR).await;
    node.stop().await;
    let node = joins(&database, &pebble, "after.fulexo.test", pebble.http_port).await;
    has_failed(&pool, 1).await;
    end_the_wait(&pool).await;
    is_served(&node, "after.fulexo.test", &pebble.believed().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_challenge_is_answered_for_tokens_alone() {
    let pebble = Place::new().start(YEAR).await;
    let database = Arc::new(Database::create().await);
    let node = joins(&database, &pebble, "token.fulexo.test", pebble.http_port).await;
    is_served(&node, "token.fulexo.test", &pebble.believed().await).await;
    let plain = Client::new(&format!("http://127.0.0.1:{}", pebble.http_port));
    let token = "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA";
    let answer = plain.get(&format!("/.well-known/acme-challenge/{token}")).await;
    let thumbprint = answer.text.strip_prefix(&format!("{token}.")).unwrap_or_else(|| panic!("{answer:?}"));
    assert_eq!((answer.status, thumbprint.len()), (200, 43));
    for path in ["", "short", "../../x", "%3Cscript%3Ealert(1)%3C/script%3E", &"a".repeat(257), &format!("{token}/x")] {
        let answer = plain.get(&format!("/.well-known/acme-challenge/{path}")).await;
        assert_eq!((answer.status, answer.text.as_str()), (404, ""), "{path}");
    }
}
