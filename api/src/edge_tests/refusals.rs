//! Tests of refusals: the requests that are refused, and the text of each refusal.

use std::time::Duration;

use serde_json::Value;

use super::*;

#[tokio::test]
async fn every_fault_of_a_body_is_named_and_no_value_repeated() {
    let answer = server().await.post("/v1/login", r#"{"password": "hunter2", "admin": true}"#).await;
    assert_eq!(answer.status, 400);
    assert_eq!(
        answer.faults(),
        pairs(&[
            ("/password", "must have at least 12 characters"),
            ("/admin", "is unknown"),
            ("/email", "is required")
        ])
    );
    assert!(!answer.body.contains("hunter2"));
}

#[tokio::test]
async fn a_body_of_the_wrong_type_is_not_quoted() {
    let answer = server().await.post("/v1/login", r#""correct horse battery staple""#).await;
    assert_eq!(answer.faults(), pairs(&[("", "must be of type object")]));
    assert!(!answer.body.contains("horse"));
}

#[tokio::test]
async fn a_body_that_is_no_json_says_where() {
    let answer = server().await.post("/v1/login", "{\"email\": \n oops").await;
    let faults = answer.faults();
    assert_eq!(faults[0].0, "");
    assert!(faults[0].1.contains("line 2 column 2"), "{faults:?}");
}

#[tokio::test]
async fn an_absent_body_is_bad_input() {
    let answer = server().await.send("POST", "/v1/login", &["content-type: application/json"], "").await;
    assert_eq!(answer.faults(), pairs(&[("", "must be of type object")]));
}

#[tokio::test]
async fn a_form_names_its_missing_member() {
    let headers = ["content-type: application/x-www-form-urlencoded"];
    let answer = server().await.send("POST", "/v1/introspect", &headers, "tok=1").await;
    assert_eq!(answer.faults(), pairs(&[("/token", "is required")]));
}

#[tokio::test]
async fn another_content_type_is_415() {
    let server = server().await;
    let answer = server.send("POST", "/v1/login", &["content-type: text/plain"], "{}").await;
    assert_eq!((answer.status, answer.code().as_str()), (415, "unsupported_media_type"));
    assert_eq!(server.send("POST", "/v1/login", &[], "{}").await.status, 415);
    for line in ["content-type: application/problem+json", "content-type: application/json\r\ncontent-type: text/plain"]
    {
        assert_eq!(server.send("POST", "/v1/login", &[line], "{}").await.status, 415, "{line}");
    }
}

#[tokio::test]
async fn json_is_read_strictly_however_its_type_is_written() {
    let server = server().await;
    let body = r#"{"email": "a@example.org", "email": "b@example.org", "password": "correct horse battery"}"#;
    for line in ["APPLICATION/JSON", "application/json;charset=utf-8", "Application/Json ; a=\"b\""] {
        let answer = server.send("POST", "/v1/login", &[&format!("content-type: {line}")], body).await;
        assert_eq!(answer.faults(), pairs(&[("/email", "must be given only once")]), "{line}");
    }
}

#[tokio::test]
async fn a_body_is_looked_at_once_the_caller_may_call() {
    let server = server().await;
    for body in ["{", r#"{"reason": 7}"#, "[[[[[[["] {
        let send = async |headers: &[&str]| server.send("POST", "/v1/guarded", headers, body).await;
        let json = "content-type: application/json";
        assert_eq!(send(&[json]).await.code(), "unauthenticated", "{body}");
        assert_eq!(send(&[json, "authorization: Bearer good"]).await.code(), "permission_denied", "{body}");
        assert_eq!(send(&[json, "authorization: Bearer great"]).await.code(), "invalid_input", "{body}");
    }
}

#[tokio::test]
async fn a_bad_parameter_is_named_by_its_own_name() {
    let server = server().await;
    let answer = server.get("/v1/things/a/parts/7").await;
    assert_eq!(answer.faults()[0].0, "/part", "{answer:?}");
    let answer = server.get(&format!("{PART}?limit=x")).await;
    assert_eq!(answer.faults(), pairs(&[("/limit", "must be a number from 0 to 200")]));
    let answer = server.get(&format!("{PART}?limit=201")).await;
    assert_eq!(answer.status, 400, "{answer:?}");
    assert_eq!(answer.faults()[0].0, "/limit");
}

#[tokio::test]
async fn an_unknown_path_is_404() {
    let answer = server().await.get("/v1/nothing?token=secret").await;
    assert_eq!((answer.status, answer.code().as_str()), (404, "not_found"));
}

#[tokio::test]
async fn odd_request_targets_are_refused_like_any_other() {
    let server = server().await;
    for (method, target) in
        [("CONNECT", "example.org:443"), ("OPTIONS", "*"), ("GET", "/%ff%00/../x"), ("GET", "//v1//whoami")]
    {
        let answer = server.send(method, target, &[], "").await;
        assert!([404, 405].contains(&answer.status), "{method} {target}: {answer:?}");
        answer.problem();
    }
    assert_eq!(server.get("http://elsewhere.example/v1/whoami").await.status, 200);
    let answer = server.get("/v1/things/%ff/parts/018f0000-0000-7000-8000-000000000000").await;
    assert!([200, 400, 404].contains(&answer.status), "{answer:?}");
}

#[tokio::test]
async fn a_wrong_method_is_405_with_allow() {
    let server = server().await;
    let answer = server.post(PART, "{}").await;
    assert_eq!((answer.status, answer.code().as_str()), (405, "method_not_allowed"));
    assert_eq!(answer.header("allow"), Some("DELETE, GET, HEAD"));
    assert_eq!(server.post("/docs", "{}").await.header("allow"), Some("GET, HEAD"));
    assert_eq!(server.send("BREW", PART, &[], "").await.code(), "not_implemented");
}

#[tokio::test]
async fn a_missing_or_bad_token_is_401_with_a_challenge() {
    let server = server().await;
    let answer = server.send("DELETE", PART, &[], "").await;
    assert_eq!((answer.status, answer.code().as_str()), (401, "unauthenticated"));
    assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
    let answer = server.send("DELETE", PART, &["authorization: Bearer bad"], "").await;
    assert_eq!(answer.code(), "invalid_token");
    assert_eq!(answer.header("www-authenticate"), Some("Bearer error=\"invalid_token\""));
    assert_eq!(server.send("DELETE", PART, &["authorization: Bearer good"], "").await.status, 200);
}

#[tokio::test]
async fn a_handlers_refusal_arrives_as_it_was_meant() {
    let server = server().await;
    let body = r#"{"email": "taken@example.org", "password": "correct horse"}"#;
    let answer = server.post("/v1/login", body).await;
    assert_eq!((answer.status, answer.code().as_str()), (401, "invalid_credentials"));
    let answer = server.get("/v1/fail/unavailable").await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "unavailable"));
    assert_eq!(answer.header("retry-after"), Some("3"));
}

