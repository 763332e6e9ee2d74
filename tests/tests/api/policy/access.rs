//! The callers who may see and change the policy.

use chrono::TimeDelta;
use fulexo_domain::sealed_field::SealedField;
use fulexo_tests::{Client, Node, PASSWORD, log_size, operator, there};
use futures_util::future::join_all;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{BECAUSE, POLICY, change, enforce, of_type, policy_of, proposal, version, written};

#[tokio::test(flavor = "multi_thread")]
async fn administrators_and_auditors_see_the_policy_and_customers_do_not() {
    let node = Node::start().await;
    for client in [node.admin().await, node.auditor().await] {
        let answer = client.get(POLICY).await;
        let first = json!({
            "version": 1,
            "lockout": {"enabled": true, "threshold": 5, "account_threshold": 20, "window_seconds": 900,
                        "duration_seconds": 900, "max_duration_seconds": 86_400},
            "sessions": {"idle_timeout_seconds": 604_800, "absolute_timeout_seconds": 2_592_000, "refresh_grace_seconds": 10,
                         "elevation_seconds": 600, "fingerprint": "require_step_up", "max_per_account": 100},
            "passwords": {"history": 5, "max_age_days": null},
            "second_factor": {"required_for": []},
            "api_keys": {"suspend_with_creator": true},
            "erasure": {"withdrawal_days": 7},
        });
        assert_eq!((answer.status, &answer.json), (200, &first), "{answer:?}");
    }
    let refused = node.customer().await.get(POLICY).await;
    assert_eq!((refused.status, refused.code()), (403, "permission_denied"), "{refused:?}");
    assert_eq!(node.anonymous().get(POLICY).await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_sees_the_policy_by_its_key_and_does_not_change_it() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let key = async |permissions: Value| {
        let expires_at = operator().now + TimeDelta::days(1);
        let body = json!({"name": "a-service", "permissions": permissions, "expires_at": expires_at});
        let made = admin.post("/v1/api-keys", body).await;
        assert_eq!(made.status, 201, "{made:?}");
        Client { access_token: made.json["secret"].as_str().map(str::to_owned), ..node.anonymous() }
    };
    let reader = key(json!(["policy.read", "policy.change"])).await;
    assert_eq!(reader.get(POLICY).await.status, 200);
    assert_eq!(reader.put(POLICY, proposal(&admin).await).await.status, 401);
    assert_eq!(key(json!(["roles.read"])).await.get(POLICY).await.status, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_counts_the_version_up_and_is_recorded_with_before_and_after() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let before = admin.get(POLICY).await.json;
    let changed = enforce(&admin, |policy| {
        policy["lockout"]["threshold"] = json!(3);
        policy["second_factor"]["required_for"] = json!(["auditor", "auditor"]);
        policy["passwords"]["max_age_days"] = json!(365);
    })
    .await;
    let mut after = before.clone();
    after["version"] = json!(2);
    after["lockout"]["threshold"] = json!(3);
    after["second_factor"]["required_for"] = json!(["auditor"]);
    after["passwords"]["max_age_days"] = json!(365);
    assert_eq!(policy_of(&changed), after);
    assert_eq!(admin.get(POLICY).await.json, after);

    let events = of_type(&node, "policy.changed").await;
    assert_eq!(events.len(), 1);
    let event = &events[0];
    assert_eq!((&event["data"]["before"], &event["data"]["after"]), (&written(&before), &written(&after)));
    assert_eq!(event["actor"], json!({"kind": "account", "id": admin.account}));
    assert_eq!((&event["policy_version"], &event["subject"]), (&json!(1), &Value::Null));
    assert_eq!((&event["stream"], &event["version"]), (&json!(Uuid::nil()), &json!(1)));
    enforce(&admin, |policy| policy["lockout"]["threshold"] = json!(4)).await;
    assert_eq!(version(&admin).await, 3);
    assert_eq!(of_type(&node, "policy.changed").await[1]["data"]["before"], written(&after));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reason_of_a_change_is_sealed_beside_the_event_and_nowhere_in_it() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let changed = enforce(&admin, |policy| policy["passwords"]["history"] = json!(7)).await;
    let event = of_type(&node, "policy.changed").await.remove(0);
    assert!(!event.to_string().contains(BECAUSE), "{event}");
    assert_eq!(event["sealed"][0]["fields"], json!(["reason"]));
    let position = i64::try_from(changed.position()).unwrap();
    let opened = node.app().commands.vault().open_personal(&[position]).await.unwrap();
    assert_eq!(opened[&position].get(SealedField::Reason), Some(BECAUSE));
    let auditor = node.auditor().await.seeing(changed.position());
    let shown = auditor.get(&format!("/v1/audit/events/{position}")).await;
    assert_eq!((shown.status, &shown.json["type"]), (200, &json!("policy.changed")));
    assert!(!shown.text.contains(BECAUSE));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_needs_the_permission_and_a_fresh_login() {
    let node = Node::start().await;
    let (admin, auditor) = (node.admin().await, node.auditor().await);
    let mut proposal = proposal(&admin).await;
    proposal["lockout"]["threshold"] = json!(3);
    let size = log_size(&node).await;
    for client in [&auditor, &node.as_if_logged_in(TimeDelta::minutes(11), &auditor, &["auditor"])] {
        let refused = client.put(POLICY, proposal.clone()).await;
        assert_eq!((refused.status, refused.code()), (403, "permission_denied"), "{refused:?}");
    }
    let stale = node.as_if_logged_in(TimeDelta::minutes(11), &admin, &["admin"]);
    let refused = stale.put(POLICY, proposal.clone()).await;
    assert_eq!((refused.status, refused.code()), (403, "step_up_required"), "{refused:?}");
    assert_eq!(stale.get(POLICY).await.status, 200, "reading needs none");
    assert_eq!(node.anonymous().put(POLICY, proposal.clone()).await.status, 401);
    assert_eq!(log_size(&node).await, size);
    assert_eq!(stale.post("/v1/auth/step-up", json!({"password": PASSWORD})).await.status, 200);
    assert_eq!(stale.put(POLICY, proposal).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_a_version_that_was_replaced_is_refused() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let with = async |version: u64, threshold: u64| {
        change(&admin, |policy| {
            policy["version"] = json!(version);
            policy["lockout"]["threshold"] = json!(threshold);
        })
        .await
    };
    assert_eq!(with(1, 3).await.status, 200);
    let size = log_size(&node).await;
    for stale in [0, 1, 3, 4_000_000_000] {
        for threshold in [3, 4] {
            let refused = with(stale, threshold).await;
            assert_eq!((refused.status, refused.code()), (409, "policy_replaced"), "{refused:?}");
        }
    }
    assert_eq!(log_size(&node).await, size);
    assert_eq!(with(2, 4).await.json["version"], json!(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_changes_of_the_same_version_at_once_one_is_made() {
    let node = Node::start().await;
    let other = Node::join(&node.database).await;
    let admin = node.admin().await;
    let mut proposal = proposal(&admin).await;
    for round in 1..=10_u64 {
        let mut change = |client: &Client, history: u64| {
            proposal["version"] = json!(round);
            proposal["passwords"]["history"] = json!(history);
            let (client, body) = (client.clone(), proposal.clone());
            async move { client.put(POLICY, body).await }
        };
        let elsewhere = there(&other, &admin);
        let (here, there) = tokio::join!(change(&admin, round % 2 * 10 + 1), change(&elsewhere, round % 2 * 10 + 2));
        let (won, lost) = if here.status == 200 { (here, there) } else { (there, here) };
        assert_eq!((won.status, &won.json["version"]), (200, &json!(round + 1)), "{won:?} {lost:?}");
        assert_eq!((lost.status, lost.code()), (409, "policy_replaced"), "{lost:?}");
        assert_eq!(admin.get(POLICY).await.json, policy_of(&won));
    }
    assert_eq!(of_type(&node, "policy.changed").await.len(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_at_once_that_name_no_version_are_made_one_after_the_other() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let proposal = proposal(&admin).await;
    let changes = (1..=8).map(|threshold| {
        let mut body = proposal.clone();
        body["lockout"]["threshold"] = json!(threshold + 10);
        let admin = admin.clone();
        async move { admin.put(POLICY, body).await }
    });
    let mut versions: Vec<u64> = Vec::new();
    for answer in join_all(changes).await {
        match answer.status {
            200 => versions.push(answer.json["version"].as_u64().unwrap()),
            _ => assert_eq!((answer.status, answer.code()), (409, "contended"), "{answer:?}"),
        }
    }
    versions.sort_unstable();
    assert_eq!(versions, (2..2 + versions.len() as u64).collect::<Vec<_>>());
    let events = of_type(&node, "policy.changed").await;
    assert_eq!(events.len(), versions.len());
    for pair in events.windows(2) {
        assert_eq!(pair[0]["data"]["after"], pair[1]["data"]["before"], "none is lost");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_policy_once_more_records_nothing() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let size = log_size(&node).await;
    let unchanged = enforce(&admin, |_| {}).await;
    assert_eq!(unchanged.json["version"], json!(1));
    assert_eq!(enforce(&admin, |policy| policy["version"] = json!(1)).await.json["version"], json!(1));
    assert_eq!(log_size(&node).await, size);
    enforce(&admin, |policy| policy["lockout"]["threshold"] = json!(3)).await;
    assert_eq!(enforce(&admin, |_| {}).await.json["version"], json!(2));
    assert_eq!(log_size(&node).await, size + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_repeated_with_its_idempotency_key_is_made_once() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let keyed = admin.with_header("idempotency-key", "a key");
    let mut proposal = proposal(&admin).await;
    proposal["lockout"]["threshold"] = json!(3);
    let first = keyed.put(POLICY, proposal.clone()).await;
    assert_eq!(first.json["version"], json!(2), "{first:?}");
    enforce(&admin, |policy| policy["lockout"]["threshold"] = json!(4)).await;
    let again = keyed.put(POLICY, proposal.clone()).await;
    assert_eq!((again.status, policy_of(&again)), (200, policy_of(&first)), "the answer of then");
    assert_eq!(version(&admin).await, 3);
    assert_eq!(of_type(&node, "policy.changed").await.len(), 2);
    proposal["lockout"]["threshold"] = json!(5);
    let reused = keyed.put(POLICY, proposal.clone()).await;
    assert_eq!((reused.status, reused.code()), (409, "idempotency_key_reused"), "{reused:?}");
    let other = node.admin().await.with_header("idempotency-key", "a key");
    assert_eq!(other.put(POLICY, proposal).await.json["version"], json!(4), "another caller's key is another key");
}
