//! The export of one's own data: everything that is stored, in the form that its schema describes, and nothing of anybody else.

#![expect(clippy::panic, reason = "tests fail by panicking")]

use std::sync::Arc;

use chrono::TimeDelta;
use fulexo_tests::{Authenticator, Client, Database, Node, PASSWORD, log_size, superuser};
use serde_json::{Value, json};

const EXPORT: &str = "/v1/me/export";
const ADDRESS: &str = "203.0.113.77";
const AGENT: &str = "Bandersnatch/7.7 (Jabberwock)";
const NAME: &str = "Žofie \"Quokka\" Thistlewood";

/// Panics unless the value is as the schema says. Knows no other keywords than the schema has.
fn assert_valid(value: &Value, schema: &Value, place: &str) {
    for (keyword, wanted) in schema.as_object().unwrap() {
        match keyword.as_str() {
            "$schema" | "title" | "description" => assert!(wanted.is_string()),
            "const" => assert_eq!(value, wanted, "{place}"),
            "type" => {
                let kind = match value {
                    Value::Null => "null",
                    Value::Bool(_) => "boolean",
                    Value::Number(_) => "integer",
                    Value::String(_) => "string",
                    Value::Array(_) => "array",
                    Value::Object(_) => "object",
                };
                let is_it =
                    *wanted == json!(kind) || wanted.as_array().is_some_and(|kinds| kinds.contains(&json!(kind)));
                assert!(is_it, "{place} is {value}, not {wanted}");
            }
            "format" => {
                assert_eq!(wanted, "date-time");
                if let Some(text) = value.as_str() {
                    chrono::DateTime::parse_from_rfc3339(text).unwrap();
                }
            }
            "required" => {
                for name in wanted.as_array().unwrap() {
                    assert!(value.get(name.as_str().unwrap()).is_some(), "{place} lacks {name}");
                }
            }
            "properties" => {
                for (name, member) in value.as_object().unwrap() {
                    match (wanted.get(name), &schema["additionalProperties"]) {
                        (Some(schema), _) => assert_valid(member, schema, &format!("{place}/{name}")),
                        (None, Value::Bool(true)) => {}
                        (None, more) => panic!("{place}/{name} is not in the schema ({more})"),
                    }
                }
            }
            "additionalProperties" if wanted.is_object() => {
                for (name, member) in value.as_object().unwrap() {
                    assert_valid(member, wanted, &format!("{place}/{name}"));
                }
            }
            "additionalProperties" => {}
            "items" => {
                for (index, item) in value.as_array().unwrap().iter().enumerate() {
                    assert_valid(item, wanted, &format!("{place}/{index}"));
                }
            }
            other => panic!("{place}: the schema has {other}: teach it to this function"),
        }
    }
}

