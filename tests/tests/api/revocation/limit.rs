//! Sessions of an account are bounded, however many log in at once and at however many nodes.

use std::sync::Arc;

use fulexo_tests::{Database, eventually, superuser};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn of_a_hundred_and_thirty_logins_by_eight_clients_at_two_nodes_as_many_live_as_may() {
    let database = Arc::new(Database::create().await);
    let (one, two) = (Node::join(&database).await, Node::join(&database).await);
    let (admin, ann) = (one.admin().await, one.customer().await);
    enforce(&admin, |policy| policy["sessions"]["max_per_account"] = json!(20)).await;
    let all = sessions(&[&one, &two], &ann, 130).await;
    // A node takes a while to follow logins at the other one.
    eventually("as many live as may", async || {
        let mut live = 0;
        for session in &all {
            live += usize::from(session.get("/v1/auth/session").await.status == 200);
        }
        assert!(live >= 20, "{live}");
        live == 20
    })
    .await;
    assert_over(&ann, "the oldest").await;
    let ends = recorded(&one, &ann, "session.revoked").await;
    let streams: std::collections::BTreeSet<&str> = ends.iter().map(|end| end["stream"].as_str().unwrap()).collect();
    assert_eq!((ends.len(), streams.len()), (111, 111), "once each");
    assert!(ends.iter().all(|end| end["data"]["by"] == "session_limit"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oldest_ends_and_one_that_is_past_its_end_before_it() {
    let node = Node::start().await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    enforce(&admin, |policy| policy["sessions"]["max_per_account"] = json!(3)).await;
    let (second, third) = (sessions(&[&node], &ann, 1).await.remove(0), sessions(&[&node], &ann, 1).await.remove(0));
    sqlx::query("update access.session set idle_expires_at = now() - interval '1 hour' where session_id = $1")
        .bind(second.session)
        .execute(&superuser(&node.database).await)
        .await
        .unwrap();
    sessions(&[&node], &ann, 1).await;
    let ended = recorded(&node, &ann, "session.revoked").await;
    assert_eq!((ended.len(), &ended[0]["stream"]), (1, &json!(second.session)));
    sessions(&[&node], &ann, 1).await;
    assert_over(&ann, "the oldest").await;
    assert_eq!(third.get("/v1/auth/session").await.status, 200);
}

/// A node died between a login and the end of the sessions beyond the limit.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_starts_ends_what_is_beyond_the_limit() {
    let database = Arc::new(Database::create().await);
    let node = Node::join(&database).await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    sessions(&[&node], &ann, 5).await;
    enforce(&admin, |policy| policy["sessions"]["max_per_account"] = json!(2)).await;
    node.stop().await;
    let node = Node::join(&database).await;
    eventually("they end", async || recorded(&node, &ann, "session.revoked").await.len() == 4).await;
}
