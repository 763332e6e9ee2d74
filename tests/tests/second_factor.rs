//! The second factor: set up, asked for, spent once, replaced, lost and taken away.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

use fulexo_tests::{Answer, Authenticator, Client, Node, PASSWORD};
use serde_json::{Value, json};

const TOTP: &str = "/v1/me/second-factor/totp";

/// Sets up a second factor with the code of the step before this one; answers with the app and the recovery codes.
async fn enrol(client: &Client) -> (Authenticator, Vec<String>) {
    let started = client.post_nothing(TOTP).await;
    assert_eq!(started.status, 200, "{started:?}");
    let app = Authenticator::of(started.json["secret"].as_str().unwrap());
    let confirmed = client.post(&format!("{TOTP}/confirm"), json!({"code": app.code(-1)})).await;
    assert_eq!(confirmed.status, 200, "{confirmed:?}");
    let codes = confirmed.json["recovery_codes"].as_array().unwrap().iter();
    (app, codes.map(|code| code.as_str().unwrap().to_owned()).collect())
}

async fn log_in(node: &Node, email: &str) -> Answer {
    node.anonymous().post("/v1/auth/login", json!({"email": email, "password": PASSWORD})).await
}

async fn present(node: &Node, challenge: &Value, code: &str) -> Answer {
    let body = json!({"challenge_token": challenge["challenge_token"], "code": code});
    node.anonymous().post("/v1/auth/second-factor", body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_with_a_second_factor_takes_two_steps() {
    let node = Node::start().await;
    let ann = node.customer().await;
    let (app, recovery) = enrol(&ann).await;
    assert_eq!(recovery.len(), 10);
    let challenge = log_in(&node, &ann.email).await;
    assert_eq!((challenge.status, &challenge.json["status"]), (200, &json!("second_factor_required")), "{challenge:?}");
    assert!(challenge.json.get("access_token").is_none());
    assert_eq!(challenge.json["methods"], json!(["totp", "recovery_code"]));
    let answer = present(&node, &challenge.json, &app.code(0)).await;
    assert_eq!((answer.status, &answer.json["status"]), (200, &json!("authenticated")), "{answer:?}");
    let mut client = node.anonymous();
    client.log_in_with(&answer);
    let session = client.get("/v1/auth/session").await;
    assert_eq!(session.json["methods"], json!(["pwd", "otp"]));
    let again = present(&node, &challenge.json, &app.code(0)).await;
    assert_eq!((again.status, again.code()), (401, "invalid_credentials"), "a code is good once");
    let recovered = present(&node, &challenge.json, &recovery[3]).await;
    assert_eq!(recovered.status, 200, "{recovered:?}");
    assert_eq!(present(&node, &challenge.json, &recovery[3]).await.status, 401, "and so is a recovery code");
    let me = client.seeing(recovered.position()).get("/v1/me").await;
    assert_eq!(me.json["second_factor"], json!({"enabled": true, "required": false, "recovery_codes": 9}));
}
