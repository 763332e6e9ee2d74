//! Containments whose node is killed at each commit, and which another node continues under the same `Idempotency-Key`.

use std::sync::Arc;

use chrono::TimeDelta;
use fulexo_tests::{Client, Database, HeldCommits, Node, Program, leaves};
use hyper::Method;
use serde_json::json;
use tokio::task::block_in_place;

use crate::boundaries::{Incident, REASON, boundaries, lift};

fn serve(database: &Database) -> (Program, String) {
    let mut env = database.env();
    env.insert("FULEXO_PORT".into(), "0".into());
    block_in_place(|| {
        let mut program = Program::start(&["serve"], &env);
        let url = program.says("listening on ");
        (program, url)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_containment_whose_node_is_killed_at_any_commit_is_continued_by_another_and_puts_nobody_out_twice() {
    let database = Arc::new(Database::create().await);
    let node = Node::join(&database).await;
    let responder = node.admin().await;
    let mut held = HeldCommits::on(&database).await;
    for (kind, nth, fate) in boundaries() {
        let round = format!("{kind} {nth} {fate:?}");
        println!("{round}");
        let admin = node.as_if_logged_in(TimeDelta::zero(), &responder, &["admin", "customer"]);
        let incident = Incident::open(&node, &admin).await;
        let accounts = |clients: &[Client]| clients.iter().map(|client| client.account).collect::<Vec<_>>();
        let body = json!({
            "reason": REASON,
            "lockdown": "logins",
            "revoke_api_keys": incident.api_keys,
            "suspend_accounts": accounts(&incident.suspended),
            "revoke_sessions": {"accounts": [incident.sessions[0].account]},
        });
        let path = format!("/v1/incidents/{}/contain", incident.id);
        let once = admin.with_header("idempotency-key", &round);
        let base = leaves(&database).await.len();

        let (mut program, url) = serve(&database);
        held.hold(kind, nth).await;
        let (there, text, to) = (Client { url, ..once.clone() }, body.to_string(), path.clone());
        let call = tokio::spawn(async move {
            there.try_send(Method::POST, &to, Some("application/json"), &text).await.map(|answer| answer.status)
        });
        held.waits(&round).await;
        block_in_place(|| program.kill());
        assert!(call.await.unwrap().is_err(), "{round}: nobody was answered");
        held.end(fate).await;

        let again = once.post(&path, body.clone()).await;
        assert_eq!(again.status, 200, "{round}: {again:?}");
        let refused = |measure: &serde_json::Value| measure["refused"] != json!([]);
        assert!(!again.json["measures"].as_array().unwrap().iter().any(refused), "{round}: {again:?}");
        assert_eq!(incident.assert_contained(&node, &admin, &database, base).await, 1, "{round}");
        let size = leaves(&database).await.len();
        assert_eq!(once.post(&path, body).await.json["measures"], again.json["measures"], "{round}");
        assert_eq!(leaves(&database).await.len(), size, "{round}: nothing was recorded");
        lift(&admin).await;
    }
}
