//! API keys: made, presented, ended, never stored; and the answers about them and tokens to a service that asks (RFC
//! 7662).

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use fulexo_commands::access_token::TokenGrant;
use fulexo_domain::authentication::AuthenticationMethod as Proof;
use fulexo_domain::values::{AccountId, RoleName, SessionId};
use fulexo_node::clock;
use fulexo_tests::{Answer, Client, Database, Node, PASSWORD, log_size, operator, superuser, there};
use hyper::Method;
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use crate::PERMISSIONS;

const KEYS: &str = "/v1/api-keys";
const FORM: &str = "application/x-www-form-urlencoded";

fn request(name: &str, permissions: &[&str]) -> Value {
    json!({"name": name, "permissions": permissions, "expires_at": clock::now() + TimeDelta::days(30)})
}

fn bearer(node: &Node, token: &str) -> Client {
    Client { access_token: Some(token.to_owned()), ..node.anonymous() }
}

/// A service with a new key, and what the creation answered.
async fn service(node: &Node, admin: &Client, permissions: &[&str]) -> (Client, Answer) {
    let made = admin.post(KEYS, request("billing-service", permissions)).await;
    assert_eq!(made.status, 201, "{made:?}");
    (bearer(node, made.json["secret"].as_str().unwrap()), made)
}

fn path_of(made: &Answer) -> String {
    format!("{KEYS}/{}", made.json["api_key_id"].as_str().unwrap())
}

async fn introspect(client: &Client, token: &str) -> Answer {
    client.send(Method::POST, "/v1/auth/introspect", Some(FORM), &format!("token={token}")).await
}

#[track_caller]
fn assert_refused(answer: &Answer, status: u16, code: &str) {
    assert_eq!((answer.status, answer.code()), (status, code), "{answer:?}");
}

