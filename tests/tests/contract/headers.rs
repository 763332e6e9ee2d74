//! Response headers: exactly these, on every answer.

use std::collections::BTreeMap;

use fulexo_tests::{Answer, Node, PASSWORD, log_size};
use hyper::Method;
use serde_json::json;
use uuid::Uuid;

use crate::wire;

/// The headers of every answer, with their values.
const SECURITY: [(&str, &str); 10] = [
    ("cache-control", "no-store"),
    ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
    ("cross-origin-embedder-policy", "require-corp"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("permissions-policy", "camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
    ("referrer-policy", "no-referrer"),
    ("strict-transport-security", "max-age=31536000; includeSubDomains"),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
];

/// Panics unless the answer has the security headers, `Date`, `Request-Id`, and these; no other, and none twice.
#[track_caller]
fn assert_headers(answer: &Answer, status: u16, more: &[(&str, &str)]) {
    assert_eq!(answer.status, status, "{answer:?}");
    let length = answer.text.len().to_string();
    let mut expected: BTreeMap<&str, &str> = SECURITY.into_iter().chain(more.iter().copied()).collect();
    if status != 204 {
        expected.insert("content-length", &length);
    }
    if status >= 400 {
        expected.insert("content-type", "application/problem+json");
    }
    let mut found = BTreeMap::new();
    for (name, value) in &answer.headers {
        let twice = found.insert(name.as_str(), value.to_str().unwrap());
        assert_eq!(twice, None, "{name} is there twice");
    }
    assert!(found.remove("date").is_some(), "{answer:?}");
    let id: Uuid = found.remove("request-id").unwrap_or_default().parse().unwrap_or_default();
    assert_eq!(id.get_version_num(), 7, "{answer:?}");
    assert_eq!(found, expected);
    if status >= 400 {
        assert_eq!(answer.json["instance"], format!("urn:uuid:{id}"));
    }
}

const JSON: (&str, &str) = ("content-type", "application/json; charset=utf-8");

#[tokio::test(flavor = "multi_thread")]
async fn a_query_answers_with_the_security_headers_and_no_other() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let last = (log_size(&node).await - 1).to_string();
    for path in ["/v1/me", "/v1/accounts", "/v1/sessions", "/v1/audit/events", "/v1/me/events"] {
        assert_headers(&admin.get(path).await, 200, &[JSON, ("log-position", &last)]);
    }
    assert_headers(&admin.get("/v1/auth/session").await, 200, &[JSON]);
    for path in ["/health/live", "/health/ready"] {
        assert_headers(&node.anonymous().get(path).await, 200, &[JSON]);
    }
    for path in ["/.well-known/jwks.json", "/.well-known/oauth-authorization-server"] {
        let answer = node.anonymous().get(path).await;
        let tag = answer.header("etag").unwrap().to_owned();
        assert_headers(&answer, 200, &[JSON, ("cache-control", "public, max-age=300"), ("etag", &tag)]);
    }
    let text = ("content-type", "text/plain; version=0.0.4; charset=utf-8");
    assert_headers(&node.anonymous().get("/metrics").await, 200, &[text]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_answers_with_the_security_headers_and_its_position() {
    let node = Node::start().await;
    let mut ann = node.anonymous();
    let registered = ann.post("/v1/auth/register", json!({"email": "ann@example.com", "password": PASSWORD})).await;
    assert_headers(&registered, 201, &[JSON, ("log-position", "1")]);
    let login = ann.post("/v1/auth/login", json!({"email": "ann@example.com", "password": PASSWORD})).await;
    assert_headers(&login, 200, &[JSON, ("log-position", "3")]);
    ann.log_in_with(&login);
    assert_headers(&ann.post_nothing("/v1/auth/logout").await, 204, &[("log-position", "4")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_carries_a_token_may_be_stored() {
    let node = Node::start().await;
    let ann = node.customer().await;
    let login = ann.post("/v1/auth/login", json!({"email": ann.email, "password": PASSWORD})).await;
    let refresh = ann.post("/v1/auth/refresh", json!({"refresh_token": ann.refresh_token})).await;
    for answer in [login, refresh] {
        assert!(answer.text.contains("access_token"), "{answer:?}");
        assert_eq!(answer.header("cache-control"), Some("no-store"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_answers_with_the_security_headers_and_what_its_status_needs() {
    let node = Node::start().await;
    let (nobody, customer, admin) = (node.anonymous(), node.customer().await, node.admin().await);
    let json = Some("application/json");

    assert_headers(&nobody.get("/v1/me").await, 401, &[("www-authenticate", "Bearer")]);
    let wrong = nobody.post("/v1/auth/login", json!({"email": "nobody@example.com", "password": "x"})).await;
    assert_headers(&wrong, 401, &[("www-authenticate", "Bearer")]);
    assert_headers(&customer.get("/v1/accounts").await, 403, &[]);
    assert_headers(&nobody.get("/nothing").await, 404, &[]);
    assert_headers(&admin.get(&format!("/v1/accounts/{}", Uuid::nil())).await, 404, &[]);
    assert_headers(&nobody.send(Method::PUT, "/v1/me", json, "{}").await, 405, &[("allow", "GET, HEAD, PATCH")]);
    let taken = nobody.post("/v1/auth/register", json!({"email": customer.email, "password": PASSWORD})).await;
    assert_headers(&taken, 409, &[]);
    let accept = &[("accept", "application/json")];
    assert_headers(&nobody.send(Method::POST, "/v1/auth/login", Some("text/plain"), "{}").await, 415, accept);
    assert_headers(&nobody.send(Method::POST, "/v1/auth/login", json, "{").await, 400, &[]);
    assert_headers(&admin.seeing(u64::MAX).get("/v1/accounts").await, 400, &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_not_read_closes_the_connection() {
    let node = Node::start().await;
    let head = "POST /v1/auth/login HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n";
    let declared = wire::exchange(&node.url, format!("{head}content-length: 65537\r\n\r\n").as_bytes()).await;
    assert_headers(&declared, 413, &[("connection", "close")]);
    let chunk = format!("4000\r\n{}\r\n", " ".repeat(0x4000)).repeat(5);
    let chunked = format!("{head}transfer-encoding: chunked\r\n\r\n{chunk}");
    assert_headers(&wire::exchange(&node.url, chunked.as_bytes()).await, 413, &[("connection", "close")]);
    let broken = format!("{head}connection: close\r\ntransfer-encoding: chunked\r\n\r\nnonsense\r\n");
    let broken = wire::exchange(&node.url, broken.as_bytes()).await;
    assert_headers(&broken, 400, &[("connection", "close")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_request_id_is_drawn_anew_for_each_request_and_never_taken_from_the_client() {
    let node = Node::start().await;
    let client = node.anonymous().with_header("request-id", "0198c0de-0000-7000-8000-000000000000");
    let (first, second) = (client.get("/health/live").await, client.get("/health/live").await);
    let ids = [first.header("request-id"), second.header("request-id"), Some("0198c0de-0000-7000-8000-000000000000")];
    assert!(ids[0] != ids[1] && ids[1] != ids[2] && ids[0] != ids[2], "{ids:?}");
}
