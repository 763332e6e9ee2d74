//! Access tokens that this service did not issue, or not for this, or not any more.

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::TimeDelta;
use fulexo_commands::access_token::{KeyRing, SigningKey, TokenGrant, TokenSettings};
use fulexo_domain::authentication::AuthenticationMethod;
use fulexo_domain::values::{AccountId, RoleName, SessionId};
use fulexo_node::clock;
use fulexo_tests::{Client, Node, operator};
use serde_json::{Value, json};

/// A real token taken apart, with the secret that signed it.
struct Forger {
    header: Value,
    claims: Value,
    secret: String,
}

impl Forger {
    fn of(node: &Node, client: &Client) -> Self {
        let token = client.access_token.clone().unwrap();
        let mut parts = token.split('.').map(|part| URL_SAFE_NO_PAD.decode(part).unwrap());
        let mut part = || serde_json::from_slice(&parts.next().unwrap()).unwrap();
        Self { header: part(), claims: part(), secret: node.database.env()["JWT_SECRET"].clone() }
    }

    fn forge(&self, header: &Value, claims: &Value) -> String {
        forge(header, claims, &self.secret)
    }

    /// Returns the token with one member of its header changed.
    fn with_header(&self, name: &str, value: Value) -> String {
        self.forge(&with(&self.header, name, value), &self.claims)
    }

    /// Returns the token with one claim changed.
    fn with_claim(&self, name: &str, value: Value) -> String {
        self.forge(&self.header, &with(&self.claims, name, value))
    }
}

fn with(object: &Value, name: &str, value: Value) -> Value {
    let mut object = object.clone();
    object[name] = value;
    object
}

fn without(object: &Value, name: &str) -> Value {
    let mut object = object.clone();
    object.as_object_mut().unwrap().remove(name);
    object
}

fn forge(header: &Value, claims: &Value, secret: &str) -> String {
    let [header, claims] = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
    let message = format!("{header}.{claims}");
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
}

async fn status(node: &Node, token: &str) -> u16 {
    let client = Client { access_token: Some(token.to_owned()), ..node.anonymous() };
    client.get("/v1/auth/session").await.status
}

async fn assert_refused(node: &Node, what: &str, token: &str) {
    let client = Client { access_token: Some(token.to_owned()), ..node.anonymous() };
    for path in ["/v1/auth/session", "/v1/accounts"] {
        let answer = client.get(path).await;
        assert_eq!((answer.status, answer.code()), (401, "invalid_token"), "{what}: {answer:?}");
        assert_eq!(answer.header("www-authenticate"), Some("Bearer error=\"invalid_token\""), "{what}");
    }
}

