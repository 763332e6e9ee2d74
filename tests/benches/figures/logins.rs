//! Logins per second over HTTP, against the bcrypt crate on all cores with nothing else to do; and a check that the
//! time of a refusal does not tell its reason: unknown address, wrong password, locked, suspended.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fulexo_tests::{Authenticator, Client, Database, Node, PASSWORD};
use serde_json::json;
use tokio::runtime::Runtime;

use crate::{load, table};

const COST: u32 = 10;
const CLIENTS: usize = 64;
const ROUNDS: usize = 3;
const ROUND: Duration = Duration::from_secs(5);
const TRIES: usize = 200;

pub fn run(runtime: &Runtime) {
    let node = runtime.block_on(node());
    let bodies = runtime.block_on(login_requests(&node));
    let (mut ours, mut theirs, mut latencies) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let round = runtime.block_on(load::drive(&node.url, CLIENTS, ROUND, bodies.clone(), 200));
        latencies.push(round.percentile(0.99));
        ours.push(round.rate);
        theirs.push(crate_hashes());
    }
    table::head("logins/s over HTTP, bcrypt cost 10, RS256", "fulexo", "bcrypt crate");
    table::line(&format!("{CLIENTS} clients, all cores"), table::median(ours), table::median(theirs), Some(2.3));
    println!("  p99 {} ms", table::number(table::median(latencies)));

    let single: Vec<f64> = runtime.block_on(load::drive(&node.url, 1, ROUND, bodies, 200)).latencies;
    let hash = one_hash();
    table::head("\none login alone, milliseconds, median", "fulexo", "1.1 crate hashes + 5 ms");
    table::line("at most the reference", table::median(single), 1.1 * hash + 5.0, None);

    let times = runtime.block_on(refusals(&node));
    let unknown = table::median(times[0].1.clone());
    table::head("\ntime of a refusal, milliseconds, median of 200 (a ratio of 0.95 to 1.05)", "it", "unknown address");
    for (state, times) in times.into_iter().skip(1) {
        table::line(state, table::median(times), unknown, None);
    }
    runtime.block_on(node.stop());
}

/// Starts a node as production runs it: RS256, cost 10.
pub async fn node() -> Node {
    let database = Arc::new(Database::create().await);
    let mut env = database.env();
    env.remove("JWT_SECRET");
    env.insert("JWT_PRIVATE_KEY".into(), fulexo_tests::rsa_key());
    env.insert("FULEXO_BCRYPT_COST".into(), COST.to_string());
    env.insert("TRUSTED_PROXIES".into(), "127.0.0.1/32".into());
    Node::with(&database, env).await
}

async fn login_requests(node: &Node) -> Vec<Vec<u8>> {
    let mut requests = Vec::new();
    for number in 0..CLIENTS {
        let (email, _) = node.register(&["customer"]).await;
        let body = json!({"email": email, "password": PASSWORD}).to_string();
        // Each login is from another address: an address has a share of the pool.
        let login = load::request("POST", "/v1/auth/login", None, Some(&body));
        requests.push(load::forwarded(&login, &format!("198.51.100.{number}")));
    }
    requests
}

/// Returns the verifications per second by the crate, with one thread per core.
fn crate_hashes() -> f64 {
    let verifier = bcrypt::hash_with_salt(PASSWORD, COST, [7; 16]).unwrap().to_string();
    let (count, done) = (AtomicU64::new(0), AtomicBool::new(false));
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().unwrap().get() {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    assert!(bcrypt::verify(PASSWORD, &verifier).unwrap());
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        std::thread::sleep(ROUND);
        done.store(true, Ordering::Relaxed);
    });
    count.load(Ordering::Relaxed) as f64 / started.elapsed().as_secs_f64()
}

fn one_hash() -> f64 {
    let verifier = bcrypt::hash_with_salt(PASSWORD, COST, [7; 16]).unwrap().to_string();
    let times = (0..20).map(|_| {
        let started = Instant::now();
        assert!(bcrypt::verify(PASSWORD, &verifier).unwrap());
        started.elapsed().as_secs_f64() * 1e3
    });
    table::median(times.collect())
}

/// Returns the milliseconds of each refusal, the kinds taking turns. No address that must stay open is tried often
/// enough to be locked.
async fn refusals(node: &Node) -> Vec<(&'static str, Vec<f64>)> {
    let client = node.anonymous();
    let admin = node.admin().await;
    let mut times: Vec<(&str, Vec<f64>)> =
        ["unknown address", "wrong password", "locked", "suspended", "with a second factor, wrong password"]
            .map(|state| (state, Vec::new()))
            .into();
    let mut addresses: Vec<String> = Vec::new();
    for number in 0..TRIES {
        if number % 4 == 0 {
            addresses = vec![format!("stranger-{number}@example.com")];
            for state in 1..times.len() {
                let somebody = node.customer().await;
                match state {
                    2 => lock(node, &somebody.email).await,
                    3 => {
                        let path = format!("/v1/accounts/{}/suspend", somebody.account);
                        assert_eq!(admin.post(&path, json!({"reason": "to measure"})).await.status, 200);
                    }
                    4 => enrol(&somebody).await,
                    _ => {}
                }
                addresses.push(somebody.email);
            }
        }
        for (email, (state, times)) in addresses.iter().zip(&mut times) {
            // A suspended account's login is refused even with the correct password.
            let password = if *state == "suspended" { PASSWORD } else { "not-the-Passw0rd!" };
            let body = json!({"email": email, "password": password});
            let started = Instant::now();
            let answer = client.post("/v1/auth/login", body).await;
            times.push(started.elapsed().as_secs_f64() * 1e3);
            assert_eq!(answer.status, 401);
        }
    }
    times
}

async fn lock(node: &Node, email: &str) {
    for _ in 0..5 {
        let body = json!({"email": email, "password": "not-the-Passw0rd!"});
        assert_eq!(node.anonymous().post("/v1/auth/login", body).await.status, 401);
    }
}

async fn enrol(client: &Client) {
    let started = client.post_nothing("/v1/me/second-factor/totp").await;
    let app = Authenticator::of(started.json["secret"].as_str().unwrap());
    let confirmed = client.post("/v1/me/second-factor/totp/confirm", json!({"code": app.code(0)})).await;
    assert_eq!(confirmed.status, 200, "{confirmed:?}");
}
