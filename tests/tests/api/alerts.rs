//! Alerts of a monitor: which incident they open, once, whoever sends them and how often, and what the sender may not do.

#![expect(clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::collections::BTreeSet;

use chrono::TimeDelta;
use fulexo_node::clock;
use fulexo_tests::{Answer, Client, Node, log_size};
use futures_util::future::join_all;
use serde_json::{Value, json};

const ALERTS: &str = "/v1/incidents/alerts";

async fn monitor(node: &Node, admin: &Client) -> Client {
    let expires_at = clock::now() + TimeDelta::days(30);
    let request = json!({"name": "monitor", "permissions": ["incidents.alert"], "expires_at": expires_at});
    let made = admin.post("/v1/api-keys", request).await;
    assert_eq!(made.status, 201, "{made:?}");
    let key = Client { access_token: made.json["secret"].as_str().map(str::to_owned), ..node.anonymous() };
    key.seeing(made.position())
}

fn alert(status: &str, starts_at: &str) -> Value {
    json!({
        "status": status, "startsAt": starts_at, "endsAt": "0001-01-01T00:00:00Z", "fingerprint": "c0ffee",
        "generatorURL": "http://prometheus/graph", "labels": {"alertname": "DiskFull", "host": "db-of-ann-smith"},
        "annotations": {"summary": "The disk is full ☕", "description": "of café", "runbook_url": "http://r"},
    })
}

fn notification(alerts: &[Value]) -> Value {
    json!({
        "version": "4", "groupKey": "{}:{alertname=\"DiskFull\"}", "truncatedAlerts": 0, "status": "firing",
        "receiver": "fulexo", "groupLabels": {"alertname": "DiskFull"}, "externalURL": "http://alertmanager",
        "commonLabels": {"severity": "critical", "alertname": "DiskFull"}, "commonAnnotations": {"a": "b"},
        "alerts": alerts, "a_member_of_a_later_version": {"deep": [1, null]},
    })
}

#[track_caller]
fn incident(answer: &Answer, opened: bool) -> String {
    assert_eq!((answer.status, &answer.json["opened"]), (200, &json!(opened)), "{answer:?}");
    answer.json["incident_id"].as_str().unwrap().to_owned()
}

