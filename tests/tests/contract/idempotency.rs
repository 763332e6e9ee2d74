//! `Idempotency-Key`: the same command, repeated, does nothing again, and gives its first answer.

use std::collections::BTreeSet;

use chrono::TimeDelta;
use fulexo_node::clock;
use fulexo_tests::{Answer, Authenticator, Client, Node, PASSWORD, superuser};
use futures_util::future::join_all;
use hyper::Method;
use serde_json::{Value, json};

use crate::{assert_problem, log_size};

/// Makes a request twice under one key: the second gives the same status and records nothing.
async fn twice(node: &Node, client: &Client, path: &str, body: &Value) -> (Answer, Answer) {
    let client = client.with_header("idempotency-key", "a key");
    let first = client.post(path, body.clone()).await;
    let size = log_size(node).await;
    let second = client.post(path, body.clone()).await;
    assert_eq!(first.status, second.status, "{first:?} {second:?}");
    assert_eq!(log_size(node).await, size, "the second recorded something");
    (first, second)
}

/// Panics unless the same key with another body is refused, and records nothing.
async fn assert_bound_to_its_body(node: &Node, client: &Client, path: &str, body: &Value) {
    let size = log_size(node).await;
    let answer = client.with_header("idempotency-key", "a key").post(path, body.clone()).await;
    assert_problem(&answer, 409, "idempotency_key_reused");
    assert_eq!(log_size(node).await, size);
}

