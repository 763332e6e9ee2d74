//! A lockdown: who gets in, who stays in, what a stranger learns from it.

#![expect(clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::sync::Arc;

use chrono::TimeDelta;
use fulexo_tests::{Answer, Authenticator, Client, Database, Node, PASSWORD, Program, cut_off, eventually, there};
use serde_json::{Value, json};

const SESSION: &str = "/v1/auth/session";
const BECAUSE: &str = "tokens of ours were found in a paste";

async fn start(admin: &Client, scope: &str) -> Answer {
    let started = admin.post("/v1/lockdown", json!({"scope": scope, "reason": BECAUSE})).await;
    assert_eq!(started.status, 200, "{started:?}");
    started
}

async fn lift(admin: &Client) -> Answer {
    let lifted = admin.delete_with("/v1/lockdown", json!({"reason": "all keys were changed"})).await;
    assert_eq!(lifted.status, 200, "{lifted:?}");
    lifted
}

async fn log_in(node: &Node, email: &str, password: &str) -> Answer {
    node.anonymous().post("/v1/auth/login", json!({"email": email, "password": password})).await
}

/// A service with a key, which may read accounts.
async fn service(admin: &Client) -> Client {
    let key = json!({"name": "billing", "permissions": ["accounts.read"],
                     "expires_at": fulexo_node::clock::now() + TimeDelta::days(1)});
    let key = admin.post("/v1/api-keys", key).await;
    Client { access_token: key.json["secret"].as_str().map(str::to_owned), ..Client::new(&admin.url) }
}

/// Returns all that a client is told.
fn told(answer: &Answer) -> (u16, String, Value, Option<String>) {
    let retry = answer.header("retry-after").map(str::to_owned);
    (answer.status, answer.code().to_owned(), answer.json["detail"].clone(), retry)
}

