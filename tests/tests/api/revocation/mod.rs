//! The revocation of all sessions of an account at once: from the event on, none is valid, regardless of their number
//! and of what happens to the caller.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

mod abandoned;
mod keys;
mod limit;
mod races;
mod recorded;
mod second_factor;

use fulexo_tests::{Answer, Client, Node, PASSWORD, leaves, there};
use futures_util::future::join_all;
use serde_json::{Value, json};

const BECAUSE: &str = "a telephone was left in a train";
const NEW: &str = "kestrel-Over9thefen";

/// Puts the current policy in force with this change.
async fn enforce(admin: &Client, edit: impl FnOnce(&mut Value)) {
    let mut policy = admin.get("/v1/policy").await.json;
    policy.as_object_mut().unwrap().remove("version");
    policy["reason"] = json!(BECAUSE);
    edit(&mut policy);
    let changed = admin.put("/v1/policy", policy).await;
    assert_eq!(changed.status, 200, "{changed:?}");
}

/// Begins this many sessions of one account, by eight devices at once, at these nodes in turn.
async fn sessions(nodes: &[&Node], owner: &Client, wanted: usize) -> Vec<Client> {
    // Of unknown devices at most five log in at once.
    let mut all = Vec::new();
    for number in 0..wanted.min(8) {
        all.push(nodes[number % nodes.len()].log_in(&owner.email, owner.account).await);
    }
    let begin = |(first, device): (usize, Client)| async move {
        let mut begun = Vec::new();
        for number in (first + 8..wanted).step_by(8) {
            let mut client = there(nodes[number % nodes.len()], &device);
            let body = json!({"email": owner.email, "password": PASSWORD, "device_token": device.device_token});
            let answer = Client::new(&client.url).post("/v1/auth/login", body).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            client.log_in_with(&answer);
            begun.push(client);
        }
        begun
    };
    let more = join_all(all.iter().cloned().enumerate().map(begin)).await;
    all.extend(more.into_iter().flatten());
    all
}

async fn act(admin: &Client, account: &Client, verb: &str) -> Answer {
    admin.post(&format!("/v1/accounts/{}/{verb}", account.account), json!({"reason": BECAUSE})).await
}

async fn refresh(client: &Client) -> Answer {
    client.post("/v1/auth/refresh", json!({"refresh_token": client.refresh_token})).await
}

/// Panics if a request, a refresh or a step-up of this session works.
async fn assert_over(session: &Client, what: &str) {
    let answer = heard(async || session.get("/v1/auth/session").await).await;
    assert_eq!(answer.status, 401, "{what}: {answer:?}");
    let answer = heard(async || refresh(session).await).await;
    assert_eq!(answer.status, 401, "{what}: {answer:?}");
    let answer = heard(async || session.post("/v1/auth/step-up", json!({"password": PASSWORD})).await).await;
    assert_eq!(answer.status, 401, "{what}: {answer:?}");
}

/// Returns the answer of a node that had time for the question: hundreds are asked at once.
async fn heard(ask: impl AsyncFn() -> Answer) -> Answer {
    for _ in 0..60 {
        let answer = ask().await;
        if answer.status != 503 {
            return answer;
        }
    }
    ask().await
}

/// Returns the events of this type about this account, in order.
async fn recorded(node: &Node, account: &Client, event_type: &str) -> Vec<Value> {
    let about = |leaf: &Value| leaf["type"] == event_type && leaf["subject"] == json!(account.account);
    leaves(&node.database).await.into_iter().filter(about).collect()
}
