//! The cost of a request whose account's and session's streams have 10 events, and 10,000: each is read from its last
//! snapshot on.

use std::time::Instant;

use chrono::TimeDelta;
use fulexo_domain::account::{AccountEvent, PasswordChangeCause};
use fulexo_domain::session::SessionEvent;
use fulexo_node::clock;
use fulexo_tests::{Answer, Client, Node, PASSWORD, lengthen};
use hyper::Method;
use serde_json::json;
use tokio::runtime::Runtime;

use crate::{logins, table};

const SHORT: usize = 10;
const LONG: usize = 10_000;
/// The number of requests. They are few, or the short streams would not stay short; as many run before them, to fill
/// caches.
const REQUESTS: usize = 100;
/// A request with the longer streams may cost this many times as much as with the shorter.
const WANTED: f64 = 1.1;

#[derive(Clone, Copy)]
enum Kind {
    Read,
    Session,
    Introspect,
    Login,
    Refresh,
    Change,
}

pub fn run(runtime: &Runtime) {
    let node = runtime.block_on(logins::node());
    let mut clients = [SHORT, LONG].map(|events| runtime.block_on(somebody(&node, events)));
    let service = runtime.block_on(service(&node));
    table::head(
        "one request alone, milliseconds, median",
        &format!("{} events", table::number(LONG as f64)),
        &format!("{} events", table::number(SHORT as f64)),
    );
    for (name, kind) in [
        ("GET /v1/me", Kind::Read),
        ("GET /v1/auth/session", Kind::Session),
        ("POST /v1/auth/introspect", Kind::Introspect),
        ("POST /v1/auth/refresh", Kind::Refresh),
        ("PATCH /v1/me", Kind::Change),
        // The logins come last: so many of them end the earlier sessions.
        ("POST /v1/auth/login", Kind::Login),
    ] {
        let mut times = [Vec::new(), Vec::new()];
        for round in 0..2 * REQUESTS {
            for (client, times) in clients.iter_mut().zip(&mut times) {
                let took = runtime.block_on(ask(&node, &service, client, kind, round));
                if round >= REQUESTS {
                    times.push(took);
                }
            }
        }
        let [short, long] = times.map(table::median);
        table::line_at_most(name, long, short, WANTED);
    }
    runtime.block_on(node.stop());
}

/// Returns the milliseconds of a request.
async fn ask(node: &Node, service: &Client, client: &mut Client, kind: Kind, round: usize) -> f64 {
    let anonymous = node.anonymous();
    let started = Instant::now();
    let answer: Answer = match kind {
        Kind::Read => client.get("/v1/me").await,
        Kind::Session => client.get("/v1/auth/session").await,
        Kind::Introspect => {
            let body = format!("token={}", client.access_token.as_deref().unwrap_or_default());
            service.send(Method::POST, "/v1/auth/introspect", Some("application/x-www-form-urlencoded"), &body).await
        }
        Kind::Login => {
            let body = json!({"email": client.email, "password": PASSWORD, "device_token": client.device_token});
            anonymous.post("/v1/auth/login", body).await
        }
        Kind::Refresh => anonymous.post("/v1/auth/refresh", json!({"refresh_token": client.refresh_token})).await,
        Kind::Change => {
            let body = json!({"display_name": if round.is_multiple_of(2) { "Ann" } else { "Anna" }}).to_string();
            client.send(Method::PATCH, "/v1/me", Some("application/json"), &body).await
        }
    };
    let took = started.elapsed().as_secs_f64() * 1e3;
    assert_eq!(answer.status, 200, "{answer:?}");
    if matches!(kind, Kind::Refresh) {
        client.log_in_with(&answer);
    }
    took
}

/// Returns a logged-in user whose account and session have this many events.
async fn somebody(node: &Node, events: usize) -> Client {
    let client = node.customer().await;
    let rehashed = AccountEvent::PasswordChanged { how: PasswordChangeCause::Rehash };
    lengthen(node, client.account, client.account, rehashed, events - 2).await;
    let now = clock::now();
    let refreshed = SessionEvent::Refreshed {
        generation: 1,
        grace_until: now + TimeDelta::seconds(10),
        idle_expires_at: now + TimeDelta::days(7),
    };
    lengthen(node, client.account, client.session, refreshed, events - 1).await;
    client
}

/// Returns a service that may introspect tokens.
async fn service(node: &Node) -> Client {
    let expires_at = clock::now() + TimeDelta::days(1);
    let key = json!({"name": "bench", "permissions": ["tokens.introspect"], "expires_at": expires_at});
    let made = node.admin().await.post("/v1/api-keys", key).await;
    Client { access_token: made.json["secret"].as_str().map(String::from), ..node.anonymous() }
}