async fn start() -> (Node, Forger) {
    let node = Node::start().await;
    let forger = Forger::of(&node, &node.admin().await);
    (node, forger)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_made_with_the_right_secret_is_accepted() {
    // Without this the tests below would prove nothing.
    let (node, forger) = start().await;
    assert_eq!(status(&node, &forger.forge(&forger.header, &forger.claims)).await, 200);
    assert_eq!(status(&node, &forger.with_claim("jti", json!(operator().new_id()))).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_without_a_signature_is_refused() {
    let (node, forger) = start().await;
    for algorithm in ["none", "None", "NONE", "nOnE"] {
        let header = with(&forger.header, "alg", json!(algorithm));
        let [header, claims] = [&header, &forger.claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
        assert_refused(&node, algorithm, &format!("{header}.{claims}.")).await;
        assert_refused(&node, algorithm, &format!("{header}.{claims}")).await;
        assert_refused(&node, algorithm, &forger.with_header("alg", json!(algorithm))).await;
    }
    let token = forger.forge(&forger.header, &forger.claims);
    let (message, _) = token.rsplit_once('.').unwrap();
    assert_refused(&node, "cut off", &format!("{message}.")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_made_with_another_secret_is_refused() {
    let (node, forger) = start().await;
    for secret in ["", "secret", &forger.secret.to_uppercase(), &format!("{}\n", forger.secret)] {
        assert_refused(&node, secret, &forge(&forger.header, &forger.claims, secret)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_another_algorithm_type_or_key_is_refused() {
    let (node, forger) = start().await;
    for (name, value) in [
        ("alg", json!("HS384")),
        ("alg", json!("HS512")),
        ("alg", json!("RS256")),
        ("typ", json!("JWT")),
        ("typ", json!("")),
        ("typ", Value::Null),
        ("kid", json!("another")),
        ("kid", json!("")),
        ("kid", json!("../../../dev/null")),
        ("kid", Value::Null),
        ("crit", json!(["exp"])),
    ] {
        assert_refused(&node, &format!("{name}: {value}"), &forger.with_header(name, value)).await;
    }
    for name in ["alg", "typ", "kid"] {
        assert_refused(&node, name, &forger.forge(&without(&forger.header, name), &forger.claims)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_brings_its_own_key_is_refused() {
    let (node, forger) = start().await;
    let jwk = json!({"kty": "oct", "k": URL_SAFE_NO_PAD.encode("mine"), "alg": "HS256"});
    let header = with(&with(&without(&forger.header, "kid"), "jwk", jwk), "jku", json!("https://evil.example/jwks"));
    assert_refused(&node, "jwk", &forge(&header, &forger.claims, "mine")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_for_somebody_else_or_by_somebody_else_is_refused() {
    let (node, forger) = start().await;
    let now = clock::now().timestamp();
    for (name, value) in [
        ("iss", json!("https://other.example")),
        ("iss", json!("")),
        ("aud", json!("other")),
        ("aud", json!(["other"])),
        ("sub", json!("not an id")),
        ("exp", json!(now - 61)),
        ("exp", json!(0)),
        ("exp", json!("tomorrow")),
        ("iat", json!(now + 120)),
        ("nbf", json!(now + 120)),
        ("roles", json!("admin")),
    ] {
        assert_refused(&node, &format!("{name}: {value}"), &forger.with_claim(name, value)).await;
    }
    for name in ["iss", "aud", "sub", "sid", "exp", "iat", "auth_time", "pos"] {
        assert_refused(&node, name, &forger.forge(&forger.header, &without(&forger.claims, name))).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_another_service_with_the_same_secret_is_refused() {
    let (node, forger) = start().await;
    let grant = || TokenGrant {
        account: AccountId(serde_json::from_value(forger.claims["sub"].clone()).unwrap()),
        session: SessionId(serde_json::from_value(forger.claims["sid"].clone()).unwrap()),
        authenticated_at: clock::now(),
        methods: vec![AuthenticationMethod::Password],
        step_up_required: false,
        roles: vec![RoleName::parse("admin").unwrap()],
        position: 0,
        epoch: node.app().gate.epoch(),
        expires_at: clock::now() + TimeDelta::hours(1),
    };
    let (issuer, audience) = (forger.claims["iss"].as_str().unwrap(), forger.claims["aud"].as_str().unwrap());
    let sign = |issuer: &str, audience: &str, ago: TimeDelta| {
        let keys = vec![SigningKey::hs256(&forger.secret).unwrap()];
        let lifetime = TimeDelta::hours(1);
        let settings = TokenSettings { issuer: issuer.to_owned(), audience: audience.to_owned(), lifetime };
        let ring = KeyRing::new(keys, settings).unwrap();
        let grant = TokenGrant { expires_at: clock::now() - ago + TimeDelta::hours(1), ..grant() };
        ring.sign(grant, operator().new_id(), clock::now() - ago).unwrap()
    };
    assert_eq!(status(&node, &sign(issuer, audience, TimeDelta::zero())).await, 200);
    assert_refused(&node, "issuer", &sign("https://other.example", audience, TimeDelta::zero())).await;
    assert_refused(&node, "audience", &sign(issuer, "other", TimeDelta::zero())).await;
    assert_refused(&node, "expired", &sign(issuer, audience, TimeDelta::minutes(62))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_was_altered_is_refused() {
    let (node, forger) = start().await;
    let token = forger.forge(&forger.header, &forger.claims);
    let (head, rest) = token.split_once('.').unwrap();
    let (_, signature) = rest.split_once('.').unwrap();
    for (name, value) in [("roles", json!(["admin"])), ("sub", json!(uuid::Uuid::nil())), ("exp", json!(1_i64 << 40))] {
        let claims = URL_SAFE_NO_PAD.encode(with(&forger.claims, name, value).to_string());
        if format!("{head}.{claims}.{signature}") != token {
            assert_refused(&node, name, &format!("{head}.{claims}.{signature}")).await;
        }
    }
    for at in (0..token.len() - 2).step_by(29) {
        let mut altered = token.clone();
        let other = if altered.get(at..=at) == Some("A") { "B" } else { "A" };
        altered.replace_range(at..=at, other);
        assert_refused(&node, &format!("character {at}"), &altered).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_refused_again_after_it_was_accepted_once() {
    // A node remembers tokens that it has verified: their end and their session's end still count.
    let node = Node::start().await;
    let ann = node.customer().await;
    let token = ann.access_token.clone().unwrap();
    assert_eq!(status(&node, &token).await, 200);
    assert_eq!(ann.post_nothing("/v1/auth/logout").await.status, 204);
    assert_refused(&node, "ended", &token).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_bearer_token_is_an_authority() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let token = admin.access_token.clone().unwrap();
    for value in [
        token.clone(),
        format!("Basic {token}"),
        format!("Token {token}"),
        "Bearer".into(),
        "Bearer ".into(),
        String::new(),
    ] {
        let client = node.anonymous().with_header("authorization", &value);
        assert_eq!(client.get("/v1/auth/session").await.status, 401, "{value:?}");
    }
    for path in [format!("/v1/auth/session?access_token={token}"), format!("/v1/accounts?token={token}")] {
        assert_eq!(node.anonymous().get(&path).await.status, 401, "a token in a URL ends up in logs");
    }
    for name in ["x-access-token", "cookie"] {
        let client = node.anonymous().with_header(name, &format!("access_token={token}"));
        assert_eq!(client.get("/v1/auth/session").await.status, 401, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_token_is_no_access_token_and_the_other_way_round() {
    let node = Node::start().await;
    let ann = node.customer().await;
    assert_refused(&node, "refresh token", &ann.refresh_token).await;
    let answer = ann.post("/v1/auth/refresh", json!({"refresh_token": ann.access_token})).await;
    assert_eq!(answer.status, 401, "{answer:?}");
}
