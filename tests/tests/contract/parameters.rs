//! Invalid parameters: each is a problem that names its parameter.

use fulexo_tests::{Client, Node};
use serde_json::json;

use crate::{assert_problem, log_size, pointers};
use fulexo_tests::spec::operations;

/// Opens an incident, whose timeline is a list, too.
async fn incident(admin: &Client) -> String {
    let opened = admin.post("/v1/incidents", json!({"severity": "low", "summary": "s"})).await;
    opened.json["incident_id"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_outside_of_1_to_200_is_refused_wherever_there_is_one() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let lists: Vec<_> =
        operations().into_iter().filter(|operation| operation.names("query").contains(&"limit")).collect();
    assert!(lists.len() >= 5, "{lists:?}");
    let incident = incident(&admin).await;
    let admin = admin.seeing(log_size(&node).await - 1);
    for list in lists {
        let path = list.path.replace("{incident_id}", &incident);
        for limit in ["0", "201", "-1", "65536", "1.5", "x", ""] {
            let answer = admin.get(&format!("{path}?limit={limit}")).await;
            assert_problem(&answer, 400, "invalid_input");
            assert_eq!(pointers(&answer), ["/limit"], "{} limit={limit}", list.id);
        }
        for limit in [1, 200] {
            assert_eq!(admin.get(&format!("{path}?limit={limit}")).await.status, 200, "{} {limit}", list.id);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_that_no_page_gave_is_refused_wherever_there_is_one() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let incident = incident(&admin).await;
    let admin = admin.seeing(log_size(&node).await - 1);
    for list in operations().into_iter().filter(|operation| operation.names("query").contains(&"cursor")) {
        let path = list.path.replace("{incident_id}", &incident);
        for cursor in ["x", "-1", "%00", "9223372036854775808", "'"] {
            let answer = admin.get(&format!("{path}?cursor={cursor}")).await;
            assert_problem(&answer, 400, "invalid_input");
            assert_eq!(pointers(&answer), ["/cursor"], "{} cursor={cursor}", list.id);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_in_the_path_that_is_none_is_refused_by_its_name() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let is_id = |schema: &serde_json::Value| schema["format"] == "uuid";
    let mut called = 0;
    for operation in operations().into_iter().filter(|operation| operation.path.contains("_id}")) {
        let target = operation.target(|_, schema| if is_id(schema) { json!("not-an-id") } else { json!("x") });
        let answer = operation.send(&admin, &target, "").await;
        assert_problem(&answer, 400, "invalid_input");
        let name = operation.names("path")[0];
        assert_eq!(pointers(&answer), [format!("/{name}")], "{}", operation.id);
        called += 1;
    }
    assert!(called >= 4, "only {called} operations have an id in their path");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_filter_is_refused_by_its_name() {
    let node = Node::start().await;
    let admin = node.admin().await;
    for (path, name) in [
        ("/v1/accounts?email=x", "/email"),
        ("/v1/accounts?role=Not%20a%20role", "/role"),
        ("/v1/accounts?locked=perhaps", "/locked"),
        ("/v1/sessions?account_id=x", "/account_id"),
        ("/v1/sessions?live=perhaps", "/live"),
        ("/v1/audit/events?type=Not%20a%20type", "/type"),
        ("/v1/audit/events?category=weather", "/category"),
        ("/v1/audit/events?after=-1", "/after"),
        ("/v1/audit/events?after=9223372036854775808", "/after"),
        ("/v1/audit/events?from=yesterday", "/from"),
        ("/v1/audit/events?to=2026-13-01T00:00:00Z", "/to"),
        ("/v1/audit/events?subject=x", "/subject"),
        ("/v1/audit/events?actor=x", "/actor"),
        ("/v1/audit/events?correlation=x", "/correlation"),
        ("/v1/audit/events/x", "/position"),
    ] {
        let answer = admin.get(path).await;
        assert_problem(&answer, 400, "invalid_input");
        assert_eq!(pointers(&answer), [name], "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_header_is_refused_by_its_name() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let before = log_size(&node).await;
    for position in ["x", "-1", "18446744073709551616", ""] {
        let answer = admin.with_header("log-min-position", position).get("/v1/me").await;
        assert_problem(&answer, 400, "invalid_input");
        assert_eq!(pointers(&answer), ["/Log-Min-Position"], "{position:?}");
    }
    for key in ["", &"k".repeat(256)] {
        let answer = admin.with_header("idempotency-key", key).post_nothing("/v1/auth/logout").await;
        assert_problem(&answer, 400, "invalid_input");
        assert_eq!(pointers(&answer), ["/Idempotency-Key"], "{key:?}");
    }
    assert_eq!(log_size(&node).await, before);
}
