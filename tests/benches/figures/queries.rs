//! The cost of lists and searches in a log of 20,000 events and in one of 2,000,000, with the accounts and sessions
//! that belong to them: each list and each filter, over HTTP, one client. And the cost for a query of waiting for what
//! its node knows.
//!
//! Set `FULEXO_BENCH_EVENTS=200000` for a shorter log.

use std::time::{Duration, Instant};

use fulexo_tests::{Client, Database, Node, superuser};
use serde_json::json;
use tokio::runtime::Runtime;
use tokio::time::sleep;

use crate::growth::grown;
use crate::table;

const SHORT: usize = 20_000;
const LONG: usize = 2_000_000;
/// The number of calls of each query at each log, in turn.
const CALLS: usize = 200;
/// A query of the longer log may cost this many times as much as of the shorter, and this many milliseconds.
const WANTED: (f64, f64) = (1.5, 10.0);
/// The most milliseconds of nearly every page of the longer log: the 99th percentile.
const WANTED_OF_NEARLY_ALL: f64 = 20.0;
/// The appends per second under which a query waits.
const APPENDS: u64 = 1_000;
/// The digests of the address of one event in thirty, and of one that few have: see `growth::grown`.
const COMMON: &str = "AAAAAAAAAAAAAAAAAAAAAA";
const RARE: &str = "AAAAAAAAAAAAAAAAAAAAAw";

pub fn run(runtime: &Runtime) {
    let long = std::env::var("FULEXO_BENCH_EVENTS").ok().and_then(|events| events.parse().ok()).unwrap_or(LONG);
    runtime.block_on(async {
        let logs = [grown(SHORT).await, grown(long).await];
        let mut asked = Vec::new();
        for log in &logs {
            let mut env = log.env();
            env.insert("FULEXO_BCRYPT_COST".into(), "4".into());
            let node = Node::with(log, env).await;
            let admin = node.admin().await;
            let paths = paths(log).await;
            asked.push((node, admin, paths));
        }
        table::head(
            "a page of 50, milliseconds, p50",
            &format!("{} events", table::number(long as f64)),
            &format!("{} events", table::number(SHORT as f64)),
        );
        let mut slowest = Vec::new();
        for nth in 0..asked[0].2.len() {
            let mut times = [Vec::new(), Vec::new()];
            // The first calls plan and fill caches.
            for call in 0..CALLS + 10 {
                for ((_, admin, paths), times) in asked.iter().zip(&mut times) {
                    let took = ask(admin, &paths[nth].1).await;
                    if call >= 10 {
                        times.push(took);
                    }
                }
            }
            slowest.push(table::percentile(&mut times[1], 0.99));
            let [short, long] = times.map(table::median);
            let is_over = long > WANTED.1 || long > WANTED.0 * short;
            table::line(asked[0].2[nth].0, long, short, None);
            if is_over {
                println!("  wanted: at most {} times, and {} ms: OVER", WANTED.0, WANTED.1);
            }
        }
        println!();
        table::head(&format!("a page of 50 of {} events, milliseconds", table::number(long as f64)), "p99", "wanted");
        for ((name, _), slow) in asked[0].2.iter().zip(slowest) {
            table::line_at_most(name, slow, WANTED_OF_NEARLY_ALL, 1.0);
        }
        println!();
        let (node, admin, _) = &asked[0];
        waiting(node, admin).await;
        for (node, _, _) in asked {
            node.stop().await;
        }
    });
}

