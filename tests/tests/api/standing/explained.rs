//! The content of a reason: its event, its policy, its times, and remedies that help.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use fulexo_tests::{Database, Mailbox, log_size};

use super::*;

/// Checks a reason against the event that it follows from.
#[track_caller]
fn assert_follows(reason: &Value, event: &Value) {
    assert_eq!((&reason["event_id"], &reason["position"]), (&event["id"], &event["position"]), "{reason}");
    assert_eq!(reason["policy_version"], event["policy_version"], "{reason}");
    let time = |value: &Value| value.as_str().unwrap().parse::<DateTime<Utc>>().unwrap();
    assert_eq!(time(&reason["since"]), time(&event["time"]), "{reason}");
}

/// Does what a remedy of staff says.
async fn mend(admin: &Client, reason: &Value) {
    let operation = reason["remedies"][0]["operation"].as_str().unwrap();
    assert_eq!(reason["remedies"][0]["by"], "staff", "{reason}");
    let (method, path) = operation.split_once(' ').unwrap();
    let because = json!({"reason": BECAUSE});
    let answer = match method {
        "POST" => admin.post(path, because).await,
        "DELETE" => admin.delete_with(path, because).await,
        other => panic!("{other}"),
    };
    assert_eq!(answer.status, 200, "{operation}: {answer:?}");
}