/// A node that believes its proxy, and a person of whom every word is known.
async fn start() -> (Node, Client) {
    let database = Arc::new(Database::create().await);
    let mut env = database.env();
    env.insert("TRUSTED_PROXIES".into(), "127.0.0.1/32".into());
    let node = Node::with(&database, env).await;
    let mut client = node.anonymous();
    client.headers = vec![("x-forwarded-for".into(), ADDRESS.into()), ("user-agent".into(), AGENT.into())];
    client.email = "zanzibar.quokka@heliotrope.example".to_owned();
    let body = json!({"email": client.email, "password": PASSWORD, "display_name": NAME});
    let registered = client.post("/v1/auth/register", body).await;
    client.account = registered.json["account_id"].as_str().unwrap().parse().unwrap();
    let login = client.post("/v1/auth/login", json!({"email": client.email, "password": PASSWORD})).await;
    client.log_in_with(&login);
    (node, client)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_has_everything_that_is_stored_in_the_form_of_its_schema() {
    let (node, ann) = start().await;
    let (admin, bob) = (node.admin().await, node.customer().await);
    let because = json!({"reason": "ticket 4711, the marmalade affair"});
    assert_eq!(admin.post(&format!("/v1/accounts/{}/unlock", ann.account), because).await.status, 200);
    let started = ann.post_nothing("/v1/me/second-factor/totp").await;
    let secret = started.json["secret"].as_str().unwrap().to_owned();
    let code = Authenticator::of(&secret).code(-1);
    let confirmed = ann.post("/v1/me/second-factor/totp/confirm", json!({"code": code})).await;
    assert_eq!(confirmed.status, 200, "{confirmed:?}");
    // An ended session, and more events than a page has.
    let other = ann.post("/v1/auth/login", json!({"email": ann.email, "password": PASSWORD})).await;
    assert_eq!(other.status, 200, "{other:?}");
    for number in 0..230 {
        let name = json!({"display_name": format!("{NAME} {number}")});
        let changed = ann.send(hyper::Method::PATCH, "/v1/me", Some("application/json"), &name.to_string()).await;
        assert_eq!(changed.status, 200, "{changed:?}");
    }
    let size = log_size(&node).await;
    let export = ann.seeing(size - 1).get(EXPORT).await;
    assert_eq!(export.status, 200, "{export:?}");
    assert_eq!(export.header("link"), Some("</schemas/my-data.json>; rel=\"describedby\""));
    assert_eq!(export.header("content-disposition"), Some("attachment; filename=\"my-data.json\""));
    let schema = node.anonymous().get("/schemas/my-data.json").await;
    let schema: Value = serde_json::from_slice(&schema.bytes).unwrap();
    let document: Value = serde_json::from_slice(&export.bytes).unwrap();
    assert_valid(&document, &schema, "");

    let account = &document["account"];
    assert_eq!((&account["email"], &account["account_id"]), (&json!(ann.email), &json!(ann.account)));
    assert_eq!((&account["display_name"], &account["second_factor"]), (&json!(format!("{NAME} 229")), &json!(true)));
    assert_eq!(document["roles"][0]["role"], "customer");
    assert!(document["sessions"].as_array().unwrap().iter().all(|session| session["ip"] == ADDRESS), "{document}");
    assert_eq!(document["sessions"][0]["user_agent"], AGENT);
    // Every event that concerns the account, each once, in order.
    let pool = superuser(&node.database).await;
    let expected: Vec<i64> =
        sqlx::query_scalar("select position from read.audit where subject_id = $1 and position < $2 order by position")
            .bind(ann.account)
            .bind(i64::try_from(size).unwrap())
            .fetch_all(&pool)
            .await
            .unwrap();
    let events = document["events"].as_array().unwrap();
    let positions: Vec<i64> = events.iter().map(|event| event["position"].as_i64().unwrap()).collect();
    assert!(positions.len() > 230);
    assert_eq!(positions, expected);
    let of = |event_type: &str| events.iter().find(|event| event["type"] == event_type).unwrap();
    assert_eq!(of("account.registered")["personal"], json!({"display_name": NAME, "email": ann.email}));
    assert_eq!(of("authentication.succeeded")["personal"]["ip"], ADDRESS);
    assert_eq!(of("authentication.lock_lifted")["personal"]["reason"], "ticket 4711, the marmalade affair");
    // Nobody's secret, and nobody else's data.
    for absent in [PASSWORD, secret.as_str(), ann.refresh_token.as_str(), bob.email.as_str(), admin.email.as_str()] {
        assert!(!export.text.contains(absent), "{absent}");
    }
    // As a file that is compressed, the same.
    let compressed = ann.with_header("accept-encoding", "gzip").get(EXPORT).await;
    let mut text = String::new();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&compressed.bytes[..]), &mut text).unwrap();
    let again: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(again["account"], document["account"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_needs_the_owner_who_has_just_logged_in() {
    let node = Node::start().await;
    let ann = node.customer().await;
    let old = node.as_if_logged_in(TimeDelta::minutes(11), &ann, &["customer"]);
    for (client, status, code) in [(&node.anonymous(), 401, "unauthenticated"), (&old, 403, "step_up_required")] {
        let refused = client.get(EXPORT).await;
        assert_eq!((refused.status, refused.code()), (status, code), "{refused:?}");
    }
    // One at a time, of a client that reads nothing.
    let held = ann.open(hyper::Method::GET, EXPORT, None, "").await.unwrap();
    drop(held);
    fulexo_tests::eventually("the place is free again", async || ann.get(EXPORT).await.status == 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_has_every_role_also_of_a_person_who_has_more_than_a_page_has() {
    const ROLES: usize = 203;
    let node = Node::start().await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    let because = json!({"permissions": [], "reason": "tests"});
    let roles = format!("/v1/accounts/{}/roles", ann.account);
    let mut last = 0;
    for number in 0..ROLES {
        let defined = admin.put(&format!("/v1/roles/role-{number:03}"), because.clone()).await;
        assert!(defined.status < 300, "{defined:?}");
        let granted = admin.post(&roles, json!({"role": format!("role-{number:03}"), "reason": "tests"})).await;
        assert!(granted.status < 300, "{granted:?}");
        last = granted.position();
    }
    let export = ann.seeing(last).get(EXPORT).await;
    let document: Value = serde_json::from_slice(&export.bytes).unwrap();
    let held: Vec<&str> =
        document["roles"].as_array().unwrap().iter().map(|held| held["role"].as_str().unwrap()).collect();
    let expected = (0..ROLES).map(|number| format!("role-{number:03}"));
    assert_eq!(held, ["customer".to_owned()].into_iter().chain(expected).collect::<Vec<_>>());
}
