//! Copies of the audit trail: each is an event before anything of it is given away, and a receipt of an erasure names those who
//! took one.

use std::sync::Arc;

use chrono::TimeDelta;
use fulexo_commands::RemainsSearch;
use fulexo_domain::values::AccountId;
use fulexo_node::clock;
use fulexo_tests::{Client, Node, consistent, eventually, log_size, superuser};
use serde_json::{Value, json};
use uuid::Uuid;

/// Returns the records of copies, oldest first.
async fn records(node: &Node, reader: &Client) -> Vec<Value> {
    let last = log_size(node).await - 1;
    let answer = reader.seeing(last).get("/v1/audit/events?type=audit.exported&limit=200").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json["items"].as_array().unwrap().clone()
}

/// Waits until exports have every event so far.
async fn all_listed(node: &Node, reader: &Client) {
    let last = log_size(node).await - 1;
    assert_eq!(reader.seeing(last).get("/v1/audit/events?limit=1").await.status, 200);
}

async fn export(client: &Client, query: &str) -> u16 {
    client.get(&format!("/v1/audit/export{query}")).await.status
}

/// Makes an API key with `audit.read`.
async fn service(node: &Node, admin: &Client) -> Client {
    let expires_at = clock::now() + TimeDelta::days(30);
    let body = json!({"name": "siem", "permissions": ["audit.read"], "expires_at": expires_at});
    let made = admin.post("/v1/api-keys", body).await;
    assert_eq!(made.status, 201, "{made:?}");
    let secret = made.json["secret"].as_str().unwrap().to_owned();
    let id = serde_json::from_value(made.json["api_key_id"].clone()).unwrap();
    Client { access_token: Some(secret), account: id, ..node.anonymous() }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_copy_is_an_event_that_names_who_took_it_and_its_extent() {
    let node = Node::signed().await;
    let (admin, auditor, ann) = (node.admin().await, node.auditor().await, node.customer().await);
    let service = service(&node, &admin).await;
    all_listed(&node, &auditor).await;
    let end = log_size(&node).await - 1;
    let key_actor = json!({"kind": "api_key", "id": service.account});
    let auditor_actor = json!({"kind": "account", "id": auditor.account});
    let subject = ann.account;

    assert_eq!(export(&auditor, &format!("?subject={subject}&type=account.registered&after=1")).await, 200);
    assert_eq!(export(&service, &format!("?format=ocsf&after={}", end - 1)).await, 200);
    assert_eq!(export(&auditor, "?format=leaves").await, 200);
    let streamed = log_size(&node).await;
    drop(auditor.stream(&format!("/v1/audit/stream?category=session&after={}", streamed - 1)).await.unwrap());
    eventually("the checkpoint covers a bundle", async || {
        auditor.get("/v1/audit/log/tile/entries/000.p/1").await.status == 200
    })
    .await;
    assert_eq!(ann.get("/v1/me/export").await.status, 200);

    let records = records(&node, &auditor).await;
    let seen: Vec<(Value, Value)> = records.iter().map(|it| (it["actor"].clone(), it["data"].clone())).collect();
    let positions: Vec<u64> = records.iter().map(|it| it["position"].as_u64().unwrap()).collect();
    let filter = json!({"subject": subject, "type": "account.registered"});
    assert_eq!(
        seen[..4],
        [
            (auditor_actor.clone(), json!({"form": "ndjson", "first": 2, "last": end, "filter": filter})),
            (key_actor, json!({"form": "ocsf", "first": end, "last": positions[0]})),
            (auditor_actor.clone(), json!({"form": "leaves", "first": 0, "last": positions[1]})),
            (auditor_actor.clone(), json!({"form": "stream", "first": streamed, "filter": {"category": "session"}})),
        ],
        "{records:#?}"
    );
    assert_eq!(seen[4], (auditor_actor, json!({"form": "entries", "first": 0})));
    assert_eq!((&seen[5].0["id"], &seen[5].1["form"]), (&json!(ann.account), &json!("own_data")));
    assert_eq!(records[5]["subject"], json!(ann.account), "it concerns the person alone");
    assert!(records[..5].iter().all(|record| record["subject"].is_null()), "{records:#?}");
    assert_eq!(records.len(), 6, "{records:#?}");
    let streams: std::collections::BTreeSet<String> = records.iter().map(|it| it["stream"].to_string()).collect();
    assert_eq!(streams.len(), 6, "each is a stream of its own");
    consistent(&Arc::clone(&node.database), &[node]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_is_refused_or_empty_is_no_event() {
    let node = Node::start().await;
    let (auditor, ann) = (node.auditor().await, node.customer().await);
    all_listed(&node, &auditor).await;
    assert_eq!(export(&ann, "").await, 403);
    assert_eq!(export(&node.anonymous(), "").await, 401);
    assert_eq!(export(&auditor, "?format=xml").await, 400);
    assert_eq!(export(&auditor, &format!("?format=leaves&subject={}", ann.account)).await, 400);
    assert_eq!(export(&auditor, &format!("?after={}", log_size(&node).await - 1)).await, 200);
    assert!(ann.stream("/v1/audit/stream").await.is_err());
    assert!(auditor.stream("/v1/audit/stream?after=99999999").await.is_err());
    assert_eq!(ann.get("/v1/audit/log/tile/entries/000").await.status, 403);
    assert!(records(&node, &auditor).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_cannot_be_recorded_is_not_given() {
    let node = Node::start().await;
    let (auditor, ann) = (node.auditor().await, node.customer().await);
    let pool = superuser(&node.database).await;
    all_listed(&node, &auditor).await;
    let revoke = "revoke insert, update on log.copy_holder from fulexo_app";
    sqlx::query(revoke).execute(&pool).await.unwrap();
    for path in ["/v1/audit/export", "/v1/audit/export?format=leaves"] {
        let refused = auditor.get(path).await;
        assert!(refused.status >= 500, "{refused:?}");
        assert!(!refused.text.contains("account.registered"), "{refused:?}");
    }
    assert!(auditor.stream("/v1/audit/stream").await.is_err());
    // One's own data have no holder to count.
    assert_eq!(ann.get("/v1/me/export").await.status, 200);
    let grant = "grant insert, update on log.copy_holder to fulexo_app";
    sqlx::query(grant).execute(&pool).await.unwrap();
    assert_eq!(export(&auditor, "").await, 200);
    let forms: Vec<Value> =
        records(&node, &auditor).await.into_iter().map(|mut record| record["data"]["form"].take()).collect();
    assert_eq!(forms, ["own_data", "ndjson"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_reconnects_is_recorded_once_unless_it_sees_more() {
    let node = Node::start().await;
    let (auditor, other) = (node.auditor().await, node.auditor().await);
    let after = log_size(&node).await - 1;
    let open = async |client: &Client, query: String| {
        let mut source = client.stream(&format!("/v1/audit/stream?{query}")).await.unwrap();
        let _ = source.block().await;
    };
    for _ in 0..6 {
        open(&auditor, format!("after={after}")).await;
        open(&auditor, format!("after={}", after - 1)).await;
    }
    open(&auditor, format!("after={after}&category=account")).await;
    open(&other, format!("after={}", after - 1)).await;
    let firsts: Vec<(Value, Value)> = records(&node, &auditor)
        .await
        .iter()
        .map(|record| (record["actor"]["id"].clone(), record["data"]["first"].clone()))
        .collect();
    let (mine, theirs) = (json!(auditor.account), json!(other.account));
    let wanted = [(&mine, after + 1), (&mine, after), (&mine, after + 1), (&theirs, after)];
    assert_eq!(firsts, wanted.map(|(id, first)| (id.clone(), json!(first))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_names_those_whose_copies_may_have_the_person() {
    let node = Node::signed().await;
    let admin = node.admin().await;
    let [early, late, twice] = [node.auditor().await, node.auditor().await, node.auditor().await];
    let service = service(&node, &admin).await;
    all_listed(&node, &admin).await;
    // It ends before the person is there.
    assert_eq!(export(&early, "").await, 200);
    let ann = node.customer().await;
    all_listed(&node, &admin).await;
    assert_eq!(export(&late, "?format=leaves").await, 200);
    for _ in 0..2 {
        assert_eq!(export(&twice, "").await, 200);
    }
    drop(service.stream("/v1/audit/stream").await.unwrap());
    assert_eq!(ann.get("/v1/me/export").await.status, 200);

    let erased =
        admin.post(&format!("/v1/accounts/{}/erasure", ann.account), json!({"reason": "asked for by letter"})).await;
    assert_eq!(erased.status, 200, "{erased:?}");
    let path = format!("/v1/erasures/{}", ann.account);
    eventually("the erasure is completed", async || node.anonymous().get(&path).await.json["state"] == "completed")
        .await;
    let found = node.anonymous().get(&path).await.json;
    let holder = |copy: &Value| (copy["kind"].clone(), copy["id"].clone(), copy["count"].clone());
    let named: Vec<_> = found["copies"].as_array().unwrap().iter().map(holder).collect();
    let wanted = [("api_key", service.account, 1), ("account", twice.account, 2), ("account", late.account, 1)];
    assert_eq!(named, wanted.map(|(kind, id, count)| (json!(kind), json!(id), json!(count))), "{found:#}");
    assert_eq!(found["copy_holders"], 3);

    let last = log_size(&node).await - 1;
    let completed = admin.seeing(last).get("/v1/audit/events?type=account.erasure_completed").await;
    let copies = &completed.json["items"][0]["data"]["copies"];
    assert_eq!(copies["count"], 3, "{completed:?}");
    let latest: Vec<_> =
        copies["latest"].as_array().unwrap().iter().map(|it| (it["kind"].clone(), it["id"].clone())).collect();
    assert_eq!(latest, named.into_iter().map(|(kind, id, _)| (kind, id)).collect::<Vec<_>>(), "{copies:#}");

    // A holder who is erased, too, stays named: by a number.
    let gone = admin.post(&format!("/v1/accounts/{}/erasure", late.account), json!({"reason": "left"})).await;
    assert_eq!(gone.status, 200, "{gone:?}");
    let again = node.anonymous().get(&path).await.json;
    assert_eq!(again["copy_holders"], 3, "{again:#}");
    let own = format!("/v1/erasures/{}", late.account);
    eventually("theirs is completed", async || node.anonymous().get(&own).await.json["state"] == "completed").await;
    let search =
        RemainsSearch::new(superuser(&node.database).await, AccountId(late.account), Vec::new()).await.unwrap();
    for table in search.tables() {
        let remains = search.table(table).await.unwrap();
        assert!(remains.iter().all(|one| !one.place.contains("copy_holder")), "{remains:?}");
    }
    consistent(&Arc::clone(&node.database), &[node]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_at_once_are_counted_one_by_one() {
    let node = Node::start().await;
    let auditors = [node.auditor().await, node.auditor().await, node.auditor().await];
    all_listed(&node, &auditors[0]).await;
    let mut under_way = tokio::task::JoinSet::new();
    for _ in 0..10 {
        for auditor in &auditors {
            let auditor = auditor.clone();
            under_way.spawn(async move { export(&auditor, "").await });
        }
    }
    let given = under_way.join_all().await.into_iter().filter(|status| *status == 200).count();
    assert!(given >= 3, "{given}");
    assert_eq!(records(&node, &auditors[0]).await.len(), given);
    let pool = superuser(&node.database).await;
    let rows: Vec<(Uuid, i64)> =
        sqlx::query_as("select holder_id, copies from log.copy_holder").fetch_all(&pool).await.unwrap();
    assert_eq!(rows.iter().map(|(_, copies)| *copies).sum::<i64>(), i64::try_from(given).unwrap());
    assert!(rows.iter().all(|(id, _)| auditors.iter().any(|auditor| auditor.account == *id)), "{rows:?}");
}
