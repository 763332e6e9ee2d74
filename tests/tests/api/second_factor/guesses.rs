//! Guesses at codes: as few are evaluated as the policy allows, however many come at once, and they are counted apart
//! from those at the password.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use fulexo_tests::{Answer, Client, Database, Node};
use futures_util::future::join_all;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    Owner, SECOND_FACTOR, STEP_UP, act, assert_refused, challenge_of, count, leaves_of, log_in, outcomes, present,
    step_up, superuser,
};
use crate::{assert_evaluated, refusals};

/// Sends all of these bodies at once, spread over the clients, and some of them once more: a node that was too busy to
/// answer returned what it had counted, and a caller who had waited for that too long was refused. Returns the answers,
/// after a check that there is nothing but that and refusals.
async fn guess(clients: &[Client], path: &str, bodies: Vec<Value>) -> Vec<Answer> {
    let again: Vec<Value> = bodies.iter().take(5).cloned().collect();
    let guesses = bodies.into_iter().enumerate().map(|(number, body)| clients[number % clients.len()].post(path, body));
    let mut answers = join_all(guesses).await;
    for body in again {
        answers.push(clients[0].post(path, body).await);
    }
    for answer in &answers {
        let sound = match answer.status {
            401 => answer.code() == "invalid_credentials",
            // The node was too busy to say anything.
            503 => answer.header("retry-after").is_some(),
            _ => false,
        };
        assert!(sound, "{answer:?}");
    }
    answers
}

fn with_challenge(challenge: &str, codes: Vec<String>) -> Vec<Value> {
    codes.into_iter().map(|code| json!({"challenge_token": challenge, "code": code})).collect()
}

/// Sends five wrong codes from a device that was never seen.
async fn lock(node: &Node, owner: &Owner) {
    let challenge = owner.challenge(node).await;
    for code in owner.wrong_codes(5) {
        assert_refused(&present(node, &challenge, &code).await);
    }
}

/// Sends five wrong codes from the device on which the owner logged in.
async fn lock_the_device(owner: &Owner) {
    for code in owner.wrong_codes(5) {
        assert_refused(&step_up(&owner.client, &code).await);
    }
}

/// Moves the locks as if fifteen minutes had passed.
async fn let_the_lock_pass(node: &Node) {
    let statement =
        "update vault.attempt set locked_until = now() - interval '1 second' where locked_until is not null";
    let moved = sqlx::query(statement).execute(&superuser(&node.database).await).await.unwrap();
    assert_eq!(moved.rows_affected(), 1, "one lock");
}

#[track_caller]
fn assert_five(found: &BTreeMap<String, usize>, answers: &[Answer]) {
    assert_evaluated(found["wrong_code"], 5, answers);
    let refused = refusals(answers);
    assert_eq!(found["authentication.locked_out"], 1, "{found:?}");
    // This includes those that were not answered in time.
    let pending = found.get("too_many_concurrent").copied();
    let unseen = found.get("locked").copied().unwrap_or_default() + pending.unwrap_or_default();
    assert!(unseen >= refused - 5, "every refusal is an event: {found:?}, {refused} refused");
    let unseen = ["locked", "too_many_concurrent"].iter().filter(|reason| found.contains_key(**reason)).count();
    assert_eq!(found.len(), 2 + unseen, "{found:?}");
}

async fn counters(node: &Node, account: Uuid) -> i64 {
    count(node, "select count(*) from vault.attempt where account_id = $1", account).await
}

