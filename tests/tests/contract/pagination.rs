//! Pages: a walk meets everything once, even if more arrives on the way.

use std::collections::BTreeMap;

use fulexo_tests::{Client, Node};
use serde_json::Value;

use crate::log_size;

/// Walks a list to its end; `arrive` is called between pages. Answers with how often each key was met, in order.
async fn walk(client: &Client, path: &str, limit: usize, key: &str, mut arrive: impl AsyncFnMut(usize)) -> Vec<String> {
    let mut met = Vec::new();
    let mut cursor = String::new();
    for page_number in 0.. {
        let answer = client.get(&format!("{path}?limit={limit}{cursor}")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let items = answer.json["items"].as_array().unwrap();
        assert!(items.len() <= limit, "a page of {} at limit {limit}", items.len());
        met.extend(items.iter().map(|item| item[key].to_string().trim_matches('"').to_owned()));
        arrive(page_number).await;
        let Value::String(next) = &answer.json["next_cursor"] else { return met };
        assert_eq!(items.len(), limit, "only the last page is short");
        cursor = format!("&cursor={next}");
    }
    unreachable!()
}

#[track_caller]
fn assert_met_once(met: &[String], expected: &[String]) {
    let mut times: BTreeMap<&str, usize> = BTreeMap::new();
    for key in met {
        *times.entry(key).or_default() += 1;
    }
    assert!(times.values().all(|times| *times == 1), "something was met twice: {met:?}");
    let missed: Vec<_> = expected.iter().filter(|key| !times.contains_key(key.as_str())).collect();
    assert!(missed.is_empty(), "{} of {} were missed", missed.len(), expected.len());
}

/// Returns a client that asks to see everything that the log holds now.
async fn current(node: &Node, client: &Client) -> Client {
    client.seeing(log_size(node).await - 1)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_walk_over_accounts_meets_each_once_while_others_register() {
    let node = Node::start().await;
    let admin = node.admin().await;
    for limit in 1..=3 {
        let mut there = Vec::new();
        for _ in 0..7 {
            there.push(node.register(&["customer"]).await.1.to_string());
        }
        let admin = current(&node, &admin).await;
        let met = walk(&admin, "/v1/accounts", limit, "account_id", async |page| {
            if page < 3 {
                node.register(&["customer"]).await;
            }
        })
        .await;
        assert_met_once(&met, &there);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_walk_over_sessions_meets_each_once_while_others_log_in_and_out() {
    let node = Node::start().await;
    let admin = node.admin().await;
    for limit in 1..=3 {
        let mut there = Vec::new();
        let mut clients = Vec::new();
        for _ in 0..7 {
            let client = node.customer().await;
            there.push(client.session.to_string());
            clients.push(client);
        }
        let admin = current(&node, &admin).await;
        let met = walk(&admin, "/v1/sessions", limit, "session_id", async |page| {
            if page < 3 {
                assert_eq!(clients[page].post_nothing("/v1/auth/logout").await.status, 204);
                node.customer().await;
            }
        })
        .await;
        assert_met_once(&met, &there);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_walk_over_the_trail_meets_each_position_once_and_in_order_while_it_grows() {
    let node = Node::start().await;
    let auditor = node.auditor().await;
    node.register(&["customer"]).await;
    for limit in 1..=3 {
        let size = log_size(&node).await;
        let met = walk(&auditor.seeing(size - 1), "/v1/audit/events", limit, "position", async |page| {
            if page < 3 {
                node.register(&["customer"]).await;
            }
        })
        .await;
        let positions: Vec<u64> = met.iter().map(|position| position.parse().unwrap()).collect();
        assert!(positions.iter().copied().eq(0..positions.len() as u64), "{positions:?}");
        assert!(positions.len() as u64 >= size, "{} of {size}", positions.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_walk_over_own_sessions_and_own_events_meets_each_once() {
    let node = Node::start().await;
    let ann = node.customer().await;
    let mut there = vec![ann.session.to_string()];
    for _ in 0..4 {
        there.push(node.log_in(&ann.email, ann.account).await.session.to_string());
        node.customer().await;
    }
    for limit in 1..=3 {
        let ann = current(&node, &ann).await;
        let met = walk(&ann, "/v1/me/sessions", limit, "session_id", async |_| {}).await;
        assert_eq!(met, there, "each once, in the order of their start");
        let met = walk(&ann, "/v1/me/events", limit, "position", async |_| {}).await;
        assert_met_once(&met, &[]);
        let expected = 2 + 2 * there.len() + (there.len() - 1);
        assert_eq!(
            met.len(),
            expected,
            "registration, role, two events for each login, and each new device but the first"
        );
    }
}
