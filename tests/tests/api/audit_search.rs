//! The search of the audit trail: each filter finds what a reader of the whole log would choose, and nothing else.

use std::collections::BTreeSet;

use chrono::TimeDelta;
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
