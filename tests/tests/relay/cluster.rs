//! Three servers that keep the copy together.

use std::sync::Arc;

use fulexo_tests::{Database, NatsCluster, NatsVersion, Node};

use crate::{Consumer, append, assert_is_the_log, copied, env, messages, size};

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_loses_a_server_even_its_leader_keeps_the_copy_going() {
    for version in NatsVersion::ALL {
        let nats = NatsCluster::start(version, 3).await;
        let database = Arc::new(Database::create().await);
        let node = Node::with(&database, env(&database, &nats.url(), 3)).await;
        append(&database, 500).await;
        let stream = copied(&[&node]).await;
        let consumer = Consumer::start(nats.jetstream().await);
        let leader = nats.leader(&stream).await;
        let follower = (leader + 1) % 3;

        nats.kill(follower);
        append(&database, 500).await;
        copied(&[&node]).await;
        nats.start_again(follower);
        nats.wait_for_replicas(&stream).await;

        let leader = nats.leader(&stream).await;
        nats.kill(leader);
        append(&database, 500).await;
        copied(&[&node]).await;
        nats.start_again(leader);
        append(&database, 500).await;
        assert_eq!(copied(&[&node]).await, stream);
        consumer.has_seen(size(&database).await).await;
        assert_is_the_log(&database, &consumer.stop()).await;
        assert_is_the_log(&database, &messages(&nats.jetstream().await, &stream).await).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_on_one_server_becomes_one_on_three() {
    let nats = NatsCluster::start(NatsVersion::Current, 3).await;
    let database = Arc::new(Database::create().await);
    let node = Node::with(&database, env(&database, &nats.url(), 1)).await;
    append(&database, 100).await;
    let stream = copied(&[&node]).await;
    node.stop().await;
    let node = Node::with(&database, env(&database, &nats.url(), 3)).await;
    append(&database, 100).await;
    assert_eq!(copied(&[&node]).await, stream);
    nats.wait_for_replicas(&stream).await;
    let jetstream = nats.jetstream().await;
    assert_eq!(jetstream.get_stream(&stream).await.unwrap().cached_info().config.num_replicas, 3);
    assert_is_the_log(&database, &messages(&jetstream, &stream).await).await;
}
