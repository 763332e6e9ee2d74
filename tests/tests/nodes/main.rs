//! Several nodes on one database: a revocation is answered once every node enforces it, and a node that cannot know of
//! it judges nothing from memory.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

mod crowded;
mod cut;
mod enforced;
mod epoch;
mod gone;
mod wire;

use std::sync::Arc;

use fulexo_tests::{Answer, Client, Database, Node};
use futures_util::future::join_all;
use serde_json::{Value, json};

/// Starts three nodes in this process, called `one`, `two` and `three`.
async fn three() -> [Node; 3] {
    let database = Arc::new(Database::create().await);
    let join = async |name: &str| {
        let mut env = database.env();
        env.insert("FULEXO_NODE_NAME".into(), name.into());
        Node::with(&database, env).await
    };
    [join("one").await, join("two").await, join("three").await]
}

/// Returns the status of each of these nodes for the client on this path, all asked at once.
async fn everywhere(urls: &[&str], client: &Client, path: &str) -> Vec<u16> {
    let asked = urls.iter().map(|url| {
        let client = Client { url: (*url).to_owned(), ..client.clone() };
        async move { client.get(path).await.status }
    });
    join_all(asked).await
}

/// Returns the enforcement: how many of how many nodes, and the names of the others.
fn enforcement(answer: &Answer) -> (u64, u64, Vec<String>) {
    assert_eq!(answer.status, 200, "{answer:?}");
    let number = |name: &str| answer.json[name].as_u64().unwrap_or_else(|| panic!("no {name}: {answer:?}"));
    assert!(number("position") > 0 && answer.json["waited_ms"].is_u64(), "{answer:?}");
    let down = answer.json["down"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned());
    (number("enforced_on"), number("nodes"), down.collect())
}

fn because() -> Value {
    json!({"reason": "to see it end"})
}
