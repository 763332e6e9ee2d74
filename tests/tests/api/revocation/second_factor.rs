//! A second factor's strength ends with it: in every earlier session, and for every remover; another factor brings it
//! back.

use std::sync::Arc;

use fulexo_tests::{Authenticator, Database, cut_off, eventually, superuser};

use super::*;

const TOTP: &str = "/v1/me/second-factor/totp";

async fn enrol(client: &Client) -> Authenticator {
    let started = client.post_nothing(TOTP).await;
    assert_eq!(started.status, 200, "{started:?}");
    let app = Authenticator::of(started.json["secret"].as_str().unwrap());
    let confirmed = client.post(&format!("{TOTP}/confirm"), json!({"code": app.code(0)})).await;
    assert_eq!(confirmed.status, 200, "{confirmed:?}");
    app
}

async fn log_in(node: &Node, client: &Client, app: &Authenticator, step: i64) -> Client {
    let challenge = node.anonymous().post("/v1/auth/login", json!({"email": client.email, "password": PASSWORD})).await;
    let token = challenge.json["challenge_token"].as_str().unwrap_or_default();
    let body = json!({"challenge_token": token, "code": app.code(step)});
    let answer = node.anonymous().post("/v1/auth/second-factor", body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let mut client = client.clone();
    client.log_in_with(&answer);
    client
}

async fn forget_codes(node: &Node) {
    sqlx::query("update vault.credential set last_step = null")
        .execute(&superuser(&node.database).await)
        .await
        .unwrap();
}

async fn refreshed(client: &Client) -> Client {
    let answer = refresh(client).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let mut client = client.clone();
    client.log_in_with(&answer);
    client
}

/// Returns the methods that a session counts as proved by, as it is told and as others are, and the status of a request
/// that takes an auditor.
async fn strength(node: &Node, admin: &Client, client: &Client) -> (Value, Value, u16) {
    let client = there(node, client);
    let session = client.get("/v1/auth/session").await;
    assert_eq!(session.status, 200, "{session:?}");
    let form = format!("token={}", client.access_token.as_ref().unwrap());
    let told = there(node, admin)
        .send(hyper::Method::POST, "/v1/auth/introspect", Some("application/x-www-form-urlencoded"), &form)
        .await;
    assert_eq!(told.json["amr"], session.json["methods"], "{told:?}");
    (session.json["methods"].clone(), told.json["acr"].clone(), client.get("/v1/audit/events").await.status)
}

struct Scene {
    one: Node,
    two: Node,
    admin: Client,
    ann: Client,
    app: Authenticator,
}

impl Scene {
    /// Starts two nodes, and a session with a second factor.
    async fn set() -> Self {
        let database = Arc::new(Database::create().await);
        let (one, two) = (Node::join(&database).await, Node::join(&database).await);
        let (admin, ann) = (one.user(&["admin", "customer"]).await, one.customer().await);
        let app = enrol(&ann).await;
        forget_codes(&one).await;
        let ann = log_in(&one, &ann, &app, 1).await;
        Self { one, two, admin, ann, app }
    }

    /// Has an auditor need a second factor from here on.
    async fn require(&self) {
        let body = json!({"role": "auditor", "reason": BECAUSE});
        let granted = self.admin.post(&format!("/v1/accounts/{}/roles", self.ann.account), body).await;
        assert_eq!(granted.status, 204, "{granted:?}");
        enforce(&self.admin, |policy| policy["second_factor"]["required_for"] = json!(["auditor"])).await;
    }

    async fn assert_strength(&self, client: &Client, is_strong: bool, what: &str) {
        let strong = (json!(["pwd", "otp"]), json!("aal2"), 200);
        let weak = (json!(["pwd"]), json!("aal1"), 403);
        let wanted = if is_strong { strong } else { weak };
        assert_eq!(strength(&self.one, &self.admin, client).await, wanted, "{what}");
        // Nobody waits for other nodes to learn of what an owner does.
        eventually(what, async || strength(&self.two, &self.admin, client).await == wanted).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_one_without_a_second_factor_from_when_its_owner_takes_it_away() {
    let scene = Scene::set().await;
    let (ann, another) = (&scene.ann, scene.one.customer().await);
    assert_eq!(another.get("/v1/auth/session").await.json["methods"], json!(["pwd"]));
    assert_eq!(ann.delete(TOTP).await.status, 204);
    scene.require().await;
    scene.assert_strength(ann, false, "as it was issued").await;
    let ann = refreshed(ann).await;
    scene.assert_strength(&ann, false, "refreshed").await;

    // Another factor and a code of it bring it back.
    forget_codes(&scene.one).await;
    let app = enrol(&ann).await;
    scene.assert_strength(&ann, false, "enrolled").await;
    forget_codes(&scene.one).await;
    let stepped_up = ann.post("/v1/auth/step-up", json!({"code": app.code(1)})).await;
    assert_eq!(stepped_up.status, 200, "{stepped_up:?}");
    let ann = refreshed(&ann).await;
    scene.assert_strength(&ann, true, "proved and refreshed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_factor_in_its_place_counts_in_the_session_that_confirmed_it_and_in_none_of_before() {
    let scene = Scene::set().await;
    scene.require().await;
    forget_codes(&scene.one).await;
    let other = log_in(&scene.one, &scene.ann, &scene.app, 1).await;
    scene.assert_strength(&scene.ann, true, "before").await;
    scene.assert_strength(&other, true, "before").await;
    forget_codes(&scene.one).await;
    let app = enrol(&scene.ann).await;
    scene.assert_strength(&scene.ann, true, "the session in which it was confirmed").await;
    scene.assert_strength(&other, false, "another one").await;
    let (ann, other) = (refreshed(&scene.ann).await, refreshed(&other).await);
    scene.assert_strength(&ann, true, "the same, refreshed").await;
    scene.assert_strength(&other, false, "another one, refreshed").await;
    forget_codes(&scene.one).await;
    let anew = log_in(&scene.one, &scene.ann, &app, 1).await;
    scene.assert_strength(&anew, true, "a login by the new one").await;
    cut_off(&scene.one).await;
    scene.assert_strength(&ann, true, "by tables").await;
    scene.assert_strength(&other, false, "by tables").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_starts_knows_which_second_factor_is_gone() {
    let scene = Scene::set().await;
    assert_eq!(scene.ann.delete(TOTP).await.status, 204);
    scene.require().await;
    let started = Node::join(&scene.one.database).await;
    let found = strength(&started, &scene.admin, &scene.ann).await;
    assert_eq!(found, (json!(["pwd"]), json!("aal1"), 403));
    cut_off(&scene.one).await;
    scene.assert_strength(&scene.ann, false, "by tables").await;
}
