//! A code is valid once, with any challenge, at any node, and in any number of concurrent requests.

use std::sync::Arc;

use fulexo_tests::{Answer, Client, Database, Node};
use futures_util::future::join_all;
use serde_json::json;

use super::{
    Owner, SECOND_FACTOR, assert_refused, change_policy, confirm, forget_the_last_code, leaves_of, present, sessions,
    start, step_up, within_a_step,
};

/// Presents a code fifty times at once, with several challenges, at every node; one login of them all must succeed.
async fn assert_one_of_fifty(nodes: &[&Node], owner: &Owner, code: &str) {
    let mut challenges = Vec::new();
    for _ in 0..5 {
        challenges.push(owner.challenge(nodes[0]).await);
    }
    let before = sessions(nodes[0], owner.client.account).await;
    let clients: Vec<Client> = nodes.iter().map(|node| node.anonymous()).collect();
    let answers: Vec<Answer> = join_all((0..50).map(|number| {
        let client = &clients[number % clients.len()];
        client.post(SECOND_FACTOR, json!({"challenge_token": challenges[number / 2 % challenges.len()], "code": code}))
    }))
    .await;
    let (right, wrong): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 200);
    assert_eq!(right.len(), 1, "{right:?}");
    wrong.iter().for_each(|answer| assert_refused(answer));
    assert_eq!(sessions(nodes[0], owner.client.account).await, before + 1);
}