async fn make_auditor(admin: &Client, account: Uuid) {
    let body = json!({"role": "auditor", "reason": BECAUSE});
    let granted = admin.post(&format!("/v1/accounts/{account}/roles"), body).await;
    assert_eq!(granted.status, 204, "{granted:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn several_reasons_are_named_at_once_in_the_order_of_a_login_each_with_its_event_and_a_remedy_that_helps() {
    let node = Node::start().await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    let before = standing(&admin, ann.account).await;
    assert_eq!((&before["can_log_in"], &before["reasons"]), (&json!(true), &json!([])), "{before}");
    assert_eq!(before["known_devices"].as_array().unwrap().len(), 1, "{before}");

    let device = ann.device_token.as_str();
    let mut locks = Vec::new();
    for token in [None, Some(device)] {
        for _ in 0..5 {
            log_in(&node, &ann.email, WRONG, token).await;
        }
        locks.push(last_event(&node, ann.account, "authentication.locked_out").await);
    }
    let [lock_of_others, lock] = [&locks[0], &locks[1]];
    let shown = standing(&admin, ann.account).await;
    let on_device = &shown["known_devices"][0]["reasons"];
    assert_eq!((codes(&shown["reasons"]), codes(on_device)), (vec!["locked"], vec!["locked"]), "{shown}");
    assert_follows(&on_device[0], lock);
    assert_follows(&shown["reasons"][0], lock_of_others);
    assert_eq!(
        on_device[0]["until"].as_str().map(|until| &until[..19]),
        lock["data"]["until"].as_str().map(|until| &until[..19])
    );
    assert_eq!(shown["known_devices"][0]["device"], lock["data"]["device"], "{shown}");
    assert_eq!([&shown["reasons"][0]["devices"], &on_device[0]["devices"]], ["unknown", "this"]);
    let remedies: Vec<_> = on_device[0]["remedies"].as_array().unwrap().iter().map(|it| it["code"].clone()).collect();
    assert_eq!(remedies, ["unlock", "wait"]);

    make_auditor(&admin, ann.account).await;
    enforce(&admin, |policy| policy["second_factor"]["required_for"] = json!(["auditor"])).await;
    for verb in ["expire-password", "suspend"] {
        assert_eq!(act(&admin, ann.account, verb).await.status, 200);
    }
    assert_eq!(admin.post("/v1/lockdown", json!({"scope": "logins", "reason": BECAUSE})).await.status, 200);

    let shown = standing(&admin, ann.account).await;
    let expected = [
        ("locked", "authentication.locked_out"),
        ("suspended", "account.suspended"),
        ("lockdown", "lockdown.started"),
        ("password_expired", "account.password_expired"),
        ("second_factor_missing", "policy.changed"),
    ];
    assert_eq!(codes(&shown["reasons"]), expected.map(|(code, _)| code), "{shown}");
    assert_eq!(shown["known_devices"], json!([]), "an expired password forgets them");
    assert_eq!(shown["reasons"][0]["event_id"], lock_of_others["id"], "{shown}");
    for (reason, (code, event_type)) in shown["reasons"].as_array().unwrap().iter().zip(expected).skip(1) {
        let event = last_event(&node, ann.account, event_type).await;
        assert_eq!((&reason["event_id"], &reason["position"]), (&event["id"], &event["position"]), "{reason}");
        if code == "second_factor_missing" {
            assert_eq!(reason["policy_version"], 2, "judged by each login: {reason}");
        } else {
            assert_follows(reason, &event);
        }
    }
    for code in ["locked", "suspended", "lockdown"] {
        let shown = standing(&admin, ann.account).await;
        assert_eq!(shown["reasons"][0]["code"], code, "{shown}");
        mend(&admin, &shown["reasons"][0]).await;
    }
    let shown = standing(&admin, ann.account).await;
    assert_eq!(codes(&shown["reasons"]), ["password_expired", "second_factor_missing"], "{shown}");
    let effects: Vec<_> = shown["reasons"].as_array().unwrap().iter().map(|it| it["effect"].clone()).collect();
    assert_eq!(effects, ["step_required", "step_required"], "{shown}");
    assert_eq!(log_in(&node, &ann.email, PASSWORD, None).await.json["status"], "password_change_required");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_factor_is_missing_since_the_last_of_the_events_that_made_it_so() {
    let node = Node::start().await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    let cause = async || standing(&admin, ann.account).await["reasons"][0]["position"].clone();
    enforce(&admin, |policy| policy["second_factor"]["required_for"] = json!(["auditor"])).await;
    let app = enrol(&ann).await;
    make_auditor(&admin, ann.account).await;
    assert_eq!(cause().await, Value::Null, "there is one: {}", standing(&admin, ann.account).await);
    assert!(app.is_some());
    assert_eq!(act(&admin, ann.account, "reset-second-factor").await.status, 200);
    let reset = last_event(&node, ann.account, "account.second_factor_disabled").await;
    assert_eq!(cause().await, reset["position"]);

    let other = node.auditor().await;
    let shown = standing(&admin, other.account).await;
    let granted = leaves(&node.database).await;
    let granted = granted.iter().position(|leaf| {
        leaf["type"] == "account.role_granted"
            && leaf["data"]["role"] == "auditor"
            && leaf["subject"] == json!(other.account)
    });
    assert_eq!(shown["reasons"][0]["position"].as_u64(), granted.map(|position| position as u64), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_report_nobody_knows_the_password_until_a_reset_by_mail() {
    let (database, mailbox) = (Arc::new(Database::create().await), Mailbox::create());
    let mut env = database.env();
    env.extend(mailbox.env());
    let node = Node::with(&database, env).await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    let elsewhere = node.anonymous().with_header("user-agent", "Mozilla/5.0 Firefox/141.0");
    let login = elsewhere.post("/v1/auth/login", json!({"email": ann.email, "password": PASSWORD})).await;
    assert_eq!(login.status, 200, "{login:?}");
    let token = mailbox.expect(&ann.email, "not-me").await.token();
    assert_eq!(node.anonymous().post("/v1/auth/not-me", json!({"token": token})).await.status, 204);

    let shown = standing(&admin, ann.account).await;
    assert_eq!(codes(&shown["reasons"]), ["password_unknown"], "{shown}");
    assert_follows(&shown["reasons"][0], &last_event(&node, ann.account, "account.password_changed").await);
    let remedy = &shown["reasons"][0]["remedies"][0];
    assert_eq!((&remedy["by"], &remedy["operation"]), (&json!("owner"), &json!("POST /v1/auth/password-reset")));
    assert_eq!(log_in(&node, &ann.email, PASSWORD, None).await.status, 401);

    assert_eq!(node.anonymous().post("/v1/auth/password-reset", json!({"email": ann.email})).await.status, 202);
    let token = mailbox.expect(&ann.email, "reset-password").await.token();
    let new = json!({"token": token, "new_password": "kestrel-Over9thefen"});
    assert_eq!(node.anonymous().post("/v1/auth/password-reset/confirm", new).await.status, 204);
    assert_eq!(standing(&admin, ann.account).await["can_log_in"], true);
    assert_eq!(log_in(&node, &ann.email, "kestrel-Over9thefen", None).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_whose_key_was_destroyed_has_no_credentials() {
    let node = Node::start().await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    let destroyed = "update vault.subject_key set wrapped = null, shredded_at = now() where subject_id = $1";
    sqlx::query(destroyed).bind(ann.account).execute(&superuser(&node.database).await).await.unwrap();
    let shown = standing(&admin, ann.account).await;
    assert_eq!(codes(&shown["reasons"]), ["credentials_destroyed"], "{shown}");
    assert_eq!(log_in(&node, &ann.email, PASSWORD, None).await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lockdown_is_a_reason_for_all_but_those_who_may_respond() {
    let node = Node::start().await;
    let (admin, other, ann) = (node.admin().await, node.admin().await, node.customer().await);
    assert_eq!(admin.post("/v1/lockdown", json!({"scope": "all", "reason": BECAUSE})).await.status, 200);
    assert_eq!(codes(&standing(&admin, ann.account).await["reasons"]), ["lockdown"]);
    assert_eq!(standing(&admin, other.account).await["can_log_in"], true);
    assert_eq!(log_in(&node, &other.email, PASSWORD, None).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_standing_names_no_person_counts_nothing_and_records_nothing() {
    let node = Node::start().await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    for _ in 0..3 {
        log_in(&node, &ann.email, WRONG, None).await;
    }
    let counted = async || -> Vec<String> {
        let rows = "select a::text from vault.attempt a order by 1";
        sqlx::query_scalar(rows).fetch_all(&superuser(&node.database).await).await.unwrap()
    };
    let (size, before) = (log_size(&node).await, counted().await);
    assert!(!before.is_empty());
    for _ in 0..20 {
        let answer = admin.get(&format!("/v1/accounts/{}/standing", ann.account)).await;
        assert_eq!((answer.status, &answer.json["can_log_in"]), (200, &json!(true)));
        for secret in [ann.email.as_str(), "127.0.0.1", BECAUSE] {
            assert!(!answer.text.contains(secret), "{answer:?}");
        }
    }
    assert_eq!((log_size(&node).await, counted().await), (size, before));
    let unknown = admin.get(&format!("/v1/accounts/{}/standing", Uuid::from_u128(7))).await;
    assert_eq!((unknown.status, unknown.code()), (404, "not_found"), "{unknown:?}");
    let of_customer = ann.get(&format!("/v1/accounts/{}/standing", ann.account)).await;
    assert_eq!((of_customer.status, of_customer.code()), (403, "permission_denied"), "also of one's own");
}