async fn shown(node: &Node, admin: &Client, id: &str) -> Value {
    let shown = admin.seeing(log_size(node).await - 1).get(&format!("/v1/incidents/{id}")).await;
    assert_eq!(shown.status, 200, "{shown:?}");
    shown.json
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_fires_opens_one_incident_also_if_it_is_sent_again_by_another() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let (first, second) = (monitor(&node, &admin).await, monitor(&node, &admin).await);
    let (early, late) =
        (alert("firing", "2026-12-01T03:00:00.123456789Z"), alert("firing", "2026-12-01T04:00:00+01:00"));
    let id = incident(&first.post(ALERTS, notification(&[early.clone(), late.clone()])).await, true);
    let size = log_size(&node).await;
    // More alerts of the group, another order, another sender: the same beginning.
    let more = notification(&[alert("firing", "2026-12-01T05:00:00Z"), late.clone(), early]);
    for sender in [&first, &second, &admin] {
        assert_eq!(incident(&sender.post(ALERTS, more.clone()).await, false), id);
    }
    assert_eq!(log_size(&node).await, size, "a repetition changes nothing");
    let incident_of = shown(&node, &admin, &id).await;
    assert_eq!((&incident_of["severity"], &incident_of["phase"]), (&json!("critical"), &json!("identified")));
    let line = "DiskFull: The disk is full ☕ – of café";
    assert_eq!(incident_of["summary"], format!("2 alerts fire\n{line}\n{line}"));
    let event = admin.get(&format!("/v1/audit/events/{}", incident_of["opened_position"])).await;
    assert_eq!(event.json["type"], "incident.opened", "{event:?}");
    for label in ["DiskFull", "ann-smith", "café"] {
        assert!(!event.text.contains(label), "{event:?}");
    }
    let again = notification(&[alert("firing", "2026-12-01T05:00:00Z")]);
    assert_ne!(incident(&second.post(ALERTS, again).await, true), id, "it began again");
    let mut other = notification(&[late]);
    other["groupKey"] = json!("{}:{}");
    assert_ne!(incident(&first.post(ALERTS, other).await, true), id, "another group");
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_notifications_at_once_open_one_incident() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let other = Node::join(&node.database).await;
    let monitor = monitor(&node, &admin).await;
    let there = fulexo_tests::there(&other, &monitor);
    let body = notification(&[alert("firing", "2026-12-01T03:00:00Z")]);
    let answers = join_all((0..20).map(|n| {
        let (sender, body) = (if n % 2 == 0 { &monitor } else { &there }, body.clone());
        async move { sender.post(ALERTS, body).await }
    }))
    .await;
    let ids: BTreeSet<&str> = answers.iter().map(|answer| answer.json["incident_id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 1, "{answers:?}");
    assert_eq!(answers.iter().filter(|answer| answer.json["opened"] == true).count(), 1, "{answers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn alerts_that_are_resolved_open_and_close_nothing() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let monitor = monitor(&node, &admin).await;
    let size = log_size(&node).await;
    let resolved = notification(&[alert("resolved", "2026-12-01T03:00:00Z")]);
    for body in [resolved.clone(), notification(&[])] {
        let answer = monitor.post(ALERTS, body).await;
        assert_eq!((answer.status, &answer.json), (200, &json!({"incident_id": null, "opened": false})));
    }
    assert_eq!(log_size(&node).await, size);
    let id = incident(&monitor.post(ALERTS, notification(&[alert("firing", "2026-12-01T03:00:00Z")])).await, true);
    assert_eq!(incident(&monitor.post(ALERTS, resolved).await, false), id, "the one that is known");
    assert_eq!(shown(&node, &admin, &id).await["phase"], "identified");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_severity_is_the_worst_that_is_named_and_many_alerts_are_counted() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let monitor = monitor(&node, &admin).await;
    let words = [
        ("critical", "critical"),
        ("ERROR", "high"),
        ("high", "high"),
        ("warning", "medium"),
        ("medium", "medium"),
        ("page", "low"),
        ("", "low"),
    ];
    for (index, (word, expected)) in words.into_iter().enumerate() {
        let mut fires = alert("firing", "2026-12-01T03:00:00Z");
        fires["labels"]["severity"] = json!(word);
        let mut body = notification(&[fires, alert("firing", "2026-12-01T03:00:00Z")]);
        body["commonLabels"] = json!({});
        body["groupKey"] = json!(index.to_string());
        let id = incident(&monitor.post(ALERTS, body).await, true);
        assert_eq!(shown(&node, &admin, &id).await["severity"], expected, "{word}");
    }
    let bare = json!({"status": "firing", "startsAt": "2026-12-01T03:00:00Z"});
    let mut many = notification(&vec![bare; 150]);
    many["truncatedAlerts"] = json!(7);
    let id = incident(&monitor.post(ALERTS, many).await, true);
    let summary = shown(&node, &admin, &id).await["summary"].as_str().unwrap().to_owned();
    assert!(
        summary.starts_with("150 alerts fire\nan alert\n") && summary.ends_with("\n57 more are left out"),
        "{summary}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notification_that_is_none_is_refused_without_a_word_of_it() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let monitor = monitor(&node, &admin).await;
    let size = log_size(&node).await;
    let sound = || notification(&[alert("firing", "2026-12-01T03:00:00Z")]);
    let changed = |pointer: &str, value: Value| {
        let mut body = sound();
        *body.pointer_mut(pointer).unwrap() = value;
        body.to_string()
    };
    let cases = [
        ("hunter2".to_owned(), 400),
        ("[".repeat(10_000), 400),
        ("null".to_owned(), 400),
        ("{}".to_owned(), 400),
        (changed("/version", json!("hunter2")), 400),
        (changed("/groupKey", json!("")), 400),
        (changed("/groupKey", json!(["hunter2"])), 400),
        (changed("/alerts", json!("hunter2")), 400),
        (changed("/alerts", json!([null])), 400),
        (changed("/alerts/0/startsAt", json!("hunter2")), 400),
        (changed("/alerts/0/startsAt", json!("99999-01-01T00:00:00Z")), 400),
        (changed("/alerts/0/labels", json!("hunter2")), 400),
        (changed("/truncatedAlerts", json!(-1)), 400),
        (changed("/groupKey", json!("x".repeat(2 << 20))), 413),
    ];
    for (body, status) in cases {
        let answer = monitor.send(hyper::Method::POST, ALERTS, Some("application/json"), &body).await;
        assert_eq!(answer.status, status, "{answer:?}");
        assert!(!answer.text.contains("hunter2"), "{answer:?}");
    }
    assert_eq!(log_size(&node).await, size);
    // Times of any age are those of an alert.
    for (index, time) in ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"].into_iter().enumerate() {
        let mut body = notification(&[alert("firing", time)]);
        body["groupKey"] = json!(index.to_string());
        incident(&monitor.post(ALERTS, body).await, true);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_permission_no_alert_is_taken_and_its_key_may_do_nothing_else() {
    let node = Node::start().await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    let monitor = monitor(&node, &admin).await;
    let body = notification(&[alert("firing", "2026-12-01T03:00:00Z")]);
    let refused = ann.post(ALERTS, body.clone()).await;
    assert_eq!((refused.status, refused.code()), (403, "permission_denied"), "{refused:?}");
    assert_eq!(node.anonymous().post(ALERTS, body.clone()).await.status, 401);
    let id = incident(&monitor.post(ALERTS, body).await, true);
    let own = format!("/v1/incidents/{id}");
    for path in ["/v1/incidents", own.as_str(), &format!("{own}/timeline"), "/v1/audit/events", "/v1/accounts"] {
        let refused = monitor.get(path).await;
        assert_eq!((refused.status, refused.code()), (403, "permission_denied"), "{path}: {refused:?}");
    }
    for (path, body) in [
        ("/v1/incidents".to_owned(), json!({"severity": "low", "summary": "s"})),
        (format!("{own}/notes"), json!({"note": "n"})),
    ] {
        let refused = monitor.post(&path, body).await;
        assert_eq!((refused.status, refused.code()), (403, "permission_denied"), "{path}: {refused:?}");
    }
}
