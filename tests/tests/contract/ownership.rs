//! Ids of other accounts: a caller who names one is told that there is nothing, and nothing happens.

use fulexo_tests::Node;
use uuid::Uuid;

use crate::{assert_problem, log_size};

#[tokio::test(flavor = "multi_thread")]
async fn the_session_of_another_account_is_not_there_to_be_ended() {
    let node = Node::start().await;
    let (ann, bob) = (node.customer().await, node.customer().await);
    let before = log_size(&node).await;
    let others = ann.delete(&format!("/v1/me/sessions/{}", bob.session)).await;
    assert_problem(&others, 404, "not_found");
    assert_eq!(log_size(&node).await, before);
    assert_eq!(bob.get("/v1/auth/session").await.status, 200, "it lives");
    let nobodys = ann.delete(&format!("/v1/me/sessions/{}", Uuid::nil())).await;
    assert_eq!(
        (nobodys.status, nobodys.json["detail"].clone()),
        (others.status, others.json["detail"].clone()),
        "somebody's session looks like nobody's"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ended_session_of_another_account_is_not_there_either() {
    let node = Node::start().await;
    let (ann, bob) = (node.customer().await, node.customer().await);
    assert_eq!(bob.post_nothing("/v1/auth/logout").await.status, 204);
    assert_problem(&ann.delete(&format!("/v1/me/sessions/{}", bob.session)).await, 404, "not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_is_not_there_to_be_ended_by_its_id() {
    let node = Node::start().await;
    let ann = node.customer().await;
    let before = log_size(&node).await;
    assert_problem(&ann.delete(&format!("/v1/me/sessions/{}", ann.account)).await, 404, "not_found");
    assert_eq!(log_size(&node).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn signing_out_others_leaves_other_accounts_alone() {
    let node = Node::start().await;
    let (ann, bob) = (node.customer().await, node.customer().await);
    let second = node.log_in(&ann.email, ann.account).await;
    let answer = ann.post_nothing("/v1/me/sessions/revoke-others").await;
    assert_eq!((answer.status, answer.json["revoked"].as_u64()), (200, Some(1)), "{answer:?}");
    assert_eq!(second.get("/v1/auth/session").await.status, 401);
    assert_eq!(ann.get("/v1/auth/session").await.status, 200);
    assert_eq!(bob.get("/v1/auth/session").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn own_sessions_and_own_events_are_those_of_the_caller_alone() {
    let node = Node::start().await;
    let (ann, bob) = (node.customer().await, node.customer().await);
    let last = log_size(&node).await - 1;
    let sessions = ann.seeing(last).get("/v1/me/sessions").await;
    assert!(sessions.text.contains(&ann.session.to_string()), "{sessions:?}");
    let events = ann.seeing(last).get("/v1/me/events").await;
    assert!(events.text.contains(&ann.account.to_string()), "{events:?}");
    for answer in [sessions, events] {
        assert!(!answer.text.contains(&bob.session.to_string()), "{answer:?}");
        assert!(!answer.text.contains(&bob.account.to_string()), "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_trail_needs_its_permission() {
    let node = Node::start().await;
    let customer = node.customer().await;
    for path in ["/v1/audit/events", "/v1/audit/events/0", "/v1/audit/events/999"] {
        assert_problem(&customer.get(path).await, 403, "permission_denied");
    }
    let own = customer.get(&format!("/v1/audit/events?subject={}", customer.account)).await;
    assert_problem(&own, 403, "permission_denied");
    assert_eq!(node.auditor().await.get("/v1/audit/events").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_auditor_reads_the_trail_and_nothing_else() {
    let node = Node::start().await;
    let auditor = node.auditor().await;
    for path in ["/v1/accounts", "/v1/sessions"] {
        assert_problem(&auditor.get(path).await, 403, "permission_denied");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_device_of_another_account_is_not_there_to_be_forgotten() {
    let node = Node::start().await;
    let (ann, bob) = (node.customer().await, node.customer().await);
    let device = |list: &serde_json::Value| list["items"][0]["device_id"].as_str().unwrap().to_owned();
    let bobs = device(&bob.get("/v1/me/devices").await.json);
    let before = log_size(&node).await;
    let others = ann.delete(&format!("/v1/me/devices/{bobs}")).await;
    assert_problem(&others, 404, "not_found");
    let nobodys = ann.delete(&format!("/v1/me/devices/{}", Uuid::nil())).await;
    assert_eq!((nobodys.status, &nobodys.json["detail"]), (others.status, &others.json["detail"]));
    assert_eq!(log_size(&node).await, before);
    assert_eq!(device(&bob.get("/v1/me/devices").await.json), bobs, "it is known");
    assert_ne!(device(&ann.get("/v1/me/devices").await.json), bobs);
}