/// Two nodes where guesses are not limited: each of fifty codes is evaluated, not the first five alone.
async fn two_nodes_without_lockout() -> [Node; 2] {
    let database = Arc::new(Database::create().await);
    let one = Node::join(&database).await;
    change_policy(&one.admin().await, "/lockout/enabled", json!(false)).await;
    let other = Node::join(&database).await;
    [one, other]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_is_accepted_once() {
    let node = Node::start().await;
    let ann = Owner::customer(&node).await;
    let (one, other) = (ann.challenge(&node).await, ann.challenge_here(&node).await);
    let code = ann.code(&node).await;
    assert_eq!(present(&node, &one, &code).await.status, 200);
    for challenge in [&one, &other] {
        assert_refused(&present(&node, challenge, &code).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_is_accepted_once_of_fifty_times_at_once() {
    let [node, _] = two_nodes_without_lockout().await;
    let ann = Owner::customer(&node).await;
    assert_one_of_fifty(&[&node], &ann, &ann.code(&node).await).await;
    let failed = leaves_of(&node.database, ann.client.account, "authentication.failed").await;
    assert_eq!(failed.len(), 49);
    assert!(failed.iter().all(|leaf| leaf["data"]["reason"] == "wrong_code"), "each was evaluated: {failed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_is_accepted_once_at_two_nodes() {
    let nodes = two_nodes_without_lockout().await;
    let ann = Owner::customer(&nodes[0]).await;
    assert_one_of_fifty(&[&nodes[0], &nodes[1]], &ann, &ann.code(&nodes[0]).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_is_accepted_once_also_where_guesses_are_limited() {
    let database = Arc::new(Database::create().await);
    let nodes = [Node::join(&database).await, Node::join(&database).await];
    let ann = Owner::customer(&nodes[0]).await;
    assert_one_of_fifty(&[&nodes[0], &nodes[1]], &ann, &ann.code(&nodes[0]).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recovery_code_is_accepted_once_of_fifty_times_at_once() {
    let [node, _] = two_nodes_without_lockout().await;
    let ann = Owner::customer(&node).await;
    assert_one_of_fifty(&[&node], &ann, &ann.recovery[0]).await;
    let used = leaves_of(&node.database, ann.client.account, "account.recovery_code_used").await;
    assert_eq!(used.len(), 1);
    assert_eq!(used[0]["data"]["remaining"], json!(9));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recovery_code_is_accepted_once_at_two_nodes() {
    let nodes = two_nodes_without_lockout().await;
    let ann = Owner::customer(&nodes[0]).await;
    assert_one_of_fifty(&[&nodes[0], &nodes[1]], &ann, &ann.recovery[0]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_older_than_one_that_was_accepted_is_refused() {
    let node = Node::start().await;
    let ann = Owner::customer(&node).await;
    let challenge = ann.challenge(&node).await;
    let statuses = within_a_step(async || {
        forget_the_last_code(&node, ann.client.account).await;
        let (newer, older) = (ann.app.code(1), ann.app.code(0));
        let newer = present(&node, &challenge, &newer).await.status;
        let refused = present(&node, &challenge, &older).await.status;
        forget_the_last_code(&node, ann.client.account).await;
        [newer, refused, present(&node, &challenge, &older).await.status]
    })
    .await;
    assert_eq!(statuses, [200, 401, 200], "it is right but for the one that came before");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_that_confirmed_the_enrolment_is_refused_at_login() {
    let node = Node::start().await;
    let ann = node.customer().await;
    let (app, secret) = start(&ann).await;
    let code = app.code(1);
    assert_eq!(confirm(&ann, &code).await.status, 200);
    let ann = Owner { client: ann, app, secret, recovery: Vec::new() };
    let challenge = ann.challenge(&node).await;
    assert_refused(&present(&node, &challenge, &code).await);
    forget_the_last_code(&node, ann.client.account).await;
    assert_eq!(present(&node, &challenge, &code).await.status, 200, "it is right but for that");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_spent_at_a_login_is_spent_for_a_step_up_and_the_other_way_round() {
    let node = Node::start().await;
    let ann = Owner::customer(&node).await;
    let (challenge, code) = (ann.challenge(&node).await, ann.code(&node).await);
    assert_eq!(present(&node, &challenge, &code).await.status, 200);
    assert_refused(&step_up(&ann.client, &code).await);
    let code = ann.code(&node).await;
    assert_eq!(step_up(&ann.client, &code).await.status, 200);
    assert_refused(&present(&node, &challenge, &code).await);
    for (first, second) in [(0, 1), (2, 3)] {
        assert_eq!(step_up(&ann.client, &ann.recovery[first]).await.status, 200);
        assert_refused(&present(&node, &challenge, &ann.recovery[first]).await);
        assert_eq!(present(&node, &challenge, &ann.recovery[second]).await.status, 200);
        assert_refused(&step_up(&ann.client, &ann.recovery[second]).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn codes_of_this_step_and_of_the_ones_beside_it_are_right_and_no_others() {
    let node = Node::start().await;
    let ann = Owner::customer(&node).await;
    let challenge = ann.challenge(&node).await;
    let statuses = within_a_step(async || {
        let mut statuses = Vec::new();
        for step in -2..=2 {
            forget_the_last_code(&node, ann.client.account).await;
            statuses.push(present(&node, &challenge, &ann.app.code(step)).await.status);
        }
        statuses
    })
    .await;
    assert_eq!(statuses, [401, 200, 200, 200, 401]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_by_code_repeated_under_its_key_gives_the_same_session() {
    let node = Node::start().await;
    let ann = Owner::customer(&node).await;
    let (challenge, code) = (ann.challenge(&node).await, ann.code(&node).await);
    let client = node.anonymous().with_header("idempotency-key", "a key");
    let body = json!({"challenge_token": challenge, "code": code});
    let first = client.post(SECOND_FACTOR, body.clone()).await;
    let again = client.post(SECOND_FACTOR, body.clone()).await;
    assert_eq!((first.status, again.status), (200, 200), "{first:?} {again:?}");
    for member in ["session_id", "refresh_token", "device_token"] {
        assert_eq!(first.json[member], again.json[member], "{member}");
    }
    assert_eq!(sessions(&node, ann.client.account).await, 2);
    let other = json!({"challenge_token": challenge, "code": ann.wrong_code()});
    assert_eq!(client.post(SECOND_FACTOR, other).await.code(), "idempotency_key_reused");
    assert_refused(&node.anonymous().post(SECOND_FACTOR, body).await);
}
