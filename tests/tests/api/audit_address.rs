//! The search of the audit trail by address: it finds what an investigator would find who unseals every event, for those who may
//! unseal, on record, and until what is sealed is destroyed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::TimeDelta;
use fulexo_commands::Retention;
use fulexo_node::clock;
use fulexo_tests::{
    Answer, Client, Database, Dice, EventSource, Node, PASSWORD, eventually, leaves, log_size, superuser,
};
use serde_json::{Value, json};
use tokio::time::timeout;

const REASON: &str = "ticket 4712, the gooseberry affair";
/// Addresses, each in several spellings.
const NETWORK: [&[&str]; 4] = [
    &["203.0.113.7", "::ffff:203.0.113.7"],
    &["203.0.113.70"],
    &["2001:db8::7", "2001:DB8:0:0:0:0:0:7"],
    &["2001:db8::70"],
];
const MAILBOXES: [&[&str]; 2] = [
    &["Wilhelmina.Quince@Heliotrope.example", "wilhelmina.quince@heliotrope.EXAMPLE"],
    &["zanzibar@heliotrope.example", "ZANZIBAR@heliotrope.example"],
];

/// A node that believes its proxy.
async fn start() -> Node {
    let database = Arc::new(Database::create().await);
    let mut env = database.env();
    env.insert("TRUSTED_PROXIES".into(), "127.0.0.1/32".into());
    Node::with(&database, env).await
}

/// Somebody at this address.
fn at(node: &Node, address: &str) -> Client {
    node.anonymous().with_header("x-forwarded-for", address)
}

async fn log_in(client: &Client, email: &str, password: &str) -> Answer {
    client.post("/v1/auth/login", json!({"email": email, "password": password})).await
}

async fn register(client: &Client, email: &str) -> Answer {
    let body = json!({"email": email, "password": PASSWORD, "display_name": "Somebody"});
    let registered = client.post("/v1/auth/register", body).await;
    assert_eq!(registered.status, 201, "{registered:?}");
    registered
}

/// People come from every address, succeed and fail, and some are nobody.
async fn live(node: &Node, dice: &mut Dice) {
    for mailbox in MAILBOXES {
        let address = dice.pick(&NETWORK);
        register(&at(node, dice.pick(address)), mailbox[0]).await;
    }
    for _ in 0..40 {
        let address = dice.pick(&NETWORK);
        let client = at(node, dice.pick(address));
        let mailbox = dice.pick(&MAILBOXES);
        match dice.roll(3) {
            0 => assert_eq!(log_in(&client, "nobody@heliotrope.example", PASSWORD).await.status, 401),
            _ => assert_eq!(log_in(&client, dice.pick(mailbox), PASSWORD).await.status, 200),
        }
    }
}

async fn search(client: &Client, address: &str) -> Answer {
    client.post("/v1/audit/addresses", json!({"address": address, "reason": REASON})).await
}

async fn digest(client: &Client, address: &str) -> String {
    let answer = search(client, address).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json["digest"].as_str().unwrap().to_owned()
}

fn positions(items: &[Value]) -> Vec<u64> {
    items.iter().map(|item| item["position"].as_u64().unwrap()).collect()
}

/// Returns the positions of every event that the list shows, three at a time.
async fn listed(reader: &Client, query: &str) -> Vec<u64> {
    let (mut found, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = reader.get(&format!("/v1/audit/events?limit=3&{query}{cursor}")).await;
        assert_eq!(page.status, 200, "{query}: {page:?}");
        found.extend(positions(page.json["items"].as_array().unwrap()));
        match page.json["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return found,
        }
    }
}

async fn stream(client: &Client, query: &str) -> EventSource {
    client.stream(&format!("/v1/audit/stream?{query}")).await.ok().unwrap()
}

/// Returns the position of the next event of a stream, without the blocks that only move its position; `None` at its end.
async fn next_event(source: &mut EventSource) -> Option<u64> {
    let next = async {
        loop {
            if let Some(data) = source.block().await?.data {
                return data["position"].as_u64();
            }
        }
    };
    // A stream that has nothing to send gives signs of life for ever.
    timeout(Duration::from_secs(120), next).await.unwrap()
}

