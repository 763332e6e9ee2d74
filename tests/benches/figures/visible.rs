//! The time from the answer of a command until it is visible in a read model that follows the log, asked at another
//! node; next to the same query when there is nothing to wait for. `BENCH_COMMANDS` sets the number of commands.

use std::sync::Arc;
use std::time::Instant;

use fulexo_tests::{Client, Database, Node, there};
use serde_json::json;
use tokio::runtime::Runtime;

use crate::table;

pub fn run(runtime: &Runtime) {
    let wanted: usize = std::env::var("BENCH_COMMANDS").ok().and_then(|text| text.parse().ok()).unwrap_or(300);
    runtime.block_on(async {
        let database = Arc::new(Database::create().await);
        let nodes = [Node::join(&database).await, Node::join(&database).await];
        let (ann, admin) = (nodes[0].customer().await, nodes[0].admin().await);
        let elsewhere = there(&nodes[1], &admin);
        let path = format!("/v1/accounts/{}", ann.account);
        let (mut visible, mut plain) = (Vec::new(), Vec::new());
        // The first ones open connections.
        for number in 0..wanted + wanted / 10 {
            let name = format!("Ann {number}");
            let body = json!({"display_name": name}).to_string();
            let changed = ann.send(hyper::Method::PATCH, "/v1/me", Some("application/json"), &body).await;
            assert_eq!(changed.status, 200, "{changed:?}");
            let times =
                (ask(&elsewhere.seeing(changed.position()), &path, &name).await, ask(&elsewhere, &path, &name).await);
            if number >= wanted / 10 {
                visible.push(times.0);
                plain.push(times.1);
            }
        }
        table::head(
            &format!("from command to visible at another node, {wanted} times, milliseconds"),
            "with the query",
            "the query alone",
        );
        for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
            table::line(name, table::percentile(&mut visible, share), table::percentile(&mut plain, share), None);
        }
        for node in nodes {
            node.stop().await;
        }
    });
}

async fn ask(client: &Client, path: &str, name: &str) -> f64 {
    let began = Instant::now();
    let answer = client.get(path).await;
    let took = began.elapsed().as_secs_f64() * 1e3;
    assert_eq!((answer.status, answer.json["display_name"].as_str()), (200, Some(name)), "{answer:?}");
    took
}
