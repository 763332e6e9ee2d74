//! Sensitive calls need a login younger than ten minutes.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::TimeDelta;
use fulexo_tests::{Answer, Node, PASSWORD, operator};
use serde_json::json;

use super::log_size;

#[track_caller]
fn assert_step_up(answer: &Answer) {
    assert_eq!((answer.status, answer.code()), (403, "step_up_required"), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn grants_and_revocations_need_a_fresh_login() {
    let node = Node::start().await;
    let (admin, ann) = (node.admin().await, node.auditor().await);
    let path = format!("/v1/accounts/{}/roles", ann.account);
    let body = json!({"role": "admin", "reason": "they asked"});
    let size = log_size(&node).await;
    let stale = node.as_if_logged_in(TimeDelta::minutes(10), &admin, &["admin"]);
    assert_step_up(&stale.post(&path, body.clone()).await);
    let reason = json!({"reason": "r"}).to_string();
    let revoked = format!("{path}/auditor");
    assert_step_up(&stale.send(hyper::Method::DELETE, &revoked, Some("application/json"), &reason).await);
    assert_eq!(log_size(&node).await, size);
    assert_eq!(stale.get("/v1/accounts").await.status, 200, "reading needs none");
    let fresh = node.as_if_logged_in(TimeDelta::minutes(9), &admin, &["admin"]);
    assert_eq!(fresh.post(&path, body).await.status, 204);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_change_needs_a_fresh_login() {
    let node = Node::start().await;
    let ann = node.customer().await;
    let size = log_size(&node).await;
    let stale = node.as_if_logged_in(TimeDelta::minutes(10), &ann, &["customer"]);
    let body = json!({"current_password": PASSWORD, "new_password": "kestrel-Over9thefen"});
    assert_step_up(&stale.post("/v1/me/password", body).await);
    assert_eq!(log_size(&node).await, size);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_permission_a_stale_caller_is_told_of_that_first() {
    let node = Node::start().await;
    let ann = node.customer().await;
    let stale = node.as_if_logged_in(TimeDelta::minutes(11), &ann, &["customer"]);
    let path = format!("/v1/accounts/{}/roles", ann.account);
    let answer = stale.post(&path, json!({"role": "admin", "reason": "r"})).await;
    assert_eq!((answer.status, answer.code()), (403, "permission_denied"), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_is_no_fresh_login() {
    let node = Node::start().await;
    let ann = node.customer().await;
    let login = auth_time(ann.access_token.as_deref().unwrap());
    let mut later = operator();
    later.now += TimeDelta::minutes(5);
    let refreshed = node.app().commands.refresh(&later, &ann.refresh_token, None).await.unwrap().value;
    let after = auth_time(&refreshed.access_token);
    // The log's clock lags the request's by a moment, on a busy machine by some seconds.
    assert!((login..login + 60).contains(&after), "logged in at {login}, refreshed: {after}");
}

fn auth_time(token: &str) -> i64 {
    let claims = token.split('.').nth(1).map(|claims| URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
    serde_json::from_slice::<serde_json::Value>(&claims).unwrap()["auth_time"].as_i64().unwrap()
}
