//! The standing of an account: it says what a login then does, why, since when and what helps.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

mod explained;
mod histories;

use fulexo_tests::{Answer, Authenticator, Client, Node, PASSWORD, leaves, superuser};
use serde_json::{Value, json};
use uuid::Uuid;

const BECAUSE: &str = "asked for at the desk";
const WRONG: &str = "not-the-Passw0rd!";
const TOTP: &str = "/v1/me/second-factor/totp";

/// Returns the standing of an account, as staff see it.
async fn standing(staff: &Client, account: Uuid) -> Value {
    let answer = staff.get(&format!("/v1/accounts/{account}/standing")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json
}

/// Returns the codes of reasons, in order.
fn codes(reasons: &Value) -> Vec<&str> {
    reasons.as_array().unwrap().iter().map(|reason| reason["code"].as_str().unwrap()).collect()
}

async fn log_in(node: &Node, email: &str, password: &str, device_token: Option<&str>) -> Answer {
    let mut body = json!({"email": email, "password": password});
    if let Some(token) = device_token {
        body["device_token"] = token.into();
    }
    node.anonymous().post("/v1/auth/login", body).await
}

/// Logs in with the right password, and with the right code if one is asked for.
async fn log_in_rightly(
    node: &Node,
    person: &Client,
    password: &str,
    app: Option<&Authenticator>,
    device_token: Option<&str>,
) -> Answer {
    let answer = log_in(node, &person.email, password, device_token).await;
    if answer.json["status"] != "second_factor_required" {
        return answer;
    }
    // As if the last accepted code was from long ago.
    let statement = "update vault.credential set last_step = null where account_id = $1";
    sqlx::query(statement).bind(person.account).execute(&superuser(&node.database).await).await.unwrap();
    let body = json!({"challenge_token": answer.json["challenge_token"], "code": app.unwrap().code(1)});
    node.anonymous().post("/v1/auth/second-factor", body).await
}

async fn act(admin: &Client, account: Uuid, verb: &str) -> Answer {
    admin.post(&format!("/v1/accounts/{account}/{verb}"), json!({"reason": BECAUSE})).await
}

async fn enforce(admin: &Client, edit: impl FnOnce(&mut Value)) -> Answer {
    let mut policy = admin.get("/v1/policy").await.json;
    policy.as_object_mut().unwrap().remove("version");
    edit(&mut policy);
    policy["reason"] = json!(BECAUSE);
    let answer = admin.put("/v1/policy", policy).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer
}

/// Enrols a second factor in this session.
async fn enrol(client: &Client) -> Option<Authenticator> {
    let started = client.post_nothing(TOTP).await;
    let app = Authenticator::of(started.json["secret"].as_str()?);
    let confirmed = client.post(&format!("{TOTP}/confirm"), json!({"code": app.code(0)})).await;
    (confirmed.status == 200).then_some(app)
}

/// Returns the last event of this type about an account.
async fn last_event(node: &Node, account: Uuid, event_type: &str) -> Value {
    let leaves = leaves(&node.database).await;
    let (position, leaf) = leaves
        .iter()
        .enumerate()
        .rfind(|(_, leaf)| {
            leaf["type"] == event_type && (leaf["subject"] == json!(account) || leaf["subject"].is_null())
        })
        .unwrap_or_else(|| panic!("no {event_type}"));
    let mut leaf = leaf.clone();
    leaf["position"] = json!(position);
    leaf
}
