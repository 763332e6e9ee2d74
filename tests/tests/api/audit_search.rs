//! The search of the audit trail: each filter finds what a reader of the whole log would choose, and nothing else.

use std::collections::BTreeSet;

use chrono::{DateTime, TimeDelta, Utc};
use fulexo_domain::event::{Category, Event};
use fulexo_projections::read_models::audit::{AuditFilter, IndexedEvent};
use fulexo_tests::{Client, Node, PASSWORD, log_size};
use serde_json::{Value, json};
use uuid::Uuid;

/// Returns every event that the list shows for this query, a few at a time.
async fn listed(reader: &Client, query: &str) -> Vec<Value> {
    let (mut items, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = reader.get(&format!("/v1/audit/events?limit=7{query}{cursor}")).await;
        assert_eq!(page.status, 200, "{query}: {page:?}");
        items.extend(page.json["items"].as_array().unwrap().iter().cloned());
        match page.json["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return items,
        }
    }
}

fn has(event: &Value, member: &str, id: Uuid) -> bool {
    event[member] == json!(id)
}

/// `true` if the event has the id as one of its own.
fn has_id(event: &Value, id: Uuid) -> bool {
    event["actor"]["id"] == json!(id)
        || ["id", "stream", "subject", "correlation"].into_iter().any(|member| has(event, member, id))
}

