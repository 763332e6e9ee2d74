//! The password policy, and the effect of a new password on everything that the old one opened.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fulexo_tests::{Client, Database, Node, PASSWORD};
use futures_util::future::join_all;
use serde_json::{Value, json};

use super::{log_in, log_size};

/// Acceptable, and unlike each other.
const OTHERS: [&str; 6] = [
    "kestrel-Over9thefen",
    "basalt-Under4themoon",
    "walnut-Behind2themill",
    "copper-Beyond8thequay",
    "juniper-Along3theridge",
    "lantern-Above6thepier",
];

async fn register(node: &Node, password: &str) -> Vec<(String, String)> {
    let body = json!({"email": "annabel@example.com", "password": password, "display_name": "Annabel Lee"});
    faults(node.anonymous().post("/v1/auth/register", body).await.json)
}

async fn change(client: &Client, current: &str, new: &str) -> fulexo_tests::Answer {
    client.post("/v1/me/password", json!({"current_password": current, "new_password": new})).await
}

fn faults(problem: Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let errors = problem["errors"].as_array().cloned().unwrap_or_default();
    errors.iter().map(|error| (text(&error["pointer"]), text(&error["detail"]))).collect()
}

fn all_at(pointer: &str, details: &[&str]) -> Vec<(String, String)> {
    details.iter().map(|detail| (pointer.to_owned(), (*detail).to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_rule_that_a_first_password_breaks_is_named_at_once() {
    let node = Node::start().await;
    let expected = [
        "must be at least 12 characters long",
        "must contain an upper-case letter",
        "must contain a digit",
        "must contain a symbol",
        "must not be a common or easily guessed password",
        "must not resemble the e-mail address",
        "must not resemble the display name",
    ];
    assert_eq!(register(&node, "annabel").await, all_at("/password", &expected));
    let lower = ["must contain a lower-case letter", "must not be a common or easily guessed password"];
    assert_eq!(register(&node, "AAAAAAAAAAA1!").await, all_at("/password", &lower));
    let common = ["must not be a common or easily guessed password"];
    assert_eq!(register(&node, "Password123!").await, all_at("/password", &common));
    assert_eq!(log_size(&node).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_rule_that_a_new_password_breaks_is_named_at_once() {
    let node = Node::start().await;
    let ann = node.customer().await;
    let size = log_size(&node).await;
    let expected = [
        "must be at least 12 characters long",
        "must contain an upper-case letter",
        "must contain a digit",
        "must contain a symbol",
        "must not be a common or easily guessed password",
    ];
    assert_eq!(faults(change(&ann, PASSWORD, "aaaa").await.json), all_at("/new_password", &expected));
    // The current password was right: that is noted, and nothing else.
    assert_eq!(log_size(&node).await, size + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn seventy_three_bytes_are_refused_and_seventy_two_are_not_cut() {
    let node = Node::start().await;
    let longest = format!("{}aA1!", "kX4-".repeat(17));
    assert_eq!(longest.len(), 72);
    let too_long = ["must be at most 72 bytes long"];
    assert_eq!(register(&node, &format!("{longest}x")).await, all_at("/password", &too_long));
    assert_eq!(register(&node, &longest).await, []);
    let nobody = node.anonymous();
    assert_eq!(log_in(&nobody, "annabel@example.com", longest.get(..71).unwrap()).await.status, 401);
    assert_eq!(log_in(&nobody, "annabel@example.com", &format!("{longest}x")).await.status, 401);
    assert_eq!(log_in(&nobody, "annabel@example.com", &longest).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn none_of_the_last_five_passwords_comes_back_and_the_sixth_does() {
    let node = Node::start().await;
    let ann = node.customer().await;
    let mut used = vec![PASSWORD];
    for new in &OTHERS[..5] {
        let answer = change(&ann, used.last().unwrap(), new).await;
        assert_eq!(answer.status, 204, "{answer:?}");
        used.push(new);
    }
    let reused = all_at("/new_password", &["must not be one of the last five passwords"]);
    for old in &used[1..] {
        let answer = change(&ann, used[5], old).await;
        assert_eq!((answer.status, faults(answer.json)), (400, reused.clone()), "{old}");
    }
    assert_eq!(change(&ann, used[5], used[0]).await.status, 204);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_password_that_is_refused_is_no_failed_attempt() {
    let node = Node::start().await;
    let ann = node.customer().await;
    for new in ["weak", PASSWORD].into_iter().cycle().take(8) {
        let answer = change(&ann, PASSWORD, new).await;
        assert_eq!((answer.status, answer.code()), (400, "invalid_input"), "{answer:?}");
    }
    assert_eq!(change(&ann, PASSWORD, OTHERS[0]).await.status, 204);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_current_password_is_not_told_whether_the_new_one_was_used_before() {
    let node = Node::start().await;
    let ann = node.customer().await;
    let answer = change(&ann, "wrong", PASSWORD).await;
    assert_eq!((answer.status, answer.code()), (401, "invalid_credentials"), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_password_ends_every_other_session_at_once_and_keeps_this_one() {
    let node = Node::start().await;
    let ann = node.customer().await;
    let mut others = Vec::new();
    for _ in 0..3 {
        others.push(node.log_in(&ann.email, ann.account).await);
    }
    let bob = node.customer().await;
    assert_eq!(change(&ann, PASSWORD, OTHERS[0]).await.status, 204);
    for other in &others {
        let answer = other.get("/v1/auth/session").await;
        assert_eq!((answer.status, answer.code()), (401, "invalid_token"), "{answer:?}");
        let refresh = other.post("/v1/auth/refresh", json!({"refresh_token": other.refresh_token})).await;
        assert_eq!(refresh.status, 401, "{refresh:?}");
    }
    assert_eq!(ann.get("/v1/auth/session").await.status, 200);
    let refresh = ann.post("/v1/auth/refresh", json!({"refresh_token": ann.refresh_token})).await;
    assert_eq!(refresh.status, 200, "{refresh:?}");
    assert_eq!(bob.get("/v1/auth/session").await.status, 200, "another account is not touched");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_old_password_no_longer_logs_in_and_the_new_one_does() {
    let node = Node::start().await;
    let ann = node.customer().await;
    assert_eq!(change(&ann, PASSWORD, OTHERS[0]).await.status, 204);
    assert_eq!(log_in(&node.anonymous(), &ann.email, PASSWORD).await.status, 401);
    assert_eq!(log_in(&node.anonymous(), &ann.email, OTHERS[0]).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_login_under_way_with_the_old_password_outlives_the_change() {
    // At cost 10 a login is under way for a while. Three and the change are fewer attempts than lock.
    let node = at_cost(10).await;
    let ann = node.customer().await;
    let is_changed = AtomicBool::new(false);
    let keep_logging_in = async || {
        let mut sessions = Vec::new();
        while !is_changed.load(Ordering::Relaxed) {
            let login = log_in(&node.anonymous(), &ann.email, PASSWORD).await;
            let mut client = node.anonymous();
            client.log_in_with(&login);
            sessions.extend((login.status == 200).then_some(client));
        }
        sessions
    };
    let change = async {
        let answer = change(&ann, PASSWORD, OTHERS[0]).await;
        is_changed.store(true, Ordering::Relaxed);
        answer
    };
    let (changed, sessions) = tokio::join!(change, join_all((0..3).map(|_| keep_logging_in())));
    assert_eq!(changed.status, 204, "{changed:?}");
    for client in sessions.iter().flatten() {
        assert_eq!(client.get("/v1/auth/session").await.status, 401, "session {} lives on", client.session);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_changes_at_once_one_is_made() {
    let node = at_cost(8).await;
    let ann = node.customer().await;
    let changes = join_all(OTHERS[..4].iter().map(|new| change(&ann, PASSWORD, new))).await;
    let made: Vec<bool> = changes.iter().map(|answer| answer.status == 204).collect();
    assert_eq!(made.iter().filter(|made| **made).count(), 1, "{changes:?}");
    for (new, made) in OTHERS.iter().zip(made) {
        assert_eq!(log_in(&node.anonymous(), &ann.email, new).await.status == 200, made, "{new}");
    }
}

async fn at_cost(cost: u32) -> Node {
    let database = Arc::new(Database::create().await);
    let mut env = database.env();
    env.insert("FULEXO_BCRYPT_COST".into(), cost.to_string());
    Node::with(&database, env).await
}
