//! Nodes that stop, and nodes that are suspended: in their own processes.

use std::collections::BTreeMap;
use std::sync::Arc;

use fulexo_tests::{Database, Node, Program, eventually, superuser};
use serde_json::Value;
use tokio::task::block_in_place;

use crate::{because, enforcement, everywhere};

const SESSION: &str = "/v1/auth/session";

/// A node in its own process.
struct Serve {
    program: Program,
    url: String,
}

impl Serve {
    fn start(name: &str, mut env: BTreeMap<String, String>) -> Self {
        env.insert("FULEXO_PORT".into(), "0".into());
        env.insert("FULEXO_NODE_NAME".into(), name.into());
        block_in_place(|| {
            let mut program = Program::start(&["serve"], &env);
            let url = program.says("listening on ");
            Self { program, url }
        })
    }
}

/// Starts a node here, and one in its own process called `there`.
async fn here_and_there() -> (Node, Serve) {
    let database = Arc::new(Database::create().await);
    let here = Node::join(&database).await;
    let there = Serve::start("there", database.env());
    (here, there)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stands_still_is_named_and_refuses_at_once_when_it_goes_on() {
    let (here, there) = here_and_there().await;
    let (admin, ann, bob) = (here.admin().await, here.customer().await, here.customer().await);
    for client in [&ann, &bob] {
        assert_eq!(everywhere(&[&there.url], client, SESSION).await, [200]);
    }
    there.program.signal("STOP");
    let answer = admin.delete(&format!("/v1/sessions/{}", ann.session)).await;
    assert_eq!(enforcement(&answer), (1, 2, vec!["there".to_owned()]));

    assert_eq!(health(&here).await["there"], "degraded");
    // It is known to be gone, and nobody waits for it a second time.
    let again = admin.delete(&format!("/v1/sessions/{}", bob.session)).await;
    assert_eq!(enforcement(&again), (1, 2, vec!["there".to_owned()]));

    // The requests sent while it is suspended are the first that it answers.
    let asked = async { everywhere(&[there.url.as_str(); 20], &ann, SESSION).await };
    let goes_on = async {
        // This is time for the requests to be sent; later ones get the same answer.
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        there.program.signal("CONT");
    };
    let (statuses, ()) = tokio::join!(asked, goes_on);
    assert_eq!(statuses, [401; 20]);
    assert_eq!(everywhere(&[&there.url], &bob, SESSION).await, [401]);
    let carol = here.customer().await;
    assert_eq!(everywhere(&[&there.url], &carol, SESSION).await, [200], "it serves again");
    eventually("it counts again", async || {
        let answer = admin.post(&format!("/v1/accounts/{}/unlock", carol.account), because()).await;
        enforcement(&answer) == (2, 2, vec![])
    })
    .await;
}

/// Returns the status of each node, by its name.
async fn health(node: &Node) -> BTreeMap<String, String> {
    let ready = node.anonymous().get("/health/ready").await;
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let nodes = ready.json["nodes"].as_array().unwrap_or_else(|| panic!("{ready:?}"));
    nodes.iter().map(|node| (text(&node["name"]), text(&node["status"]))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_row_is_gone_or_was_renewed_by_a_copy_of_it_registers_anew() {
    let node = Node::start().await;
    let (admin, ann) = (node.admin().await, node.customer().await);
    let pool = superuser(&node.database).await;
    let ids = async || -> Vec<uuid::Uuid> {
        sqlx::query_scalar("select node_id from projection.node order by started_at").fetch_all(&pool).await.unwrap()
    };
    let first = ids().await;
    sqlx::query("delete from projection.node").execute(&pool).await.unwrap();
    eventually("there is a row again", async || ids().await.len() == 1).await;
    let second = ids().await;
    assert_ne!(first, second);
    sqlx::query("update projection.node set renewals = renewals + 1000").execute(&pool).await.unwrap();
    eventually("the copy has a row, and so has the node", async || ids().await.len() == 2).await;
    assert_eq!(ids().await[0], second[0]);
    eventually("it goes on", async || node.app().gate.holds_lease()).await;
    let answer = admin.post(&format!("/v1/accounts/{}/unlock", ann.account), because()).await;
    assert_eq!(enforcement(&answer).1, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_killed_is_named() {
    let (here, mut there) = here_and_there().await;
    let (admin, ann) = (here.admin().await, here.customer().await);
    there.program.kill();
    let answer = admin.delete(&format!("/v1/sessions/{}", ann.session)).await;
    assert_eq!(enforcement(&answer), (1, 2, vec!["there".to_owned()]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_stopped_does_not_count_and_one_that_starts_does() {
    let (here, mut there) = here_and_there().await;
    let (admin, ann) = (here.admin().await, here.customer().await);
    assert!(block_in_place(|| there.program.stop("TERM")).status.success());
    let answer = admin.delete(&format!("/v1/sessions/{}", ann.session)).await;
    assert_eq!(enforcement(&answer), (1, 1, vec![]));
    let _again = Serve::start("there", here.database.env());
    eventually("both enforce what is recorded", async || {
        let unlocked = admin.post(&format!("/v1/accounts/{}/unlock", ann.account), because()).await;
        enforcement(&unlocked) == (2, 2, vec![])
    })
    .await;
}
