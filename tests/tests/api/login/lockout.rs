//! Guesses: no more of them are evaluated than the policy allows, however many come at once, at however many nodes.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use fulexo_tests::{Answer, Client, Database, Node, PASSWORD};
use futures_util::future::join_all;
use serde_json::{Value, json};

use super::{leaves, log_in, superuser};
use crate::{assert_evaluated, refusals};

/// Makes this many guesses at once, spread over the clients, and some more if they are hundreds: a node that was too
/// busy to answer returned what it had counted, and a caller who had waited for that too long was refused. Returns the
/// answers, after a check that there is nothing but that and refusals.
async fn guess(clients: &[Client], email: &str, times: usize) -> Vec<Answer> {
    let guesses = (0..times).map(|number| {
        let client = &clients[number % clients.len()];
        async move { log_in(client, email, &format!("wrong {number}")).await }
    });
    let mut answers = join_all(guesses).await;
    for number in 0..if times > 20 { 5 } else { 0 } {
        answers.push(log_in(&clients[0], email, &format!("wrong {number}")).await);
    }
    for answer in &answers {
        let sound = match answer.status {
            401 => answer.code() == "invalid_credentials",
            503 => answer.header("retry-after").is_some(),
            _ => false,
        };
        assert!(sound, "{answer:?}");
    }
    answers
}

/// Returns the number of attempts in the log, by outcome.
async fn outcomes(database: &Database) -> BTreeMap<String, usize> {
    let mut outcomes = BTreeMap::new();
    for leaf in leaves(database).await {
        let outcome = match leaf["type"].as_str().unwrap() {
            "authentication.failed" => leaf["data"]["reason"].as_str().unwrap(),
            other if other.starts_with("authentication.") => other,
            _ => continue,
        };
        *outcomes.entry(outcome.to_owned()).or_default() += 1;
    }
    outcomes
}

/// Returns the number of those that were not evaluated: the attempts that they waited for were wrong, or took too long.
fn unseen(outcomes: &BTreeMap<String, usize>) -> usize {
    ["locked", "too_many_concurrent"].iter().filter_map(|reason| outcomes.get(*reason)).sum()
}

