//! The cost of one login in a log of 10,000 events and in one of 2,000,000, with as many streams, addresses and
//! sessions as belong to it; at bcrypt's least cost, so that all but the hash is seen, and at the one of production.
//!
//! Set `FULEXO_BENCH_EVENTS=200000` for a shorter log.

use std::sync::Arc;
use std::time::Duration;

use fulexo_projections::read_models::Projection;
use fulexo_projections::rebuild::{RebuildOptions, rebuild};
use fulexo_tests::{Client, Database, Node, PASSWORD, history, superuser};
use serde_json::json;
use sqlx::AssertSqlSafe;
use tokio::runtime::Runtime;

use crate::{load, table};

const SHORT: usize = 10_000;
const LONG: usize = 2_000_000;
const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(3);
/// A login in the longer log may cost this many times as much as in the shorter.
const WANTED: f64 = 1.15;

pub fn run(runtime: &Runtime) {
    let long = std::env::var("FULEXO_BENCH_EVENTS").ok().and_then(|events| events.parse().ok()).unwrap_or(LONG);
    let (short, grown) = (runtime.block_on(grown(SHORT)), runtime.block_on(grown(long)));
    table::head(
        "one login alone, milliseconds, median",
        &format!("{} events", table::number(long as f64)),
        &format!("{} events", table::number(SHORT as f64)),
    );
    for cost in [4, 10] {
        let nodes = [runtime.block_on(start(&short, cost)), runtime.block_on(start(&grown, cost))];
        let mut times = [Vec::new(), Vec::new()];
        // The first round fills caches.
        for round in 0..=ROUNDS {
            for ((node, request), times) in nodes.iter().zip(&mut times) {
                let latencies =
                    runtime.block_on(load::drive(&node.url, 1, ROUND, vec![request.clone()], 200)).latencies;
                if round > 0 {
                    times.push(table::median(latencies));
                }
            }
        }
        let [short, long] = times.map(table::median);
        table::line(&format!("bcrypt cost {cost}"), long, short, None);
        println!("  wanted: at most {WANTED} times{}", if long > WANTED * short { ": SHORT" } else { "" });
        for (node, _) in nodes {
            runtime.block_on(node.stop());
        }
    }
}

/// Creates a database with a log of this many events and everything else that a login meets.
pub async fn grown(events: usize) -> Arc<Database> {
    let database = Arc::new(Database::create().await);
    history::fill(&database, events).await;
    let pool = database.pool().await;
    let options = RebuildOptions { program: "the bench".into(), restart: true };
    for (_, rebuilt) in rebuild(&pool, &Projection::ALL, &options, |_, _| {}).await.unwrap() {
        rebuilt.unwrap();
    }
    pool.close().await;
    let superuser = superuser(&database).await;
    for statement in [
        "insert into log.stream select stream_id, category, max(version), max(position) from log.event group by 1, 2",
        "insert into log.unique_key select 'email', sha256(account_id::text::bytea), account_id from read.account",
        "insert into access.session (session_id, account_id, started_position, idle_expires_at, expires_at, ended_at,
                                     ended_position)
         select session_id, account_id, started_position, idle_expires_at, expires_at, ended_at, since from read.session",
        // One event in three has an address, and one in thirty the same one.
        "insert into log.sealed (position, ordinal, period, nonce, ciphertext, ip_digest)
         select position, 0, '2026-01-01', '\\x000000000000000000000000', '\\x00',
                decode(lpad(to_hex(case when position % 30 = 0 then 0 else position % 5000 end), 32, '0'), 'hex')
         from log.event where position % 3 = 0",
        "vacuum analyze",
        "checkpoint",
    ] {
        sqlx::query(AssertSqlSafe(statement)).execute(&superuser).await.unwrap();
    }
    superuser.close().await;
    database
}

/// Starts a node on it; returns the node, and the login of a new account from a known device.
async fn start(database: &Arc<Database>, cost: u32) -> (Node, Vec<u8>) {
    let mut env = database.env();
    env.insert("FULEXO_BCRYPT_COST".into(), cost.to_string());
    let node = Node::with(database, env).await;
    let (email, account) = node.register(&["customer"]).await;
    let Client { device_token, .. } = node.log_in(&email, account).await;
    let body = json!({"email": email, "password": PASSWORD, "device_token": device_token}).to_string();
    (node, load::request("POST", "/v1/auth/login", None, Some(&body)))
}
