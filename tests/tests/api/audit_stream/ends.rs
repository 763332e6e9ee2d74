//! The ends of a stream: whatever would have a new request refused. Events are recorded all the while; none that was recorded
//! after the caller lost its access is sent.

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use fulexo_commands::access_token::TokenGrant;
use fulexo_domain::authentication::AuthenticationMethod;
use fulexo_domain::values::{AccountId, RoleName, SessionId};
use fulexo_node::clock;
use fulexo_tests::{Answer, Client, Database, EventSource, Node, cut_off, eventually, operator, there};
use serde_json::json;
use tokio::time::{sleep, timeout};

use super::{BECAUSE, append, open, positions, refused, service};

/// Two nodes, an administrator and somebody whom events are about.
struct Scene {
    nodes: [Node; 2],
    admin: Client,
    ann: Client,
}

impl Scene {
    async fn new() -> Self {
        let database = Arc::new(Database::create().await);
        let nodes = [Node::join(&database).await, Node::join(&database).await];
        let (admin, ann) = (nodes[0].admin().await, nodes[0].customer().await);
        Self { nodes, admin, ann }
    }

    /// Opens a stream of the caller's at each node, and one more of HTTP/2.
    async fn streams_of(&self, caller: &Client) -> Vec<EventSource> {
        let mut sources = Vec::new();
        for node in &self.nodes {
            sources.push(open(&there(node, caller), "").await);
            sources.push(there(node, caller).stream_over_http_2(super::STREAM).await.unwrap());
        }
        sources
    }

    /// Takes something away at the first node; panics unless all these streams end, and none has an event recorded after that.
    async fn assert_ended_by(&self, mut sources: Vec<EventSource>, taking_away: impl Future<Output = Answer>) {
        // They run before it happens.
        append(&self.nodes[0], self.ann.account, 1).await;
        for source in &mut sources {
            assert!(source.event().await.is_some());
        }
        let appending = async {
            loop {
                append(&self.nodes[0], self.ann.account, 1).await;
                append(&self.nodes[1], self.ann.account, 1).await;
            }
        };
        let ending = async {
            let answer = taking_away.await;
            assert!(answer.status < 300, "{answer:?}");
            let position = answer.position();
            for source in &mut sources {
                let late: Vec<u64> = positions(&source.rest().await).into_iter().filter(|it| *it > position).collect();
                assert!(late.is_empty(), "sent after the event at {position}: {late:?}");
            }
        };
        let ended = tokio::select! {
            () = appending => false,
            ended = timeout(Duration::from_secs(60), ending) => ended.is_ok(),
        };
        assert!(ended, "the streams go on");
        self.assert_no_places().await;
    }

    async fn assert_no_places(&self) {
        for node in &self.nodes {
            eventually("the places are free", async || node.app().streams.places.taken() == 0).await;
        }
    }