#[tokio::test(flavor = "multi_thread")]
async fn during_a_lockdown_of_everything_only_those_who_respond_get_anything_done() {
    let node = Node::start().await;
    let (admin, auditor, ann) = (node.admin().await, node.auditor().await, node.customer().await);
    let service = service(&admin).await;
    assert_eq!(service.get("/v1/accounts").await.status, 200);

    start(&admin, "all").await;
    for (client, path) in [(&auditor, "/v1/audit/events"), (&ann, "/v1/me/sessions"), (&service, "/v1/accounts")] {
        let refused = client.get(path).await;
        assert_eq!(refused.code(), "locked_down", "{refused:?}");
        assert_eq!((refused.status, refused.header("retry-after")), (503, Some("60")));
    }
    let refreshed = ann.post("/v1/auth/refresh", json!({"refresh_token": ann.refresh_token})).await;
    assert_eq!(refreshed.code(), "locked_down");
    assert_eq!(admin.get("/v1/accounts").await.status, 200, "whoever responds goes on");
    let again = node.log_in(&admin.email, admin.account).await;
    assert_eq!(again.get("/v1/lockdown").await.json["scope"], json!("all"), "and gets in");

    lift(&admin).await;
    for client in [&auditor, &ann] {
        assert_eq!(client.get("/v1/me/sessions").await.status, 200, "nothing was ended by it");
    }
    assert_eq!(service.get("/v1/accounts").await.status, 200);
    let refreshed = ann.post("/v1/auth/refresh", json!({"refresh_token": ann.refresh_token})).await;
    assert_eq!(refreshed.status, 200, "the refresh token was not spent by the refusal: {refreshed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn during_a_lockdown_of_logins_who_is_in_stays_in_and_nobody_else_gets_in() {
    let node = Node::start().await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    start(&admin, "logins").await;
    assert_eq!(ann.get("/v1/me/sessions").await.status, 200);
    let new = json!({"email": "new@example.com", "password": PASSWORD});
    assert_eq!(node.anonymous().post("/v1/auth/register", new.clone()).await.code(), "locked_down");
    let refreshed = ann.post("/v1/auth/refresh", json!({"refresh_token": ann.refresh_token})).await;
    assert_eq!(refreshed.code(), "locked_down");

    start(&admin, "all").await;
    assert_eq!(ann.get("/v1/me/sessions").await.code(), "locked_down", "the scope was widened");
    start(&admin, "logins").await;
    assert_eq!(ann.get("/v1/me/sessions").await.status, 200, "and narrowed");
    lift(&admin).await;
    assert_eq!(node.anonymous().post("/v1/auth/register", new).await.status, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_kept_out_learns_nothing_of_what_they_presented() {
    let node = Node::start().await;
    let (admin, ann, locked) = (node.admin().await, node.customer().await, node.customer().await);
    let (suspended, responder) = (node.customer().await, node.admin().await);
    for _ in 0..5 {
        log_in(&node, &locked.email, "not-the-Passw0rd!").await;
    }
    admin.post(&format!("/v1/accounts/{}/suspend", suspended.account), json!({"reason": BECAUSE})).await;
    start(&admin, "logins").await;
    let right = log_in(&node, &ann.email, PASSWORD).await;
    assert_eq!(right.code(), "locked_down");
    for (email, password) in [
        (ann.email.as_str(), "not-the-Passw0rd!"),
        ("nobody@example.com", PASSWORD),
        (&locked.email, PASSWORD),
        (&suspended.email, PASSWORD),
        (&responder.email, "not-the-Passw0rd!"),
    ] {
        assert_eq!(told(&log_in(&node, email, password).await), told(&right), "{email}");
    }
    // The log knows why.
    let admin = admin.seeing(fulexo_tests::log_size(&node).await - 1);
    let page = admin.get(&format!("/v1/audit/events?limit=200&subject={}", ann.account)).await;
    let reasons: Vec<&Value> =
        page.json["items"].as_array().unwrap().iter().map(|event| &event["data"]["reason"]).collect();
    assert!(reasons.contains(&&json!("lockdown")) && reasons.contains(&&json!("wrong_password")), "{reasons:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_locked_out_for_having_been_right_during_a_lockdown() {
    let node = Node::start().await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    start(&admin, "logins").await;
    for _ in 0..7 {
        assert_eq!(log_in(&node, &ann.email, PASSWORD).await.code(), "locked_down");
    }
    lift(&admin).await;
    assert_eq!(log_in(&node, &ann.email, PASSWORD).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_factor_does_not_get_around_a_lockdown_that_began_after_the_password() {
    let node = Node::start().await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    let secret = ann.post_nothing("/v1/me/second-factor/totp").await.json["secret"].as_str().unwrap().to_owned();
    let body = json!({"code": Authenticator::of(&secret).code(0)});
    let enrolled = ann.post("/v1/me/second-factor/totp/confirm", body).await;
    let halfway = log_in(&node, &ann.email, PASSWORD).await;
    let challenge = halfway.json["challenge_token"].as_str().unwrap().to_owned();
    start(&admin, "logins").await;
    let body = json!({"challenge_token": challenge, "code": enrolled.json["recovery_codes"][0]});
    let refused = node.anonymous().post("/v1/auth/second-factor", body).await;
    assert_eq!(refused.code(), "locked_down");
    lift(&admin).await;
    let body = json!({"challenge_token": challenge, "code": enrolled.json["recovery_codes"][1]});
    assert_eq!(node.anonymous().post("/v1/auth/second-factor", body).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_session_begins_after_the_lockdown_in_the_log_however_the_two_race() {
    let database = Arc::new(Database::create().await);
    let nodes = [Node::join(&database).await, Node::join(&database).await];
    let admin = nodes[0].admin().await;
    let mut people = Vec::new();
    for _ in 0..8 {
        people.push(nodes[0].register(&["customer"]).await.0);
    }
    for _ in 0..6 {
        let logins = people.iter().enumerate().map(|(number, email)| log_in(&nodes[number % 2], email, PASSWORD));
        let (_, started) = tokio::join!(futures_util::future::join_all(logins), start(&admin, "logins"));
        let from = started.position();
        let lifted = lift(&admin).await;
        let page = admin.seeing(lifted.position()).get(&format!("/v1/audit/events?after={from}&limit=200")).await;
        let types: Vec<&str> =
            page.json["items"].as_array().unwrap().iter().map(|event| event["type"].as_str().unwrap()).collect();
        let until = types.iter().position(|kind| *kind == "lockdown.lifted").unwrap();
        assert!(!types[..until].contains(&"session.started"), "{types:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_cannot_follow_the_log_keeps_out_whom_the_others_keep_out() {
    let node = Node::start().await;
    let other = Node::join(&node.database).await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    let service = service(&admin).await;
    let (admin_there, ann_there, service_there) = (there(&other, &admin), there(&other, &ann), there(&other, &service));
    cut_off(&other).await;
    assert_eq!(ann_there.get(SESSION).await.status, 200);
    start(&admin, "all").await;
    assert_eq!(ann_there.get(SESSION).await.code(), "locked_down");
    assert_eq!(service_there.get("/v1/accounts").await.code(), "locked_down");
    assert_eq!(admin_there.get("/v1/lockdown").await.json["scope"], json!("all"), "whoever responds goes on");
    lift(&admin).await;
    for (client, path) in [(&ann_there, SESSION), (&service_there, "/v1/accounts")] {
        assert_eq!(client.get(path).await.status, 200, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_starts_during_a_lockdown_keeps_out_whom_the_others_keep_out() {
    let node = Node::start().await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    start(&admin, "all").await;
    let other = Node::join(&node.database).await;
    assert_eq!(there(&other, &ann).get(SESSION).await.code(), "locked_down");
}

#[tokio::test(flavor = "multi_thread")]
async fn starting_and_lifting_need_the_permission_and_a_fresh_proof() {
    let node = Node::start().await;
    let (admin, auditor) = (node.admin().await, node.auditor().await);
    let body = json!({"scope": "all", "reason": BECAUSE});
    assert_eq!(auditor.post("/v1/lockdown", body.clone()).await.status, 403);
    assert_eq!(auditor.get("/v1/lockdown").await.status, 403);
    let stale = node.as_if_logged_in(TimeDelta::hours(1), &admin, &["admin", "customer"]);
    assert_eq!(stale.post("/v1/lockdown", body.clone()).await.code(), "step_up_required");
    let nonsense = admin.post("/v1/lockdown", json!({"scope": "some", "reason": ""})).await;
    let pointers: Vec<&Value> = nonsense.json["errors"].as_array().unwrap().iter().map(|e| &e["pointer"]).collect();
    assert_eq!(pointers, [&json!("/scope"), &json!("/reason")]);

    assert_eq!(admin.get("/v1/lockdown").await.json["active"], json!(false));
    let lifted = admin.delete_with("/v1/lockdown", json!({"reason": BECAUSE})).await;
    assert_eq!(lifted.code(), "no_lockdown");
    let once = admin.with_header("idempotency-key", "once");
    let first = start(&once, "all").await;
    let again = start(&once, "all").await;
    assert!(again.position() >= first.position());
    assert_eq!(admin.post("/v1/lockdown", body).await.code(), "lockdown_active");
    let shown = admin.get("/v1/lockdown").await.json;
    assert_eq!((&shown["active"], &shown["scope"], &shown["reason"]), (&json!(true), &json!("all"), &json!(BECAUSE)));
    assert_eq!(shown["position"], json!(first.position()));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_locks_down_a_running_service_and_opens_it_again() {
    let node = Node::start().await;
    let ann = node.customer().await;
    let env = node.database.env();
    let run = |args: &[&str]| Program::run(args, &env);
    let ended = run(&["lockdown", "all", "--reason", BECAUSE]);
    assert_eq!(ended.status.code(), Some(0), "{}", ended.errors);
    assert!(
        ended.said.starts_with("imposed a lockdown of all requests at position ") && ended.said.contains("of 1 nodes"),
        "{}",
        ended.said
    );
    eventually("it is in force", async || ann.get(SESSION).await.code() == "locked_down").await;
    let ended = run(&["lockdown", "all", "--reason", BECAUSE]);
    assert_eq!(
        (ended.status.code(), ended.errors.trim()),
        (Some(1), "fulexo: a lockdown of this scope is already in force")
    );
    let ended = run(&["lockdown", "off", "--reason", "over"]);
    assert_eq!(ended.status.code(), Some(0), "{}", ended.errors);
    eventually("it is over", async || ann.get(SESSION).await.status == 200).await;
}
