//! Roles that require a second factor: in production those that see or do more than their own, elsewhere those that the
//! policy names. Without one a login leads to its enrolment alone, and a session gives nothing of the role.

use std::sync::Arc;

use chrono::TimeDelta;
use fulexo_api::routes;
use fulexo_commands::{Credentials, LoginResult};
use fulexo_domain::password::Password;
use fulexo_domain::values::EmailAddress;
use fulexo_tests::{Client, Database, Node, PASSWORD, operator, rsa_key};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    CONFIRM, NEW_PASSWORD, Owner, SECOND_FACTOR, STEP_UP, TOTP, act, assert_no_token, assert_refused, change_policy,
    confirm, grant, leaves_of, log_in, me, recovery_codes, refreshed, sessions, start, step_up,
};

/// Starts a node as it runs in production.
async fn production() -> Node {
    let database = Arc::new(Database::create().await);
    let mut env = database.env();
    env.retain(|name, _| name != "JWT_SECRET" && name != "NATS_URL");
    let own = [
        ("APP_ENV", "production".to_owned()),
        ("JWT_PRIVATE_KEY", rsa_key()),
        ("TRUSTED_PROXIES", "127.0.0.1/32".to_owned()),
        ("FULEXO_BCRYPT_COST", "10".to_owned()),
        // Production limits requests; this suite sends more than people do.
        (
            "FULEXO_RATE_LIMITS",
            "login=100000/1s,second_factor=100000/1s,address=100000/1s,account=100000/1s".to_owned(),
        ),
    ];
    env.extend(own.map(|(name, value)| (name.to_owned(), value)));
    Node::with(&database, env).await
}

/// Returns a client whose login leads to an enrolment, with the token of that step as its bearer token.
async fn half_way(node: &Node, email: &str, account: Uuid) -> Client {
    let login = log_in(node, email).await;
    let status = &login.json["status"];
    assert_eq!((login.status, status), (200, &json!("second_factor_enrolment_required")), "{login:?}");
    for absent in ["access_token", "refresh_token", "session_id", "device_token"] {
        assert!(login.json.get(absent).is_none(), "{absent}: {login:?}");
    }
    assert_eq!((&login.json["next"], &login.json["expires_in"]), (&json!(TOTP), &json!(600)));
    let token = login.json["challenge_token"].as_str().unwrap().to_owned();
    Client { access_token: Some(token), email: email.to_owned(), account, ..node.anonymous() }
}

/// Does the same, and enrols with it.
async fn enrol_half_way(node: &Node, email: &str, account: Uuid) -> Owner {
    Owner::of(half_way(node, email, account).await).await
}

