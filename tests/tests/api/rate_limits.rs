//! The number of requests that are let in: by address, by address on routes that cost more, by account; on one node and
//! on three; and the log's record of the others.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::sync::Arc;

use chrono::TimeDelta;
use fulexo_database::begin;
use fulexo_tests::{Answer, Client, Database, Node, PASSWORD, eventually, leaves, log_size, operator, superuser};
use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use hyper::Method;
use serde_json::{Value, json};

const LOGIN: &str = "/v1/auth/login";
const LIVE: &str = "/health/live";

/// Starts a node with these quotas, which trusts a proxy on this machine.
async fn limited(database: &Arc<Database>, quotas: &str) -> Node {
    let mut env = database.env();
    env.insert("FULEXO_RATE_LIMITS".into(), quotas.into());
    env.insert("TRUSTED_PROXIES".into(), "127.0.0.1/32".into());
    Node::with(database, env).await
}

async fn alone(quotas: &str) -> Node {
    limited(&Arc::new(Database::create().await), quotas).await
}

/// Returns a client that the proxy reports under this address.
fn at(node: &Node, address: &str) -> Client {
    node.anonymous().with_header("x-forwarded-for", address)
}

fn guess(number: usize) -> Value {
    json!({"email": format!("nobody-{number}@example.com"), "password": "not-the-Passw0rd!"})
}

fn assert_refused(answer: &Answer, limit: &str) {
    assert_eq!((answer.status, answer.code()), (429, "rate_limited"), "{answer:?}");
    let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=3_600).contains(&wait), "{answer:?}");
    let shown = |name: &str, start: String| {
        let mut lines = answer.headers.get_all(name).iter().map(|value| value.to_str().unwrap());
        assert!(lines.any(|line| line.starts_with(&start)), "{name} without {start}: {answer:?}");
    };
    shown("ratelimit-policy", format!("\"{limit}\";q="));
    shown("ratelimit", format!("\"{limit}\";r=0;t="));
    assert_eq!(answer.json["quota"], limit, "{answer:?}");
    assert!(answer.json["detail"].as_str().unwrap().contains(&format!("`{limit}`")), "{answer:?}");
}