/// Moves the locks as if fifteen minutes had passed.
async fn let_the_lock_pass(database: &Database) {
    let statement =
        "update vault.attempt set locked_until = now() - interval '1 second' where locked_until is not null";
    let moved = sqlx::query(statement).execute(&superuser(database).await).await.unwrap();
    assert_eq!(moved.rows_affected(), 1, "one lock");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_500_guesses_at_once_five_are_evaluated() {
    let node = Node::start().await;
    let (email, _) = node.register(&["customer"]).await;
    let refused = guess(&[node.anonymous()], &email, 500).await;
    let outcomes = outcomes(&node.database).await;
    assert_evaluated(outcomes["wrong_password"], 5, &refused);
    assert_eq!(outcomes["authentication.locked_out"], 1, "{outcomes:?}");
    // This includes those that were not answered in time.
    assert!(unseen(&outcomes) >= refusals(&refused) - 5, "every refusal is an event: {outcomes:?}");
    assert_eq!(outcomes.len(), 3 + usize::from(outcomes.contains_key("too_many_concurrent")), "{outcomes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_500_guesses_at_once_at_two_nodes_five_are_evaluated() {
    let database = Arc::new(Database::create().await);
    let nodes = [Node::join(&database).await, Node::join(&database).await];
    let (email, _) = nodes[0].register(&["customer"]).await;
    let refused = guess(&nodes.each_ref().map(Node::anonymous), &email, 500).await;
    let outcomes = outcomes(&database).await;
    assert_evaluated(outcomes["wrong_password"], 5, &refused);
    assert_eq!(outcomes["authentication.locked_out"], 1, "{outcomes:?}");
    // This includes those that were not answered in time.
    assert!(unseen(&outcomes) >= refusals(&refused) - 5, "every refusal is an event: {outcomes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn guesses_at_an_address_that_nobody_registered_are_counted_and_locked_alike() {
    let node = Node::start().await;
    let refused = guess(&[node.anonymous()], "nobody@example.com", 20).await;
    let outcomes = outcomes(&node.database).await;
    assert_evaluated(outcomes["unknown_account"], 5, &refused);
    assert!(unseen(&outcomes) >= refusals(&refused) - 5, "{outcomes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_right_password_is_refused_while_locked_and_works_after() {
    let node = Node::start().await;
    let (email, _) = node.register(&["customer"]).await;
    let wrong = guess(&[node.anonymous()], &email, 5).await;
    let right = log_in(&node.anonymous(), &email, PASSWORD).await;
    assert_eq!((right.status, right.code()), (wrong[0].status, wrong[0].code()));
    assert_eq!(outcomes(&node.database).await["locked"], 1);
    let_the_lock_pass(&node.database).await;
    let after = log_in(&node.anonymous(), &email, PASSWORD).await;
    assert_eq!(after.status, 200, "{after:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_holds_at_every_node() {
    let database = Arc::new(Database::create().await);
    let (here, there) = (Node::join(&database).await, Node::join(&database).await);
    let (email, _) = here.register(&["customer"]).await;
    guess(&[here.anonymous()], &email, 5).await;
    assert_eq!(log_in(&there.anonymous(), &email, PASSWORD).await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_lock_in_a_row_is_twice_as_long() {
    let node = Node::start().await;
    let (email, _) = node.register(&["customer"]).await;
    guess(&[node.anonymous()], &email, 5).await;
    let_the_lock_pass(&node.database).await;
    guess(&[node.anonymous()], &email, 5).await;
    let leaves = leaves(&node.database).await;
    let locks = leaves.iter().filter(|leaf| leaf["type"] == "authentication.locked_out");
    let time = |value: &Value| value.as_str().unwrap().parse::<DateTime<Utc>>().unwrap();
    let minutes: Vec<i64> = locks
        .map(|leaf| (time(&leaf["data"]["until"]) - time(&leaf["time"]) + TimeDelta::seconds(30)).num_minutes())
        .collect();
    assert_eq!(minutes, [15, 30]);
}

#[tokio::test(flavor = "multi_thread")]
async fn four_wrong_passwords_do_not_lock_and_a_right_one_is_forgotten_with_them() {
    let node = Node::start().await;
    let (email, _) = node.register(&["customer"]).await;
    for _ in 0..3 {
        guess(&[node.anonymous()], &email, 4).await;
        assert_eq!(log_in(&node.anonymous(), &email, PASSWORD).await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_account_is_not_locked_with_it() {
    let node = Node::start().await;
    let ((ann, _), (bob, _)) = (node.register(&["customer"]).await, node.register(&["customer"]).await);
    guess(&[node.anonymous()], &ann, 6).await;
    assert_eq!(log_in(&node.anonymous(), &bob, PASSWORD).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_case_of_an_address_gives_no_further_guesses() {
    let node = Node::start().await;
    let (email, _) = node.register(&["customer"]).await;
    for spelling in [email.clone(), email.to_uppercase()] {
        guess(&[node.anonymous()], &spelling, 3).await;
    }
    assert_eq!(outcomes(&node.database).await["wrong_password"], 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_current_password_counts_as_a_failed_login_from_this_device() {
    let node = Node::start().await;
    let ann = node.customer().await;
    for _ in 0..5 {
        let body = json!({"current_password": "wrong", "new_password": "kestrel-Over9thefen"});
        let answer = ann.post("/v1/me/password", body).await;
        assert_eq!((answer.status, answer.code()), (401, "invalid_credentials"), "{answer:?}");
    }
    let outcomes = outcomes(&node.database).await;
    assert_eq!((outcomes["wrong_password"], outcomes["authentication.locked_out"]), (5, 1), "{outcomes:?}");
    let body = json!({"email": ann.email, "password": PASSWORD, "device_token": ann.device_token});
    assert_eq!(node.anonymous().post("/v1/auth/login", body).await.status, 401);
    assert_eq!(log_in(&node.anonymous(), &ann.email, PASSWORD).await.status, 200, "another device is not locked");
}