    async fn end(self) {
        for node in self.nodes {
            node.stop().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_with_its_session_on_every_node() {
    let scene = Scene::new().await;
    let auditor = scene.nodes[0].auditor().await;
    let streams = scene.streams_of(&auditor).await;
    scene.assert_ended_by(streams, auditor.post_nothing("/v1/auth/logout")).await;
    let auditor = scene.nodes[0].auditor().await;
    let streams = scene.streams_of(&auditor).await;
    let path = format!("/v1/accounts/{}/sessions/revoke", auditor.account);
    scene.assert_ended_by(streams, scene.admin.post(&path, json!({"reason": BECAUSE}))).await;
    assert_eq!(refused(&auditor, "").await.code(), "invalid_token");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_with_the_role_with_the_account_and_by_a_lockdown() {
    let scene = Scene::new().await;
    let auditor = scene.nodes[0].auditor().await;
    let account = format!("/v1/accounts/{}", auditor.account);
    let because = json!({"reason": BECAUSE});

    let streams = scene.streams_of(&auditor).await;
    let path = format!("{account}/roles/auditor");
    scene.assert_ended_by(streams, scene.admin.delete_with(&path, because.clone())).await;
    assert_eq!(refused(&auditor, "").await.code(), "permission_denied");
    let granted = scene.admin.post(&format!("{account}/roles"), json!({"role": "auditor", "reason": BECAUSE})).await;
    assert_eq!(granted.status, 204, "{granted:?}");

    let auditor = scene.nodes[0].log_in(&auditor.email, auditor.account).await;
    let streams = scene.streams_of(&auditor).await;
    scene.assert_ended_by(streams, scene.admin.post("/v1/lockdown", json!({"scope": "all", "reason": BECAUSE}))).await;
    assert_eq!(refused(&auditor, "").await.code(), "locked_down");
    let mut of_admin = open(&scene.admin, "").await;
    assert_eq!(scene.admin.delete_with("/v1/lockdown", because.clone()).await.status, 200);
    assert!(of_admin.event().await.is_some(), "whoever responds to it reads on");
    drop(of_admin);

    let streams = scene.streams_of(&auditor).await;
    scene.assert_ended_by(streams, scene.admin.post(&format!("{account}/suspend"), because)).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_with_its_api_key_and_with_the_account_that_made_it() {
    let scene = Scene::new().await;
    let (key, path) = service(&scene.admin).await;
    let streams = scene.streams_of(&key).await;
    scene.assert_ended_by(streams, scene.admin.delete(&path)).await;
    assert_eq!(refused(&key, "").await.code(), "invalid_token");

    let maker = scene.nodes[0].admin().await;
    let (key, _) = service(&maker).await;
    let streams = scene.streams_of(&key).await;
    let path = format!("/v1/accounts/{}/suspend", maker.account);
    scene.assert_ended_by(streams, scene.admin.post(&path, json!({"reason": BECAUSE}))).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_with_its_token() {
    let scene = Scene::new().await;
    let auditor = scene.nodes[0].auditor().await;
    let app = scene.nodes[0].app();
    let grant = TokenGrant {
        account: AccountId(auditor.account),
        session: SessionId(auditor.session),
        authenticated_at: clock::now(),
        methods: vec![AuthenticationMethod::Password],
        step_up_required: false,
        roles: vec![RoleName::parse("auditor").unwrap()],
        position: 0,
        epoch: app.gate.epoch(),
        // A token counts a minute longer, for clocks that differ.
        expires_at: clock::now() - TimeDelta::seconds(40),
    };
    let token = app.commands.keys().sign(grant, operator().new_id(), clock::now()).unwrap();
    let brief = Client { access_token: Some(token), ..auditor.clone() };
    let mut source = open(&brief, "").await;
    append(&scene.nodes[0], scene.ann.account, 1).await;
    assert!(source.event().await.is_some());
    assert_eq!(source.rest().await.len(), 0);
    assert_eq!(refused(&brief, "").await.code(), "invalid_token", "a new request is refused by then, too");
    scene.assert_no_places().await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_loses_its_place_with_its_session_and_then_reads_no_more() {
    let scene = Scene::new().await;
    let auditor = scene.nodes[0].auditor().await;
    append(&scene.nodes[0], scene.ann.account, 40_000).await;
    let end = super::log_size(&scene.nodes[0]).await;
    let mut source =
        there(&scene.nodes[0], &auditor).stream_over_http_2(&format!("{}?after=0", super::STREAM)).await.unwrap();
    let app = scene.nodes[0].app();
    eventually("the client's window is full", async || {
        let sent = app.streams.sent();
        sleep(Duration::from_secs(1)).await;
        sent > 0 && app.streams.sent() == sent
    })
    .await;
    assert_eq!(auditor.post_nothing("/v1/auth/logout").await.status, 204);
    scene.assert_no_places().await;
    let read = source.rest().await.len() as u64;
    // What waited for room was not sent any more.
    let sent = app.streams.sent();
    assert!(read < sent && sent < end - 1, "{read} of {sent} of {end}");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_memory_cannot_judge_the_tables_end_a_stream() {
    let node = Node::start().await;
    let (admin, auditor) = (node.admin().await, node.auditor().await);
    let mut source = open(&auditor, "").await;
    cut_off(&node).await;
    let path = format!("/v1/accounts/{}/suspend", auditor.account);
    // The answer is late, since this node cannot know what it enforces.
    let suspended = admin.post(&path, json!({"reason": BECAUSE})).await;
    assert!([200, 503].contains(&suspended.status), "{suspended:?}");
    source.rest().await;
    eventually("the place is free", async || node.app().streams.places.taken() == 0).await;
    node.stop().await;
}