#[tokio::test(flavor = "multi_thread")]
async fn of_500_codes_at_once_five_are_evaluated() {
    let node = Node::start().await;
    let ann = Owner::customer(&node).await;
    let challenge = ann.challenge(&node).await;
    let bodies = with_challenge(&challenge, ann.wrong_codes(500));
    let refused = guess(&[node.anonymous()], SECOND_FACTOR, bodies).await;
    assert_five(&outcomes(&node.database, ann.client.account, "second_factor").await, &refused);
    assert!(
        outcomes(&node.database, ann.client.account, "password").await.is_empty(),
        "the password is another matter"
    );
    assert_refused(&present(&node, &challenge, &ann.code(&node).await).await);
    assert_refused(&present(&node, &challenge, &ann.recovery[0]).await);
    ann.challenge(&node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_500_codes_at_once_at_two_nodes_with_many_challenges_five_are_evaluated() {
    let database = Arc::new(Database::create().await);
    let nodes = [Node::join(&database).await, Node::join(&database).await];
    let ann = Owner::customer(&nodes[0]).await;
    let mut bodies = Vec::new();
    for codes in ann.wrong_codes(500).chunks(50) {
        bodies.extend(with_challenge(&ann.challenge(&nodes[0]).await, codes.to_vec()));
    }
    let clients = nodes.each_ref().map(Node::anonymous);
    let refused = guess(&clients, SECOND_FACTOR, bodies).await;
    assert_five(&outcomes(&database, ann.client.account, "second_factor").await, &refused);
    for node in &nodes {
        assert_refused(&present(node, &ann.challenge(node).await, &ann.code(node).await).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_500_codes_at_once_at_step_up_five_are_evaluated() {
    let node = Node::start().await;
    let ann = Owner::customer(&node).await.on_a_known_device(&node).await;
    let bodies = ann.wrong_codes(500).into_iter().map(|code| json!({"code": code})).collect();
    let refused = guess(std::slice::from_ref(&ann.client), STEP_UP, bodies).await;
    assert_five(&outcomes(&node.database, ann.client.account, "second_factor").await, &refused);
    let locked = leaves_of(&node.database, ann.client.account, "authentication.locked_out").await;
    assert!(locked[0]["data"]["device"].is_string(), "the device's own counter: {locked:?}");
    assert_refused(&step_up(&ann.client, &ann.code(&node).await).await);
    let here = ann.challenge_here(&node).await;
    assert_refused(&present(&node, &here, &ann.code(&node).await).await);
    let elsewhere = ann.challenge(&node).await;
    assert_eq!(present(&node, &elsewhere, &ann.code(&node).await).await.status, 200, "the lock is the device's alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_on_codes_passes_and_the_next_one_is_twice_as_long() {
    let node = Node::start().await;
    let ann = Owner::customer(&node).await;
    let challenge = ann.challenge(&node).await;
    lock(&node, &ann).await;
    assert_refused(&present(&node, &challenge, &ann.code(&node).await).await);
    let_the_lock_pass(&node).await;
    lock(&node, &ann).await;
    assert_refused(&present(&node, &challenge, &ann.code(&node).await).await);
    let_the_lock_pass(&node).await;
    assert_eq!(present(&node, &challenge, &ann.code(&node).await).await.status, 200, "the first after it is right");

    let locks = leaves_of(&node.database, ann.client.account, "authentication.locked_out").await;
    let time = |value: &Value| value.as_str().unwrap().parse::<DateTime<Utc>>().unwrap();
    let minutes: Vec<i64> = locks
        .iter()
        .map(|leaf| (time(&leaf["data"]["until"]) - time(&leaf["time"]) + TimeDelta::seconds(30)).num_minutes())
        .collect();
    assert_eq!(minutes, [15, 30]);
    for (nth, leaf) in (1..).zip(&locks) {
        let data = &leaf["data"];
        assert_eq!((&data["factor"], &data["failures"]), (&json!("second_factor"), &json!(5)));
        assert_eq!((&data["nth"], data.get("device")), (&json!(nth), None));
    }
    let lifted = leaves_of(&node.database, ann.client.account, "authentication.lock_lifted").await;
    let lifted: Vec<_> = lifted.iter().map(|leaf| &leaf["data"]).collect();
    assert_eq!(lifted, [&json!({"factor": "second_factor", "by": "expired"}); 2]);
    // And it is forgotten with the right code: the next lock is a first one.
    lock(&node, &ann).await;
    let locks = leaves_of(&node.database, ann.client.account, "authentication.locked_out").await;
    assert_eq!(locks[2]["data"]["nth"], json!(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recovery_code_refused_while_locked_is_not_spent() {
    let node = Node::start().await;
    let ann = Owner::customer(&node).await;
    let challenge = ann.challenge(&node).await;
    lock(&node, &ann).await;
    let code = ann.code(&node).await;
    for refused in [&ann.recovery[0], &code] {
        assert_refused(&present(&node, &challenge, refused).await);
    }
    let_the_lock_pass(&node).await;
    for right in [&ann.recovery[0], &code] {
        assert_eq!(present(&node, &challenge, right).await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_with_the_password_does_not_lock_the_owners_device_out() {
    let node = Node::start().await;
    let ann = Owner::customer(&node).await.on_a_known_device(&node).await;
    lock(&node, &ann).await;
    let elsewhere = ann.challenge(&node).await;
    assert_refused(&present(&node, &elsewhere, &ann.code(&node).await).await);
    let here = ann.challenge_here(&node).await;
    assert_eq!(present(&node, &here, &ann.code(&node).await).await.status, 200);
    assert_eq!(step_up(&ann.client, &ann.code(&node).await).await.status, 200);
    assert_refused(&present(&node, &elsewhere, &ann.code(&node).await).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_known_device_has_no_more_guesses_than_anybody() {
    let node = Node::start().await;
    let ann = Owner::customer(&node).await.on_a_known_device(&node).await;
    let here = ann.challenge_here(&node).await;
    for code in ann.wrong_codes(5) {
        assert_refused(&present(&node, &here, &code).await);
    }
    assert_refused(&present(&node, &here, &ann.code(&node).await).await);
    assert_refused(&step_up(&ann.client, &ann.code(&node).await).await);
    let failed = leaves_of(&node.database, ann.client.account, "authentication.failed").await;
    let devices: std::collections::BTreeSet<_> =
        failed.iter().map(|leaf| leaf["data"]["device"].as_str().unwrap().to_owned()).collect();
    assert_eq!(devices.len(), 1, "one device: {devices:?}");
    let elsewhere = ann.challenge(&node).await;
    assert_eq!(present(&node, &elsewhere, &ann.code(&node).await).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_lifts_the_locks_on_codes_of_account_and_devices() {
    let node = Node::start().await;
    let (admin, ann, eve) = (node.admin().await, Owner::customer(&node).await, Owner::customer(&node).await);
    lock(&node, &ann).await;
    lock_the_device(&ann).await;
    lock(&node, &eve).await;
    let (challenge, eves) = (ann.challenge(&node).await, eve.challenge(&node).await);
    assert_refused(&present(&node, &challenge, &ann.code(&node).await).await);
    assert_refused(&step_up(&ann.client, &ann.code(&node).await).await);
    let shown =
        admin.seeing(super::log_size(&node).await - 1).get(&format!("/v1/accounts/{}", ann.client.account)).await;
    assert_eq!(shown.json["locked"], json!(true), "{shown:?}");

    let unlocked = act(&admin, ann.client.account, "unlock").await;
    assert_eq!(unlocked.status, 200, "{unlocked:?}");
    let shown = admin.seeing(unlocked.position()).get(&format!("/v1/accounts/{}", ann.client.account)).await;
    assert_eq!(shown.json["locked"], json!(false));
    assert_eq!(counters(&node, ann.client.account).await, 0);
    let lifted = leaves_of(&node.database, ann.client.account, "authentication.lock_lifted").await;
    assert_eq!(lifted.len(), 1);
    assert_eq!(lifted[0]["data"], json!({"factor": "second_factor", "by": "admin"}));
    assert_eq!(lifted[0]["sealed"][0]["fields"], json!(["reason"]));
    assert_eq!(present(&node, &challenge, &ann.code(&node).await).await.status, 200);
    assert_eq!(step_up(&ann.client, &ann.code(&node).await).await.status, 200);
    assert_refused(&present(&node, &eves, &eve.code(&node).await).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_passwords_do_not_lock_codes() {
    let node = Node::start().await;
    let ann = Owner::customer(&node).await;
    let challenge = ann.challenge(&node).await;
    for _ in 0..6 {
        let body = json!({"email": ann.client.email, "password": "not-the-Passw0rd!"});
        assert_refused(&node.anonymous().post("/v1/auth/login", body).await);
    }
    assert_refused(&log_in(&node, &ann.client.email).await);
    assert_eq!(present(&node, &challenge, &ann.code(&node).await).await.status, 200);
    assert_refused(&log_in(&node, &ann.client.email).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_password_once_more_gives_no_further_guesses_at_the_code() {
    let node = Node::start().await;
    let ann = Owner::customer(&node).await;
    for code in ann.wrong_codes(5) {
        assert_refused(&present(&node, &ann.challenge(&node).await, &code).await);
    }
    assert_refused(&present(&node, &ann.challenge(&node).await, &ann.code(&node).await).await);
    assert_eq!(outcomes(&node.database, ann.client.account, "second_factor").await["authentication.locked_out"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_presented_for_a_code_is_one_of_five_guesses() {
    let node = Node::start().await;
    let ann = Owner::customer(&node).await;
    let challenge = ann.challenge(&node).await;
    let mut refused = Vec::new();
    for code in ["", "12345", "aaaaa-aaaaa", &"9".repeat(1_000), "\u{0}", &ann.code(&node).await] {
        refused.push(present(&node, &challenge, code).await);
        assert_refused(&refused[refused.len() - 1]);
    }
    assert_five(&outcomes(&node.database, ann.client.account, "second_factor").await, &refused);
}

#[tokio::test(flavor = "multi_thread")]
async fn four_wrong_codes_do_not_lock_and_a_right_one_is_forgotten_with_them() {
    let node = Node::start().await;
    let ann = Owner::customer(&node).await;
    let challenge = ann.challenge(&node).await;
    for recovery in [None, Some(&ann.recovery[0]), None] {
        for code in ann.wrong_codes(4) {
            assert_refused(&present(&node, &challenge, &code).await);
        }
        let right = match recovery {
            Some(code) => code.clone(),
            None => ann.code(&node).await,
        };
        assert_eq!(present(&node, &challenge, &right).await.status, 200);
    }
    let found = outcomes(&node.database, ann.client.account, "second_factor").await;
    assert_eq!(found, [("wrong_code".to_owned(), 12)].into());
    challenge_of(&log_in(&node, &ann.client.email).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_eight_right_codes_at_once_none_is_refused() {
    let node = Node::start().await;
    let ann = Owner::customer(&node).await;
    let mut challenges = Vec::new();
    for _ in 0..8 {
        challenges.push(ann.challenge(&node).await);
    }
    let codes = challenges.iter().zip(&ann.recovery);
    let answers = join_all(codes.map(|(challenge, code)| present(&node, challenge, code))).await;
    assert!(answers.iter().any(|answer| answer.status == 200));
    for answer in answers {
        // Each changes the account, and some may be told to try again; none is told that it was wrong.
        assert!(answer.status == 200 || answer.code() == "contended", "{answer:?}");
    }
    let outcomes = outcomes(&node.database, ann.client.account, "second_factor").await;
    assert!(outcomes.is_empty(), "more than five, and none is recorded as a failure: {outcomes:?}");
}