async fn events(database: &Database) -> Vec<Value> {
    let events = leaves(database).await.into_iter();
    events.filter(|leaf| leaf["type"] == "rate_limit.violated").collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_gets_its_quota_and_is_told_where_it_stands() {
    let node = alone("address=5/1h").await;
    for left in (0..5).rev() {
        let answer = at(&node, "203.0.113.9").get(LIVE).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.header("ratelimit-policy"), Some("\"address\";q=5;w=3600"));
        let state = answer.header("ratelimit").unwrap();
        assert!(state.starts_with(&format!("\"address\";r={left};t=")), "{state}");
    }
    assert_refused(&at(&node, "203.0.113.9").get(LIVE).await, "address");
    assert_refused(&at(&node, "203.0.113.9").get("/no/such/path").await, "address");
    assert_eq!(at(&node, "203.0.113.10").get(LIVE).await.status, 200, "its neighbour is somebody else");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_comes_back_with_time() {
    let node = alone("address=2/2s").await;
    let get = async || at(&node, "203.0.113.9").get(LIVE).await;
    let mut refused = get().await;
    assert_eq!(refused.status, 200, "{refused:?}");
    while refused.status == 200 {
        refused = get().await;
    }
    assert_refused(&refused, "address");
    let wait = refused.header("retry-after").unwrap().parse().unwrap();
    // The wait is as long as the node said.
    tokio::time::sleep(std::time::Duration::from_secs(wait)).await;
    assert_eq!(get().await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_client_says_of_its_address_it_has_one_quota() {
    let database = Arc::new(Database::create().await);
    let mut env = database.env();
    env.insert("FULEXO_RATE_LIMITS".into(), "address=5/1h".into());
    // This node trusts no proxy.
    let stranger = Node::with(&database, env).await;
    let proxied = limited(&database, "address=5/1h").await;
    let claims = |number: usize| {
        let claim = format!("198.51.100.{number}");
        [
            ("x-forwarded-for", claim.clone()),
            ("forwarded", format!("for={claim}")),
            ("x-real-ip", claim.clone()),
            ("x-client-ip", claim.clone()),
            ("true-client-ip", claim),
        ]
    };
    for number in 0..5 {
        for (header, claim) in claims(number) {
            let through = proxied.anonymous().with_header("x-forwarded-for", &format!("{claim}, 203.0.113.9"));
            let answers = [
                stranger.anonymous().with_header(header, &claim).get(LIVE).await,
                if header == "x-forwarded-for" {
                    through.get(LIVE).await
                } else {
                    at(&proxied, "203.0.113.9").get(LIVE).await
                },
            ];
            for answer in answers {
                assert!([200, 429].contains(&answer.status), "{answer:?}");
            }
        }
    }
    assert_refused(&stranger.anonymous().get(LIVE).await, "address");
    assert_refused(&at(&proxied, "203.0.113.9").get(LIVE).await, "address");
}

#[tokio::test(flavor = "multi_thread")]
async fn neighbours_in_one_ipv6_network_are_one_address() {
    let node = alone("address=4/1h").await;
    let get = async |address: &str| {
        let forwarded = format!("for=\"[{address}]:4711\"");
        node.anonymous().with_header("forwarded", &forwarded).get(LIVE).await
    };
    for host in ["1", "2", "ffff:1:2:3", "dead:beef:0:1"] {
        let address = if host.contains(':') { format!("2001:db8:1:2:{host}") } else { format!("2001:db8:1:2::{host}") };
        assert_eq!(get(&address).await.status, 200);
    }
    assert_refused(&get("2001:db8:1:2::5").await, "address");
    assert_eq!(get("2001:db8:1:3::1").await.status, 200, "another network");
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_that_cost_more_have_quotas_of_their_own() {
    let node = alone("login=3/1h,register=1/1h,refresh=2/1h,second_factor=2/1h").await;
    let calls = [
        (3, LOGIN, "login", guess(1)),
        (2, "/v1/auth/refresh", "refresh", json!({"refresh_token": "rt_unknown"})),
        (2, "/v1/auth/second-factor", "second_factor", json!({"challenge_token": "unknown", "code": "000000"})),
        (1, "/v1/auth/register", "register", json!({"email": "ann@example.com", "password": PASSWORD})),
    ];
    for (quota, path, limit, body) in calls {
        for left in (0..quota).rev() {
            let answer = at(&node, "203.0.113.9").post(path, body.clone()).await;
            assert!([201, 401].contains(&answer.status), "{path}: {answer:?}");
            let shown = answer.headers.get_all("ratelimit").iter().map(|value| value.to_str().unwrap().to_owned());
            let shown: Vec<String> = shown.collect();
            assert!(
                shown.iter().any(|line| line.starts_with(&format!("\"{limit}\";r={left};t="))),
                "{path}: {shown:?}"
            );
        }
        assert_refused(&at(&node, "203.0.113.9").post(path, body.clone()).await, limit);
        assert_ne!(at(&node, "203.0.113.10").post(path, body).await.status, 429, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_has_one_quota_however_its_path_is_spelt() {
    let node = alone("login=3/1h").await;
    let mut evaluated = 0;
    for path in [LOGIN, "/v1/auth/%6cogin", "/v1/auth/%6Cogin", "/v1/auth/login/", "//v1/auth/login", "/v1/auth//login"]
    {
        for query in ["", "?a=b"] {
            let client = at(&node, "203.0.113.9");
            let body = guess(1).to_string();
            let answer = client.send(Method::POST, &format!("{path}{query}"), Some("application/json"), &body).await;
            // With a parameter that a login does not have, it is counted as well, and not evaluated.
            evaluated += usize::from([400, 401].contains(&answer.status));
            assert!([400, 401, 404, 429].contains(&answer.status), "{path}: {answer:?}");
        }
    }
    for _ in 0..3 {
        evaluated += usize::from(at(&node, "203.0.113.9").post(LOGIN, guess(1)).await.status == 401);
    }
    assert_eq!(evaluated, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_login_is_neither_evaluated_nor_counted_nor_recorded() {
    let node = alone("login=3/1h").await;
    let (email, _) = node.register(&[]).await;
    let wrong = json!({"email": email, "password": "not-the-Passw0rd!"});
    for _ in 0..3 {
        assert_eq!(at(&node, "203.0.113.9").post(LOGIN, wrong.clone()).await.status, 401);
    }
    let size = log_size(&node).await;
    for _ in 0..20 {
        assert_refused(&at(&node, "203.0.113.9").post(LOGIN, wrong.clone()).await, "login");
    }
    assert_eq!(log_size(&node).await, size);
    let right = json!({"email": email, "password": PASSWORD});
    assert_eq!(at(&node, "203.0.113.10").post(LOGIN, right).await.status, 200, "three failures do not lock");
}

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_let_no_more_logins_in_than_one() {
    let database = Arc::new(Database::create().await);
    let nodes = join_all((0..3).map(|_| limited(&database, "login=7/1h"))).await;
    let guesses = (0..60).map(|number| {
        let client = at(&nodes[number % 3], "203.0.113.9");
        async move { client.post(LOGIN, guess(number)).await.status }
    });
    // A few at a time: if the shared count does not answer in time, a node counts alone.
    let statuses: Vec<u16> = stream::iter(guesses).buffer_unordered(6).collect().await;
    let let_in = statuses.iter().filter(|status| **status == 401).count();
    assert_eq!(let_in, 7, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| **status == 429).count(), 53, "{statuses:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_shared_count_does_not_answer_a_node_counts_alone() {
    let database = Arc::new(Database::create().await);
    let node = limited(&database, "login=5/1h").await;
    let superuser = superuser(&database).await;
    let mut blocker = begin(&superuser).await.unwrap();
    sqlx::query("lock table vault.rate_limit in access exclusive mode").execute(&mut *blocker).await.unwrap();
    for number in 0..5 {
        assert_eq!(at(&node, "203.0.113.9").post(LOGIN, guess(number)).await.status, 401);
    }
    assert_refused(&at(&node, "203.0.113.9").post(LOGIN, guess(5)).await, "login");
    blocker.rollback().await.unwrap();
    let other = limited(&database, "login=5/1h").await;
    // A later request finds the shared count as it was: it lacks the requests that were let in meanwhile.
    eventually("the node counts with others again", async || {
        let [a, b] = [&node, &other].map(|node| at(node, "203.0.113.77"));
        let (a, b) = (a.post(LOGIN, guess(6)).await.status, b.post(LOGIN, guess(7)).await.status);
        (a, b) != (401, 401)
    })
    .await;
    let shared: i64 = sqlx::query_scalar("select count(*) from vault.rate_limit").fetch_one(&superuser).await.unwrap();
    assert!(shared > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_has_one_quota_from_wherever_it_asks() {
    let node = alone("account=6/1h").await;
    let (ann, bob) = (node.customer().await, node.customer().await);
    for number in 0..6 {
        let client = ann.with_header("x-forwarded-for", &format!("203.0.113.{number}"));
        assert_eq!(client.get("/v1/auth/session").await.status, 200);
    }
    assert_refused(&ann.get("/v1/auth/session").await, "account");
    assert_refused(&node.log_in(&ann.email, ann.account).await.get("/v1/me").await, "account");
    assert_eq!(bob.get("/v1/auth/session").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_key_has_a_quota_of_its_own() {
    let node = alone("account=6/1h").await;
    let admin = node.admin().await;
    let expires_at = operator().now + TimeDelta::days(1);
    let key = json!({"name": "gateway", "permissions": ["audit.read"], "expires_at": expires_at});
    let key = admin.post("/v1/api-keys", key).await;
    let service = Client { access_token: key.json["secret"].as_str().map(str::to_owned), ..node.anonymous() };
    for _ in 0..6 {
        let answer = service.get("/v1/audit/events").await;
        assert_eq!(answer.status, 200, "{answer:?} {key:?}");
    }
    assert_refused(&service.get("/v1/audit/events").await, "account");
    assert_eq!(admin.get("/v1/auth/session").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_of_a_window_are_one_event_that_says_how_many_and_seals_the_address() {
    let node = alone("login=2/2s").await;
    for number in 0..42 {
        at(&node, "203.0.113.9").post(LOGIN, guess(number)).await;
    }
    assert!(events(&node.database).await.len() <= 1, "the window is not over");
    eventually("the window's event", async || !events(&node.database).await.is_empty()).await;
    let database = Arc::clone(&node.database);
    node.stop().await;
    let events = events(&database).await;
    let counts = events.iter().map(|leaf| leaf["data"]["count"].as_u64().unwrap());
    let (refused, windows) = (counts.sum::<u64>(), events.len());
    assert!((30..=40).contains(&refused) && windows <= 3, "{events:?}");
    for leaf in events {
        assert_eq!((&leaf["data"]["layer"], &leaf["data"]["route"]), (&json!("address"), &json!("login")), "{leaf}");
        assert_eq!(leaf["sealed"][0]["fields"], json!(["ip"]), "{leaf}");
        assert_eq!(leaf["actor"], json!({"kind": "anonymous"}), "{leaf}");
        assert!(!leaf.to_string().contains("203.0.113"), "{leaf}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_refused_before_a_node_stops_is_recorded() {
    let database = Arc::new(Database::create().await);
    let node = limited(&database, "account=3/1d,address=1000/1d").await;
    let ann = node.customer().await;
    for _ in 0..10 {
        ann.get("/v1/auth/session").await;
    }
    assert!(events(&database).await.is_empty());
    node.stop().await;
    let events = events(&database).await;
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!((&events[0]["data"]["layer"], &events[0]["data"]["count"]), (&json!("account"), &json!(7)));
    assert_eq!(events[0]["actor"], json!({"kind": "account", "id": ann.account}));
    assert_eq!(events[0]["subject"], json!(ann.account));
}

#[tokio::test(flavor = "multi_thread")]
async fn auditors_find_refusals_by_their_type() {
    let node = alone("login=1/1s").await;
    let auditor = node.auditor().await;
    for number in 0..5 {
        at(&node, "203.0.113.9").post(LOGIN, guess(number)).await;
    }
    eventually("the event", async || {
        let found = auditor.get("/v1/audit/events?type=rate_limit.violated").await;
        assert_eq!(found.status, 200, "{found:?}");
        found.json["items"].as_array().unwrap().iter().any(|event| event["data"]["route"] == "login")
    })
    .await;
}
