//! The time from a revocation to its acknowledgement, by three nodes on one Postgres and one NATS; and to the first
//! refusal at the other two. `BENCH_REVOCATIONS` sets the number of each.

use std::sync::Arc;
use std::time::Instant;

use fulexo_tests::{Client, Database, Node, there};
use tokio::runtime::Runtime;

use crate::table;

/// The milliseconds of the acknowledgement, on an idle machine.
const WANTED_P99: f64 = 20.0;

pub fn run(runtime: &Runtime) {
    let wanted = std::env::var("BENCH_REVOCATIONS").ok().and_then(|text| text.parse().ok()).unwrap_or(300);
    runtime.block_on(async {
        let database = Arc::new(Database::create().await);
        let mut nodes = Vec::new();
        for name in ["one", "two", "three"] {
            let mut env = database.env();
            env.insert("FULEXO_NODE_NAME".into(), name.into());
            nodes.push(Node::with(&database, env).await);
        }
        let admin = nodes[0].admin().await;
        let (mut acknowledged, mut refused) = (Vec::new(), Vec::new());
        // The first ones open connections.
        for number in 0..wanted + wanted / 10 {
            let ann = nodes[number % 3].customer().await;
            let times =
                (acknowledge(&admin, &ann).await, refuse(&admin, &nodes[1..], &nodes[0].customer().await).await);
            if number >= wanted / 10 {
                acknowledged.push(times.0);
                refused.push(times.1);
            }
        }
        println!("a revocation at three nodes, {wanted} of each, milliseconds");
        println!("  {:<28} {:>16} {:>16}   wanted", "", "p50", "p99");
        line("to its acknowledgement", acknowledged, Some(WANTED_P99));
        line("to a refusal elsewhere", refused, None);
        for node in nodes {
            node.stop().await;
        }
    });
}

async fn acknowledge(admin: &Client, ann: &Client) -> f64 {
    let began = Instant::now();
    let answer = admin.delete(&format!("/v1/sessions/{}", ann.session)).await;
    let took = began.elapsed().as_secs_f64() * 1e3;
    assert_eq!((answer.status, answer.json["nodes"].as_u64()), (200, Some(3)), "{answer:?}");
    took
}

/// Returns the time from the call to the moment when both other nodes, asked repeatedly, have refused the session.
async fn refuse(admin: &Client, elsewhere: &[Node], ann: &Client) -> f64 {
    let asked = elsewhere.iter().map(|node| async {
        let client = there(node, ann);
        while client.get("/v1/auth/session").await.status != 401 {}
        Instant::now()
    });
    let began = Instant::now();
    let path = format!("/v1/sessions/{}", ann.session);
    let (refused, _) = tokio::join!(futures_util::future::join_all(asked), admin.delete(&path));
    let last = refused.into_iter().max().expect("two nodes");
    last.duration_since(began).as_secs_f64() * 1e3
}

fn line(name: &str, mut times: Vec<f64>, wanted: Option<f64>) {
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times[((share * times.len() as f64) as usize).min(times.len() - 1)];
    let (p50, p99) = (at(0.5), at(0.99));
    let verdict = match wanted {
        Some(most) if p99 <= most => format!("p99 at most {most}"),
        Some(most) => format!("p99 at most {most}: SHORT"),
        None => String::new(),
    };
    println!("  {name:<28} {:>16} {:>16}   {verdict}", table::number(p50), table::number(p99));
}
