//! The stream of the audit trail, sent to 200 clients at once: events delivered in a second in all, and the time from an append
//! to its arrival, next to those of one client alone. `BENCH_EVENTS` sets the number of events.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fulexo_domain::account::{AccountEvent, PasswordChangeCause};
use fulexo_node::streams::{MOST_OF_CALLER, MOST_OF_NODE};
use fulexo_tests::{Client, Database, EventSource, Node, lengthen, log_size};
use futures_util::future::join_all;
use tokio::runtime::Runtime;
use tokio::time::sleep;

use crate::table;

const PATH: &str = "/v1/audit/stream";

struct Delivery {
    /// Events that arrived, of all clients, in a second.
    rate: f64,
    /// The milliseconds from the append of a single event to its arrival, of each client.
    delays: Vec<f64>,
}

pub fn run(runtime: &Runtime) {
    let events: usize = std::env::var("BENCH_EVENTS").ok().and_then(|text| text.parse().ok()).unwrap_or(2_000);
    runtime.block_on(async {
        let node = Node::join(&Arc::new(Database::create().await)).await;
        let ann = node.customer().await;
        let mut auditors = Vec::new();
        for _ in 0..MOST_OF_NODE / MOST_OF_CALLER {
            auditors.push(node.auditor().await);
        }
        let mut one = deliver(&node, &ann, open(&auditors, 1).await, events).await;
        let mut all = deliver(&node, &ann, open(&auditors, MOST_OF_NODE).await, events).await;
        let clients = format!("{MOST_OF_NODE} clients");
        table::head(&format!("{events} events as server-sent events"), &clients, "one client");
        table::line("events/s delivered in all", all.rate, one.rate, None);
        for (name, share) in [("p50 append to arrival, ms", 0.5), ("p99 append to arrival, ms", 0.99)] {
            table::line(
                name,
                table::percentile(&mut all.delays, share),
                table::percentile(&mut one.delays, share),
                None,
            );
        }
        node.stop().await;
    });
}

async fn open(auditors: &[Client], wanted: usize) -> Vec<EventSource> {
    let mut sources = Vec::new();
    for number in 0..wanted {
        sources.push(auditors[number % auditors.len()].stream(PATH).await.unwrap());
    }
    sources
}

/// Appends as fast as the log takes them, then one event at a time.
async fn deliver(node: &Node, ann: &Client, mut sources: Vec<EventSource>, events: usize) -> Delivery {
    let rehashed = || AccountEvent::PasswordChanged { how: PasswordChangeCause::Rehash };
    let last = log_size(node).await + events as u64 - 1;
    let began = Instant::now();
    let arriving =
        join_all(sources.iter_mut().map(async |source| while source.event().await.unwrap()["position"] != last {}));
    tokio::join!(arriving, lengthen(node, ann.account, ann.account, rehashed(), events));
    let rate = (events * sources.len()) as f64 / began.elapsed().as_secs_f64();
    let mut delays = Vec::new();
    for _ in 0..100 {
        let began = Instant::now();
        let arriving = join_all(sources.iter_mut().map(async |source| {
            source.event().await.unwrap();
            began.elapsed().as_secs_f64() * 1e3
        }));
        let (arrived, ()) = tokio::join!(arriving, lengthen(node, ann.account, ann.account, rehashed(), 1));
        delays.extend(arrived);
        // The next one finds nothing under way.
        sleep(Duration::from_millis(5)).await;
    }
    Delivery { rate, delays }
}
