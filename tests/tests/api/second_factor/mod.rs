//! The second factor, from the outside: set up, asked for, spent once, guessed at, replaced, lost and taken away.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

mod challenge;
mod codes;
mod enrolment;
mod guesses;
mod privacy;
mod recovery;
mod removal;
mod required;
mod step_up;
mod typed;

use std::collections::BTreeMap;

use fulexo_node::clock;
use fulexo_tests::{
    Answer, Authenticator, Client, Database, Node, PASSWORD, leaves as all_leaves, log_size, superuser,
};
use serde_json::{Value, json};
use uuid::Uuid;

const TOTP: &str = "/v1/me/second-factor/totp";
const CONFIRM: &str = "/v1/me/second-factor/totp/confirm";
const CODES: &str = "/v1/me/recovery-codes";
const STEP_UP: &str = "/v1/auth/step-up";
const SECOND_FACTOR: &str = "/v1/auth/second-factor";
const BECAUSE: &str = "the telephone fell into the sea";
const NEW_PASSWORD: &str = "kestrel-Over9thefen";

/// A user with a second factor, and the session in which they set it up.
struct Owner {
    client: Client,
    app: Authenticator,
    secret: String,
    recovery: Vec<String>,
}

impl Owner {
    /// Sets up a second factor, with the code of this step of the clock.
    async fn of(client: Client) -> Self {
        let (app, secret) = start(&client).await;
        let confirmed = confirm(&client, &app.code(0)).await;
        assert_eq!(confirmed.status, 200, "{confirmed:?}");
        let recovery = recovery_codes(&confirmed);
        Self { client, app, secret, recovery }
    }

    async fn customer(node: &Node) -> Self {
        Self::of(node.customer().await).await
    }

    /// Does the same, with an earlier session of theirs in which no code was presented.
    async fn with_older_session(node: &Node) -> (Self, Client) {
        let client = node.customer().await;
        let older = node.log_in(&client.email, client.account).await;
        (Self::of(client).await, older)
    }

    /// Returns a valid code: that of the next step, which stays valid for at least a minute. It is accepted as if it
    /// was the first for a long time.
    async fn code(&self, node: &Node) -> String {
        forget_the_last_code(node, self.client.account).await;
        self.app.code(1)
    }

    /// Logs in as them, by the password, from a device that was never seen; returns the challenge.
    async fn challenge(&self, node: &Node) -> String {
        challenge_of(&log_in(node, &self.client.email).await)
    }

    /// Does the same in a session of a known device: none is older than the second factor.
    async fn on_a_known_device(self, node: &Node) -> Self {
        Self { client: self.log_in(node).await, ..self }
    }

    /// Does the same from the device of their session.
    async fn challenge_here(&self, node: &Node) -> String {
        let Client { email, device_token, .. } = &self.client;
        let body = json!({"email": email, "password": PASSWORD, "device_token": device_token});
        challenge_of(&node.anonymous().post("/v1/auth/login", body).await)
    }

    /// Logs in with both factors.
    async fn log_in(&self, node: &Node) -> Client {
        let (challenge, code) = (self.challenge(node).await, self.code(node).await);
        let answer = present(node, &challenge, &code).await;
        assert_eq!((answer.status, &answer.json["status"]), (200, &json!("authenticated")), "{answer:?}");
        let mut client = Client { url: node.url.clone(), headers: Vec::new(), ..self.client.clone() };
        client.log_in_with(&answer);
        client
    }

    /// Returns this many codes that the app does not show around now.
    fn wrong_codes(&self, count: usize) -> Vec<String> {
        let shown: Vec<String> = (-3..=40).map(|step| self.app.code(step)).collect();
        (100_000..).map(|number| number.to_string()).filter(|code| !shown.contains(code)).take(count).collect()
    }

    fn wrong_code(&self) -> String {
        self.wrong_codes(1).remove(0)
    }
}

/// Begins to set up a second factor.
async fn start(client: &Client) -> (Authenticator, String) {
    let started = client.post_nothing(TOTP).await;
    assert_eq!(started.status, 200, "{started:?}");
    let secret = started.json["secret"].as_str().unwrap().to_owned();
    (Authenticator::of(&secret), secret)
}

async fn confirm(client: &Client, code: &str) -> Answer {
    client.post(CONFIRM, json!({"code": code})).await
}

fn recovery_codes(answer: &Answer) -> Vec<String> {
    let codes = answer.json["recovery_codes"].as_array().unwrap().iter();
    codes.map(|code| code.as_str().unwrap().to_owned()).collect()
}