fn ann(password: &str) -> Value {
    json!({"email": "ann@example.com", "password": password})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_repeated_gives_the_same_account() {
    let node = Node::start().await;
    let (first, second) = twice(&node, &node.anonymous(), "/v1/auth/register", &ann(PASSWORD)).await;
    assert_eq!((first.status, &first.json), (201, &second.json), "{second:?}");
    assert_bound_to_its_body(&node, &node.anonymous(), "/v1/auth/register", &ann("kestrel-Over9thefen")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_repeated_gives_the_same_session() {
    let node = Node::start().await;
    let (email, _) = node.register(&["customer"]).await;
    let body = json!({"email": email, "password": PASSWORD});
    let (first, second) = twice(&node, &node.anonymous(), "/v1/auth/login", &body).await;
    for member in ["session_id", "refresh_token", "device_token"] {
        assert!(first.json[member].is_string(), "{first:?}");
        assert_eq!(first.json[member], second.json[member], "{member}");
    }
    let mut client = node.anonymous();
    client.log_in_with(&second);
    assert_eq!(client.get("/v1/auth/session").await.status, 200);
    let other = json!({"email": email, "password": "another"});
    assert_bound_to_its_body(&node, &node.anonymous(), "/v1/auth/login", &other).await;
}

const EXPIRED: &str = "outcome_expired";

/// Moves all commands so far back by this many minutes.
async fn minutes_pass(node: &Node, minutes: i32) {
    let statement = "update log.command set recorded_at = recorded_at - make_interval(mins => $1)";
    sqlx::query(statement).bind(minutes).execute(&superuser(&node.database).await).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_under_a_password_that_was_changed_since_is_not_repeated() {
    let node = Node::start().await;
    let (email, account) = node.register(&["customer"]).await;
    let (body, client) = (json!({"email": email, "password": PASSWORD}), node.anonymous());
    let client = client.with_header("idempotency-key", "a key");
    let first = client.post("/v1/auth/login", body.clone()).await;
    assert_eq!(first.status, 200, "{first:?}");
    let mut ann = Client { account, ..node.anonymous() };
    ann.log_in_with(&first);
    let change = json!({"current_password": PASSWORD, "new_password": "kestrel-Over9thefen"});
    assert_eq!(ann.post("/v1/me/password", change).await.status, 204);
    for minutes in [0, 9, 60] {
        minutes_pass(&node, minutes).await;
        assert_problem(&client.post("/v1/auth/login", body.clone()).await, 401, "invalid_credentials");
    }
    assert_eq!(ann.get("/v1/auth/session").await.status, 200, "the session goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_is_repeated_for_minutes() {
    let node = Node::start().await;
    let (email, _) = node.register(&["customer"]).await;
    let body = json!({"email": email, "password": PASSWORD});
    let client = node.anonymous().with_header("idempotency-key", "a key");
    let first = client.post("/v1/auth/login", body.clone()).await;
    minutes_pass(&node, 9).await;
    let again = client.post("/v1/auth/login", body.clone()).await;
    assert_eq!((again.status, &again.json["session_id"]), (200, &first.json["session_id"]), "{again:?}");
    minutes_pass(&node, 1).await;
    assert_problem(&client.post("/v1/auth/login", body).await, 409, EXPIRED);
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_shown_again_for_minutes_and_under_the_factors_that_earned_them() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let key = json!({"name": "s", "permissions": ["audit.read"], "expires_at": (clock::now() + TimeDelta::days(1)).to_rfc3339()});
    let member = json!({"email": "new@example.com"});
    let none = json!({});
    // The last two change the factors that a repetition requires: a confirmed enrolment requires its own.
    let calls = [
        ("/v1/api-keys", &key, "secret"),
        ("/v1/accounts", &member, "initial_password"),
        ("/v1/me/second-factor/totp", &none, "secret"),
    ];
    let keyed = admin.with_header("idempotency-key", "a key");
    let call = async |path: &str, body: &Value| match body == &none {
        true => keyed.post_nothing(path).await,
        false => keyed.post(path, body.clone()).await,
    };
    let mut secrets = Vec::new();
    for (path, body, member) in calls {
        let (first, again) = (call(path, body).await, call(path, body).await);
        assert!((200..300).contains(&first.status) && first.json[member].is_string(), "{path}: {first:?}");
        assert_eq!((again.status, &again.json[member]), (first.status, &first.json[member]), "{path}");
        secrets.push(first.json[member].as_str().unwrap().to_owned());
    }
    let confirm = json!({"code": Authenticator::of(&secrets[2]).code(0)});
    let first = keyed.post("/v1/me/second-factor/totp/confirm", confirm.clone()).await;
    assert_eq!(first.status, 200, "{first:?}");
    let again = keyed.post("/v1/me/second-factor/totp/confirm", confirm.clone()).await;
    assert_eq!((again.status, &again.json), (200, &first.json), "{again:?}");
    for (path, body, _) in calls {
        assert_problem(&call(path, body).await, 409, EXPIRED);
    }
    let codes = keyed.post_nothing("/v1/me/recovery-codes").await;
    assert_eq!(keyed.post_nothing("/v1/me/recovery-codes").await.json, codes.json);
    minutes_pass(&node, 10).await;
    let size = log_size(&node).await;
    assert_problem(&keyed.post("/v1/me/second-factor/totp/confirm", confirm).await, 409, EXPIRED);
    assert_problem(&keyed.post_nothing("/v1/me/recovery-codes").await, 409, EXPIRED);
    assert_eq!(log_size(&node).await, size, "and nothing is done a second time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_login_repeated_is_one_attempt() {
    let node = Node::start().await;
    let (email, account) = node.register(&["customer"]).await;
    let body = json!({"email": email, "password": "wrong"});
    for _ in 0..6 {
        let (first, second) = twice(&node, &node.anonymous(), "/v1/auth/login", &body).await;
        assert_eq!((first.status, second.status), (401, 401));
    }
    node.log_in(&email, account).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_repeated_gives_the_same_successor() {
    let node = Node::start().await;
    let client = node.customer().await;
    let body = json!({"refresh_token": client.refresh_token});
    let (first, second) = twice(&node, &node.anonymous(), "/v1/auth/refresh", &body).await;
    assert_eq!(first.status, 200, "{first:?}");
    assert_eq!(first.json["refresh_token"], second.json["refresh_token"]);
    let successor = json!({"refresh_token": first.json["refresh_token"]});
    assert_bound_to_its_body(&node, &node.anonymous(), "/v1/auth/refresh", &successor).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_change_repeated_changes_it_once() {
    let node = Node::start().await;
    let client = node.customer().await;
    let body = json!({"current_password": PASSWORD, "new_password": "kestrel-Over9thefen"});
    let (first, _) = twice(&node, &client, "/v1/me/password", &body).await;
    assert_eq!(first.status, 204, "{first:?}");
    let other = json!({"current_password": "kestrel-Over9thefen", "new_password": "basalt-Under4themoon"});
    assert_bound_to_its_body(&node, &client, "/v1/me/password", &other).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_repeated_grants_once() {
    let node = Node::start().await;
    let (admin, customer) = (node.admin().await, node.customer().await);
    let path = format!("/v1/accounts/{}/roles", customer.account);
    let (first, _) = twice(&node, &admin, &path, &json!({"role": "auditor", "reason": "r"})).await;
    assert_eq!(first.status, 204, "{first:?}");
    assert_bound_to_its_body(&node, &admin, &path, &json!({"role": "auditor", "reason": "another"})).await;
    assert_bound_to_its_body(&node, &admin, &path, &json!({"role": "admin", "reason": "r"})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_of_a_role_repeated_revokes_once() {
    let node = Node::start().await;
    let (admin, auditor) = (node.admin().await, node.auditor().await);
    let path = format!("/v1/accounts/{}/roles/auditor", auditor.account);
    let admin = admin.with_header("idempotency-key", "a key");
    let revoke = async || admin.send(Method::DELETE, &path, Some("application/json"), r#"{"reason": "r"}"#).await;
    assert_eq!(revoke().await.status, 200);
    let size = log_size(&node).await;
    assert_eq!(revoke().await.status, 200);
    assert_eq!(log_size(&node).await, size);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_out_repeated_gives_the_same_answer() {
    let node = Node::start().await;
    let ann = node.customer().await;
    for _ in 0..2 {
        node.log_in(&ann.email, ann.account).await;
    }
    let ann = ann.with_header("idempotency-key", "a key");
    let first = ann.post_nothing("/v1/me/sessions/revoke-others").await;
    let later = node.log_in(&ann.email, ann.account).await;
    let second = ann.post_nothing("/v1/me/sessions/revoke-others").await;
    assert_eq!((first.json["revoked"].as_u64(), &first.json), (Some(2), &second.json));
    assert_eq!(later.get("/v1/auth/session").await.status, 200, "the command is the one that was made before");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_of_another_caller_is_another_command() {
    let node = Node::start().await;
    let (first, second) = (node.admin().await, node.admin().await);
    let customers = [node.customer().await, node.customer().await];
    for (admin, customer) in [&first, &second].into_iter().zip(&customers) {
        let path = format!("/v1/accounts/{}/roles", customer.account);
        let admin = admin.with_header("idempotency-key", "a key");
        let size = log_size(&node).await;
        assert_eq!(admin.post(&path, json!({"role": "auditor", "reason": "r"})).await.status, 204);
        assert_eq!(log_size(&node).await, size + 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_at_another_operation_is_another_command() {
    let node = Node::start().await;
    let client = node.anonymous().with_header("idempotency-key", "a key");
    assert_eq!(client.post("/v1/auth/register", ann(PASSWORD)).await.status, 201);
    assert_eq!(client.post("/v1/auth/login", ann(PASSWORD)).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_registrations_at_once_under_one_key_are_one_account() {
    let node = Node::start().await;
    let client = node.anonymous().with_header("idempotency-key", "a key");
    let answers = join_all((0..20).map(|_| client.post("/v1/auth/register", ann(PASSWORD)))).await;
    let accounts: BTreeSet<String> = answers.iter().map(|answer| answer.json["account_id"].to_string()).collect();
    assert!(answers.iter().all(|answer| answer.status == 201), "{answers:?}");
    assert_eq!(accounts.len(), 1, "{accounts:?}");
    assert_eq!(log_size(&node).await, 2, "registered, and one role");
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_registrations_at_once_without_a_key_are_one_account_and_nineteen_refusals() {
    let node = Node::start().await;
    let client = node.anonymous();
    let answers = join_all((0..20).map(|_| client.post("/v1/auth/register", ann(PASSWORD)))).await;
    let refused: Vec<_> = answers.iter().filter(|answer| answer.status != 201).collect();
    assert_eq!(refused.len(), 19);
    refused.iter().for_each(|answer| assert_problem(answer, 409, "email_taken"));
    assert_eq!(log_size(&node).await, 2);
}
