//! Revoked access is gone on every node when the answer comes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use chrono::TimeDelta;
use fulexo_tests::{Answer, Client, Database, Node, eventually, operator};
use serde_json::json;

use crate::{because, enforcement, everywhere, three};

const SESSION: &str = "/v1/auth/session";
const AUDIT: &str = "/v1/audit/events?limit=1";
const ROUNDS: usize = 3;

/// Logs somebody in on one node and out on another, repeatedly, until the test is over. On a busy machine a node may be
/// too busy to answer in time.
async fn load(urls: Vec<String>, email: String, is_over: Arc<AtomicBool>) {
    for number in 0.. {
        if is_over.load(Ordering::Relaxed) {
            return;
        }
        let mut client = Client::new(&urls[number % urls.len()]);
        let body = json!({"email": email, "password": fulexo_tests::PASSWORD});
        let login = client.post("/v1/auth/login", body).await;
        assert!([200, 503].contains(&login.status), "{login:?}");
        client.log_in_with(&login);
        client.url.clone_from(&urls[(number + 1) % urls.len()]);
        client.post_nothing("/v1/auth/logout").await;
    }
}

/// Three nodes that are busy, their addresses, an administrator.
struct Busy {
    nodes: [Node; 3],
    admin: Client,
    is_over: Arc<AtomicBool>,
    load: Vec<tokio::task::JoinHandle<()>>,
}

impl Busy {
    async fn start() -> Self {
        let nodes = three().await;
        let admin = nodes[0].admin().await;
        let is_over = Arc::new(AtomicBool::new(false));
        let mut busy = Vec::new();
        for _ in 0..2 {
            let (email, _) = nodes[0].register(&["customer"]).await;
            let urls = nodes.iter().map(|node| node.url.clone()).collect();
            busy.push(tokio::spawn(load(urls, email, Arc::clone(&is_over))));
        }
        Self { nodes, admin, is_over, load: busy }
    }

    async fn everywhere(&self, client: &Client, path: &str) -> Vec<u16> {
        let urls: Vec<&str> = self.nodes.iter().map(|node| node.url.as_str()).collect();
        everywhere(&urls, client, path).await
    }

    /// Panics unless a client is let in everywhere, loses its right, and is let in nowhere.
    async fn loses(&self, client: &Client, path: &str, refused: u16, take: impl AsyncFnOnce(&Client) -> Answer) {
        eventually("every node lets them in", async || self.everywhere(client, path).await == [200; 3]).await;
        let answer = take(&self.admin).await;
        let answers = self.everywhere(client, path).await;
        // On a busy machine a node may lose its lease, and is named: it asks the database, or lets nobody in.
        assert!(answers.iter().all(|status| [refused, 503].contains(status)), "{answers:?} {answer:?}");
        let (enforced_on, nodes, down) = enforcement(&answer);
        assert_eq!((enforced_on + down.len() as u64, nodes), (3, 3), "{answer:?}");
        assert!(answer.json["position"].as_u64().unwrap() >= answer.position(), "{answer:?}");
    }

