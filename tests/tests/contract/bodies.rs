//! Invalid bodies: each is a problem that names what is wrong, and repeats no value.

use fulexo_tests::Node;
use hyper::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::wire::{self, post_json};
use crate::{assert_problem, log_size, pointers};
use fulexo_tests::spec::{Operation, document, operations, sample};

const REGISTER: &str = "/v1/auth/register";

#[tokio::test(flavor = "multi_thread")]
async fn the_front_page_leads_to_the_documentation_in_development() {
    let node = Node::start().await;
    let answer = node.anonymous().get("/").await;
    assert_eq!((answer.status, answer.header("location")), (302, Some("/docs")), "{answer:?}");
    assert_eq!(node.anonymous().get("/docs").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_path_is_a_problem() {
    let node = Node::start().await;
    let nobody = node.anonymous();
    for path in ["/v1", "/v1/", "/v2/me", "/v1/me/nothing", "/v1/accounts/x/y/z", "//v1/me", "/%00"] {
        assert_problem(&nobody.get(path).await, 404, "not_found");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_method_is_a_problem_that_names_the_right_ones() {
    let node = Node::start().await;
    let nobody = node.anonymous();
    for operation in operations() {
        let target =
            operation.target(|_, schema| if schema["format"] == "uuid" { json!(Uuid::nil()) } else { json!(1) });
        let has = |method: &Method| operations().iter().any(|o| o.path == operation.path && o.method == *method);
        let wrong = [Method::PATCH, Method::PUT, Method::DELETE].into_iter().find(|method| !has(method)).unwrap();
        let answer = nobody.send(wrong, &target, None, "").await;
        assert_problem(&answer, 405, "method_not_allowed");
        let allow = answer.header("allow").unwrap_or_default();
        assert!(allow.split(", ").any(|method| method == operation.method.as_str()), "{}: {allow}", operation.id);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_too_large_is_a_problem_whether_it_says_so_or_not() {
    let node = Node::start().await;
    let head = format!("POST {REGISTER} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n");
    let declared = wire::exchange(&node.url, format!("{head}content-length: 65537\r\n\r\n").as_bytes()).await;
    assert_problem(&declared, 413, "body_too_large");
    let chunk = format!("4000\r\n{}\r\n", " ".repeat(0x4000)).repeat(5);
    let chunked =
        wire::exchange(&node.url, format!("{head}transfer-encoding: chunked\r\n\r\n{chunk}").as_bytes()).await;
    assert_problem(&chunked, 413, "body_too_large");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_content_type_is_a_problem() {
    let node = Node::start().await;
    let body = json!({"email": "ann@example.com", "password": "kestrel-Over9thefen"}).to_string();
    for content_type in ["text/plain", "application/xml", "application/x-www-form-urlencoded", "json", "", "*/*"] {
        let headers = [format!("content-type: {content_type}")];
        let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
        let answer = wire::post(&node.url, REGISTER, &headers, body.as_bytes()).await;
        assert_problem(&answer, 415, "unsupported_media_type");
    }
    assert_problem(&wire::post(&node.url, REGISTER, &[], body.as_bytes()).await, 415, "unsupported_media_type");
    assert_eq!(log_size(&node).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_no_json_is_a_problem() {
    let node = Node::start().await;
    let deep = "[".repeat(60_000);
    let deep_object = r#"{"a":"#.repeat(10_000);
    let broken: [&[u8]; 8] = [
        b"{",
        b"{\"email\": }",
        b"{'email': 'ann@example.com'}",
        b"{\"email\": \"ann@example.com\"} x",
        deep.as_bytes(),
        deep_object.as_bytes(),
        b"{\"email\": \"\xff\xfe@example.com\"}",
        b"\xef\xbb\xbf{}",
    ];
    for body in broken {
        let answer = post_json(&node.url, REGISTER, body).await;
        assert_problem(&answer, 400, "invalid_input");
        assert_eq!(pointers(&answer), [""], "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_another_type_is_a_problem() {
    let node = Node::start().await;
    for body in ["", "null", "[]", "true", "7", "\"ann@example.com\""] {
        let answer = post_json(&node.url, REGISTER, body.as_bytes()).await;
        assert_problem(&answer, 400, "invalid_input");
        assert_eq!(pointers(&answer), [""], "{body}: {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn members_that_are_missing_or_of_another_type_are_named_all_at_once() {
    let node = Node::start().await;
    let nobody = node.anonymous();
    let missing = nobody.post(REGISTER, json!({})).await;
    assert_problem(&missing, 400, "invalid_input");
    assert_eq!(pointers(&missing), ["/email", "/password"]);
    let null = nobody.post(REGISTER, json!({"email": null, "password": null})).await;
    assert_eq!(pointers(&null), ["/email", "/password"], "{null:?}");
    let wrong = nobody.post(REGISTER, json!({"email": 7, "password": ["x"], "display_name": {}})).await;
    assert_problem(&wrong, 400, "invalid_input");
    assert_eq!(pointers(&wrong), ["/display_name", "/email", "/password"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn members_that_are_not_sound_are_named_all_at_once() {
    let node = Node::start().await;
    let nobody = node.anonymous();
    let answer = nobody.post(REGISTER, json!({"email": "x", "password": "x", "display_name": " "})).await;
    assert_problem(&answer, 400, "invalid_input");
    assert_eq!(pointers(&answer), ["/email", "/display_name"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_operation_takes_a_member_that_it_does_not_know() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let before = log_size(&node).await;
    // A form may hold members that we do not know (RFC 7662, section 2.1), and so may the format of a monitor.
    let is_ours = |operation: &Operation| operation.reads_json() && operation.id != "report_alerts";
    for operation in operations().into_iter().filter(|operation| operation.has_body() && is_ours(operation)) {
        let mut body = operation.body(admin.account).unwrap();
        body["surprise"] = json!("x");
        let target = operation.target(|name, schema| sample(name, schema, admin.account));
        let answer = operation.send(&admin, &target, &body.to_string()).await;
        assert_problem(&answer, 400, "invalid_input");
        assert_eq!(pointers(&answer), ["/surprise"], "{}", operation.id);
    }
    assert_eq!(log_size(&node).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_given_twice_is_refused_wherever_it_is() {
    let node = Node::start().await;
    for (body, pointer) in [
        (r#"{"email": "ann@example.com", "password": "kestrel-Over9thefen", "email": "bob@example.com"}"#, "/email"),
        (
            r#"{"email": "ann@example.com", "password": "kestrel-Over9thefen", "\u0065mail": "bob@example.com"}"#,
            "/email",
        ),
        (
            r#"{"email": "ann@example.com", "password": "kestrel-Over9thefen", "password": "kestrel-Over9thefen"}"#,
            "/password",
        ),
    ] {
        let answer = post_json(&node.url, REGISTER, body.as_bytes()).await;
        let fault = json!({"pointer": pointer, "detail": "must be given only once"});
        assert_eq!((answer.status, &answer.json["errors"]), (400, &json!([fault])), "{answer:?}");
    }
    let admin = node.admin().await;
    let mut policy = admin.get("/v1/policy").await.json;
    policy.as_object_mut().unwrap().remove("version");
    policy["reason"] = json!("r");
    let twice = policy.to_string().replacen("\"enabled\":true", "\"enabled\":true,\"enabled\":false", 1);
    let answer = admin.send(Method::PUT, "/v1/policy", Some("application/json"), &twice).await;
    assert_eq!((answer.status, &answer.json["errors"][0]["pointer"]), (400, &json!("/lockout/enabled")), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_taken_for_a_text_that_is_none() {
    let node = Node::start().await;
    let ann = node.customer().await;
    for value in ["false", "7", "1.5", "[]", "{}"] {
        let body = format!(r#"{{"display_name": {value}}}"#);
        let answer = ann.send(Method::PATCH, "/v1/me", Some("application/json"), &body).await;
        let fault = json!({"pointer": "/display_name", "detail": "must be of type string"});
        assert_eq!((answer.status, &answer.json["errors"]), (400, &json!([fault])), "{answer:?}");
        let body = format!(r#"{{"email": {value}, "password": {value}}}"#);
        let answer = post_json(&node.url, "/v1/auth/login", body.as_bytes()).await;
        assert_eq!(answer.status, 400, "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_refusal_repeats_what_was_sent() {
    let node = Node::start().await;
    let secret = "heliotrope-7Quokka";
    let bodies = [
        format!("\"{secret}\""),
        format!("[\"{secret}\"]"),
        json!({"email": secret, "password": 7}).to_string(),
        json!({"email": {"x": secret}, "password": [secret]}).to_string(),
        json!({"email": secret, "password": secret, "display_name": ""}).to_string(),
        json!({"email": "ann@example.com", "password": "heliotrope-7Quokka".repeat(5)}).to_string(),
        format!("{{\"email\": \"{secret}\" {secret}"),
    ];
    for body in bodies {
        let answer = post_json(&node.url, REGISTER, body.as_bytes()).await;
        assert_eq!(answer.status, 400, "{body}: {answer:?}");
        assert!(!answer.text.contains(secret), "{answer:?}");
    }
    let admin = node.admin().await;
    for (method, path) in [
        (Method::DELETE, format!("/v1/me/sessions/{secret}")),
        (Method::GET, format!("/v1/accounts/{secret}")),
        (Method::GET, format!("/v1/me/events?limit={secret}&cursor={secret}")),
        (Method::GET, format!("/v1/accounts?email={secret}&role={secret}")),
        (Method::GET, format!("/v1/accounts?locked={secret}")),
        (Method::GET, format!("/v1/audit/events?type={secret}&category={secret}")),
        (Method::GET, format!("/v1/audit/events?from={secret}")),
    ] {
        let answer = admin.send(method, &path, None, "").await;
        assert_eq!(answer.status, 400, "{path}: {answer:?}");
        assert!(!answer.text.contains(secret), "{answer:?}");
    }
}

#[test]
fn every_body_is_of_types_that_are_read_strictly_and_every_list_in_one_is_bounded() {
    fn look(document: &Value, schema: &Value, place: &str) {
        if let Some(name) = schema["$ref"].as_str() {
            return look(document, document.pointer(name.trim_start_matches('#')).unwrap(), place);
        }
        let part = schema["allOf"].get(0).filter(|_| schema.get("type").is_none());
        if let Some(part) = part {
            return look(document, part, place);
        }
        match schema["type"].as_str() {
            Some("object") => {
                // The format of a monitor, which grows, and whose alerts are counted if there are many.
                let expected = if place.starts_with("report_alerts") { Value::Null } else { json!(false) };
                assert_eq!(schema["additionalProperties"], expected, "{place} takes any member");
                for (name, member) in schema["properties"].as_object().unwrap() {
                    look(document, member, &format!("{place}/{name}"));
                }
            }
            Some("array") => {
                let is_bounded = schema["maxItems"].as_u64().is_some_and(|most| most <= 100);
                assert!(is_bounded || place == "report_alerts/alerts", "{place} has no end");
                look(document, &schema["items"], &format!("{place}/0"));
            }
            Some("string" | "integer" | "number" | "boolean") => {}
            other => panic!("{place} is {other:?}"),
        }
    }
    let document = document();
    for operation in operations().iter().filter(|operation| operation.has_body() && operation.reads_json()) {
        for content in operation.meta["requestBody"]["content"].as_object().unwrap().values() {
            look(&document, &content["schema"], &operation.id);
        }
    }
}
