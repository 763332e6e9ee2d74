//! The content of the copy, and the nodes that make it.

use fulexo_tests::{NatsCluster, NatsVersion, Node, eventually};

use crate::{append, append_by, assert_is_the_log, copied, env, join, messages, relay_state, relaying, size};

#[tokio::test(flavor = "multi_thread")]
async fn every_event_is_copied_once_and_in_order_with_what_it_says_of_itself() {
    for version in NatsVersion::ALL {
        let nats = NatsCluster::one(version).await;
        let node = relaying(&nats).await;
        let admin = node.admin().await;
        assert_eq!(admin.post_nothing("/v1/auth/logout").await.status, 204);
        append(&node.database, 700).await;
        let stream = copied(&[&node]).await;
        let jetstream = nats.jetstream().await;
        let messages = messages(&jetstream, &stream).await;
        assert_is_the_log(&node.database, &messages).await;
        assert!(messages.iter().any(|message| message.subject == "log.account.registered"));
        assert!(messages.iter().any(|message| message.subject == "log.session.revoked"), "{version:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_of_20000_events_is_caught_up_with() {
    let nats = NatsCluster::one(NatsVersion::Installed).await;
    let database = std::sync::Arc::new(fulexo_tests::Database::create().await);
    append(&database, 20_000).await;
    let node = Node::with(&database, env(&database, &nats.url(), 1)).await;
    let stream = copied(&[&node]).await;
    assert_is_the_log(&database, &messages(&nats.jetstream().await, &stream).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_that_relay_at_once_neither_repeat_nor_reorder() {
    let nats = NatsCluster::one(NatsVersion::Installed).await;
    let node = relaying(&nats).await;
    let other = join(&node, &nats).await;
    // The turn changes as often as it can: each believes that it is its own.
    let pool = fulexo_tests::superuser(&node.database).await;
    let unfair = tokio::spawn(async move {
        loop {
            let robbed = sqlx::query("update log.relay set held_until = 'epoch', holder = null");
            let _ = robbed.execute(&pool).await;
            tokio::time::sleep(std::time::Duration::from_millis(3)).await;
        }
    });
    let own = node.database.pool().await;
    for _ in 0..4 {
        append_by(&own, 600).await;
    }
    copied(&[&node, &other]).await;
    unfair.abort();
    let stream = copied(&[&node, &other]).await;
    assert_is_the_log(&node.database, &messages(&nats.jetstream().await, &stream).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_node_relays_and_another_takes_over_when_it_stops() {
    let nats = NatsCluster::one(NatsVersion::Current).await;
    let node = relaying(&nats).await;
    append(&node.database, 10).await;
    copied(&[&node]).await;
    let other = join(&node, &nats).await;
    append(&node.database, 10).await;
    copied(&[&node]).await;
    assert!(!relay_state(&other).is_here);
    eventually("it knows how far the other is", async || relay_state(&other).position == size(&other.database).await)
        .await;
    node.stop().await;
    append(&other.database, 10).await;
    let stream = copied(&[&other]).await;
    assert_is_the_log(&other.database, &messages(&nats.jetstream().await, &stream).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_replicas_nothing_is_copied() {
    let nats = NatsCluster::one(NatsVersion::Installed).await;
    let database = std::sync::Arc::new(fulexo_tests::Database::create().await);
    let node = Node::with(&database, env(&database, &nats.url(), 0)).await;
    node.customer().await;
    assert!(node.app().relay.is_none());
    assert!(nats.jetstream().await.stream_by_subject("log.>").await.is_err());
}