    async fn stop(self) {
        self.is_over.store(true, Ordering::Relaxed);
        for load in self.load {
            load.await.unwrap();
        }
        for node in self.nodes {
            node.stop().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_ended_is_refused_by_every_node_when_the_answer_comes() {
    let busy = Busy::start().await;
    for round in 0..ROUNDS {
        let ann = busy.nodes[round % 3].customer().await;
        let path = format!("/v1/sessions/{}", ann.session);
        busy.loses(&ann, SESSION, 401, async |admin| admin.delete(&path).await).await;
        let bob = busy.nodes[round % 3].customer().await;
        let path = format!("/v1/accounts/{}/sessions/revoke", bob.account);
        busy.loses(&bob, SESSION, 401, async |admin| admin.post_nothing(&path).await).await;
    }
    busy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_is_taken_away_or_allows_less_counts_on_every_node_when_the_answer_comes() {
    let busy = Busy::start().await;
    for round in 0..ROUNDS {
        let ann = busy.nodes[round % 3].auditor().await;
        let path = format!("/v1/accounts/{}/roles/auditor", ann.account);
        busy.loses(&ann, AUDIT, 403, async |admin| admin.delete_with(&path, because()).await).await;

        let role = format!("/v1/roles/reader-{round}");
        let define = async |admin: &Client, permissions: &[&str]| {
            admin.put(&role, json!({"permissions": permissions, "reason": "they asked"})).await
        };
        assert_eq!(define(&busy.admin, &["audit.read"]).await.status, 200);
        let bob = busy.nodes[round % 3].user(&["customer", &format!("reader-{round}")]).await;
        busy.loses(&bob, AUDIT, 403, async |admin| define(admin, &["accounts.read"]).await).await;
    }
    busy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_account_and_a_revoked_key_are_refused_by_every_node_when_the_answer_comes() {
    let busy = Busy::start().await;
    for round in 0..ROUNDS {
        let ann = busy.nodes[round % 3].customer().await;
        let path = format!("/v1/accounts/{}/suspend", ann.account);
        busy.loses(&ann, SESSION, 401, async |admin| admin.post(&path, because()).await).await;

        let expires_at = operator().now + TimeDelta::days(1);
        let key = json!({"name": "gateway", "permissions": ["audit.read"], "expires_at": expires_at});
        let key = busy.admin.post("/v1/api-keys", key).await;
        let service =
            Client { access_token: Some(key.json["secret"].as_str().unwrap().to_owned()), ..Client::default() };
        let path = format!("/v1/api-keys/{}", key.json["api_key_id"].as_str().unwrap());
        busy.loses(&service, AUDIT, 401, async |admin| admin.delete(&path).await).await;
    }
    busy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_takes_rights_away_does_so_on_every_node_when_the_answer_comes() {
    let busy = Busy::start().await;
    for _ in 0..ROUNDS {
        let ann = busy.nodes[1].auditor().await;
        let require = async |admin: &Client, roles: &[&str]| {
            let mut policy = admin.get("/v1/policy").await.json;
            policy["second_factor"]["required_for"] = json!(roles);
            policy["reason"] = json!("they asked");
            admin.put("/v1/policy", policy).await
        };
        busy.loses(&ann, AUDIT, 403, async |admin| require(admin, &["auditor"]).await).await;
        assert_eq!(require(&busy.admin, &[]).await.status, 200);
    }
    busy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_administrators_do_to_an_account_says_where_it_is_in_force() {
    let nodes = three().await;
    let (admin, ann) = (nodes[0].admin().await, nodes[1].customer().await);
    for verb in ["unlock", "expire-password", "suspend", "reinstate"] {
        let answer = admin.post(&format!("/v1/accounts/{}/{verb}", ann.account), because()).await;
        assert_eq!(enforcement(&answer).1, 3, "{verb}");
    }
    let nothing_left = admin.post_nothing(&format!("/v1/accounts/{}/sessions/revoke", ann.account)).await;
    assert_eq!((enforcement(&nothing_left).1, &nothing_left.json["revoked"]), (3, &json!(0)));
    eventually("all of them enforce it", async || {
        let answer = admin.post(&format!("/v1/accounts/{}/unlock", ann.account), because()).await;
        enforcement(&answer) == (3, 3, vec![])
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_repeated_under_its_key_is_waited_for_again() {
    let nodes = three().await;
    let (admin, ann) = (nodes[0].admin().await, nodes[1].auditor().await);
    let path = format!("/v1/accounts/{}/roles/auditor", ann.account);
    for node in &nodes {
        let admin = Client { url: node.url.clone(), ..admin.with_header("idempotency-key", "a key") };
        let answer = admin.delete_with(&path, because()).await;
        assert_eq!(enforcement(&answer).1, 3);
        assert_eq!(everywhere(&[&node.url], &ann, AUDIT).await, [403]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_nats_it_is_known_by_the_next_tick() {
    let database = Arc::new(Database::create().await);
    let mut env = database.env();
    env.remove("NATS_URL");
    let nodes = [Node::with(&database, env.clone()).await, Node::with(&database, env).await];
    let admin = nodes[0].admin().await;
    for _ in 0..5 {
        let ann = nodes[0].customer().await;
        let urls = [nodes[0].url.as_str(), nodes[1].url.as_str()];
        let answer = admin.delete(&format!("/v1/sessions/{}", ann.session)).await;
        assert_eq!(everywhere(&urls, &ann, SESSION).await, [401; 2]);
        assert_eq!(enforcement(&answer).1, 2);
    }
    eventually("both enforce it", async || {
        let answer = admin.delete(&format!("/v1/sessions/{}", nodes[0].customer().await.session)).await;
        enforcement(&answer) == (2, 2, vec![])
    })
    .await;
}
