//! A refresh from somewhere that looks different: by policy it is recorded, holds the session until its owner has
//! proved themselves, or ends it. A thief who has only a copy of a token gets nothing by it but a session that is held.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::collections::BTreeSet;
use std::sync::Arc;

use chrono::TimeDelta;
use fulexo_domain::sealed_field::SealedField;
use fulexo_tests::{Answer, Client, Database, Node, PASSWORD, cut_off, eventually, log_size, operator, there};
use futures_util::future::join_all;
use hyper::Method;
use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;

const FIREFOX: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0";
const NEWER_FIREFOX: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:141.0) Gecko/20100101 Firefox/141.0.2";
const CHROME: &str =
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0 Safari/537.36";
const EDGE: &str =
    "Mozilla/5.0 (X11) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0 Safari/537.36 Edg/141.0.3537.57";
const SAFARI: &str = "Mozilla/5.0 (Macintosh) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 Safari/605.1.15";
const SWEDISH: &str = "sv-SE,sv;q=0.9,en;q=0.8";
const WRONG: &str = "not-the-Passw0rd!";
const SESSION: &str = "/v1/auth/session";

/// Returns the same client with this user agent and these languages.
fn looking(client: &Client, user_agent: &str, languages: &str) -> Client {
    let headers = [("user-agent", user_agent), ("accept-language", languages)];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    Client { headers, ..client.clone() }
}

fn in_chrome(client: &Client) -> Client {
    looking(client, CHROME, SWEDISH)
}

/// Logs in a user with these roles, with Firefox and in Swedish.
async fn arrive(node: &Node, roles: &[&str]) -> Client {
    let (email, account) = node.register(roles).await;
    come_back(node, &email, account).await
}

async fn come_back(node: &Node, email: &str, account: Uuid) -> Client {
    let mut client = looking(&node.anonymous(), FIREFOX, SWEDISH);
    let answer = client.post("/v1/auth/login", json!({"email": email, "password": PASSWORD})).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    client.email = email.to_owned();
    client.account = account;
    client.log_in_with(&answer);
    client
}

/// Presents the client's refresh token.
async fn present(client: &Client) -> Answer {
    client.post("/v1/auth/refresh", json!({"refresh_token": client.refresh_token})).await
}

/// Refreshes, which must succeed; returns the same client with the new tokens.
async fn refreshed(client: &Client) -> Client {
    let answer = present(client).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let mut client = client.clone();
    client.log_in_with(&answer);
    client
}

async fn is_held(client: &Client) -> bool {
    let session = client.get(SESSION).await;
    assert_eq!(session.status, 200, "{session:?}");
    session.json["step_up_required"].as_bool().unwrap()
}

async fn step_up(client: &Client, password: &str) -> Answer {
    client.post("/v1/auth/step-up", json!({"password": password})).await
}

#[track_caller]
fn assert_held(answer: &Answer) {
    assert_eq!((answer.status, answer.code()), (403, "step_up_required"), "{answer:?}");
}