/// Asks until the key is refused; gives up after a time that only something broken needs.
async fn is_soon_refused(client: &Client) -> bool {
    let asked = Instant::now();
    while asked.elapsed() < Duration::from_secs(60) {
        if client.get("/v1/accounts").await.status == 401 {
            return true;
        }
        // Between two tries.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    false
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_shown_once_and_works_at_once_on_every_node() {
    let node = Node::start().await;
    let other = Node::join(&node.database).await;
    let admin = node.admin().await;
    let (service, made) = service(&node, &admin, &["accounts.read"]).await;
    assert!(service.access_token.as_ref().unwrap().starts_with("fxk_"));
    assert_eq!(made.header("cache-control"), Some("no-store"));
    assert_eq!((&made.json["name"], &made.json["permissions"]), (&json!("billing-service"), &json!(["accounts.read"])));
    for node in [&node, &other] {
        assert_eq!(there(node, &service).get("/v1/accounts").await.status, 200);
        let listed = there(node, &admin).get(KEYS).await;
        assert!(!listed.text.contains("fxk_") && !listed.text.contains("secret"), "{listed:?}");
        let key = &listed.json["items"][0];
        let told = ["api_key_id", "name", "permissions", "expires_at"];
        let time = |value: &Value| value.as_str().and_then(|text| text.parse::<DateTime<Utc>>().ok());
        for member in told {
            let same = key[member] == made.json[member] || time(&key[member]) == time(&made.json[member]);
            assert!(same, "{member}: {key}");
        }
        assert_eq!((&key["created_by"], &key["revoked_at"]), (&json!(admin.account), &Value::Null));
    }
    let database = Arc::clone(&node.database);
    node.stop().await;
    let node = Node::join(&database).await;
    assert_eq!(there(&node, &service).get("/v1/accounts").await.status, 200, "also where it is learnt from the tables");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_makes_the_calls_that_its_permissions_allow_and_no_others() {
    let node = Node::start().await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    let of_ann = format!("/v1/accounts/{}", ann.account);
    let calls = [
        ("accounts.read", Method::GET, "/v1/accounts".to_owned()),
        ("accounts.read", Method::GET, of_ann.clone()),
        ("accounts.read", Method::GET, format!("{of_ann}/standing")),
        ("sessions.read", Method::GET, "/v1/sessions".to_owned()),
        ("roles.read", Method::GET, "/v1/roles".to_owned()),
        ("roles.read", Method::GET, "/v1/permissions".to_owned()),
        ("roles.read", Method::GET, "/v1/grants".to_owned()),
        ("policy.read", Method::GET, "/v1/policy".to_owned()),
        ("metrics.read", Method::GET, "/v1/security/metrics".to_owned()),
        ("lockdown.manage", Method::GET, "/v1/lockdown".to_owned()),
        ("incidents.manage", Method::GET, "/v1/incidents".to_owned()),
        ("audit.read", Method::GET, "/v1/audit/events".to_owned()),
        ("audit.read", Method::GET, "/v1/audit/events/0".to_owned()),
        ("tokens.introspect", Method::POST, "/v1/auth/introspect".to_owned()),
        ("sessions.revoke", Method::POST, format!("{of_ann}/sessions/revoke")),
    ];
    for permission in PERMISSIONS {
        let (service, made) = service(&node, &admin, &[permission]).await;
        let service = service.seeing(made.position());
        for (needed, method, path) in &calls {
            let form = path.ends_with("introspect").then_some(FORM);
            let answer = service.send(method.clone(), path, form, form.map_or("", |_| "token=x")).await;
            if *needed == permission {
                assert_eq!(answer.status, 200, "{permission} {path}: {answer:?}");
            } else {
                assert_refused(&answer, 403, "permission_denied");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_every_permission_makes_no_sensitive_call_and_none_about_an_account_of_ones_own() {
    const OPEN: [&str; 25] = [
        "export_audit_events",
        "get_account",
        "get_account_erasure",
        "get_account_standing",
        "get_audit_event",
        "get_incident",
        "get_incident_timeline",
        "get_lockdown",
        "get_log_entries",
        "get_policy",
        "get_security_metrics",
        "introspect_token",
        "list_accounts",
        "list_audit_events",
        "list_grants",
        "list_incidents",
        "list_permissions",
        "list_roles",
        "list_sessions",
        "note_incident",
        "open_incident",
        "report_alerts",
        "revoke_account_sessions",
        "revoke_session",
        "stream_audit_events",
    ];
    let node = Node::start().await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    let (service, _) = service(&node, &admin, &PERMISSIONS).await;
    let size = log_size(&node).await;
    let document: Value = serde_json::from_str(fulexo_api::routes::spec()).unwrap();
    let (mut open, mut closed) = (Vec::new(), 0);
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, meta) in methods.as_object().unwrap() {
            let id = meta["operationId"].as_str().unwrap();
            if meta["security"].as_array().is_none_or(Vec::is_empty) {
                continue;
            }
            if OPEN.contains(&id) {
                open.push(id);
                continue;
            }
            let path = path.replace("{role}", "admin").replace("{position}", "0");
            let path: String = path
                .split('/')
                .map(|part| match part.starts_with('{') {
                    true => format!("/{}", ann.account),
                    false => format!("/{part}"),
                })
                .collect();
            let body = json!({"reason": "x", "role": "admin"}).to_string();
            let answer =
                service.send(method.to_uppercase().parse().unwrap(), &path[1..], Some("application/json"), &body);
            assert_refused(&answer.await, 401, "invalid_token");
            closed += 1;
        }
    }
    open.sort_unstable();
    assert_eq!(open, OPEN);
    assert!(closed > 20, "only {closed} calls are closed to keys");
    for path in ["/v1/auth/refresh", "/v1/auth/second-factor"] {
        let secret = service.access_token.clone();
        let body = json!({"refresh_token": secret, "challenge_token": secret, "code": "000000"});
        assert!([400, 401].contains(&node.anonymous().post(path, body).await.status), "{path}");
    }
    assert_eq!(log_size(&node).await, size);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_makes_a_key_that_may_more_than_they() {
    let node = Node::start().await;
    let (admin, keeper) = (node.admin().await, node.customer().await);
    let (reason, role) = (json!("they asked"), ["api_keys.manage", "accounts.read"]);
    admin.put("/v1/roles/keeper", json!({"permissions": role, "reason": reason})).await;
    let (path, body) = (format!("/v1/accounts/{}/roles", keeper.account), json!({"role": "keeper", "reason": reason}));
    assert_eq!(admin.post(&path, body).await.status, 204);
    let size = log_size(&node).await;
    for permissions in [&["audit.read"][..], &["accounts.read", "tokens.introspect"], &PERMISSIONS] {
        assert_refused(&keeper.post(KEYS, request("x", permissions)).await, 403, "grant_exceeds_own");
    }
    let (_, made) = service(&node, &keeper, &role).await;
    let (_, none) = service(&node, &keeper, &[]).await;
    assert_eq!(none.json["permissions"], json!([]));
    let (mallory, old) = (node.auditor().await, node.as_if_logged_in(TimeDelta::minutes(11), &admin, &["admin"]));
    assert_refused(&mallory.post(KEYS, request("x", &[])).await, 403, "permission_denied");
    assert_refused(&mallory.get(KEYS).await, 403, "permission_denied");
    assert_refused(&mallory.delete(&path_of(&made)).await, 403, "permission_denied");
    assert_refused(&old.post(KEYS, request("x", &[])).await, 403, "step_up_required");
    assert_refused(&old.delete(&path_of(&made)).await, 403, "step_up_required");
    let listed = keeper.get(&format!("{KEYS}?limit=1")).await;
    let rest = keeper.get(&format!("{KEYS}?cursor={}", listed.json["next_cursor"].as_str().unwrap())).await;
    let id = |page: &Answer| page.json["items"][0]["api_key_id"].clone();
    assert_eq!([id(&listed), id(&rest)], [&made, &none].map(|made| made.json["api_key_id"].clone()), "by their making");
    let logged = log_size(&node).await - size;
    let expected = 2 + 5; // Two keys; the auditor's registration with two roles, and login with a session.
    assert_eq!(logged, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_key_is_named_and_none_is_made() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let size = log_size(&node).await;
    let refused = async |member: &str, value: Value, pointer: &str| {
        let mut body = request("billing", &["accounts.read"]);
        body[member] = value;
        let answer = admin.post(KEYS, body.clone()).await;
        assert_eq!((answer.status, &answer.json["errors"][0]["pointer"]), (400, &json!(pointer)), "{body}: {answer:?}");
    };
    let now = clock::now();
    for ends in [now, now - TimeDelta::seconds(1), now + TimeDelta::days(366) + TimeDelta::minutes(1)] {
        refused("expires_at", json!(ends), "/expires_at").await;
    }
    for ends in [json!("tomorrow"), json!(1), json!("+262142-12-31T23:59:59Z"), json!("0000-01-01T00:00:00Z")] {
        refused("expires_at", ends, "/expires_at").await;
    }
    for name in ["", "Billing", "-x", "a b", "ä", "a\0", "ann@example.com", &"x".repeat(64)] {
        refused("name", json!(name), "/name").await;
    }
    refused("permissions", json!(["accounts.read", "accounts.*"]), "/permissions/1").await;
    refused("permissions", json!(vec!["audit.read"; PERMISSIONS.len() + 1]), "/permissions").await;
    for member in ["secret", "api_key_id", "created_by", "actor", "revoked_at"] {
        refused(member, json!(admin.account), &format!("/{member}")).await;
    }
    let id = operator().new_id();
    assert_refused(&admin.delete(&format!("{KEYS}/{id}")).await, 404, "not_found");
    assert_refused(&admin.delete(&format!("{KEYS}/{}", admin.account)).await, 404, "not_found");
    assert_eq!(admin.delete(&format!("{KEYS}/x")).await.status, 400);
    assert_eq!(log_size(&node).await, size);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_key_is_refused_on_every_node() {
    let node = Node::start().await;
    let other = Node::join(&node.database).await;
    let admin = node.admin().await;
    let expires_at = clock::now() + TimeDelta::seconds(4);
    let body = json!({"name": "brief", "permissions": ["accounts.read"], "expires_at": expires_at});
    let made = admin.post(KEYS, body).await;
    assert_eq!(made.status, 201, "{made:?}");
    let secret = made.json["secret"].as_str().unwrap();
    for node in [&node, &other] {
        let service = bearer(node, secret);
        assert!(is_soon_refused(&service).await);
        assert!(clock::now() >= expires_at, "before its time");
        assert_refused(&service.get("/v1/accounts").await, 401, "invalid_token");
    }
    let later = Node::join(&node.database).await;
    assert_eq!(bearer(&later, secret).get("/v1/accounts").await.status, 401);
    assert_eq!(introspect(&admin, secret).await.json, json!({"active": false}));
    assert_eq!(admin.delete(&path_of(&made)).await.status, 200, "it may be revoked all the same");
}

async fn a_revocation_reaches(here: &Node, other: &Node) {
    let admin = here.admin().await;
    for _ in 0..5 {
        let (service, made) = service(here, &admin, &["accounts.read"]).await;
        let elsewhere = there(other, &service);
        assert_eq!(elsewhere.get("/v1/accounts").await.status, 200);
        assert_eq!(admin.delete(&path_of(&made)).await.status, 200);
        assert_refused(&service.get("/v1/accounts").await, 401, "invalid_token");
        assert!(is_soon_refused(&elsewhere).await);
        assert_eq!(introspect(&admin, service.access_token.as_ref().unwrap()).await.json, json!({"active": false}));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_is_refused_here_at_once_and_soon_elsewhere() {
    let node = Node::start().await;
    a_revocation_reaches(&node, &Node::join(&node.database).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_is_refused_elsewhere_also_without_nats() {
    let database = Arc::new(Database::create().await);
    let mut env = database.env();
    env.remove("NATS_URL");
    let here = Node::with(&database, env.clone()).await;
    a_revocation_reaches(&here, &Node::with(&database, env).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_revoked_once_by_whoever_may_and_the_reason_is_sealed() {
    let node = Node::start().await;
    let (admin, other) = (node.admin().await, node.admin().await);
    let (service, made) = service(&node, &admin, &["accounts.read"]).await;
    let blank = other.delete_with(&path_of(&made), json!({"reason": " "})).await;
    assert_eq!((blank.status, &blank.json["errors"][0]["pointer"]), (400, &json!("/reason")));
    assert_eq!(other.delete_with(&path_of(&made), json!({"reason": "x", "force": true})).await.status, 400);
    assert_eq!(service.get("/v1/accounts").await.status, 200);
    let revoked = other.delete_with(&path_of(&made), json!({"reason": "the marmalade affair"})).await;
    assert_eq!(revoked.status, 200, "{revoked:?}");
    let size = log_size(&node).await;
    assert_eq!(admin.delete(&path_of(&made)).await.status, 200, "again is no error");
    assert_eq!(log_size(&node).await, size, "and records nothing");
    assert!(admin.get(KEYS).await.json["items"][0]["revoked_at"].is_string());
    let event = admin.seeing(revoked.position()).get(&format!("/v1/audit/events/{}", revoked.position())).await;
    assert_eq!((&event.json["type"], &event.json["data"]), (&json!("api_key.revoked"), &json!({})));
    assert_eq!(event.json["sealed"][0]["fields"], json!(["reason"]));
    assert_eq!(event.json["actor"], json!({"kind": "account", "id": other.account}));
    let database = Arc::clone(&node.database);
    node.stop().await;
    assert_eq!(there(&Node::join(&database).await, &service).get("/v1/accounts").await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_altered_secret_is_none() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let (service, _) = service(&node, &admin, &["accounts.read"]).await;
    let secret = service.access_token.unwrap();
    let (again, _) = self::service(&node, &admin, &["accounts.read"]).await;
    let parts = |secret: &str| URL_SAFE_NO_PAD.decode(&secret[4..]).unwrap();
    let (mine, other) = (parts(&secret), parts(again.access_token.as_ref().unwrap()));
    let made_of = |id: &[u8], mark: &[u8]| format!("fxk_{}", URL_SAFE_NO_PAD.encode([id, mark].concat()));
    assert_eq!(made_of(&mine[..16], &mine[16..]), secret);
    let mut altered: Vec<String> = (0..secret.len())
        .map(|position| {
            let mut altered = secret.clone();
            let new = if &secret[position..=position] == "A" { "B" } else { "A" };
            altered.replace_range(position..=position, new);
            altered
        })
        .collect();
    altered.extend([
        secret[..secret.len() - 1].to_owned(),
        secret[..secret.len() - 4].to_owned(),
        format!("{secret}A"),
        format!("{secret}AAAA"),
        format!("{secret}="),
        secret[4..].to_owned(),
        secret.to_uppercase(),
        secret.replacen("fxk_", "fxr_", 1),
        "fxk_".to_owned(),
        made_of(&other[..16], &mine[16..]),
        made_of(&mine[..16], &[0; 32]),
        made_of(operator().new_id().as_bytes(), &mine[16..]),
        made_of(admin.account.as_bytes(), &mine[16..]),
    ]);
    for altered in altered {
        assert_refused(&bearer(&node, &altered).get("/v1/accounts").await, 401, "invalid_token");
        assert_eq!(introspect(&admin, &altered).await.json, json!({"active": false}));
    }
    assert_eq!(bearer(&node, &secret).get("/v1/accounts").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_a_secret_nor_its_mark_stands_in_the_database() {
    let node = Node::start().await;
    let admin = node.admin().await.with_header("idempotency-key", "a key of theirs");
    let (service, made) = service(&node, &admin, &["accounts.read"]).await;
    assert_eq!(service.get("/v1/accounts").await.status, 200);
    let pool = superuser(&node.database).await;
    let tables: Vec<String> = sqlx::query_scalar(
        "select format('%I.%I', table_schema, table_name) from information_schema.tables
         where table_schema not in ('pg_catalog', 'information_schema')",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    let mut dump = String::new();
    for table in tables {
        let rows: Vec<String> =
            sqlx::query_scalar(AssertSqlSafe(format!("select t::text from {table} t"))).fetch_all(&pool).await.unwrap();
        dump.push_str(&rows.join("\n").to_lowercase());
    }
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let secret = service.access_token.unwrap();
    let bytes = URL_SAFE_NO_PAD.decode(&secret[4..]).unwrap();
    let mark = URL_SAFE_NO_PAD.encode(&bytes[16..]);
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, secret.as_bytes());
    for needle in [secret.as_bytes(), &secret.as_bytes()[4..], &secret.as_bytes()[26..], mark.as_bytes()] {
        let text = String::from_utf8(needle.to_vec()).unwrap().to_lowercase();
        assert!(!dump.contains(&text) && !dump.contains(&hex(needle)), "a secret is in the database");
    }
    for needle in [&bytes[16..], &bytes[16..32], digest.as_ref()] {
        assert!(!dump.contains(&hex(needle)), "what verifies a secret is in the database");
    }
    // The search finds what is there, as text and in a leaf.
    assert!(dump.contains(made.json["api_key_id"].as_str().unwrap()) && dump.contains(&hex(b"billing-service")));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_key_does_is_recorded_as_done_by_it() {
    let node = Node::start().await;
    let (admin, ann, bob) = (node.admin().await, node.customer().await, node.customer().await);
    let (service, made) = service(&node, &admin, &["sessions.revoke", "audit.read"]).await;
    let first = service.post_nothing(&format!("/v1/accounts/{}/sessions/revoke", ann.account)).await;
    assert_eq!((first.status, &first.json["revoked"]), (200, &json!(1)));
    let second = service.delete(&format!("/v1/sessions/{}", bob.session)).await;
    assert_eq!(second.status, 200, "{second:?}");
    for (client, answer, said) in [(ann, first, "account.sessions_revoked"), (bob, second, "session.revoked")] {
        assert_eq!(client.get("/v1/auth/session").await.status, 401);
        let event = service.seeing(answer.position()).get(&format!("/v1/audit/events/{}", answer.position())).await;
        assert_eq!(event.json["actor"], json!({"kind": "api_key", "id": made.json["api_key_id"]}), "{event:?}");
        assert_eq!((&event.json["type"], &event.json["subject"]), (&json!(said), &json!(client.account)));
    }
    let created = service.get(&format!("/v1/audit/events/{}", made.position())).await;
    assert_eq!(created.json["actor"], json!({"kind": "account", "id": admin.account}));
    assert_eq!((&created.json["type"], &created.json["stream"]), (&json!("api_key.created"), &made.json["api_key_id"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_names_its_maker_also_while_they_are_suspended() {
    let node = Node::start().await;
    let (admin, maker) = (node.admin().await, node.admin().await);
    let (service, _) = service(&node, &maker, &["accounts.read"]).await;
    let path = format!("/v1/accounts/{}/suspend", maker.account);
    assert_eq!(admin.post(&path, json!({"reason": "they left"})).await.status, 200);
    assert_eq!(service.get("/v1/accounts").await.status, 401);
    assert_eq!(admin.get(KEYS).await.json["items"][0]["created_by"], json!(maker.account));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_creation_repeated_with_its_key_is_one_with_the_same_secret() {
    let node = Node::start().await;
    let (admin, other) = (node.admin().await, node.admin().await);
    let size = log_size(&node).await;
    let (keyed, body) = (admin.with_header("idempotency-key", "a key"), request("billing", &["accounts.read"]));
    let at_once = futures_util::future::join_all((0..10).map(|_| keyed.post(KEYS, body.clone()))).await;
    for answer in &at_once {
        assert_eq!((answer.status, &answer.json), (201, &at_once[0].json), "{answer:?}");
    }
    assert_eq!(log_size(&node).await, size + 1);
    assert_refused(&keyed.post(KEYS, request("other", &["accounts.read"])).await, 409, "idempotency_key_reused");
    let others = other.with_header("idempotency-key", "a key").post(KEYS, body.clone()).await;
    assert_eq!(others.status, 201);
    assert_ne!(others.json["secret"], at_once[0].json["secret"], "another's key is another's");
    assert_ne!(admin.post(KEYS, body).await.json["secret"], at_once[0].json["secret"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_than_a_thousand_keys_are_in_use() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let pool = superuser(&node.database).await;
    let fill = "insert into access.api_key (key_id, name, permissions, created_at, expires_at, position)
                select gen_random_uuid(), 'k' || n, '{}', now(), now() + interval '1 day', 0
                from generate_series(1, 1000) n";
    sqlx::query(fill).execute(&pool).await.unwrap();
    assert_refused(&admin.post(KEYS, request("one-more", &[])).await, 409, "too_many");
    for change in ["revoked_at = now()", "expires_at = now() - interval '1 second'"] {
        let statement = format!("update access.api_key set {change} where name in ('k1', 'k2')");
        sqlx::query(AssertSqlSafe(statement)).execute(&pool).await.unwrap();
    }
    for status in [201, 201, 409] {
        assert_eq!(admin.post(KEYS, request("one-more", &[])).await.status, status);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn introspection_tells_what_a_token_is_worth_now() {
    let node = Node::start().await;
    let (admin, ann) = (node.admin().await, node.auditor().await);
    let (service, made) = service(&node, &admin, &["tokens.introspect"]).await;
    let token = ann.access_token.clone().unwrap();
    let claims: Value =
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap()).unwrap();
    let told = introspect(&service, &token).await;
    let mut expected = json!({
        "active": true, "token_type": "Bearer", "scope": "roles.read policy.read audit.read metrics.read", "acr": "aal1",
        "sub": ann.account, "sid": ann.session, "amr": ["pwd"], "roles": ["auditor", "customer"],
    });
    for claim in ["iss", "client_id", "aud", "jti", "exp", "iat", "auth_time"] {
        assert!(!claims[claim].is_null());
        expected[claim] = claims[claim].clone();
    }
    assert_eq!((told.status, &told.json), (200, &expected));
    assert_eq!(told.header("cache-control"), Some("no-store"));
    let role = format!("/v1/accounts/{}/roles/auditor", ann.account);
    assert_eq!(admin.delete_with(&role, json!({"reason": "done"})).await.status, 200);
    let told = introspect(&service, &token).await.json;
    assert_eq!((&told["active"], &told["scope"], &told["roles"]), (&json!(true), &json!(""), &json!(["customer"])));

    let secret = service.access_token.clone().unwrap();
    let told = introspect(&admin, &secret).await;
    let ends = made.json["expires_at"].as_str().unwrap().parse::<DateTime<Utc>>().unwrap().trunc_subsecs(0).timestamp();
    let expected = json!({
        "active": true, "token_type": "api_key", "scope": "tokens.introspect", "exp": ends,
        "sub": made.json["api_key_id"],
    });
    assert_eq!(told.json, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn introspection_says_no_more_of_a_worthless_token_than_that_it_is() {
    let node = Node::start().await;
    let (admin, ann, bob) = (node.admin().await, node.customer().await, node.customer().await);
    let (eve, gone) = (node.customer().await, node.customer().await);
    let (service, _) = service(&node, &admin, &["tokens.introspect"]).await;
    let mut env = node.database.env();
    env.insert("JWT_SECRET".into(), "another secret of sixty-four characters, and signed with by nobody".into());
    let foreign = Node::with(&node.database, env).await;
    let foreign = foreign.log_in(&ann.email, ann.account).await;
    let expired = TokenGrant {
        account: AccountId(ann.account),
        session: SessionId(ann.session),
        authenticated_at: clock::now() - TimeDelta::hours(1),
        methods: vec![Proof::Password],
        step_up_required: false,
        roles: vec![RoleName::parse("customer").unwrap()],
        position: 0,
        epoch: node.app().gate.epoch(),
        expires_at: clock::now() - TimeDelta::minutes(2),
    };
    let expired = node.app().commands.keys().sign(expired, operator().new_id(), clock::now() - TimeDelta::hours(1));
    let refresh = json!({"refresh_token": bob.refresh_token});
    let firefox =
        bob.with_header("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0");
    let held = firefox.post("/v1/auth/refresh", refresh).await.json["access_token"].as_str().unwrap().to_owned();
    let mut held_client = bearer(&node, &held);
    assert_eq!(held_client.get("/v1/auth/session").await.json["step_up_required"], json!(true));
    assert_eq!(eve.post_nothing("/v1/auth/logout").await.status, 204);
    let path = format!("/v1/accounts/{}", gone.account);
    assert_eq!(admin.post(&format!("{path}/suspend"), json!({"reason": "x"})).await.status, 200);
    let zoe = node.customer().await;
    let path = format!("/v1/accounts/{}", zoe.account);
    assert_eq!(admin.post(&format!("{path}/expire-password"), json!({"reason": "x"})).await.status, 200);
    let due = node.anonymous().post("/v1/auth/login", json!({"email": zoe.email, "password": PASSWORD})).await;
    let challenge = due.json["challenge_token"].as_str().unwrap();
    let altered = format!("{}A", ann.access_token.as_ref().unwrap());
    for (what, token) in [
        ("garbage", "garbage"),
        ("dots", "a.b.c"),
        ("nothing", ""),
        ("long", &"x".repeat(9_000)),
        ("altered", &altered),
        ("foreign", foreign.access_token.as_ref().unwrap()),
        ("expired", &expired.unwrap()),
        ("logged out", eve.access_token.as_ref().unwrap()),
        ("suspended", gone.access_token.as_ref().unwrap()),
        ("refresh token", &ann.refresh_token),
        ("device token", &ann.device_token),
        ("challenge", challenge),
        ("held", &held),
    ] {
        let told = introspect(&service, token).await;
        assert_eq!((told.status, &told.json), (200, &json!({"active": false})), "{what}");
    }
    assert_eq!(introspect(&service, ann.access_token.as_ref().unwrap()).await.json["active"], json!(true));
    held_client.account = bob.account;
    assert_eq!(held_client.post("/v1/auth/step-up", json!({"password": PASSWORD})).await.status, 200);
    assert_eq!(introspect(&service, &held).await.json["active"], json!(true), "its owner has proved themselves");
}

#[tokio::test(flavor = "multi_thread")]
async fn introspection_takes_its_permission_and_a_form() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let (service, _) = service(&node, &admin, &["tokens.introspect"]).await;
    let (powerless, _) = self::service(&node, &admin, &["accounts.read", "audit.read"]).await;
    let token = admin.access_token.clone().unwrap();
    for client in [&powerless, &node.customer().await, &node.auditor().await] {
        assert_refused(&introspect(client, &token).await, 403, "permission_denied");
    }
    assert_refused(&introspect(&node.anonymous(), &token).await, 401, "unauthenticated");
    assert_refused(&service.post("/v1/auth/introspect", json!({"token": token})).await, 415, "unsupported_media_type");
    let in_query = format!("/v1/auth/introspect?token={token}");
    assert_eq!(service.send(Method::POST, &in_query, Some(FORM), "").await.status, 400, "not in a URL");
    assert_eq!(service.send(Method::POST, "/v1/auth/introspect", Some(FORM), "token_type_hint=x").await.status, 400);
    let body = format!("token={token}&token_type_hint=refresh_token&surprise=1");
    let hinted = service.send(Method::POST, "/v1/auth/introspect", Some(FORM), &body).await;
    assert_eq!(hinted.json["active"], json!(true), "a hint, or what is not known, changes nothing (section 2.1)");
    let typed = format!("{FORM}; charset=utf-8");
    let typed = service.send(Method::POST, "/v1/auth/introspect", Some(&typed), &format!("token={token}")).await;
    assert_eq!(typed.json["active"], json!(true), "{typed:?}");
    assert_eq!(Uuid::parse_str(typed.json["sub"].as_str().unwrap()).unwrap(), admin.account);
}

/// A client that presents this by HTTP Basic, as it is.
fn basic(node: &Node, id: &str, secret: &str) -> Client {
    let encoded = STANDARD.encode(format!("{id}:{secret}"));
    node.anonymous().with_header("authorization", &format!("Basic {encoded}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn introspection_takes_the_id_and_the_secret_of_a_key_by_basic() {
    let node = Node::start().await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    let (service, made) = service(&node, &admin, &["tokens.introspect"]).await;
    let (other, others) = self::service(&node, &admin, &["accounts.read"]).await;
    let (id, secret) = (made.json["api_key_id"].as_str().unwrap(), service.access_token.as_deref().unwrap());
    let token = ann.access_token.as_deref().unwrap();
    let as_in_a_form = |text: &str| text.replace('-', "%2D").replace('_', "%5f");
    let expected = introspect(&service, token).await.json;
    assert_eq!(expected["active"], json!(true));
    for (id, secret) in [
        (id.to_owned(), secret.to_owned()),
        (as_in_a_form(id), as_in_a_form(secret)),
        (id.to_uppercase(), secret.into()),
    ] {
        let told = introspect(&basic(&node, &id, &secret), token).await;
        assert_eq!((told.status, &told.json), (200, &expected), "{id}");
    }
    let scheme = format!("bASIC {}", STANDARD.encode(format!("{id}:{secret}")));
    assert_eq!(introspect(&node.anonymous().with_header("authorization", &scheme), token).await.json, expected);

    let (other_id, other_secret) =
        (others.json["api_key_id"].as_str().unwrap(), other.access_token.as_deref().unwrap());
    assert_refused(&introspect(&basic(&node, other_id, other_secret), token).await, 403, "permission_denied");
    let last = if secret.ends_with('A') { 'B' } else { 'A' };
    let altered = format!("{}{last}", &secret[..secret.len() - 1]);
    for (id, secret) in [
        (id, other_secret),
        (other_id, secret),
        (id, altered.as_str()),
        (id, ""),
        ("", secret),
        ("billing-service", secret),
        (secret, id),
        (ann.email.as_str(), PASSWORD),
        (id, token),
        (&ann.account.to_string(), token),
    ] {
        let answer = introspect(&basic(&node, id, secret), token).await;
        assert_refused(&answer, 401, "invalid_client");
        assert_eq!(answer.header("www-authenticate"), Some("Basic realm=\"fulexo\", charset=\"UTF-8\""));
    }
    for value in
        ["Basic", "Basic !", "Basic YQ==", &format!("Basic {secret}"), &format!("Basic {}", STANDARD.encode(secret))]
    {
        let client = node.anonymous().with_header("authorization", value);
        assert_refused(&introspect(&client, token).await, 401, "invalid_client");
    }
    // Nowhere else.
    let unread = basic(&node, other_id, other_secret).get("/v1/accounts").await;
    assert_refused(&unread, 401, "unauthenticated");
    assert_eq!(admin.delete_with(&path_of(&made), json!({"reason": "done"})).await.status, 200);
    assert_refused(&introspect(&basic(&node, id, secret), token).await, 401, "invalid_client");
}