/// Returns every list with each of its filters, by what is in this log.
async fn paths(log: &Database) -> Vec<(&'static str, String)> {
    let pool = superuser(log).await;
    let text = async |sql: &'static str| -> String { sqlx::query_scalar(sql).fetch_one(&pool).await.unwrap() };
    let account =
        text("select subject_id::text from read.audit where subject_id is not null order by position limit 1").await;
    let actor =
        text("select actor_id::text from read.audit where actor_id is not null order by position limit 1").await;
    let session = text("select session_id::text from read.session order by session_id limit 1").await;
    let request = text("select correlation_id::text from read.audit order by position limit 1").await;
    let middle = text(
        "select to_char(recorded_at at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') from read.audit
         order by position desc offset 1000 limit 1",
    )
    .await;
    let size: i64 = sqlx::query_scalar("select position from log.head").fetch_one(&pool).await.unwrap();
    pool.close().await;
    let past = size - 500;
    vec![
        ("events", "/v1/audit/events".into()),
        ("events, newest first", "/v1/audit/events?order=desc".into()),
        ("events of a subject", format!("/v1/audit/events?subject={account}")),
        ("events of an actor", format!("/v1/audit/events?actor={actor}")),
        ("events of a request", format!("/v1/audit/events?correlation={request}")),
        ("events of a session", format!("/v1/audit/events?session={session}")),
        ("events with an id", format!("/v1/audit/events?id={account}")),
        ("events of a rare address", format!("/v1/audit/events?address={RARE}")),
        ("events of a common address", format!("/v1/audit/events?address={COMMON}")),
        ("common address, newest", format!("/v1/audit/events?address={COMMON}&order=desc")),
        ("common address and subject", format!("/v1/audit/events?address={COMMON}&subject={account}")),
        ("events of a common type", "/v1/audit/events?type=session.refreshed".into()),
        ("events of a type not there", "/v1/audit/events?type=lockdown.started".into()),
        ("events of a category", "/v1/audit/events?category=account".into()),
        ("events from a time on", format!("/v1/audit/events?from={middle}")),
        ("events until a time, back", format!("/v1/audit/events?to={middle}&order=desc")),
        ("subject and type", format!("/v1/audit/events?subject={account}&type=session.started")),
        ("events of a type, as of", format!("/v1/audit/events?type=account.role_granted&as_of={past}&order=desc")),
        ("accounts", "/v1/accounts".into()),
        ("accounts with a role", "/v1/accounts?role=auditor".into()),
        ("locked accounts", "/v1/accounts?locked=true".into()),
        ("suspended accounts", "/v1/accounts?suspended=true".into()),
        ("accounts with a factor", "/v1/accounts?second_factor=true".into()),
        ("accounts, as of", format!("/v1/accounts?as_of={past}&order=desc")),
        ("with a role, as of", format!("/v1/accounts?role=auditor&as_of={past}")),
        ("suspended, as of", format!("/v1/accounts?suspended=true&as_of={past}")),
        ("sessions", "/v1/sessions".into()),
        ("sessions of an account", format!("/v1/sessions?account_id={account}")),
        ("live sessions", "/v1/sessions?live=true".into()),
        ("ended sessions", "/v1/sessions?live=false".into()),
        ("live sessions, as of", format!("/v1/sessions?live=true&as_of={past}")),
        ("grants", "/v1/grants".into()),
        ("grants of a role", "/v1/grants?role=auditor".into()),
        ("grants, as of", format!("/v1/grants?role=auditor&as_of={past}")),
        ("metrics of an hour", "/v1/security/metrics?window=1h&step=1m".into()),
        ("metrics of an hour, as of", format!("/v1/security/metrics?window=1h&step=1m&as_of={past}")),
    ]
}

async fn ask(client: &Client, path: &str) -> f64 {
    let began = Instant::now();
    let answer = client.get(path).await;
    let took = began.elapsed().as_secs_f64() * 1e3;
    assert_eq!(answer.status, 200, "{path}: {answer:?}");
    took
}

/// Measures a query that waits, and the same without waiting, while others append.
async fn waiting(node: &Node, admin: &Client) {
    let mut customers = Vec::new();
    for _ in 0..16 {
        customers.push(node.customer().await);
    }
    let path = format!("/v1/accounts/{}", customers[0].account);
    let appending: Vec<_> = customers
        .into_iter()
        .map(|ann| {
            tokio::spawn(async move {
                for number in 0_u64.. {
                    let began = Instant::now();
                    let body = json!({"display_name": format!("Ann {number}")}).to_string();
                    ann.send(hyper::Method::PATCH, "/v1/me", Some("application/json"), &body).await;
                    sleep(Duration::from_secs_f64(16.0 / APPENDS as f64).saturating_sub(began.elapsed())).await;
                }
            })
        })
        .collect();
    let size = async || -> i64 {
        let pool = superuser(&node.database).await;
        let size = sqlx::query_scalar("select position from log.head").fetch_one(&pool).await.unwrap();
        pool.close().await;
        size
    };
    let (before, began) = (size().await, Instant::now());
    let (mut waiting, mut plain) = (Vec::new(), Vec::new());
    for _ in 0..400 {
        waiting.push(ask(admin, &path).await);
        plain.push(ask(&admin.seeing(0), &path).await);
    }
    let rate = (size().await - before) as f64 / began.elapsed().as_secs_f64();
    appending.iter().for_each(tokio::task::JoinHandle::abort);
    let title = format!("a query under {} appends a second, milliseconds", table::number(rate));
    table::head(&title, "that waits", "that does not");
    for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
        let at = |times: &mut Vec<f64>| {
            times.sort_by(f64::total_cmp);
            times[((share * times.len() as f64) as usize).min(times.len() - 1)]
        };
        table::line(name, at(&mut waiting), at(&mut plain), None);
    }
}
