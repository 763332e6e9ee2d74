//! A node that cannot follow the log asks the database who may do what, or lets nobody in.

use std::sync::Arc;

use fulexo_tests::{Client, Cut, Database, Node, cut_off};

use crate::{eventually, health, revoke};

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_cannot_follow_the_log_asks_the_database_who_may_do_what() {
    let node = Node::start().await;
    let there = Node::join(&node.database).await;
    let (admin, ann, bob) = (node.admin().await, node.auditor().await, node.customer().await);
    cut_off(&there).await;

    let at = |client: &Client| Client { url: there.url.clone(), ..client.clone() };
    assert_eq!(at(&ann).get("/v1/audit/events").await.status, 200);
    assert_eq!(revoke(&admin, &format!("/v1/accounts/{}/roles/auditor", ann.account)).await, 200);
    assert_eq!(at(&ann).get("/v1/audit/events").await.status, 403);
    assert_eq!(at(&ann).get("/v1/auth/session").await.status, 200);
    assert_eq!(at(&bob).get("/v1/auth/session").await.status, 200);
    assert_eq!(bob.post_nothing("/v1/auth/logout").await.status, 204);
    assert_eq!(at(&bob).get("/v1/auth/session").await.status, 401);
}

/// Starts a node; returns its wire to Postgres, too.
async fn on_a_wire() -> (Node, Cut) {
    let database = Arc::new(Database::create().await);
    let mut env = database.env();
    let (wire, url) = Cut::of(&database.url()).await;
    env.insert("DATABASE_URL".to_owned(), url);
    (Node::with(&database, env).await, wire)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_can_ask_nobody_lets_nobody_in() {
    let (node, wire) = on_a_wire().await;
    let (ann, bob) = (node.customer().await, node.customer().await);
    assert_eq!(bob.post_nothing("/v1/auth/logout").await.status, 204);
    wire.cut();
    eventually("the lease has run out", async || !node.app().gate.holds_lease()).await;
    let answer = ann.get("/v1/auth/session").await;
    assert_eq!((answer.status, answer.code()), (503, "unavailable"), "{answer:?}");
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
    assert_eq!(bob.get("/v1/auth/session").await.status, 401, "what has ended stays ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_its_database_is_not_ready_and_lives() {
    let (node, wire) = on_a_wire().await;
    assert_eq!(health(&node).await["status"], "ok");
    wire.cut();
    // An answer about health is valid for a second.
    let stranger = node.anonymous();
    eventually("it is not ready", async || stranger.get("/health/ready").await.status == 503).await;
    let ready = stranger.get("/health/ready").await;
    assert_eq!((ready.status, ready.code()), (503, "unavailable"), "{ready:?}");
    assert!(ready.json["detail"].as_str().is_some_and(|detail| detail.contains("PostgreSQL")), "{ready:?}");
    assert_eq!(node.anonymous().get("/health/live").await.status, 200);
}
