//! Nodes that stop, and nodes that are stopped: processes of their own.

use std::collections::BTreeMap;
use std::sync::Arc;

use fulexo_tests::{Database, Node, Program, eventually};
use tokio::task::block_in_place;

use crate::{because, enforcement, everywhere};

const SESSION: &str = "/v1/auth/session";

/// A node in a process of its own.
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

/// A node here, and one in a process of its own called `there`.
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
    let waited = answer.json["waited_ms"].as_u64().unwrap();
    assert!(waited > 1_000, "a lease may have had that long: {waited} ms");

    // It is known to be gone: nobody waits for it a second time.
    let again = admin.delete(&format!("/v1/sessions/{}", bob.session)).await;
    assert_eq!(enforcement(&again), (1, 2, vec!["there".to_owned()]));
    assert!(again.json["waited_ms"].as_u64().unwrap() < waited.min(1_000), "{again:?}");

    // What it is asked while it stands still is the first thing that it does.
    let asked = async { everywhere(&[there.url.as_str(); 20], &ann, SESSION).await };
    let goes_on = async {
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
    let unlocked = admin.post(&format!("/v1/accounts/{}/unlock", ann.account), because()).await;
    assert_eq!(enforcement(&unlocked), (2, 2, vec![]));
}
