//! API keys of a suspended account: refused meanwhile, as far as the policy says so.

use std::sync::Arc;

use chrono::TimeDelta;
use fulexo_tests::{Database, cut_off, operator};

use super::*;

async fn key_of(maker: &Client) -> Client {
    let expires_at = operator().now + TimeDelta::days(1);
    let key = json!({"name": "gateway", "permissions": ["audit.read"], "expires_at": expires_at});
    let made = maker.post("/v1/api-keys", key).await;
    assert_eq!(made.status, 201, "{made:?}");
    let secret = made.json["secret"].as_str().unwrap().to_owned();
    Client { access_token: Some(secret), ..Client::new(&maker.url) }
}

async fn status(node: &Node, key: &Client) -> u16 {
    there(node, key).get("/v1/audit/events").await.status
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_refused_while_its_maker_is_suspended_by_memory_by_tables_and_by_a_node_that_starts() {
    let database = Arc::new(Database::create().await);
    let (one, two) = (Node::join(&database).await, Node::join(&database).await);
    let (admin, maker) = (one.admin().await, one.admin().await);
    let (key, other) = (key_of(&maker).await, key_of(&admin).await);
    assert_eq!(act(&admin, &maker, "suspend").await.status, 200);
    let started = Node::join(&database).await;
    for node in [&one, &two, &started] {
        assert_eq!((status(node, &key).await, status(node, &other).await), (401, 200));
    }
    assert_eq!(act(&admin, &maker, "reinstate").await.status, 200);
    let again = Node::join(&database).await;
    for node in [&one, &two, &started, &again] {
        assert_eq!(status(node, &key).await, 200, "it works again");
    }
    assert_eq!(act(&admin, &maker, "suspend").await.status, 200);
    cut_off(&one).await;
    assert_eq!((status(&one, &key).await, status(&one, &other).await), (401, 200), "by tables");
    assert_eq!(act(&admin, &maker, "reinstate").await.status, 200);
    assert_eq!(status(&one, &key).await, 200, "by tables");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_policy_says_so_a_key_outlives_the_suspension_of_its_maker() {
    let database = Arc::new(Database::create().await);
    let node = Node::join(&database).await;
    let (admin, maker) = (node.admin().await, node.admin().await);
    let key = key_of(&maker).await;
    assert_eq!(act(&admin, &maker, "suspend").await.status, 200);
    assert_eq!(status(&node, &key).await, 401);
    enforce(&admin, |policy| policy["api_keys"]["suspend_with_creator"] = json!(false)).await;
    let started = Node::join(&database).await;
    for node in [&node, &started] {
        assert_eq!(status(node, &key).await, 200);
    }
    cut_off(&node).await;
    assert_eq!(status(&node, &key).await, 200, "by tables");
}
