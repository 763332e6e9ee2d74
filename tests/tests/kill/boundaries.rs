//! Incidents with targets, and what the log says of their containment, for tests that kill it at every boundary.

use std::collections::{BTreeMap, BTreeSet};

use chrono::TimeDelta;
use fulexo_tests::{Client, Database, Fate, Node, PASSWORD, leaves};
use serde_json::{Value, json};
use uuid::Uuid;

/// The events at whose commits a containment is killed: its own, and of each kind of measure the first and a later one.
const COMMITS: [(&str, i64); 9] = [
    ("incident.containment_started", 1),
    ("lockdown.started", 1),
    ("api_key.revoked", 1),
    ("api_key.revoked", 2),
    ("account.suspended", 1),
    ("account.suspended", 2),
    ("session.revoked", 1),
    ("session.revoked", 3),
    ("incident.contained", 1),
];

pub const REASON: &str = "tokens were found in a paste";

/// Returns every boundary: the kind of the event, which of them, and what becomes of its commit.
pub fn boundaries() -> impl Iterator<Item = (&'static str, i64, Fate)> {
    COMMITS.into_iter().flat_map(|(kind, nth)| [Fate::Lost, Fate::Recorded].map(|fate| (kind, nth, fate)))
}

/// An incident, and those whom its containment puts out.
pub struct Incident {
    pub id: Uuid,
    pub api_keys: Vec<Uuid>,
    services: Vec<Client>,
    pub suspended: Vec<Client>,
    /// The sessions of one account.
    pub sessions: Vec<Client>,
    spared: Client,
}

impl Incident {
    pub async fn open(node: &Node, admin: &Client) -> Self {
        let opened = admin.post("/v1/incidents", json!({"severity": "high", "summary": "s"})).await;
        assert_eq!(opened.status, 201, "{opened:?}");
        let (mut api_keys, mut services) = (Vec::new(), Vec::new());
        for name in ["billing", "reports"] {
            let expires_at = fulexo_node::clock::now() + TimeDelta::days(1);
            let new = json!({"name": name, "permissions": ["accounts.read"], "expires_at": expires_at});
            let key = admin.post("/v1/api-keys", new).await;
            api_keys.push(key.json["api_key_id"].as_str().unwrap().parse().unwrap());
            let secret = key.json["secret"].as_str().map(str::to_owned);
            services.push(Client { access_token: secret, ..Client::new(&node.url) });
        }
        let suspended = vec![node.customer().await, node.customer().await];
        let mut sessions = vec![node.customer().await];
        for _ in 0..2 {
            sessions.push(node.log_in(&sessions[0].email, sessions[0].account).await);
        }
        let id = opened.json["incident_id"].as_str().unwrap().parse().unwrap();
        Self { id, api_keys, services, suspended, sessions, spared: node.customer().await }
    }

    /// Checks that everybody is out, once, and that the incident knows of it. Returns the number of its containments.
    pub async fn assert_contained(&self, node: &Node, admin: &Client, database: &Database, base: usize) -> usize {
        for client in self.sessions.iter().chain(&self.suspended) {
            assert_eq!(client.get("/v1/me").await.status, 401);
        }
        for service in &self.services {
            assert_eq!(service.get("/v1/accounts").await.status, 401);
        }
        assert_eq!(self.spared.get("/v1/me").await.status, 200, "spared");
        let login = json!({"email": self.spared.email, "password": PASSWORD});
        assert_eq!(node.anonymous().post("/v1/auth/login", login).await.code(), "locked_down");

        let all = leaves(database).await;
        let (mut counts, mut incident) = (BTreeMap::<(&str, &str), usize>::new(), Vec::new());
        for leaf in all.iter().skip(base) {
            let (kind, stream) = (leaf["type"].as_str().unwrap(), leaf["stream"].as_str().unwrap());
            match kind {
                "lockdown.started" | "api_key.revoked" | "account.suspended" | "session.revoked" => {
                    *counts.entry((kind, stream)).or_default() += 1;
                }
                _ if leaf["stream"] == json!(self.id) => incident.push(kind),
                _ => {}
            }
        }
        assert!(counts.values().all(|count| *count == 1), "nobody is put out twice: {counts:?}");
        let out: BTreeSet<(&str, String)> = counts.keys().map(|(kind, stream)| (*kind, (*stream).to_owned())).collect();
        let wanted = [("lockdown.started", Uuid::nil())].into_iter();
        let wanted = wanted.chain(self.api_keys.iter().map(|key| ("api_key.revoked", *key)));
        let wanted = wanted.chain(self.suspended.iter().map(|client| ("account.suspended", client.account)));
        let wanted = wanted.chain(self.sessions.iter().map(|client| ("session.revoked", client.session)));
        for (kind, stream) in wanted {
            assert!(out.contains(&(kind, stream.to_string())), "{kind} of {stream}: {out:?}");
        }
        let of = |kind: &str| incident.iter().filter(|it| **it == kind).count();
        let (started, contained) = (of("incident.containment_started"), of("incident.contained"));
        assert!((contained..=2).contains(&started), "{incident:?}");
        assert_eq!(incident.last(), Some(&"incident.contained"), "recorded last");
        self.assert_told(admin, all.len()).await;
        contained
    }

    /// Checks that each measure is in the timeline, whichever attempt took it.
    async fn assert_told(&self, admin: &Client, size: usize) {
        let admin = admin.seeing(size as u64 - 1);
        let page = admin.get(&format!("/v1/incidents/{}/timeline?limit=200", self.id)).await;
        let items = page.json["items"].as_array().unwrap();
        let of = |kind: &str| items.iter().filter(|item| item["event"]["type"] == kind).count();
        let measures = ["lockdown.started", "api_key.revoked", "account.suspended", "session.revoked"].map(of);
        assert_eq!(measures, [1, self.api_keys.len(), self.suspended.len(), self.sessions.len()], "{page:?}");
    }
}

/// Lifts the lockdown of a round.
pub async fn lift(admin: &Client) {
    let lifted: Value = admin.delete_with("/v1/lockdown", json!({"reason": "the next round"})).await.json;
    assert!(lifted["enforcement"].is_object() || lifted["enforced_on"].is_number(), "{lifted}");
}