/// Lets two people and a service do a little of everything.
async fn live(node: &Node) -> (Client, Client, Uuid) {
    let (admin, mut ann) = (node.admin().await, node.customer().await);
    let key = json!({"name": "billing", "permissions": ["sessions.revoke"],
                     "expires_at": fulexo_node::clock::now() + TimeDelta::days(1)});
    let key = admin.post("/v1/api-keys", key).await;
    let service = Client { access_token: key.json["secret"].as_str().map(str::to_owned), ..node.anonymous() };
    let other = node.log_in(&ann.email, ann.account).await;
    let ended = service.delete(&format!("/v1/sessions/{}", other.session)).await;
    assert_eq!(ended.status, 200, "{ended:?}");
    for _ in 0..3 {
        let refreshed = ann.post("/v1/auth/refresh", json!({"refresh_token": ann.refresh_token})).await;
        ann.log_in_with(&refreshed);
    }
    let wrong = json!({"email": ann.email, "password": format!("{PASSWORD}x")});
    assert_eq!(node.anonymous().post("/v1/auth/login", wrong).await.status, 401);
    let because = json!({"reason": "tests"});
    assert_eq!(admin.post(&format!("/v1/accounts/{}/suspend", ann.account), because.clone()).await.status, 200);
    let key: Uuid = key.json["api_key_id"].as_str().unwrap().parse().unwrap();
    assert_eq!(admin.delete_with(&format!("/v1/api-keys/{key}"), because).await.status, 200);
    (admin.seeing(log_size(node).await - 1), ann, key)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_filter_on_an_id_finds_what_a_reader_of_the_whole_log_chooses_in_both_orders() {
    let node = Node::start().await;
    let (admin, ann, key) = live(&node).await;
    let all = listed(&admin, "").await;
    assert_eq!(all.len() as u64, log_size(&node).await);
    let ids: BTreeSet<Uuid> = all
        .iter()
        .flat_map(|event| {
            let own = ["id", "stream", "subject", "correlation"].map(|member| event[member].clone());
            own.into_iter().chain([event["actor"]["id"].clone()]).filter_map(|id| id.as_str()?.parse().ok())
        })
        .collect();
    let start_of = |session: Uuid| {
        let start = all.iter().find(|event| event["category"] == "session" && has(event, "stream", session));
        start.map(|event| event["correlation"].clone()).unwrap_or_default()
    };
    let chosen = |name: &str, id: Uuid, event: &Value| match name {
        "session" => {
            (event["category"] == "session" && has(event, "stream", id)) || event["correlation"] == start_of(id)
        }
        "api_key" => (event["category"] == "api_key" && has(event, "stream", id)) || event["actor"]["id"] == json!(id),
        "actor" => event["actor"]["id"] == json!(id),
        "id" => has_id(event, id),
        member => has(event, member, id),
    };
    for id in ids.iter().copied().chain([Uuid::from_u128(7), Uuid::nil()]) {
        for name in ["subject", "actor", "correlation", "session", "api_key", "id"] {
            let mut expected: Vec<&Value> = all.iter().filter(|event| chosen(name, id, event)).collect();
            assert_eq!(
                listed(&admin, &format!("&{name}={id}")).await.iter().collect::<Vec<_>>(),
                expected,
                "{name} {id}"
            );
            expected.reverse();
            let found = listed(&admin, &format!("&{name}={id}&order=desc")).await;
            assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{name} {id}");
        }
    }
    // With each other, and with a bound.
    let middle = all.len() / 2;
    let query = format!("&session={}&id={}&after={middle}", ann.session, ann.account);
    let expected = all.iter().skip(middle + 1);
    let expected: Vec<&Value> =
        expected.filter(|event| chosen("session", ann.session, event) && has_id(event, ann.account)).collect();
    assert_eq!(listed(&admin, &query).await.iter().collect::<Vec<_>>(), expected);
    assert!(!expected.is_empty());
    assert!(listed(&admin, &format!("&session={}", ann.session)).await.len() > 4);
    let types: BTreeSet<String> =
        listed(&admin, &format!("&api_key={key}")).await.iter().map(|event| event["type"].to_string()).collect();
    assert_eq!(types.len(), 3, "{types:?}");
}

/// Returns the properties of an item that filters ask for.
fn indexed(item: &Value) -> IndexedEvent {
    let id = |value: &Value| value.as_str().and_then(|text| text.parse::<Uuid>().ok());
    let known = |names: &[&'static str], value: &Value| names.iter().copied().find(|name| value == name).unwrap();
    IndexedEvent {
        position: item["position"].as_u64().unwrap(),
        id: id(&item["id"]).unwrap(),
        event_type: known(Event::types(), &item["type"]),
        category: known(&Category::ALL.map(Category::as_str), &item["category"]),
        stream: id(&item["stream"]).unwrap(),
        subject: id(&item["subject"]),
        actor: id(&item["actor"]["id"]),
        correlation: id(&item["correlation"]).unwrap(),
        recorded_at: item["time"].as_str().unwrap().parse::<DateTime<Utc>>().unwrap(),
    }
}

fn positions(events: &[Value]) -> Vec<u64> {
    events.iter().map(|event| event["position"].as_u64().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn export_and_stream_select_exactly_what_the_list_selects() {
    let node = Node::start().await;
    let (admin, ann, key) = live(&node).await;
    let all = listed(&admin, "").await;
    let ids: BTreeSet<Uuid> = all
        .iter()
        .flat_map(|event| ["id", "stream", "subject", "correlation"].map(|member| event[member].clone()))
        .filter_map(|id| id.as_str()?.parse().ok())
        .chain([key, Uuid::nil(), Uuid::from_u128(7)])
        .collect();
    for id in ids {
        for name in ["subject", "actor", "correlation", "session", "api_key", "id"] {
            let mut expected = listed(&admin, &format!("&{name}={id}")).await;
            // Each export of this test is recorded.
            expected.retain(|event| event["type"] != "audit.exported");
            let expected = positions(&expected);
            let exported = admin.get(&format!("/v1/audit/export?{name}={id}")).await;
            assert_eq!(exported.status, 200, "{exported:?}");
            let mut lines: Vec<Value> = exported.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            lines.retain(|event| event["type"] != "audit.exported");
            assert_eq!(positions(&lines), expected, "the export by {name} {id}");

            // A stream judges one event after another.
            let mut filter = AuditFilter::default();
            let place = match name {
                "subject" => &mut filter.subject,
                "actor" => &mut filter.actor,
                "correlation" => &mut filter.correlation,
                "session" => &mut filter.session,
                "api_key" => &mut filter.api_key,
                _ => &mut filter.id,
            };
            *place = Some(id);
            let filter = filter.resolved(&node.app().pool).await.unwrap();
            let admitted = all.iter().map(indexed).filter(|event| filter.admits(event));
            assert_eq!(admitted.map(|event| event.position).collect::<Vec<_>>(), expected, "judged by {name} {id}");
        }
    }

    // Several at once, through the door.
    for query in [
        format!("&session={}", ann.session),
        format!("&api_key={key}"),
        format!("&id={}", ann.account),
        format!("&session={}&id={}&category=session", ann.session, ann.account),
    ] {
        let expected = listed(&admin, &format!("&after=0{query}")).await;
        assert!(expected.len() > 1, "{query}");
        let exported = admin.get(&format!("/v1/audit/export?after=0{query}")).await;
        let lines: Vec<Value> = exported.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(positions(&lines), positions(&expected), "{query}");
        let mut source = admin
            .stream(&format!("/v1/audit/stream?after=0{query}"))
            .await
            .unwrap_or_else(|answer| panic!("{answer:?}"));
        for event in &expected {
            assert_eq!(source.event().await.as_ref(), Some(event), "{query}");
        }
    }
    let leaves = admin.get(&format!("/v1/audit/export?format=leaves&session={}", ann.session)).await;
    assert_eq!((leaves.status, leaves.code()), (400, "invalid_input"), "leaves have no filters: {leaves:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_a_session_has_what_is_recorded_after_it_was_opened() {
    let node = Node::start().await;
    let (auditor, mut ann, bob) = (node.auditor().await, node.customer().await, node.customer().await);
    let mut source = auditor
        .stream(&format!("/v1/audit/stream?session={}", ann.session))
        .await
        .unwrap_or_else(|answer| panic!("{answer:?}"));
    let refreshed = bob.post("/v1/auth/refresh", json!({"refresh_token": bob.refresh_token})).await;
    assert_eq!(refreshed.status, 200, "{refreshed:?}");
    let refreshed = ann.post("/v1/auth/refresh", json!({"refresh_token": ann.refresh_token})).await;
    ann.log_in_with(&refreshed);
    assert_eq!(ann.post_nothing("/v1/auth/logout").await.status, 204);
    for event_type in ["session.refreshed", "session.revoked"] {
        let event = source.event().await.unwrap();
        assert_eq!((&event["type"], &event["stream"]), (&json!(event_type), &json!(ann.session)), "{event}");
    }
}
