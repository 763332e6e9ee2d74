//! The security policy: who sees and changes it, from when on it holds and for what, and what another policy would have
//! done.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

mod access;
mod bounds;
mod effects;
mod in_force;
mod preview;
mod weeks;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use fulexo_domain::authentication::{AuthenticationEvent, Factor, FailureReason};
use fulexo_tests::{Answer, Client, Node, PASSWORD, leaves, log_size};
use serde_json::{Value, json};
use uuid::Uuid;

const POLICY: &str = "/v1/policy";
const PREVIEW: &str = "/v1/policy/preview";
const WRONG: &str = "not-the-Passw0rd!";
const BECAUSE: &str = "the auditors asked for it";

/// The policy in force, as the body of a change.
async fn proposal(reader: &Client) -> Value {
    let answer = reader.get(POLICY).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let mut proposal = answer.json;
    proposal.as_object_mut().unwrap().remove("version");
    proposal["reason"] = json!(BECAUSE);
    proposal
}

/// Tries to put the current policy in force with this change.
async fn change(admin: &Client, change: impl FnOnce(&mut Value)) -> Answer {
    let mut proposal = proposal(admin).await;
    change(&mut proposal);
    admin.put(POLICY, proposal).await
}

/// Puts another policy in force.
async fn enforce(admin: &Client, edit: impl FnOnce(&mut Value)) -> Answer {
    let answer = change(admin, edit).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer
}

/// Returns the policy in the answer to a change, without the members on its enforcement.
fn policy_of(answer: &Answer) -> Value {
    let mut policy = answer.json.clone();
    for member in ["position", "enforced_on", "nodes", "down", "waited_ms", "checkpoint_size", "anchored_size"] {
        assert!(policy.as_object_mut().unwrap().remove(member).is_some(), "{member}: {answer:?}");
    }
    policy
}

/// Returns a policy as an event has it: figures that earlier policies lacked are present if they differ from those
/// meant then.
fn written(policy: &Value) -> Value {
    let mut policy = policy.clone();
    if policy["lockout"]["account_threshold"] == 20 {
        policy["lockout"].as_object_mut().unwrap().remove("account_threshold");
    }
    if policy["sessions"]["max_per_account"] == 100 {
        policy["sessions"].as_object_mut().unwrap().remove("max_per_account");
    }
    if policy["api_keys"]["suspend_with_creator"] == true {
        policy.as_object_mut().unwrap().remove("api_keys");
    }
    if policy["erasure"]["withdrawal_days"] == 7 {
        policy.as_object_mut().unwrap().remove("erasure");
    }
    policy
}

async fn version(reader: &Client) -> u64 {
    reader.get(POLICY).await.json["version"].as_u64().unwrap()
}

async fn log_in(node: &Node, email: &str, password: &str, device_token: Option<&str>) -> Answer {
    let mut body = json!({"email": email, "password": password});
    if let Some(token) = device_token {
        body["device_token"] = token.into();
    }
    node.anonymous().post("/v1/auth/login", body).await
}

/// Sends this many wrong passwords.
async fn guess(node: &Node, email: &str, times: usize) {
    for _ in 0..times {
        assert_eq!(log_in(node, email, WRONG, None).await.status, 401);
    }
}

/// Returns the events of this type, the oldest first.
async fn of_type(node: &Node, event_type: &str) -> Vec<Value> {
    leaves(&node.database).await.into_iter().filter(|leaf| leaf["type"] == event_type).collect()
}

/// Returns the whole audit trail of an account.
async fn trail(node: &Node, auditor: &Client, account: Uuid) -> Vec<Value> {
    let (auditor, mut events, mut cursor) = (auditor.seeing(log_size(node).await - 1), Vec::new(), String::new());
    loop {
        let page = auditor.get(&format!("/v1/audit/events?limit=200&subject={account}{cursor}")).await;
        assert_eq!(page.status, 200, "{page:?}");
        events.extend(page.json["items"].as_array().unwrap().clone());
        match page.json["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return events,
        }
    }
}

fn time(value: &Value) -> DateTime<Utc> {
    value.as_str().unwrap().parse().unwrap()
}

fn pointers(answer: &Answer) -> Vec<String> {
    let errors = answer.json["errors"].as_array().unwrap();
    errors.iter().map(|error| error["pointer"].as_str().unwrap().to_owned()).collect()
}

const FIGURES: [(&str, u64, u64); 13] = [
    ("/lockout/threshold", 1, 100),
    ("/lockout/account_threshold", 1, 1_000),
    ("/lockout/window_seconds", 60, 86_400),
    ("/lockout/duration_seconds", 60, 86_400),
    ("/lockout/max_duration_seconds", 60, 604_800),
    ("/sessions/idle_timeout_seconds", 300, 7_776_000),
    ("/sessions/absolute_timeout_seconds", 300, 31_536_000),
    ("/sessions/refresh_grace_seconds", 0, 60),
    ("/sessions/elevation_seconds", 60, 3_600),
    ("/sessions/max_per_account", 1, 1_000),
    ("/passwords/history", 1, 24),
    ("/passwords/max_age_days", 1, 3_650),
    ("/erasure/withdrawal_days", 0, 30),
];

async fn set_elevation(admin: &Client, minutes: i64) {
    enforce(admin, |policy| policy["sessions"]["elevation_seconds"] = json!(minutes * 60)).await;
}

/// Returns the preview's entries on an account, each of its counters by the device.
fn accounts(preview: &Value, account: Uuid) -> BTreeMap<String, Value> {
    let listed = preview["accounts"].as_array().unwrap().iter();
    let own = listed.filter(|item| item["account_id"] == json!(account) && item["all_devices"] == false);
    own.map(|item| (item["device"].as_str().unwrap_or_default().to_owned(), item.clone())).collect()
}

fn lockout(threshold: u64) -> Value {
    json!({"enabled": true, "threshold": threshold, "window_seconds": 900, "duration_seconds": 900,
           "max_duration_seconds": 86_400})
}

/// Takes the second step of a login that began with the password; without a code, stops before it.
async fn log_in_twice(node: &Node, client: &Client, code: Option<&str>) -> Answer {
    let challenge = log_in(node, &client.email, PASSWORD, None).await;
    assert_eq!(challenge.json["status"], "second_factor_required", "{challenge:?}");
    let Some(code) = code else { return challenge };
    let body = json!({"challenge_token": challenge.json["challenge_token"], "code": code});
    node.anonymous().post("/v1/auth/second-factor", body).await
}

/// Returns the preview of this policy over all that the log holds now.
async fn preview(node: &Node, reader: &Client, lockout: Value) -> Value {
    let reader = reader.seeing(log_size(node).await - 1);
    let answer = reader.post(PREVIEW, json!({"lockout": lockout})).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json
}

async fn unlock(admin: &Client, client: &Client) {
    let answer = admin.post(&format!("/v1/accounts/{}/unlock", client.account), json!({"reason": BECAUSE})).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

fn failed(reason: FailureReason, device: Option<String>) -> AuthenticationEvent {
    AuthenticationEvent::Failed { factor: Factor::Password, reason, device }
}
