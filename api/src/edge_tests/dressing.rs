//! Tests of the headers and the id that every answer carries, and of the address that a request has.

use super::*;

#[tokio::test]
async fn every_answer_carries_the_whole_header_list_and_no_other() {
    let server = server().await;
    let fixed = [
        "cache-control",
        "content-security-policy",
        "cross-origin-embedder-policy",
        "cross-origin-opener-policy",
        "cross-origin-resource-policy",
        "permissions-policy",
        "referrer-policy",
        "request-id",
        "strict-transport-security",
        "x-content-type-options",
        "x-frame-options",
    ];
    let may_be = [
        "allow",
        "connection",
        "content-length",
        "content-type",
        "date",
        "etag",
        "retry-after",
        "vary",
        "www-authenticate",
    ];
    for answer in [
        server.get("/v1/whoami").await,
        server.get("/docs").await,
        server.get("/openapi.json").await,
        server.get("/nothing").await,
        server.get("/v1/fail/panic").await,
        server.post("/v1/login", "{}").await,
        server.post(PART, "{}").await,
        server.send("DELETE", PART, &[], "").await,
    ] {
        for name in fixed {
            assert_eq!(answer.headers.iter().filter(|(is, _)| is == name).count(), 1, "{name} in {answer:?}");
        }
        for (name, _) in &answer.headers {
            assert!(fixed.contains(&name.as_str()) || may_be.contains(&name.as_str()), "{name} in {answer:?}");
        }
    }
}

#[tokio::test]
async fn the_docs_have_their_own_policy_and_the_api_the_strictest() {
    let server = server().await;
    let policy = |answer: TestResponse| answer.header("content-security-policy").unwrap().to_owned();
    assert_eq!(policy(server.get("/v1/whoami").await), "default-src 'none'; frame-ancestors 'none'");
    assert!(policy(server.get("/docs").await).contains("script-src 'self'; style-src 'self';"));
}

#[tokio::test]
async fn the_id_is_ours_and_the_same_everywhere() {
    let headers = ["request-id: 00000000-0000-0000-0000-000000000000", "x-request-id: 7"];
    let answer = server().await.send("GET", "/v1/whoami", &headers, "").await;
    let id = answer.header("request-id").unwrap();
    assert_eq!(answer.body, format!("{id} 127.0.0.1"));
    assert_eq!(uuid::Uuid::parse_str(id).unwrap().get_version_num(), 7);
}

#[tokio::test]
async fn the_address_is_the_sockets_unless_the_proxy_is_ours() {
    let forged = ["x-forwarded-for: 203.0.113.9"];
    let answer = server().await.send("GET", "/v1/whoami", &forged, "").await;
    assert!(answer.body.ends_with(" 127.0.0.1"), "{answer:?}");
    let edge = EdgeOptions { trusted_proxies: vec!["127.0.0.0/8".parse().unwrap()], ..EdgeOptions::default() };
    let behind = start(edge, ListenerOptions::default()).await;
    assert!(behind.send("GET", "/v1/whoami", &forged, "").await.body.ends_with(" 203.0.113.9"));
}
