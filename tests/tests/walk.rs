//! The walk of the README: from registration to the audit trail.

use fulexo_tests::{Node, PASSWORD};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn each_step_from_registration_to_logout_is_an_event_that_an_auditor_sees() {
    let node = Node::start().await;
    let mut ann = node.anonymous();
    let registered = ann.post("/v1/auth/register", json!({"email": "ann@example.com", "password": PASSWORD})).await;
    assert_eq!(registered.status, 201, "{registered:?}");
    let login = ann.post("/v1/auth/login", json!({"email": "Ann@Example.com", "password": PASSWORD})).await;
    assert_eq!(login.status, 200, "{login:?}");
    ann.log_in_with(&login);
    let me = ann.seeing(login.position()).get("/v1/me").await;
    assert_eq!((me.status, &me.json["email"]), (200, &json!("ann@example.com")), "{me:?}");
    let refreshed = ann.post("/v1/auth/refresh", json!({"refresh_token": ann.refresh_token})).await;
    assert_eq!(refreshed.status, 200, "{refreshed:?}");
    ann.log_in_with(&refreshed);
    let logout = ann.post_nothing("/v1/auth/logout").await;
    assert_eq!(logout.status, 204, "{logout:?}");
    assert_eq!(ann.get("/v1/auth/session").await.status, 401, "the token ends with its session");

    let auditor = node.auditor().await;
    let path = format!("/v1/audit/events?subject={}", registered.json["account_id"].as_str().unwrap());
    let trail = auditor.seeing(logout.position()).get(&path).await;
    let types: Vec<_> =
        trail.json["items"].as_array().unwrap().iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(
        types,
        [
            "account.registered",
            "account.role_granted",
            "authentication.succeeded",
            "session.started",
            "session.refreshed",
            "session.revoked",
        ]
    );
    node.stop().await;
}
