//! The time from which a policy holds.

use std::collections::BTreeSet;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use fulexo_tests::{Answer, Client, Database, Node, PASSWORD, cut_off, eventually, leaves, operator, there};
use serde_json::{Value, json};

use super::{POLICY, enforce, guess, log_in, of_type, policy_of, set_elevation, time, written};

fn lasts_minutes(session: &Answer, logged_in: DateTime<Utc>) -> i64 {
    (time(&session.json["elevated_until"]) - logged_in + TimeDelta::seconds(30)).num_minutes()
}

/// Returns the duration of an elevation, as a node judges it.
async fn elevation_at(node: &Node, client: &Client) -> i64 {
    let now = operator().now;
    let fresh = node.as_if_logged_in(TimeDelta::zero(), &there(node, client), &["customer"]);
    lasts_minutes(&fresh.get("/v1/auth/session").await, now)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_holds_at_once_here_and_a_moment_later_on_other_nodes() {
    let node = Node::start().await;
    let other = Node::join(&node.database).await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    assert_eq!((elevation_at(&node, &ann).await, elevation_at(&other, &ann).await), (10, 10));
    for minutes in [20, 5, 60] {
        set_elevation(&admin, minutes).await;
        assert_eq!(elevation_at(&node, &ann).await, minutes, "at once");
        let shown = there(&other, &admin).get(POLICY).await;
        assert_eq!(shown.json["sessions"]["elevation_seconds"], json!(minutes * 60), "shown at once everywhere");
        eventually("the other node learns of it", async || elevation_at(&other, &ann).await == minutes).await;
    }
    // And it decides by it.
    let (email, _) = node.register(&["customer"]).await;
    enforce(&admin, |policy| policy["lockout"]["threshold"] = json!(1)).await;
    eventually("it decides by it", async || other.app().commands.policy().lockout.threshold == 1).await;
    guess(&other, &email, 1).await;
    assert_eq!(log_in(&node, &email, PASSWORD, None).await.status, 401, "locked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_holds_on_other_nodes_without_nats_too() {
    let database = Arc::new(Database::create().await);
    let mut env = database.env();
    env.remove("NATS_URL");
    let (node, other) = (Node::with(&database, env.clone()).await, Node::with(&database, env).await);
    let (admin, ann) = (node.admin().await, node.customer().await);
    set_elevation(&admin, 30).await;
    assert_eq!(elevation_at(&node, &ann).await, 30);
    eventually("the other node learns of it", async || elevation_at(&other, &ann).await == 30).await;
    set_elevation(&there(&other, &admin), 40).await;
    eventually("and the other way round", async || elevation_at(&node, &ann).await == 40).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_holds_after_a_restart() {
    let node = Node::start().await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    set_elevation(&admin, 20).await;
    let changed = enforce(&admin, |policy| policy["lockout"]["threshold"] = json!(2)).await;
    let database = Arc::clone(&node.database);
    node.stop().await;
    let node = Node::join(&database).await;
    assert_eq!(there(&node, &admin).get(POLICY).await.json, policy_of(&changed));
    assert_eq!(elevation_at(&node, &ann).await, 20);
    guess(&node, &ann.email, 2).await;
    assert_eq!(log_in(&node, &ann.email, PASSWORD, None).await.status, 401, "locked");
    assert_eq!(of_type(&node, "authentication.locked_out").await[0]["policy_version"], json!(3));
    assert_eq!(enforce(&there(&node, &admin), |policy| policy["version"] = json!(3)).await.json["version"], json!(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn events_carry_the_version_that_they_were_decided_under() {
    let node = Node::start().await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    let changed = enforce(&admin, |policy| policy["lockout"]["threshold"] = json!(1)).await;
    guess(&node, &ann.email, 1).await;
    node.customer().await;
    assert_eq!(ann.post("/v1/auth/refresh", json!({"refresh_token": ann.refresh_token})).await.status, 200);
    let leaves = leaves(&node.database).await;
    let boundary = usize::try_from(changed.position()).unwrap();
    for (position, leaf) in leaves.iter().enumerate() {
        let expected = if position <= boundary { 1 } else { 2 };
        assert_eq!(leaf["policy_version"], json!(expected), "{position}: {leaf}");
    }
    let after: BTreeSet<&str> = leaves[boundary + 1..].iter().map(|leaf| leaf["type"].as_str().unwrap()).collect();
    assert!(after.len() >= 6, "{after:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configured_life_of_refresh_tokens_shapes_the_first_policy_alone() {
    for (life, idle, absolute) in [("14d", 14, 30), ("60d", 60, 60)] {
        let database = Arc::new(Database::create().await);
        let mut env = database.env();
        env.insert("JWT_REFRESH_EXPIRES_IN".into(), life.into());
        let node = Node::with(&database, env).await;
        let admin = node.admin().await;
        let policy = admin.get(POLICY).await.json;
        let days = |name: &str, policy: &Value| policy["sessions"][name].as_i64().unwrap() / 86_400;
        assert_eq!(policy["version"], json!(1));
        assert_eq!(
            (days("idle_timeout_seconds", &policy), days("absolute_timeout_seconds", &policy)),
            (idle, absolute)
        );
        let started = &of_type(&node, "session.started").await[0];
        let span = time(&started["data"]["expires_at"]) - time(&started["data"]["idle_expires_at"]);
        assert_eq!(span, TimeDelta::days(absolute - idle));

        enforce(&admin, |policy| policy["lockout"]["threshold"] = json!(3)).await;
        assert_eq!(of_type(&node, "policy.changed").await[0]["data"]["before"], written(&policy));
        node.stop().await;
        let node = Node::join(&database).await;
        let policy = there(&node, &admin).get(POLICY).await.json;
        assert_eq!(
            (days("idle_timeout_seconds", &policy), &policy["version"]),
            (idle, &json!(2)),
            "the event says so now"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_cannot_follow_the_log_asks_the_database_what_roles_need() {
    let node = Node::start().await;
    let other = Node::join(&node.database).await;
    let (admin, auditor) = (node.admin().await, node.auditor().await);
    cut_off(&other).await;
    let elsewhere = there(&other, &auditor);
    assert_eq!(elsewhere.get("/v1/roles").await.status, 200);
    enforce(&admin, |policy| policy["second_factor"]["required_for"] = json!(["auditor"])).await;
    assert_eq!(elsewhere.get("/v1/roles").await.status, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_cannot_follow_the_log_asks_the_database_how_long_an_elevation_lasts() {
    let node = Node::start().await;
    let other = Node::join(&node.database).await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    cut_off(&other).await;
    set_elevation(&admin, 1).await;
    assert_eq!(elevation_at(&other, &ann).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_cannot_follow_the_log_decides_under_the_policy_in_force() {
    let node = Node::start().await;
    let other = Node::join(&node.database).await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    cut_off(&other).await;
    enforce(&admin, |policy| policy["lockout"]["threshold"] = json!(1)).await;
    guess(&other, &ann.email, 1).await;
    assert_eq!(log_in(&other, &ann.email, PASSWORD, None).await.status, 401, "locked");
}