#[tokio::test]
async fn an_internal_failure_tells_the_client_its_id_and_nothing_else() {
    let server = server().await;
    for how in ["internal", "foreign", "panic"] {
        let answer = server.get(&format!("/v1/fail/{how}")).await;
        assert_eq!((answer.status, answer.code().as_str()), (500, "internal"), "{how}");
        assert!(!answer.body.contains("db-prod"), "{how}");
    }
}

#[tokio::test]
async fn a_status_without_a_body_becomes_a_problem() {
    let answer = server().await.get("/v1/fail/bare").await;
    assert_eq!((answer.status, answer.code().as_str()), (400, "invalid_input"));
}

#[tokio::test]
async fn a_refused_origin_is_a_problem() {
    let answer = server().await.send("GET", "/v1/whoami", &["origin: https://evil.example"], "").await;
    assert_eq!((answer.status, answer.code().as_str()), (403, "cross_origin_denied"));
}

#[tokio::test]
async fn a_preflight_passes() {
    let headers = ["origin: https://app.example", "access-control-request-method: DELETE"];
    let answer = server().await.send("OPTIONS", PART, &headers, "").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://app.example"));
}

#[tokio::test]
async fn a_request_without_an_answer_in_time_is_503() {
    let edge = EdgeOptions { request_timeout: Duration::from_millis(50), ..EdgeOptions::default() };
    let answer = start(edge, ListenerOptions::default()).await.get("/v1/fail/slow").await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "timeout"));
    assert_eq!(answer.header("retry-after"), Some("1"));
}

#[tokio::test]
async fn the_response_to_head_has_no_body() {
    let answer = server().await.send("HEAD", "/v1/nothing", &[], "").await;
    assert_eq!((answer.status, answer.body.as_str()), (404, ""));
}

#[test]
fn every_operation_documents_its_refusals_as_problems() {
    let spec: Value =
        serde_json::from_str(&OpenApiService::new(Operations((Api, Slow::new())), "Test", "1").spec()).unwrap();
    let responses = &spec["paths"]["/v1/login"]["post"]["responses"];
    let schema = &responses["400"]["content"]["application/problem+json"]["schema"]["$ref"];
    assert_eq!(schema, "#/components/schemas/Problem");
    assert_eq!(responses["429"]["headers"]["Retry-After"]["required"], true);
    assert_eq!(responses["401"]["headers"]["WWW-Authenticate"]["required"], true);
    let required: Vec<_> = spec["components"]["schemas"]["Problem"]["required"].as_array().unwrap().clone();
    assert_eq!(required, ["type", "title", "status", "detail", "code"]);
}

#[tokio::test]
async fn a_request_names_one_host() {
    let server = server().await;
    for (hosts, status) in [
        ("host: x\r\n", 200),
        ("", 400),
        ("host: x\r\nhost: x\r\n", 400),
        ("host: x\r\nhost: y\r\n", 400),
        ("host: a b\r\n", 400),
        ("host: user@x\r\n", 400),
    ] {
        let answer = server.raw(&format!("GET /v1/whoami HTTP/1.1\r\n{hosts}connection: close\r\n\r\n")).await;
        assert_eq!(answer.status, status, "{hosts}");
        assert!(status == 200 || answer.code() == "invalid_host", "{answer:?}");
    }
    assert_eq!(server.raw("GET /v1/whoami HTTP/1.0\r\n\r\n").await.status, 200);
}
