//! The metrics for Prometheus.

use std::collections::BTreeMap;

use fulexo_projections::read_models::Projection;
use fulexo_tests::{Node, poison};

use crate::{caught_up, eventually, health, log_size, rebuilt};

/// Returns every sample by its name and labels; panics unless each family is announced before its samples.
async fn scraped(node: &Node) -> BTreeMap<String, u64> {
    let answer = node.anonymous().get("/metrics").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.text.ends_with('\n'), "the last line ends, too");
    let (mut samples, mut family) = (BTreeMap::new(), String::new());
    let mut lines = answer.text.lines();
    while let Some(line) = lines.next() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            family = help.split(' ').next().unwrap().to_owned();
            let kind = if family.ends_with("_total") { "counter" } else { "gauge" };
            assert_eq!(lines.next(), Some(format!("# TYPE {family} {kind}").as_str()));
            continue;
        }
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert_eq!(name.split('{').next(), Some(family.as_str()), "{line}");
        assert_eq!(samples.insert(name.to_owned(), value.parse().unwrap()), None, "{line} is there twice");
    }
    samples
}

fn of(name: &str, projection: Projection) -> String {
    format!("fulexo_projection_{name}{{projection=\"{}\"}}", projection.as_str())
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_tell_where_the_log_the_views_and_the_gate_are() {
    let node = Node::start().await;
    let admin = node.admin().await;
    rebuilt(&node.database, Projection::Accounts).await.unwrap();
    caught_up(&node, &admin).await;
    eventually("this node has seen the new version", async || health(&node).await["projections"][0]["version"] == 2)
        .await;
    // On a busy machine a lease may be late.
    eventually("this node holds its lease", async || scraped(&node).await["fulexo_gate_holds_lease"] == 1).await;
    let (size, samples) = (log_size(&node).await, scraped(&node).await);
    assert_eq!(samples["fulexo_log_size"], size);
    assert_eq!(samples["fulexo_gate_applied"], size);
    assert_eq!(samples["fulexo_postgres_up"], 1);
    for projection in Projection::ALL {
        let told = ["position", "lag", "stopped", "version"].map(|name| samples[&of(name, projection)]);
        let version = if projection == Projection::Accounts { 2 } else { 1 };
        assert_eq!(told, [size, 0, 0, version], "{projection:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_and_health_tell_what_has_stopped() {
    let node = Node::start().await;
    let admin = node.admin().await;
    caught_up(&node, &admin).await;
    // No hook tells the gate of it, so the gate meets it in the log.
    let position = poison(&node.database).await;
    eventually("everything has stopped", async || {
        let samples = scraped(&node).await;
        samples["fulexo_gate_holds_lease"] == 0
            && Projection::ALL.iter().all(|view| samples[&of("stopped", *view)] == 1)
    })
    .await;
    let samples = scraped(&node).await;
    for projection in Projection::ALL {
        assert_eq!((samples[&of("position", projection)], samples[&of("lag", projection)]), (position, 1));
    }
    assert!(samples["fulexo_gate_applied"] <= position, "it is not skipped");
    let health = health(&node).await;
    assert_eq!((&health["gate"]["stopped"], &health["gate"]["status"]), (&true.into(), &"degraded".into()), "{health}");
}
