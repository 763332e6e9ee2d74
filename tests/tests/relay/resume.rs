//! Relays and servers that end in the middle of a copy.

use std::sync::Arc;

use fulexo_tests::{Cut, Database, NatsCluster, NatsVersion, Node, Program, eventually};

use crate::{Consumer, append, append_by, assert_is_the_log, copied, env, messages, relay_state, relaying, size};

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_is_killed_in_the_middle_of_a_batch_is_gone_on_from() {
    let nats = NatsCluster::one(NatsVersion::Installed).await;
    let database = Arc::new(Database::create().await);
    append(&database, 5_000).await;
    let mut env = env(&database, &nats.url(), 1);
    env.insert("FULEXO_PORT".to_owned(), "0".to_owned());
    let jetstream = nats.jetstream().await;
    let mut killed_within = 0;
    for _ in 0..5 {
        let held = |jetstream: async_nats::jetstream::Context| async move {
            let Ok(name) = jetstream.stream_by_subject("log.>").await else { return 0 };
            let stream = jetstream.get_stream(name).await.unwrap();
            stream.cached_info().state.last_sequence
        };
        let before = held(jetstream.clone()).await;
        let mut program = Program::start(&["serve"], &env);
        eventually("it has copied something", async || held(jetstream.clone()).await > before).await;
        program.kill();
        let after = held(jetstream.clone()).await;
        killed_within += usize::from(after < 5_000);
        if after == 5_000 {
            break;
        }
    }
    assert!(killed_within > 0, "it was never killed in the middle");
    let node = Node::with(&database, env).await;
    let stream = copied(&[&node]).await;
    assert_is_the_log(&database, &messages(&jetstream, &stream).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_that_is_killed_under_load_gets_all_of_it_once_it_is_back() {
    let nats = NatsCluster::one(NatsVersion::Current).await;
    let node = relaying(&nats).await;
    let consumer = Consumer::start(nats.jetstream().await);
    let pool = node.database.pool().await;
    let load = tokio::spawn(async move {
        for _ in 0..20 {
            append_by(&pool, 100).await;
        }
    });
    for _ in 0..3 {
        let held = relay_state(&node).position;
        eventually("it goes on", async || relay_state(&node).position > held || load.is_finished()).await;
        nats.kill(0);
        nats.start_again(0);
    }
    load.await.unwrap();
    copied(&[&node]).await;
    consumer.has_seen(size(&node.database).await).await;
    assert_is_the_log(&node.database, &consumer.stop()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_nats_down_at_the_start_the_service_works_and_relays_later() {
    let nats = NatsCluster::one(NatsVersion::Current).await;
    nats.stop(0);
    let node = relaying(&nats).await;
    let ann = node.customer().await;
    assert_eq!(ann.get("/v1/auth/session").await.status, 200);
    eventually("it says so", async || relay_state(&node).stopped_because.is_some_and(|why| why.contains("NATS"))).await;
    nats.start_again(0);
    let stream = copied(&[&node]).await;
    assert_is_the_log(&node.database, &messages(&nats.jetstream().await, &stream).await).await;
    assert_eq!(relay_state(&node).stopped_because, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_cut_off_from_nats_leaves_the_relay_to_another() {
    let nats = NatsCluster::one(NatsVersion::Installed).await;
    let database = Arc::new(Database::create().await);
    let (wire, url) = Cut::of(&nats.url()).await;
    let node = Node::with(&database, env(&database, &url, 1)).await;
    append(&database, 100).await;
    copied(&[&node]).await;
    let other = Node::with(&database, env(&database, &nats.url(), 1)).await;
    wire.hang();
    append(&database, 1_000).await;
    copied(&[&other]).await;
    // The first node's messages arrive when nobody expects them.
    wire.heal();
    append(&database, 1_000).await;
    let stream = copied(&[&node, &other]).await;
    assert_is_the_log(&database, &messages(&nats.jetstream().await, &stream).await).await;
}
