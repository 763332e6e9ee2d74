//! Refresh tokens: valid for one use, and a copy that returns ends the session.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::TimeDelta;
use fulexo_commands::CommandError;
use fulexo_tests::{Answer, Client, Node, operator};
use futures_util::future::join_all;
use serde_json::{Value, json};

use super::{leaves, log_size};

async fn refresh(node: &Node, token: &str) -> Answer {
    node.anonymous().post("/v1/auth/refresh", json!({"refresh_token": token})).await
}

/// Refreshes, which must succeed.
async fn successor(node: &Node, token: &str) -> (String, Client) {
    let answer = refresh(node, token).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let mut client = node.anonymous();
    client.log_in_with(&answer);
    (client.refresh_token.clone(), client)
}

/// The type and data of the last events.
async fn last_events(node: &Node, count: usize) -> Vec<(String, Value)> {
    let leaves = leaves(&node.database).await;
    let last = leaves.iter().skip(leaves.len() - count);
    last.map(|leaf| (leaf["type"].as_str().unwrap().to_owned(), leaf["data"].clone())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_use_gives_another_token_and_the_session_stays_the_same() {
    let node = Node::start().await;
    let ann = node.customer().await;
    let mut token = ann.refresh_token.clone();
    for _ in 0..5 {
        let (next, client) = successor(&node, &token).await;
        assert_ne!(next, token);
        assert_eq!(client.session, ann.session);
        assert_eq!(client.get("/v1/auth/session").await.status, 200);
        token = next;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_just_spent_answers_with_the_same_successor_and_records_nothing() {
    let node = Node::start().await;
    let ann = node.customer().await;
    let (next, _) = successor(&node, &ann.refresh_token).await;
    let size = log_size(&node).await;
    for _ in 0..3 {
        assert_eq!(successor(&node, &ann.refresh_token).await.0, next);
    }
    assert_eq!(log_size(&node).await, size);
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_tabs_at_once_get_one_successor() {
    let node = Node::start().await;
    let ann = node.customer().await;
    let size = log_size(&node).await;
    let answers = join_all((0..10).map(|_| refresh(&node, &ann.refresh_token))).await;
    for answer in &answers {
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.json["refresh_token"], answers[0].json["refresh_token"]);
    }
    assert_eq!(log_size(&node).await, size + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_older_than_the_last_ends_the_session_at_once() {
    let node = Node::start().await;
    let ann = node.customer().await;
    let (second, _) = successor(&node, &ann.refresh_token).await;
    let (third, newest) = successor(&node, &second).await;
    let reused = refresh(&node, &ann.refresh_token).await;
    assert_eq!((reused.status, reused.code()), (401, "invalid_credentials"), "{reused:?}");
    for client in [&ann, &newest] {
        let answer = client.get("/v1/auth/session").await;
        assert_eq!((answer.status, answer.code()), (401, "invalid_token"), "{answer:?}");
    }
    assert_eq!(refresh(&node, &third).await.status, 401, "the newest one is worth nothing either");
    let expected = [
        ("session.refresh_reused".to_owned(), json!({"generation": 1})),
        ("session.revoked".to_owned(), json!({"by": "reuse"})),
    ];
    assert_eq!(last_events(&node, 2).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_just_spent_ends_the_session_once_its_ten_seconds_are_over() {
    let node = Node::start().await;
    let ann = node.customer().await;
    let (_, newest) = successor(&node, &ann.refresh_token).await;
    let mut later = operator();
    later.now += TimeDelta::seconds(9);
    assert!(node.app().commands.refresh(&later, &ann.refresh_token, None).await.is_ok());
    later.now += TimeDelta::seconds(2);
    let reused = node.app().commands.refresh(&later, &ann.refresh_token, None).await;
    assert!(matches!(reused, Err(CommandError::InvalidCredentials)));
    assert_eq!(newest.get("/v1/auth/session").await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_unused_for_seven_days_has_expired() {
    let node = Node::start().await;
    let ann = node.customer().await;
    let mut later = operator();
    later.now += TimeDelta::days(7);
    let expired = node.app().commands.refresh(&later, &ann.refresh_token, None).await;
    assert!(matches!(expired, Err(CommandError::InvalidCredentials)));
    assert_eq!(last_events(&node, 1).await, [("session.expired".to_owned(), json!({}))]);
    assert_eq!(ann.get("/v1/auth/session").await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_are_garbage_altered_or_foreign_are_refused_and_leave_no_trace() {
    let node = Node::start().await;
    let (ann, bob) = (node.customer().await, node.customer().await);
    let foreign = Node::start().await.customer().await;
    let size = log_size(&node).await;
    let mut tokens = vec![String::new(), "garbage".into(), "A".repeat(70), "🔑".repeat(70), foreign.refresh_token];
    tokens.push(ann.access_token.clone().unwrap());
    // 70 characters hold 52 bytes and four bits that mean nothing.
    for at in (0..69).step_by(3) {
        let mut altered = ann.refresh_token.clone();
        let other = if altered.get(at..=at) == Some("A") { "B" } else { "A" };
        altered.replace_range(at..=at, other);
        tokens.push(altered);
    }
    // The secret of one session under the name of another.
    tokens.push(format!("{}{}", bob.refresh_token.get(..24).unwrap(), ann.refresh_token.get(24..).unwrap()));
    tokens.push(format!("{} ", ann.refresh_token));
    for token in tokens {
        let answer = refresh(&node, &token).await;
        assert_eq!((answer.status, answer.code()), (401, "invalid_credentials"), "{token:?}: {answer:?}");
    }
    assert_eq!(log_size(&node).await, size);
    assert_eq!(refresh(&node, &ann.refresh_token).await.status, 200, "the session is not touched");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_generation_that_was_not_issued_yet_cannot_be_made_from_one_that_was() {
    let node = Node::start().await;
    let ann = node.customer().await;
    let mut bytes = URL_SAFE_NO_PAD.decode(&ann.refresh_token).unwrap();
    bytes[19] += 1;
    assert_eq!(refresh(&node, &URL_SAFE_NO_PAD.encode(bytes)).await.status, 401);
    assert_eq!(refresh(&node, &ann.refresh_token).await.status, 200, "nor does trying end the session");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_at_another_node_is_the_same() {
    let node = Node::start().await;
    let there = Node::join(&node.database).await;
    let ann = node.customer().await;
    let (second, _) = successor(&there, &ann.refresh_token).await;
    assert_eq!(successor(&node, &ann.refresh_token).await.0, second);
    successor(&node, &second).await;
}