/// An account whose only role has these permissions.
async fn with_permissions(node: &Node, admin: &Client, permissions: &[&str]) -> Client {
    let body = json!({"permissions": permissions, "reason": "tests"});
    let defined = admin.put("/v1/roles/investigator", body).await;
    assert_eq!(defined.status, 200, "{defined:?}");
    node.user(&["investigator"]).await
}

/// A service with a key that has these permissions.
async fn service(node: &Node, admin: &Client, permissions: &[&str]) -> Client {
    let expires_at = clock::now() + TimeDelta::days(1);
    let key = json!({"name": permissions.concat(), "permissions": permissions, "expires_at": expires_at});
    let key = admin.post("/v1/api-keys", key).await;
    assert_eq!(key.status, 201, "{key:?}");
    Client { access_token: key.json["secret"].as_str().map(str::to_owned), ..node.anonymous() }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_finds_the_events_that_whoever_unseals_every_event_would_find() {
    let node = start().await;
    live(&node, &mut Dice(12)).await;
    let admin = node.admin().await;
    let size = log_size(&node).await;
    // What each event has sealed, and the digests that its opening tells.
    let mut sealed: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    let mut told: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for position in 0..size {
        let path = format!("/v1/audit/events/{position}/unseal");
        let opened = admin.post(&path, json!({"reason": REASON})).await;
        assert!([200, 409].contains(&opened.status), "{opened:?}");
        for (field, its_digest) in [("ip", "ip_digest"), ("email", "email_digest")] {
            let value = opened.json["fields"][field].as_str().map(str::to_lowercase);
            assert_eq!(value.is_some(), opened.json[its_digest].is_string(), "{opened:?}");
            let Some(value) = value else { continue };
            sealed.entry(value.clone()).or_default().push(position);
            told.entry(value).or_default().insert(opened.json[its_digest].as_str().unwrap().to_owned());
        }
    }
    for spellings in NETWORK.iter().chain(&MAILBOXES) {
        let one = spellings[0].to_lowercase();
        let expected = &sealed[&one];
        let mut digests = told[&one].clone();
        for spelling in *spellings {
            digests.insert(digest(&admin, spelling).await);
        }
        assert_eq!(digests.len(), 1, "{one}");
        let digest = digests.pop_first().unwrap();
        let admin = admin.seeing(log_size(&node).await - 1);
        let query = format!("address={digest}");
        assert_eq!(listed(&admin, &query).await, *expected, "{one}");
        let reversed: Vec<u64> = expected.iter().rev().copied().collect();
        assert_eq!(listed(&admin, &format!("{query}&order=desc")).await, reversed, "{one}, newest first");
        let exported = admin.get(&format!("/v1/audit/export?{query}")).await;
        let lines: Vec<Value> = exported.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(positions(&lines), *expected, "{one}, exported");
        let mut source = stream(&admin, &format!("{query}&after=0")).await;
        for position in expected.iter().filter(|position| **position > 0) {
            assert_eq!(next_event(&mut source).await, Some(*position), "{one}, streamed");
        }
        // With other filters, and as of a moment.
        let logins = listed(&admin, "type=authentication.succeeded").await;
        let both: Vec<u64> = expected.iter().copied().filter(|position| logins.contains(position)).collect();
        assert_eq!(listed(&admin, &format!("{query}&type=authentication.succeeded")).await, both, "{one}");
        let middle = expected[expected.len() / 2];
        let before: Vec<u64> = expected.iter().copied().filter(|position| *position <= middle).collect();
        assert_eq!(listed(&admin, &format!("{query}&as_of={middle}")).await, before, "{one}, as of {middle}");
        let session = admin.get(&format!("/v1/audit/events?{query}&category=session&limit=1")).await;
        if let Some(session) = session.json["items"][0]["stream"].as_str() {
            let of_session = listed(&admin, &format!("session={session}")).await;
            let both: Vec<u64> = expected.iter().copied().filter(|position| of_session.contains(position)).collect();
            assert_eq!(listed(&admin, &format!("{query}&session={session}")).await, both, "{one}, of a session");
        }
    }
    let unused = digest(&admin, "198.51.100.1").await;
    assert!(listed(&admin, &format!("address={unused}")).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_has_the_events_of_an_address_as_they_are_recorded_and_no_others() {
    let node = start().await;
    register(&at(&node, "203.0.113.7"), MAILBOXES[0][0]).await;
    let admin = node.admin().await;
    let wanted = digest(&admin, "203.0.113.7").await;
    let mut source = stream(&admin, &format!("address={wanted}")).await;
    assert!(source.block().await.unwrap().data.is_none());
    for _ in 0..3 {
        let from = log_size(&node).await;
        for address in ["203.0.113.70", "::ffff:203.0.113.7", "2001:db8::7"] {
            assert_eq!(log_in(&at(&node, address), MAILBOXES[0][1], PASSWORD).await.status, 200);
        }
        let admin = admin.seeing(log_size(&node).await - 1);
        let expected = listed(&admin, &format!("address={wanted}&after={}", from - 1)).await;
        assert!(!expected.is_empty());
        for position in expected {
            assert_eq!(next_event(&mut source).await, Some(position));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_unseal_does_not_search_by_address_and_nothing_is_recorded() {
    let node = start().await;
    let admin = node.admin().await;
    let (ann, auditor) = (node.customer().await, node.auditor().await);
    let unsealing = with_permissions(&node, &admin, &["audit.unseal"]).await;
    let old = node.as_if_logged_in(TimeDelta::minutes(11), &admin, &["admin"]);
    let (service, reading) =
        (service(&node, &admin, &["audit.read", "audit.unseal"]).await, service(&node, &admin, &["audit.read"]).await);
    let wanted = digest(&admin, "203.0.113.7").await;

    let size = log_size(&node).await;
    for (client, status, code) in [
        (&node.anonymous(), 401, "unauthenticated"),
        (&ann, 403, "permission_denied"),
        (&auditor, 403, "permission_denied"),
        (&old, 403, "step_up_required"),
        (&service, 401, "invalid_token"),
    ] {
        let refused = search(client, "203.0.113.7").await;
        assert_eq!((refused.status, refused.code()), (status, code), "{refused:?}");
    }
    for path in ["events", "stream", "export"] {
        for client in [&ann, &auditor, &unsealing, &reading] {
            let refused = client.get(&format!("/v1/audit/{path}?address={wanted}")).await;
            assert_eq!((refused.status, refused.code()), (403, "permission_denied"), "{path}: {refused:?}");
        }
    }
    let by_key = service.get(&format!("/v1/audit/events?address={wanted}")).await;
    assert_eq!(by_key.status, 200, "{by_key:?}");
    for address in ["", "203.0.113", "203.0.113.0/24", "quince", "quince@", "\u{0}"] {
        let refused = search(&admin, address).await;
        let pointer = &refused.json["errors"][0]["pointer"];
        assert_eq!((refused.status, pointer), (400, &json!("/address")), "{address}: {refused:?}");
    }
    let refused = admin.post("/v1/audit/addresses", json!({"address": "203.0.113.7", "reason": ""})).await;
    assert_eq!(refused.json["errors"][0]["pointer"], "/reason", "{refused:?}");
    assert_eq!(log_size(&node).await, size, "something was recorded");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_digest_is_refused_and_exact_leaves_are_not_searched() {
    let node = start().await;
    let admin = node.admin().await;
    let wanted = digest(&admin, "203.0.113.7").await;
    assert_eq!(URL_SAFE_NO_PAD.decode(&wanted).unwrap().len(), 16);
    for path in ["events", "stream", "export"] {
        for wrong in ["203.0.113.7", "", &wanted[1..], &format!("{wanted}A"), &format!("{wanted}=="), &"/".repeat(22)] {
            let refused = admin.get(&format!("/v1/audit/{path}?address={wrong}")).await;
            let pointer = &refused.json["errors"][0]["pointer"];
            assert_eq!((refused.status, pointer), (400, &json!("/address")), "{path} {wrong}: {refused:?}");
        }
    }
    let refused = admin.get(&format!("/v1/audit/export?format=leaves&address={wanted}")).await;
    assert_eq!((refused.status, &refused.json["errors"][0]["pointer"]), (400, &json!("/format")), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_is_on_record_with_its_reason_and_without_the_address() {
    let node = start().await;
    let admin = node.admin().await;
    let once = admin.with_header("idempotency-key", "once");
    let first = search(&once, "203.0.113.77").await;
    assert_eq!(first.status, 200, "{first:?}");
    assert_eq!(first.json["digest"], search(&once, "203.0.113.77").await.json["digest"]);
    assert_eq!(search(&once, "203.0.113.78").await.code(), "idempotency_key_reused");
    let second = search(&admin, "Quince@Heliotrope.example").await;

    let records = admin.seeing(second.position()).get("/v1/audit/events?type=audit.address_searched").await;
    let records = records.json["items"].as_array().unwrap();
    assert_eq!(positions(records), [first.position(), second.position()]);
    let kinds: Vec<_> = records.iter().map(|record| &record["data"]).collect();
    assert_eq!(kinds, [&json!({"kind": "ip"}), &json!({"kind": "email"})]);
    for record in records {
        assert_eq!((&record["actor"]["id"], &record["subject"]), (&json!(admin.account), &json!(null)));
        let path = format!("/v1/audit/events/{}/unseal", record["position"]);
        let opened = admin.post(&path, json!({"reason": "tests"})).await;
        assert_eq!(opened.json["fields"], json!({"reason": REASON}));
    }
    let log = leaves(&node.database).await.iter().map(Value::to_string).collect::<String>();
    let digests = [&first, &second].map(|answer| answer.json["digest"].as_str().unwrap());
    for word in ["203.0.113.77", "uince", "gooseberry", digests[0], digests[1]] {
        assert!(!log.contains(word), "a leaf has {word}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_destroyed_is_not_found_any_more() {
    let node = start().await;
    let (admin, pool) = (node.admin().await, superuser(&node.database).await);
    let registered = register(&at(&node, "203.0.113.7"), MAILBOXES[0][0]).await;
    let account = registered.json["account_id"].as_str().unwrap();
    assert_eq!(log_in(&at(&node, "203.0.113.7"), MAILBOXES[0][0], PASSWORD).await.status, 200);
    assert_eq!(log_in(&at(&node, "203.0.113.7"), "nobody@heliotrope.example", PASSWORD).await.status, 401);
    let (ip, email) = (digest(&admin, "203.0.113.7").await, digest(&admin, MAILBOXES[0][1]).await);
    let reader = admin.seeing(log_size(&node).await - 1);
    let of_nobody = listed(&reader, &format!("address={ip}&type=authentication.failed")).await;
    assert_eq!(of_nobody.len(), 1);
    assert!(listed(&reader, &format!("address={ip}")).await.len() > 1);
    assert_eq!(listed(&reader, &format!("address={email}")).await.len(), 1);

    let erased = admin.post(&format!("/v1/accounts/{account}/erasure"), json!({"reason": REASON})).await;
    assert_eq!(erased.status, 200, "{erased:?}");
    eventually("nothing of the person is found", async || {
        listed(&reader, &format!("address={email}")).await.is_empty()
            && listed(&reader, &format!("address={ip}")).await == of_nobody
    })
    .await;
    for table in ["vault.period_key", "log.sealed"] {
        let ago = "date_trunc('month', now() - interval '90 days')::date - interval '1 month'";
        let age = format!("update {table} set period = {ago} where period is not null");
        sqlx::query(sqlx::AssertSqlSafe(age)).execute(&pool).await.unwrap();
    }
    assert_eq!(listed(&reader, &format!("address={ip}")).await, of_nobody);
    let retention = Retention::new(node.database.pool().await, TimeDelta::days(90));
    retention.sweep(clock::now()).await.unwrap();
    assert!(listed(&reader, &format!("address={ip}")).await.is_empty(), "after the end of the month's key");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_by_address_ends_with_the_right_to_unseal() {
    let node = start().await;
    let admin = node.admin().await;
    let investigator = with_permissions(&node, &admin, &["audit.read", "audit.unseal"]).await;
    let wanted = digest(&admin, "203.0.113.7").await;
    let (mut by_address, mut plain) =
        (stream(&investigator, &format!("address={wanted}")).await, stream(&investigator, "").await);
    let body = json!({"permissions": ["audit.read"], "reason": "tests"});
    let taken = admin.put("/v1/roles/investigator", body).await;
    assert_eq!(taken.status, 200, "{taken:?}");
    assert_eq!(next_event(&mut by_address).await, None);
    eventually("the other stream goes on", async || next_event(&mut plain).await >= Some(taken.position())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_deployment_has_digests_of_its_own() {
    let (one, other) = (start().await, start().await);
    let (one, other) = (one.admin().await, other.admin().await);
    assert_ne!(digest(&one, "203.0.113.7").await, digest(&other, "203.0.113.7").await);
}