async fn log_in(node: &Node, email: &str) -> Answer {
    node.anonymous().post("/v1/auth/login", json!({"email": email, "password": PASSWORD})).await
}

/// Returns the token of a login that asks for a code.
fn challenge_of(login: &Answer) -> String {
    assert_eq!((login.status, &login.json["status"]), (200, &json!("second_factor_required")), "{login:?}");
    login.json["challenge_token"].as_str().unwrap().to_owned()
}

async fn present(node: &Node, challenge: &str, code: &str) -> Answer {
    node.anonymous().post(SECOND_FACTOR, json!({"challenge_token": challenge, "code": code})).await
}

async fn step_up(client: &Client, code: &str) -> Answer {
    client.post(STEP_UP, json!({"code": code})).await
}

/// Returns the same session, with the tokens of a refresh.
async fn refreshed(client: &Client) -> Client {
    let answer = client.post("/v1/auth/refresh", json!({"refresh_token": client.refresh_token})).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let mut client = client.clone();
    client.log_in_with(&answer);
    client
}

async fn act(admin: &Client, account: Uuid, verb: &str) -> Answer {
    admin.post(&format!("/v1/accounts/{account}/{verb}"), json!({"reason": BECAUSE})).await
}

async fn grant(admin: &Client, account: Uuid, role: &str) -> Answer {
    admin.post(&format!("/v1/accounts/{account}/roles"), json!({"role": role, "reason": BECAUSE})).await
}

/// Puts the policy in force that differs in one member.
async fn change_policy(admin: &Client, pointer: &str, value: Value) {
    let mut policy = admin.get("/v1/policy").await.json;
    *policy.pointer_mut(pointer).unwrap() = value;
    policy["reason"] = BECAUSE.into();
    let changed = admin.put("/v1/policy", policy).await;
    assert_eq!(changed.status, 200, "{changed:?}");
}

/// Changes the vault as if the last accepted code was from long ago.
async fn forget_the_last_code(node: &Node, account: Uuid) {
    let statement = "update vault.credential set last_step = null where account_id = $1";
    sqlx::query(statement).bind(account).execute(&superuser(&node.database).await).await.unwrap();
}

/// Returns the count of a query over one account.
async fn count(node: &Node, statement: &'static str, account: Uuid) -> i64 {
    sqlx::query_scalar(statement).bind(account).fetch_one(&superuser(&node.database).await).await.unwrap()
}

async fn sessions(node: &Node, account: Uuid) -> i64 {
    count(node, "select count(*) from access.session where account_id = $1", account).await
}

/// Returns their account as they see it, with all that the log has of it.
async fn me(node: &Node, client: &Client) -> Answer {
    let me = client.seeing(log_size(node).await - 1).get("/v1/me").await;
    assert_eq!(me.status, 200, "{me:?}");
    me
}

/// Returns every event about an account, in order.
async fn leaves(database: &Database, account: Uuid) -> Vec<Value> {
    all_leaves(database).await.into_iter().filter(|leaf| leaf["subject"] == json!(account)).collect()
}

async fn leaves_of(database: &Database, account: Uuid, event_type: &str) -> Vec<Value> {
    leaves(database, account).await.into_iter().filter(|leaf| leaf["type"] == event_type).collect()
}

/// Returns the number of attempts on a factor of an account in the log, by outcome.
async fn outcomes(database: &Database, account: Uuid, factor: &str) -> BTreeMap<String, usize> {
    let mut outcomes = BTreeMap::new();
    for leaf in leaves(database, account).await {
        if leaf["data"]["factor"] == factor {
            let outcome = leaf["data"]["reason"].as_str().or(leaf["type"].as_str()).unwrap();
            *outcomes.entry(outcome.to_owned()).or_default() += 1;
        }
    }
    outcomes
}

#[track_caller]
fn assert_refused(answer: &Answer) {
    assert_eq!((answer.status, answer.code()), (401, "invalid_credentials"), "{answer:?}");
}

#[track_caller]
fn assert_no_token(answer: &Answer) {
    assert_eq!((answer.status, answer.code()), (401, "invalid_token"), "{answer:?}");
}

#[track_caller]
fn assert_step_up_required(answer: &Answer) {
    assert_eq!((answer.status, answer.code()), (403, "step_up_required"), "{answer:?}");
}

/// Makes a try within one step of the clock by which codes change: a try that the next step overtook proves nothing,
/// and is repeated.
async fn within_a_step<T>(attempt: impl AsyncFn() -> T) -> T {
    let step = || clock::now().timestamp() / 30;
    loop {
        let before = step();
        let outcome = attempt().await;
        if step() == before {
            return outcome;
        }
    }
}
