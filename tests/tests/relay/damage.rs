//! A NATS that lost its data, holds wrong data, or has no room.

use fulexo_tests::{NatsCluster, NatsVersion, Node, eventually};

use crate::{Consumer, append, assert_is_the_log, copied, env, messages, relay_state, relaying, size};

#[tokio::test(flavor = "multi_thread")]
async fn storage_that_is_wiped_is_filled_again_and_consumers_see_every_event_once_by_position() {
    for version in NatsVersion::ALL {
        let nats = NatsCluster::one(version).await;
        let node = relaying(&nats).await;
        append(&node.database, 1_000).await;
        let first = copied(&[&node]).await;
        let consumer = Consumer::start(nats.jetstream().await);
        consumer.has_seen(1_000).await;
        nats.stop(0);
        nats.wipe(0);
        nats.start_again(0);
        append(&node.database, 500).await;
        consumer.has_seen(1_500).await;
        // Nobody says that it is whole before it is.
        let stream = copied(&[&node]).await;
        assert_eq!(stream, first);
        assert_is_the_log(&node.database, &consumer.stop()).await;
        assert_is_the_log(&node.database, &messages(&nats.jetstream().await, &stream).await).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn storage_that_is_wiped_is_filled_again_though_nothing_happens() {
    let nats = NatsCluster::one(NatsVersion::Current).await;
    let node = relaying(&nats).await;
    append(&node.database, 50).await;
    copied(&[&node]).await;
    nats.stop(0);
    nats.wipe(0);
    nats.start_again(0);
    let jetstream = nats.jetstream().await;
    eventually("it is filled again", async || {
        let Ok(name) = jetstream.stream_by_subject("log.>").await else { return false };
        jetstream.get_stream(name).await.is_ok_and(|stream| stream.cached_info().state.messages == 50)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tail_that_nats_lost_is_published_again() {
    for version in NatsVersion::ALL {
        let nats = NatsCluster::one(version).await;
        let node = relaying(&nats).await;
        append(&node.database, 300).await;
        let first = copied(&[&node]).await;
        nats.stop(0);
        let earlier = nats.copy_store(0);
        nats.start_again(0);
        append(&node.database, 300).await;
        copied(&[&node]).await;
        let consumer = Consumer::start(nats.jetstream().await);
        consumer.has_seen(600).await;
        nats.kill(0);
        nats.restore_store(0, &earlier);
        nats.start_again(0);
        append(&node.database, 10).await;
        consumer.has_seen(610).await;
        let stream = copied(&[&node]).await;
        assert_eq!(stream, first, "{version:?}");
        assert_is_the_log(&node.database, &consumer.stop()).await;
        assert_is_the_log(&node.database, &messages(&nats.jetstream().await, &stream).await).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_somebody_else_wrote_to_is_given_up_and_begun_anew() {
    for version in NatsVersion::ALL {
        let nats = NatsCluster::one(version).await;
        let node = relaying(&nats).await;
        append(&node.database, 100).await;
        let first = copied(&[&node]).await;
        let consumer = Consumer::start(nats.jetstream().await);
        consumer.has_seen(100).await;
        let jetstream = nats.jetstream().await;
        jetstream.publish("log.account.registered", "{}".into()).await.unwrap().await.unwrap();
        append(&node.database, 100).await;
        consumer.has_seen(200).await;
        let stream = copied(&[&node]).await;
        assert_eq!(stream.strip_suffix("_2"), first.strip_suffix("_1"));
        assert_is_the_log(&node.database, &messages(&jetstream, &stream).await).await;
        assert_is_the_log(&node.database, &consumer.stop()).await;
        // The old stream stays for a reader who wants to know its content.
        assert!(jetstream.get_stream(&first).await.unwrap().cached_info().state.messages > 100, "{version:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_takes_a_message_out_of_the_copy() {
    for version in NatsVersion::ALL {
        let nats = NatsCluster::one(version).await;
        let node = relaying(&nats).await;
        append(&node.database, 10).await;
        let name = copied(&[&node]).await;
        let stream = nats.jetstream().await.get_stream(name).await.unwrap();
        assert!(stream.delete_message(5).await.is_err(), "{version:?}");
        assert!(stream.purge().await.is_err(), "{version:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_log_on_the_same_nats_is_left_alone() {
    let nats = NatsCluster::one(NatsVersion::Installed).await;
    let node = relaying(&nats).await;
    append(&node.database, 10).await;
    let stream = copied(&[&node]).await;
    let stranger = relaying(&nats).await;
    append(&stranger.database, 10).await;
    eventually("it says so", async || {
        relay_state(&stranger).stopped_because.is_some_and(|why| why.contains(&stream) && why.contains("account"))
    })
    .await;
    append(&node.database, 10).await;
    assert_eq!(copied(&[&node]).await, stream);
    assert_is_the_log(&node.database, &messages(&nats.jetstream().await, &stream).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_store_stops_the_relay_and_nothing_else_and_it_goes_on_when_there_is_room() {
    for version in NatsVersion::ALL {
        let nats = NatsCluster::start_with(version, 1, "1MB").await;
        let node = relaying(&nats).await;
        append(&node.database, 4_000).await;
        eventually("it says so", async || {
            let state = relay_state(&node);
            state.position < 4_000 && state.stopped_because.is_some_and(|why| why.contains("NATS"))
        })
        .await;
        let ann = node.customer().await;
        assert_eq!(ann.get("/v1/auth/session").await.status, 200);
        // The operator lets the server drop the oldest.
        let jetstream = nats.jetstream().await;
        let name = jetstream.stream_by_subject("log.>").await.unwrap();
        let mut config = jetstream.get_stream(&name).await.unwrap().cached_info().config.clone();
        config.max_bytes = 500_000;
        jetstream.update_stream(config).await.unwrap();
        let stream = copied(&[&node]).await;
        assert_eq!(stream, name);
        let (held, size) = (messages(&jetstream, &stream).await, size(&node.database).await);
        assert!(held[0].position() > 0, "{version:?}");
        for (message, position) in held.iter().zip(size - held.len() as u64..) {
            assert_eq!((message.position(), message.sequence), (position, position + 1));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_nats_cannot_keep_are_not_pretended() {
    for version in NatsVersion::ALL {
        let nats = NatsCluster::one(version).await;
        let node = relaying(&nats).await;
        append(&node.database, 10).await;
        copied(&[&node]).await;
        let database = std::sync::Arc::clone(&node.database);
        node.stop().await;
        let node = Node::with(&database, env(&database, &nats.url(), 3)).await;
        eventually("it says so", async || {
            relay_state(&node).stopped_because.is_some_and(|why| why.contains("FULEXO_NATS_REPLICAS"))
        })
        .await;
    }
}
