//! Access: every operation of the document, called by nobody and by a user who may do nothing.

use std::collections::BTreeSet;

use fulexo_tests::{Answer, Client, Node};
use serde_json::json;

use crate::{assert_problem, log_size};
use fulexo_tests::spec::{Operation, operations, sample};

/// The operations that anybody may call.
const PUBLIC: [&str; 21] = [
    "verify_email",
    "reset_password",
    "report_intrusion",
    "login",
    "request_password_reset",
    "refresh_tokens",
    "register",
    "login_with_second_factor",
    "get_erasure",
    "get_erasure_receipt",
    "get_jwks",
    "get_liveness",
    "get_log_checkpoint",
    "get_log_consistency",
    "get_log_key",
    "get_log_proof",
    "get_log_tile",
    "get_metrics",
    "get_penetration_test_consent",
    "get_readiness",
    "get_server_metadata",
];

/// Replacements for a parameter of the path.
const BAD_SEGMENTS: [&str; 7] =
    ["garbage", "-1", "%00", "%ff", "%2e%2e%2f", "99999999999999999999999999", "'%20or%201=1"];
/// Replacements for the query.
const BAD_QUERIES: [&str; 6] = [
    "",
    "?",
    "?limit=x&cursor=x&live=x&locked=x&after=x&from=x&to=x&account_id=x&subject=x&email=x&role=%00&reason=",
    "?limit=0&cursor=%00&type=%00&category=%00&reason=%00",
    "?limit=1&limit=2&reason=a&reason=b&cursor=&after=-1",
    "?%ff=%ff&=&&&reason=%ff",
];
/// Replacements for the body.
const BAD_BODIES: [&str; 8] =
    ["", "{", "null", "[]", "\"x\"", "{}", r#"{"role": 1, "reason": []}"#, r#"{"role": "\u0000", "reason": "\ud800"}"#];

fn guarded() -> impl Iterator<Item = Operation> {
    operations().into_iter().filter(|operation| !PUBLIC.contains(&operation.id.as_str()))
}

/// Sends every request of the lists above.
async fn send_garbage(operation: &Operation, client: &Client) -> Vec<(String, Answer)> {
    let mut answers = Vec::new();
    let sound = operation.target(|_, schema| if schema["format"] == "uuid" { json!(client.account) } else { json!(1) });
    let path = sound.split('?').next().unwrap();
    let mut targets: Vec<String> = BAD_QUERIES.iter().map(|query| format!("{path}{query}")).collect();
    if !operation.names("path").is_empty() {
        targets.extend(BAD_SEGMENTS.iter().map(|segment| operation.target(|_, _| json!(segment))));
    }
    for target in targets {
        let answer = operation.send(client, &target, "").await;
        answers.push((target, answer));
    }
    let bodies = BAD_BODIES.iter().filter(|_| operation.has_body());
    for body in bodies {
        let answer = operation.send(client, &sound, body).await;
        answers.push((format!("{sound} {body}"), answer));
    }
    for header in ["idempotency-key", "log-min-position"] {
        let answer = operation.send(&client.with_header(header, ""), &sound, "").await;
        answers.push((format!("{sound} {header}"), answer));
    }
    answers
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_past_an_operation_that_is_not_public() {
    let node = Node::start().await;
    let somebody = node.customer().await;
    for operation in guarded() {
        let answer = operation.call(&node.anonymous(), somebody.account).await;
        assert_problem(&answer, 401, "unauthenticated");
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"), "{}", operation.id);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_told_what_is_wrong_with_their_garbage() {
    let node = Node::start().await;
    let nobody = node.anonymous();
    for operation in guarded() {
        for (sent, answer) in send_garbage(&operation, &nobody).await {
            // A segment may hold a slash once it is decoded, and then names no operation at all.
            let expected: &[u16] = if sent.contains("%2f") { &[401, 404] } else { &[401] };
            assert!(expected.contains(&answer.status), "{} {sent}: {answer:?}", operation.id);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_powerless_are_not_told_what_is_wrong_with_a_body() {
    let node = Node::start().await;
    let powerless = node.customer().await;
    for operation in guarded().filter(|operation| operation.has_body() && !operation.is_own()) {
        let target = operation.target(|name, schema| sample(name, schema, powerless.account));
        for body in BAD_BODIES.iter().chain(&[r#"{"x": 1, "x": 2}"#]).filter(|body| !body.is_empty()) {
            assert_problem(&operation.send(&powerless, &target, body).await, 403, "permission_denied");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_none_is_refused_as_such() {
    let node = Node::start().await;
    let stranger = Client { access_token: Some("a.b.c".into()), ..node.anonymous() };
    for operation in guarded() {
        let answer = operation.call(&stranger, stranger.account).await;
        assert_problem(&answer, 401, "invalid_token");
        assert_eq!(answer.header("www-authenticate"), Some("Bearer error=\"invalid_token\""), "{}", operation.id);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_public_operations_are_these_and_ask_for_no_token() {
    let node = Node::start().await;
    let in_document: BTreeSet<String> =
        operations().into_iter().filter(Operation::is_public).map(|operation| operation.id).collect();
    assert_eq!(in_document, PUBLIC.map(str::to_owned).into());
    for operation in operations().iter().filter(|operation| operation.is_public()) {
        let answer = operation.call(&node.anonymous(), uuid::Uuid::nil()).await;
        assert!(!["unauthenticated", "invalid_token"].contains(&answer.code()), "{}: {answer:?}", operation.id);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_powerless_are_refused_everywhere_but_at_their_own_account() {
    let node = Node::start().await;
    let (powerless, other) = (node.customer().await, node.customer().await);
    let before = log_size(&node).await;
    let mut called = 0;
    for operation in guarded().filter(|operation| !operation.is_own()) {
        for id in [other.account, powerless.account] {
            let answer = operation.call(&powerless, id).await;
            assert_problem(&answer, 403, "permission_denied");
            // The caller is told which permission it lacks: the one that the operation says it needs.
            let permission = answer.json["permission"].as_str().unwrap_or_default();
            assert_eq!(
                answer.json["detail"],
                format!("You need the permission `{permission}` for this call."),
                "{}",
                operation.id
            );
            let said = operation.meta["description"].as_str().unwrap_or_default();
            assert!(said.contains(&format!("`{permission}`")), "{} lacks {permission}: {said}", operation.id);
        }
        called += 1;
    }
    assert!(called >= 7, "only {called} operations are about others");
    assert_eq!(log_size(&node).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_without_any_role_is_as_powerless() {
    let node = Node::start().await;
    let powerless = node.user(&[]).await;
    for operation in guarded().filter(|operation| !operation.is_own()) {
        assert_problem(&operation.call(&powerless, powerless.account).await, 403, "permission_denied");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_garbage_gets_the_powerless_in() {
    let node = Node::start().await;
    let powerless = node.customer().await;
    let before = log_size(&node).await;
    for operation in guarded().filter(|operation| !operation.is_own()) {
        for (sent, answer) in send_garbage(&operation, &powerless).await {
            assert!([400, 403, 404, 415].contains(&answer.status), "{} {sent}: {answer:?}", operation.id);
        }
    }
    assert_eq!(log_size(&node).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_garbage_breaks_the_service() {
    let node = Node::start().await;
    let (email, account) = node.register(&["admin", "customer"]).await;
    for operation in operations() {
        // An own operation may have ended the session.
        let admin = node.log_in(&email, account).await;
        for (sent, answer) in send_garbage(&operation, &admin).await {
            assert!(answer.status < 500, "{} {sent}: {answer:?}", operation.id);
            if answer.status >= 400 {
                assert_problem(&answer, answer.status, answer.code());
            }
        }
    }
}