#[tokio::test(flavor = "multi_thread")]
async fn in_production_administrators_and_auditors_begin_with_an_enrolment() {
    let node = production().await;
    for (roles, permission) in [(&["admin", "customer"][..], "roles.grant"), (&["auditor"], "audit.read")] {
        let (email, account) = node.register(roles).await;
        let ann = enrol_half_way(&node, &email, account).await;
        assert_eq!(sessions(&node, account).await, 0, "the enrolment begins no session");
        let required = leaves_of(&node.database, account, "authentication.second_factor_required").await;
        assert_eq!(required[0]["data"], json!({"enrolled": false}));
        let enabled = leaves_of(&node.database, account, "account.second_factor_enabled").await;
        assert_eq!((enabled.len(), &enabled[0]["actor"]["id"]), (1, &json!(account)));

        let client = ann.log_in(&node).await;
        let session = client.get("/v1/auth/session").await;
        let permissions = session.json["permissions"].as_array().unwrap();
        assert!(permissions.contains(&json!(permission)), "{session:?}");
        let shown = me(&node, &client).await;
        assert_eq!(shown.json["second_factor"]["required"], json!(true));
        assert_eq!(client.get("/v1/roles").await.status, 200);
        let refused = client.delete(TOTP).await;
        assert_eq!((refused.status, refused.code()), (409, "second_factor_required"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_production_customers_are_not_asked() {
    let node = production().await;
    let ann = node.customer().await;
    let shown = me(&node, &ann).await;
    assert_eq!(shown.json["second_factor"], json!({"enabled": false, "required": false, "recovery_codes": 0}));
    let ann = Owner::of(ann).await;
    ann.log_in(&node).await;
    assert_eq!(ann.client.delete(TOTP).await.status, 204);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_for_an_enrolment_is_good_for_nothing_else() {
    let node = production().await;
    let (email, account) = node.register(&["admin", "customer"]).await;
    let bearer = half_way(&node, &email, account).await;
    let token = bearer.access_token.clone().unwrap();
    let document: Value = serde_json::from_str(routes::spec()).unwrap();
    let mut called = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        let filled: Vec<String> = path
            .split('/')
            .map(|segment| match segment {
                "{role}" => "auditor".to_owned(),
                "{position}" => "0".to_owned(),
                segment if segment.starts_with('{') => account.to_string(),
                segment => segment.to_owned(),
            })
            .collect();
        for (method, operation) in methods.as_object().unwrap() {
            let id = operation["operationId"].as_str().unwrap();
            if operation["security"].as_array().is_none_or(Vec::is_empty)
                || ["enrol_totp", "confirm_totp"].contains(&id)
            {
                continue;
            }
            let content = operation["requestBody"]["content"].as_object().and_then(|content| content.keys().next());
            let content_type = content.and_then(|name| name.split(';').next());
            let body = if content.is_some() { "{}" } else { "" };
            let method = method.to_uppercase().parse().unwrap();
            let answer = bearer.send(method, &filled.join("/"), content_type, body).await;
            assert_eq!((answer.status, answer.code()), (401, "invalid_token"), "{id}: {answer:?}");
            called += 1;
        }
    }
    assert!(called >= 35, "only {called} operations were called");
    // With bodies that would do.
    let change = json!({"current_password": PASSWORD, "new_password": NEW_PASSWORD});
    assert_no_token(&bearer.post("/v1/me/password", change).await);
    assert_no_token(&bearer.post(STEP_UP, json!({"password": PASSWORD})).await);
    assert_no_token(&grant(&bearer, account, "auditor").await);
    let role = json!({"permissions": ["audit.read"], "reason": "r"});
    assert_no_token(&bearer.put("/v1/roles/keeper", role).await);
    assert_refused(&node.anonymous().post("/v1/auth/refresh", json!({"refresh_token": token})).await);
    let (app, _) = start(&bearer).await;
    let second_factor = json!({"challenge_token": token, "code": app.code(1)});
    assert_refused(&node.anonymous().post(SECOND_FACTOR, second_factor).await);
    assert_eq!(confirm(&bearer, &app.code(1)).await.status, 200, "it is good for that");
    assert_eq!(sessions(&node, account).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_for_an_enrolment_is_spent_by_it() {
    let node = production().await;
    let (email, account) = node.register(&["auditor"]).await;
    let (one, other) = (half_way(&node, &email, account).await, half_way(&node, &email, account).await);
    let ann = Owner::of(one).await;
    for bearer in [&ann.client, &other] {
        assert_no_token(&bearer.post_nothing(TOTP).await);
        assert_no_token(&confirm(bearer, &ann.code(&node).await).await);
    }
    ann.log_in(&node).await;
    assert_eq!(leaves_of(&node.database, account, "account.second_factor_enrolment_started").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_repeated_under_its_key_opens_no_enrolment_once_there_is_a_second_factor() {
    let node = production().await;
    let (email, account) = node.register(&["auditor"]).await;
    // An attacker who has only the password logs in first, and keeps the key.
    let eve = node.anonymous().with_header("idempotency-key", "a key");
    let body = json!({"email": email, "password": PASSWORD});
    let first = eve.post("/v1/auth/login", body.clone()).await;
    assert_eq!(first.json["status"], json!("second_factor_enrolment_required"));
    let ann = enrol_half_way(&node, &email, account).await;
    let again = eve.post("/v1/auth/login", body).await;
    let token = again.json["challenge_token"].as_str().unwrap_or("none").to_owned();
    let eve = Client { access_token: Some(token), ..node.anonymous() };
    assert_no_token(&eve.post_nothing(TOTP).await);
    ann.log_in(&node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_for_an_enrolment_ends_in_time_with_the_password_and_with_the_account() {
    let node = Node::start().await;
    let admin = node.admin().await;
    change_policy(&admin, "/second_factor/required_for", json!(["auditor"])).await;
    let from = async |email: &str, ago: i64| {
        let mut context = operator();
        context.now -= TimeDelta::minutes(ago);
        let email = EmailAddress::parse(email).unwrap();
        let credentials = Credentials { email, password: Password::new(PASSWORD.to_owned()), device_token: None };
        match node.app().commands.login(&context, credentials).await.unwrap().value {
            LoginResult::Challenge(challenged) => {
                Client { access_token: Some(challenged.token.to_string()), ..node.anonymous() }
            }
            LoginResult::Session(_) => unreachable!("nothing was asked for"),
        }
    };
    let (email, account) = node.register(&["auditor"]).await;
    assert_no_token(&from(&email, 11).await.post_nothing(TOTP).await);
    assert_no_token(&from(&email, 11).await.post(CONFIRM, json!({"code": "123456"})).await);
    assert_eq!(from(&email, 8).await.post_nothing(TOTP).await.status, 200);

    let (bearer, suspended) = (half_way(&node, &email, account).await, act(&admin, account, "suspend").await);
    assert_eq!(suspended.status, 200, "{suspended:?}");
    assert_no_token(&bearer.post_nothing(TOTP).await);
    assert_eq!(act(&admin, account, "reinstate").await.status, 200);
    assert_eq!(bearer.post_nothing(TOTP).await.status, 200);

    let bob = node.customer().await;
    assert_eq!(grant(&admin, bob.account, "auditor").await.status, 204);
    let bearer = half_way(&node, &bob.email, bob.account).await;
    assert_eq!(bearer.post_nothing(TOTP).await.status, 200);
    let change = json!({"current_password": PASSWORD, "new_password": NEW_PASSWORD});
    assert_eq!(bob.post("/v1/me/password", change).await.status, 204);
    assert_no_token(&bearer.post_nothing(TOTP).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_for_an_enrolment_that_are_not_whole_are_none() {
    let node = production().await;
    let (email, account) = node.register(&["auditor"]).await;
    let bearer = half_way(&node, &email, account).await;
    let token = bearer.access_token.clone().unwrap();
    let swapped: String = token.chars().map(|c| if c == 'A' { 'B' } else { c }).collect();
    let mut last: Vec<char> = token.chars().collect();
    last[60] = if last[60] == 'x' { 'y' } else { 'x' };
    for wrong in [token.get(..98).unwrap(), &format!("{token}A"), "A", &swapped, &last.iter().collect::<String>()] {
        let bearer = Client { access_token: Some(wrong.to_owned()), ..node.anonymous() };
        assert_no_token(&bearer.post_nothing(TOTP).await);
        assert_no_token(&confirm(&bearer, "123456").await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_requires_one_allows_nothing_in_a_session_without_one() {
    let node = Node::start().await;
    let admin = node.admin().await;
    change_policy(&admin, "/second_factor/required_for", json!(["auditor"])).await;
    let (ann, older) = Owner::with_older_session(&node).await;
    assert_eq!(grant(&admin, ann.client.account, "auditor").await.status, 204);
    let allowed = async |client: &Client| {
        let session = client.get("/v1/auth/session").await;
        assert_eq!(session.json["roles"], json!(["auditor", "customer"]), "held, in any case");
        let allowed = session.json["permissions"] != json!([]);
        assert_eq!(client.get("/v1/audit/events").await.status, if allowed { 200 } else { 403 });
        allowed
    };
    assert!(!allowed(&older).await);
    let by_password = older.post(STEP_UP, json!({"password": PASSWORD})).await;
    assert_eq!(by_password.code(), "code_required", "the password once more is no second factor");
    let client = refreshed(&older).await;
    assert!(!allowed(&client).await);
    assert_eq!(step_up(&client, &ann.code(&node).await).await.status, 200);
    assert!(allowed(&refreshed(&client).await).await);
    assert!(allowed(&ann.log_in(&node).await).await);
    // Another session of theirs gains nothing by it.
    let (other, older) = Owner::with_older_session(&node).await;
    assert_eq!(grant(&admin, other.client.account, "auditor").await.status, 204);
    let second = other.log_in(&node).await;
    assert!(allowed(&second).await && !allowed(&older).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_begins_to_require_one_holds_for_tokens_issued_before() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let role = json!({"permissions": ["accounts.read"], "reason": "r"});
    assert!([200, 201].contains(&admin.put("/v1/roles/keeper", role).await.status));
    let ann = node.customer().await;
    assert_eq!(grant(&admin, ann.account, "keeper").await.status, 204);
    assert_eq!(ann.get("/v1/accounts").await.status, 200);
    change_policy(&admin, "/second_factor/required_for", json!(["keeper"])).await;
    assert_eq!(ann.get("/v1/accounts").await.status, 403);
    let bearer = half_way(&node, &ann.email, ann.account).await;
    let owner = Owner::of(bearer).await;
    assert_eq!(owner.log_in(&node).await.get("/v1/accounts").await.status, 200);
    change_policy(&admin, "/second_factor/required_for", json!([])).await;
    assert_eq!(ann.get("/v1/accounts").await.status, 200);
    let unknown = {
        let mut policy = admin.get("/v1/policy").await.json;
        policy["second_factor"]["required_for"] = json!(["nobody-defined-it"]);
        policy["reason"] = json!("r");
        admin.put("/v1/policy", policy).await
    };
    assert_eq!(unknown.status, 400, "{unknown:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_enrolment_half_way_gives_recovery_codes_that_log_in() {
    let node = production().await;
    let (email, account) = node.register(&["admin"]).await;
    let bearer = half_way(&node, &email, account).await;
    let (app, secret) = start(&bearer).await;
    let confirmed = confirm(&bearer, &app.code(1)).await;
    let ann = Owner { client: bearer, app, secret, recovery: recovery_codes(&confirmed) };
    let answer = super::present(&node, &ann.challenge(&node).await, &ann.recovery[0]).await;
    let mut client = node.anonymous();
    client.log_in_with(&answer);
    let session = client.get("/v1/auth/session").await;
    assert_eq!(session.json["methods"], json!(["pwd", "otp"]));
    assert_eq!(client.get("/v1/accounts").await.status, 200);
}