async fn enforce(node: &Node, edit: impl FnOnce(&mut Value)) {
    let admin = node.admin().await;
    let mut policy = admin.get("/v1/policy").await.json;
    policy.as_object_mut().unwrap().remove("version");
    policy["reason"] = json!("to see what it does");
    edit(&mut policy);
    let answer = admin.put("/v1/policy", policy).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

async fn set_action(node: &Node, action: &str) {
    enforce(node, |policy| policy["sessions"]["fingerprint"] = json!(action)).await;
}

/// Returns the events of a session: the position in the log, the type, and the whole leaf.
async fn events_of(database: &Database, session: Uuid) -> Vec<(i64, String, Value)> {
    let superuser = PgPool::connect(&database.superuser_url()).await.unwrap();
    let rows: Vec<(i64, Vec<u8>)> =
        sqlx::query_as("select position, leaf from log.event where stream_id = $1 order by position")
            .bind(session)
            .fetch_all(&superuser)
            .await
            .unwrap();
    let event = |(position, leaf): (i64, Vec<u8>)| {
        let leaf: Value = serde_json::from_slice(&leaf).unwrap();
        (position, leaf["type"].as_str().unwrap().to_owned(), leaf)
    };
    rows.into_iter().map(event).collect()
}

async fn types_of(node: &Node, client: &Client) -> Vec<String> {
    events_of(&node.database, client.session).await.into_iter().map(|(_, event_type, _)| event_type).collect()
}

const STARTED: &str = "session.started";
const REFRESHED: &str = "session.refreshed";
const MISMATCHED: &str = "session.fingerprint_mismatched";
const ELEVATED: &str = "session.elevated";
const REVOKED: &str = "session.revoked";

/// Returns the cause that ended the session.
async fn revoked_by(node: &Node, client: &Client) -> Value {
    let events = events_of(&node.database, client.session).await;
    let (_, event_type, leaf) = events.last().unwrap();
    assert_eq!(event_type, REVOKED, "{leaf}");
    leaf["data"]["by"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_from_the_same_browser_passes_unnoticed_and_from_a_newer_one_too() {
    let node = Node::start().await;
    let mut ann = arrive(&node, &["customer"]).await;
    for user_agent in [FIREFOX, NEWER_FIREFOX, FIREFOX] {
        ann = refreshed(&looking(&ann, user_agent, SWEDISH)).await;
        assert!(!is_held(&ann).await);
        assert_eq!(ann.get("/v1/me").await.status, 200);
    }
    assert_eq!(types_of(&node, &ann).await, [STARTED, REFRESHED, REFRESHED, REFRESHED]);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_say_nothing_of_themselves_look_alike() {
    let node = Node::start().await;
    let ann = refreshed(&node.customer().await).await;
    assert!(!is_held(&ann).await);
    let tool = refreshed(&ann.with_header("user-agent", "curl/8.1")).await;
    assert!(is_held(&tool).await, "and one that does looks different");
    assert_eq!(types_of(&node, &ann).await, [STARTED, REFRESHED, MISMATCHED, REFRESHED]);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_browser_looks_different() {
    let node = Node::start().await;
    for user_agent in [CHROME, EDGE, SAFARI, "curl/8.1", ""] {
        let ann = arrive(&node, &["customer"]).await;
        let elsewhere = refreshed(&looking(&ann, user_agent, SWEDISH)).await;
        assert!(is_held(&elsewhere).await, "{user_agent:?}");
        assert_eq!(types_of(&node, &ann).await, [STARTED, MISMATCHED, REFRESHED], "{user_agent:?}");
    }
}

/// D2.
#[tokio::test(flavor = "multi_thread")]
async fn the_languages_that_a_browser_says_it_prefers_are_nobodys_fingerprint() {
    let node = Node::start().await;
    let mut ann = arrive(&node, &["customer"]).await;
    for languages in ["sv-SE,sv;q=0.7", "sv-SE, sv;q=0.9", "sv-se,sv;q=0.9", "en-US", "*", ""] {
        let spent = ann.clone();
        ann = refreshed(&looking(&ann, FIREFOX, languages)).await;
        assert!(!is_held(&ann).await, "{languages:?}");
        assert_eq!(refreshed(&spent).await.refresh_token, ann.refresh_token, "its other tab");
        assert_eq!(ann.get("/v1/me").await.status, 200);
    }
}

/// D2.
#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_the_account_knows_says_more_than_what_its_browser_calls_itself() {
    let node = Node::start().await;
    let ann = arrive(&node, &["customer"]).await;
    let present_with_device = async |client: &Client| {
        let body = json!({"refresh_token": client.refresh_token, "device_token": ann.device_token});
        let answer = client.post("/v1/auth/refresh", body).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let mut client = client.clone();
        client.log_in_with(&answer);
        client
    };
    let mut next = ann.clone();
    for user_agent in ["node", CHROME, FIREFOX, ""] {
        next = present_with_device(&looking(&next, user_agent, "")).await;
        assert!(!is_held(&next).await, "{user_agent:?}");
    }
    // A page and its own server, together.
    let (page, server) = (looking(&next, FIREFOX, SWEDISH), looking(&next, "node", ""));
    let (page, server) = tokio::join!(present_with_device(&page), present_with_device(&server));
    assert_eq!(page.refresh_token, server.refresh_token);
    assert!(!is_held(&page).await && !is_held(&server).await);
    // A forgotten device says no more than any other.
    let devices = ann.get("/v1/me/devices").await.json;
    let device = devices["items"][0]["device_id"].as_str().unwrap().to_owned();
    assert_eq!(page.delete(&format!("/v1/me/devices/{device}")).await.status, 204);
    assert!(is_held(&present_with_device(&in_chrome(&page)).await).await);
}

/// Every operation of the document that needs a caller: its id, method, path and the media type of its body.
async fn guarded(node: &Node) -> Vec<(String, Method, String, Option<String>)> {
    let document = node.anonymous().get("/openapi.json").await.json;
    let mut found = Vec::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let id = operation["operationId"].as_str().unwrap_or_default().to_owned();
            if operation["security"].as_array().is_none_or(Vec::is_empty) {
                continue;
            }
            let body = operation.pointer("/requestBody/content").and_then(Value::as_object);
            let media_type = body.and_then(|content| content.keys().next()).cloned();
            let segments: Vec<String> = path
                .split('/')
                .map(|segment| {
                    let named = segment.starts_with('{') || segment.starts_with(':');
                    if !named {
                        return segment.to_owned();
                    }
                    if segment.contains("role") { "auditor".into() } else { operator().new_id().to_string() }
                })
                .collect();
            found.push((id, method.to_uppercase().parse().unwrap(), segments.join("/"), media_type));
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_session_is_good_for_nothing_but_seeing_itself_a_step_up_and_the_way_out() {
    let node = Node::start().await;
    let admin = arrive(&node, &["admin", "auditor", "customer"]).await;
    let held = refreshed(&in_chrome(&admin)).await;
    let size = log_size(&node).await;
    let operations = guarded(&node).await;
    assert!(operations.len() >= 35, "{operations:?}");
    let mut let_in = BTreeSet::new();
    for (id, method, path, media_type) in &operations {
        if ["logout", "step_up"].contains(&id.as_str()) {
            let_in.insert(id.clone());
            continue;
        }
        let body = match media_type.as_deref() {
            Some("application/json") => "{}",
            Some(_) => "token=x",
            None => "",
        };
        let answer = held.send(method.clone(), path, media_type.as_deref(), body).await;
        if answer.status == 200 {
            let_in.insert(id.clone());
        } else {
            assert_eq!((answer.status, answer.code()), (403, "step_up_required"), "{id} {method} {path}: {answer:?}");
        }
    }
    let own = ["logout", "step_up", "get_current_session"].map(str::to_owned);
    assert_eq!(let_in, own.into());
    assert_eq!(log_size(&node).await, size);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_session_is_refused_what_it_could_do_before_and_by_whoever_asks_for_it() {
    let node = Node::start().await;
    let admin = arrive(&node, &["admin", "customer"]).await;
    let expires_at = operator().now + TimeDelta::days(1);
    let key = json!({"name": "gateway", "permissions": ["tokens.introspect"], "expires_at": expires_at});
    let key = admin.post("/v1/api-keys", key).await;
    let gateway = Client { access_token: key.json["secret"].as_str().map(str::to_owned), ..node.anonymous() };
    let is_active = async |client: &Client| {
        let body = format!("token={}", client.access_token.as_deref().unwrap());
        let form = Some("application/x-www-form-urlencoded");
        gateway.send(Method::POST, "/v1/auth/introspect", form, &body).await.json["active"].clone()
    };
    let held = refreshed(&in_chrome(&admin)).await;
    for path in [
        "/v1/me",
        "/v1/me/sessions",
        "/v1/me/events",
        "/v1/accounts",
        "/v1/sessions",
        "/v1/roles",
        "/v1/policy",
        "/v1/api-keys",
    ] {
        assert_held(&held.get(path).await);
    }
    let suspend = format!("/v1/accounts/{}/suspend", operator().new_id());
    assert_held(&held.post(&suspend, json!({"reason": "r"})).await);
    assert_held(&held.delete(&format!("/v1/me/sessions/{}", held.session)).await);
    assert_eq!(is_active(&held).await, json!(false), "to a service its token is worth nothing");
    assert_eq!(held.get(SESSION).await.json["step_up_required"], json!(true));
    assert_eq!(step_up(&held, PASSWORD).await.status, 200);
    assert_eq!(is_active(&held).await, json!(true));
    assert_eq!(held.get("/v1/accounts").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_session_can_be_logged_out_of() {
    let node = Node::start().await;
    let held = refreshed(&in_chrome(&arrive(&node, &["customer"]).await)).await;
    assert_eq!(held.post_nothing("/v1/auth/logout").await.status, 204);
    assert_eq!(held.get(SESSION).await.status, 401);
    assert_eq!(present(&held).await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_up_frees_a_held_session_at_once_here_and_soon_elsewhere() {
    let node = Node::start().await;
    let other = Node::join(&node.database).await;
    let held = refreshed(&in_chrome(&arrive(&node, &["customer"]).await)).await;
    let elsewhere = there(&other, &held);
    assert_held(&held.get("/v1/me").await);
    assert_held(&elsewhere.get("/v1/me").await);
    assert_eq!(step_up(&held, WRONG).await.status, 401);
    assert_held(&held.get("/v1/me").await);
    let elevated = step_up(&held, PASSWORD).await;
    assert_eq!(elevated.status, 200, "{elevated:?}");
    assert_eq!(held.get("/v1/me").await.status, 200, "with the very token that was held");
    assert!(!is_held(&held).await);
    eventually("the other node learns of it", async || elsewhere.get("/v1/me").await.status == 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_up_elsewhere_frees_a_held_session_without_nats_too() {
    let database = Arc::new(Database::create().await);
    let mut env = database.env();
    env.remove("NATS_URL");
    let (node, other) = (Node::with(&database, env.clone()).await, Node::with(&database, env).await);
    let held = refreshed(&in_chrome(&arrive(&node, &["customer"]).await)).await;
    assert_held(&there(&other, &held).get("/v1/me").await);
    assert_eq!(step_up(&there(&other, &held), PASSWORD).await.status, 200);
    eventually("the other node learns of it", async || held.get("/v1/me").await.status == 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_node_knows_who_is_held_and_who_was_freed() {
    let node = Node::start().await;
    let held = refreshed(&in_chrome(&arrive(&node, &["customer"]).await)).await;
    let freed = refreshed(&in_chrome(&arrive(&node, &["customer"]).await)).await;
    assert_eq!(step_up(&freed, PASSWORD).await.status, 200);
    let database = Arc::clone(&node.database);
    node.stop().await;
    let node = Node::join(&database).await;
    let (held, freed) = (there(&node, &held), there(&node, &freed));
    assert_held(&held.get("/v1/me").await);
    assert_eq!(freed.get("/v1/me").await.status, 200);
    assert!(!is_held(&refreshed(&freed).await).await);
    let held = refreshed(&held).await;
    assert!(is_held(&held).await, "a refresh frees nobody");
    assert_eq!(step_up(&held, PASSWORD).await.status, 200);
    assert_eq!(held.get("/v1/me").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_cannot_follow_the_log_asks_the_database_who_is_held_and_who_was_freed() {
    let node = Node::start().await;
    let other = Node::join(&node.database).await;
    let before = refreshed(&in_chrome(&arrive(&node, &["customer"]).await)).await;
    let freed = refreshed(&in_chrome(&arrive(&node, &["customer"]).await)).await;
    assert_eq!(step_up(&freed, PASSWORD).await.status, 200);
    cut_off(&other).await;
    assert_held(&there(&other, &before).get("/v1/me/sessions").await);
    assert_eq!(there(&other, &freed).get("/v1/me/sessions").await.status, 200);
    assert_eq!(step_up(&before, PASSWORD).await.status, 200);
    assert_eq!(there(&other, &before).get("/v1/me/sessions").await.status, 200, "at once");
    let again = refreshed(&in_chrome(&arrive(&node, &["customer"]).await)).await;
    assert_held(&there(&other, &again).get("/v1/me/sessions").await);
    assert_eq!(step_up(&there(&other, &again), PASSWORD).await.status, 200);
    assert_eq!(there(&other, &again).get("/v1/me/sessions").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn once_freed_refreshes_from_there_are_clean_and_from_before_look_different() {
    let node = Node::start().await;
    let ann = arrive(&node, &["customer"]).await;
    let mut freed = refreshed(&refreshed(&in_chrome(&ann)).await).await;
    assert!(is_held(&freed).await, "still held after another refresh");
    assert_eq!(step_up(&freed, PASSWORD).await.status, 200);
    for _ in 0..3 {
        freed = refreshed(&freed).await;
        assert!(!is_held(&freed).await);
    }
    let expected = [STARTED, MISMATCHED, REFRESHED, REFRESHED, ELEVATED, REFRESHED, REFRESHED, REFRESHED];
    assert_eq!(types_of(&node, &ann).await, expected);
    let back = refreshed(&looking(&freed, FIREFOX, SWEDISH)).await;
    assert!(is_held(&back).await);
    assert_eq!(types_of(&node, &ann).await[8..], [MISMATCHED, REFRESHED]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mismatch_is_recorded_with_what_was_done_and_where_from_is_sealed() {
    let node = Node::start().await;
    let ann = arrive(&node, &["customer"]).await;
    refreshed(&in_chrome(&ann)).await;
    let events = events_of(&node.database, ann.session).await;
    let (position, _, event) = &events[1];
    assert_eq!(event["type"], MISMATCHED);
    assert_eq!(event["data"]["action"], json!("require_step_up"));
    let fingerprint = |event: &Value| event["data"]["fingerprint"].as_str().unwrap().to_owned();
    assert_ne!(fingerprint(event), fingerprint(&events[0].2));
    assert_eq!((&event["subject"], &event["actor"]["id"]), (&json!(ann.account), &json!(ann.account)));
    assert_eq!(event["sealed"][0]["fields"], json!(["ip", "user_agent"]));
    for personal in ["Chrome", "sv-SE", "127.0.0.1"] {
        assert!(!event.to_string().contains(personal), "{event}");
    }
    let opened = node.app().commands.vault().open_personal(&[*position]).await.unwrap();
    let opened = &opened[position];
    assert_eq!((opened.get(SealedField::Ip), opened.get(SealedField::UserAgent)), (Some("127.0.0.1"), Some(CHROME)));
    let mine = looking(&ann, FIREFOX, SWEDISH).seeing(log_size(&node).await - 1).get("/v1/me/events").await;
    assert!(mine.text.contains(MISMATCHED), "its owner sees it: {mine:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_500_wrong_step_ups_at_once_in_a_held_session_five_are_evaluated() {
    let node = Node::start().await;
    let held = refreshed(&in_chrome(&arrive(&node, &["customer"]).await)).await;
    let size = log_size(&node).await;
    let mut answers = join_all((0..500).map(|_| step_up(&held, WRONG))).await;
    // If the node was too busy to judge some, or to answer in time, guesses are left.
    for _ in 0..5 {
        answers.push(step_up(&held, WRONG).await);
    }
    assert!(answers.iter().all(|answer| [401, 503].contains(&answer.status)), "{answers:?}");
    let refused = crate::refusals(&answers);
    let right = step_up(&held, PASSWORD).await;
    assert_eq!((right.status, right.code()), (401, "invalid_credentials"), "locked: {right:?}");
    assert_held(&held.get("/v1/me").await);
    let superuser = PgPool::connect(&node.database.superuser_url()).await.unwrap();
    let leaves: Vec<Vec<u8>> = sqlx::query_scalar("select leaf from log.event where position >= $1")
        .bind(i64::try_from(size).unwrap())
        .fetch_all(&superuser)
        .await
        .unwrap();
    let leaves: Vec<Value> = leaves.iter().map(|leaf| serde_json::from_slice(leaf).unwrap()).collect();
    let count = |reason: &str| leaves.iter().filter(|leaf| leaf["data"]["reason"] == reason).count();
    crate::assert_evaluated(count("wrong_password"), 5, &answers);
    assert!(
        count("locked") + count("too_many_concurrent") > refused - 5,
        "every refusal is an event, that of the right password, too"
    );
    assert_eq!(leaves.iter().filter(|leaf| leaf["type"] == "authentication.locked_out").count(), 1);
    assert!(is_held(&refreshed(&held).await).await, "and held it stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_says_who_it_is_must_be_the_one_that_logged_in() {
    let node = Node::start().await;
    let refresh = async |client: &Client, device: &str| {
        let body = json!({"refresh_token": client.refresh_token, "device_token": device});
        let answer = client.post("/v1/auth/refresh", body).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let mut client = client.clone();
        client.log_in_with(&answer);
        client
    };
    let (ann, bob) = (arrive(&node, &["customer"]).await, arrive(&node, &["customer"]).await);
    let own = refresh(&ann, &ann.device_token).await;
    assert!(!is_held(&own).await, "its own");
    assert!(!is_held(&refreshed(&own).await).await, "or none at all");
    assert_eq!(types_of(&node, &ann).await, [STARTED, REFRESHED, REFRESHED]);
    let second = come_back(&node, &ann.email, ann.account).await;
    assert_ne!(second.device_token, ann.device_token);
    let mut altered = ann.device_token.clone();
    altered.replace_range(0..1, if altered.starts_with('A') { "B" } else { "A" });
    let garbage = ["", "garbage", &"A".repeat(43), &"🔑".repeat(43), &altered];
    for device in garbage.into_iter().chain([bob.device_token.as_str(), second.device_token.as_str()]) {
        let client = come_back(&node, &ann.email, ann.account).await;
        let other = refresh(&client, device).await;
        assert!(is_held(&other).await, "{device:?}");
        assert_eq!(types_of(&node, &client).await, [STARTED, MISMATCHED, REFRESHED], "{device:?}");
    }
    let again = json!({"email": ann.email, "password": PASSWORD, "device_token": ann.device_token});
    let again = looking(&node.anonymous(), FIREFOX, SWEDISH).post("/v1/auth/login", again).await;
    let mut known = looking(&node.anonymous(), FIREFOX, SWEDISH);
    known.log_in_with(&again);
    assert!(!is_held(&refresh(&known, &ann.device_token).await).await, "the same device in its next session");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_policy_is_to_record_a_mismatch_changes_nothing_else() {
    let node = Node::start().await;
    enforce(&node, |policy| {
        policy["sessions"]["fingerprint"] = json!("record");
        policy["sessions"]["refresh_grace_seconds"] = json!(60);
    })
    .await;
    let ann = arrive(&node, &["customer"]).await;
    let elsewhere = refreshed(&in_chrome(&ann)).await;
    assert!(!is_held(&elsewhere).await);
    assert_eq!(elsewhere.get("/v1/me").await.status, 200);
    let events = events_of(&node.database, ann.session).await;
    assert_eq!(types_of(&node, &ann).await, [STARTED, MISMATCHED, REFRESHED]);
    assert_eq!(events[1].2["data"]["action"], json!("record"));
    assert_eq!(
        present(&ann).await.json["refresh_token"],
        json!(elsewhere.refresh_token),
        "two tabs, whatever they look like"
    );
    refreshed(&elsewhere).await;
    assert_eq!(types_of(&node, &ann).await, [STARTED, MISMATCHED, REFRESHED, REFRESHED], "noted once");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_policy_is_to_revoke_a_mismatch_ends_the_session() {
    let node = Node::start().await;
    let other = Node::join(&node.database).await;
    set_action(&node, "revoke").await;
    let ann = refreshed(&arrive(&node, &["customer"]).await).await;
    assert!(!is_held(&ann).await, "the same browser is let in");
    let refused = present(&in_chrome(&ann)).await;
    assert_eq!((refused.status, refused.code()), (401, "invalid_credentials"), "{refused:?}");
    assert_eq!(types_of(&node, &ann).await, [STARTED, REFRESHED, MISMATCHED, REVOKED]);
    assert_eq!(revoked_by(&node, &ann).await, json!("fingerprint_mismatch"));
    assert_eq!(events_of(&node.database, ann.session).await[2].2["data"]["action"], json!("revoke"));
    let ended = ann.get(SESSION).await;
    assert_eq!((ended.status, ended.code()), (401, "invalid_token"), "{ended:?}");
    assert_eq!(present(&ann).await.status, 401, "its owner logs in again");
    let elsewhere = there(&other, &ann);
    eventually("the other node learns of it", async || elsewhere.get(SESSION).await.status == 401).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_the_action_holds_for_sessions_that_began_before() {
    let node = Node::start().await;
    let (ann, bob) = (arrive(&node, &["customer"]).await, arrive(&node, &["customer"]).await);
    let held = refreshed(&in_chrome(&bob)).await;
    set_action(&node, "record").await;
    assert!(!is_held(&refreshed(&in_chrome(&ann)).await).await);
    assert!(is_held(&held).await, "what is held stays held");
    assert!(is_held(&refreshed(&held).await).await);
    assert_eq!(step_up(&held, PASSWORD).await.status, 200);
    assert!(!is_held(&held).await);
}

/// D2.
#[tokio::test(flavor = "multi_thread")]
async fn the_token_just_spent_is_answered_to_the_same_browser_and_holds_the_session_from_another() {
    for action in ["require_step_up", "revoke"] {
        let node = Node::start().await;
        // The grace is as long as possible: the test may be slow.
        enforce(&node, |policy| {
            policy["sessions"]["fingerprint"] = json!(action);
            policy["sessions"]["refresh_grace_seconds"] = json!(60);
        })
        .await;
        let ann = arrive(&node, &["customer"]).await;
        let next = refreshed(&ann).await;
        assert_eq!(refreshed(&looking(&ann, NEWER_FIREFOX, SWEDISH)).await.refresh_token, next.refresh_token);
        let size = log_size(&node).await;
        let stolen = refreshed(&in_chrome(&ann)).await;
        assert_eq!(stolen.refresh_token, next.refresh_token);
        assert!(is_held(&stolen).await && !is_held(&next).await, "who had logged in goes on until the next refresh");
        assert_held(&stolen.get("/v1/me").await);
        assert!(is_held(&refreshed(&in_chrome(&ann)).await).await, "noted once");
        assert_eq!(types_of(&node, &ann).await, [STARTED, REFRESHED, MISMATCHED]);
        let held = &events_of(&node.database, ann.session).await[2].2;
        assert_eq!(held["data"]["action"], json!("require_step_up"), "{held}");
        assert_eq!(log_size(&node).await, size + 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_was_robbed_of_a_token_and_comes_after_the_thief_has_to_prove_themselves() {
    let node = Node::start().await;
    enforce(&node, |policy| policy["sessions"]["refresh_grace_seconds"] = json!(60)).await;
    let ann = arrive(&node, &["customer"]).await;
    let thief = refreshed(&in_chrome(&ann)).await;
    assert!(is_held(&thief).await);
    let owner = refreshed(&ann).await;
    assert!(is_held(&owner).await, "the grace");
    assert_eq!(step_up(&owner, PASSWORD).await.status, 200);
    let owner = refreshed(&owner).await;
    assert!(is_held(&refreshed(&thief).await).await);
    let owner = refreshed(&owner).await;
    assert_eq!(present(&thief).await.status, 401, "a copy from before that");
    assert_eq!(revoked_by(&node, &ann).await, json!("reuse"));
    assert_eq!(owner.get(SESSION).await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_captured_with_its_idempotency_key_is_held_in_another_browser() {
    let node = Node::start().await;
    enforce(&node, |policy| policy["sessions"]["refresh_grace_seconds"] = json!(60)).await;
    let ann = arrive(&node, &["customer"]).await;
    let keyed = ann.with_header("idempotency-key", "a key");
    let next = refreshed(&keyed).await;
    assert_eq!(refreshed(&keyed).await.refresh_token, next.refresh_token, "the owner's own answer once more");
    assert_eq!(types_of(&node, &ann).await, [STARTED, REFRESHED]);
    let captured = in_chrome(&ann).with_header("idempotency-key", "a key");
    assert!(is_held(&refreshed(&captured).await).await);
    assert_eq!(types_of(&node, &ann).await, [STARTED, REFRESHED, MISMATCHED]);
    refreshed(&Client { headers: ann.headers.clone(), ..next }).await;
    for replayed in [&captured, &keyed] {
        let answer = present(replayed).await;
        assert_eq!((answer.status, answer.code()), (401, "invalid_credentials"), "once it has moved on: {answer:?}");
    }
    assert_eq!(revoked_by(&node, &ann).await, json!("reuse"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_captured_refresh_that_is_replayed_at_the_same_moment_is_held() {
    let node = Node::start().await;
    let other = Node::join(&node.database).await;
    enforce(&node, |policy| policy["sessions"]["refresh_grace_seconds"] = json!(60)).await;
    for round in 0..60 {
        let ann = arrive(&node, &["customer"]).await;
        let key = format!("key {round}");
        let owner = ann.with_header("idempotency-key", &key);
        let thief = there(&other, &in_chrome(&ann)).with_header("idempotency-key", &key);
        let (owners, thiefs) = tokio::join!(present(&owner), present(&thief));
        assert_eq!(owners.status, 200, "round {round}: {owners:?}");
        let mut thief = thief.clone();
        thief.log_in_with(&thiefs);
        assert!(is_held(&thief).await, "round {round}: {thiefs:?}");
        assert_eq!(owners.json["refresh_token"], thiefs.json["refresh_token"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_fifty_refreshes_of_one_token_at_once_from_two_browsers_no_two_families_come() {
    let node = Node::start().await;
    let other = Node::join(&node.database).await;
    enforce(&node, |policy| policy["sessions"]["refresh_grace_seconds"] = json!(60)).await;
    for _ in 0..5 {
        let ann = arrive(&node, &["customer"]).await;
        let (here, elsewhere) = (ann.clone(), there(&other, &in_chrome(&ann)));
        let presented = (0..50).map(|number| present(if number % 2 == 0 { &here } else { &elsewhere }));
        let mut tokens = BTreeSet::new();
        for answer in join_all(presented).await {
            match answer.status {
                200 => {
                    tokens.insert(answer.json["refresh_token"].as_str().unwrap().to_owned());
                }
                _ => assert_eq!((answer.status, answer.code()), (409, "contended"), "{answer:?}"),
            }
        }
        assert_eq!(tokens.len(), 1, "{tokens:?}");
        // Both browsers got there, so the difference was noticed, and noted once.
        let types = types_of(&node, &ann).await;
        let count = |wanted: &str| types.iter().filter(|event_type| *event_type == wanted).count();
        assert_eq!((count(REFRESHED), count(MISMATCHED), types.len()), (1, 1, 3), "{types:?}");
        let last = Client { refresh_token: tokens.into_iter().next().unwrap(), ..here.clone() };
        assert!(is_held(&refreshed(&last).await).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_refreshes_of_one_token_at_once_from_one_browser_are_one() {
    let node = Node::start().await;
    enforce(&node, |policy| policy["sessions"]["refresh_grace_seconds"] = json!(60)).await;
    let ann = arrive(&node, &["customer"]).await;
    // A browser that looks different from the one that logged in, all of it.
    let elsewhere = in_chrome(&ann);
    let mut held = None;
    for answer in join_all((0..50).map(|_| present(&elsewhere))).await {
        assert_eq!(answer.status, 200, "{answer:?}");
        let mut client = elsewhere.clone();
        client.log_in_with(&answer);
        assert!(is_held(&client).await, "each of its tabs is held");
        let first = held.get_or_insert_with(|| client.refresh_token.clone());
        assert_eq!(*first, client.refresh_token);
    }
    assert_eq!(types_of(&node, &ann).await, [STARTED, MISMATCHED, REFRESHED]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_access_token_from_before_the_mismatch_is_good_until_it_ends() {
    // It was issued to the user who had logged in, and lives at most an hour; the session is held for what is issued
    // since.
    let node = Node::start().await;
    let ann = arrive(&node, &["customer"]).await;
    let held = refreshed(&in_chrome(&ann)).await;
    assert!(is_held(&held).await);
    assert!(!is_held(&ann).await);
    assert_eq!(ann.get("/v1/me").await.status, 200);
    assert_held(&held.get("/v1/me").await);
    assert_eq!(ann.post_nothing("/v1/auth/logout").await.status, 204, "and its owner can end the session");
    assert_eq!(held.get(SESSION).await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_owners_step_up_in_another_browser_does_not_free_a_thief() {
    let node = Node::start().await;
    let ann = arrive(&node, &["customer"]).await;
    let thief = refreshed(&in_chrome(&ann)).await;
    assert_held(&thief.get("/v1/me").await);
    // The owner's access token lives on, and some sensitive call asks for a step-up in good faith.
    step_up(&ann, PASSWORD).await;
    let answer = thief.get("/v1/me").await;
    assert!([401, 403].contains(&answer.status), "who stole a refresh token, and never knew the password: {answer:?}");
    let answer = present(&thief).await;
    if answer.status == 200 {
        let mut thief = thief.clone();
        thief.log_in_with(&answer);
        assert!(is_held(&thief).await);
    }
}
