//! A log that was restored from a backup: another history.

use fulexo_database::begin;
use fulexo_tests::{NatsCluster, NatsVersion, Node, eventually, superuser};

use crate::{append, assert_is_the_log, copied, env, messages, relay_state, relaying};

/// Cuts the log, as if a backup had been restored that ends here.
async fn cut_the_log(node: &Node, size: i64) {
    let pool = superuser(&node.database).await;
    for statement in [
        "alter table log.event_0 disable trigger append_only",
        "delete from log.event_0 where position >= $1",
        "delete from log.stream where last_position >= $1",
        "update log.head set position = $1",
    ] {
        let query = sqlx::query(statement);
        let query = if statement.contains("$1") { query.bind(size) } else { query };
        query.execute(&pool).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_epoch_gets_a_new_stream_and_the_old_one_keeps_its_messages() {
    for version in NatsVersion::ALL {
        let nats = NatsCluster::one(version).await;
        let node = relaying(&nats).await;
        append(&node.database, 100).await;
        let first = copied(&[&node]).await;
        let database = std::sync::Arc::clone(&node.database);
        cut_the_log(&node, 60).await;
        node.stop().await;
        let pool = superuser(&database).await;
        sqlx::query("update log.head set epoch = gen_random_uuid()").execute(&pool).await.unwrap();
        append(&database, 20).await;
        let node = Node::with(&database, env(&database, &nats.url(), 1)).await;
        let second = copied(&[&node]).await;
        assert_ne!(first, second);
        let jetstream = nats.jetstream().await;
        assert_eq!(jetstream.stream_by_subject("log.>").await.unwrap(), second);
        assert_is_the_log(&database, &messages(&jetstream, &second).await).await;
        assert_eq!(messages(&jetstream, &first).await.len(), 100, "{version:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_restored_without_a_new_epoch_is_noticed_and_nothing_is_overwritten() {
    let nats = NatsCluster::one(NatsVersion::Installed).await;
    let node = relaying(&nats).await;
    append(&node.database, 100).await;
    let stream = copied(&[&node]).await;
    let database = std::sync::Arc::clone(&node.database);
    cut_the_log(&node, 60).await;
    node.stop().await;
    append(&database, 60).await;
    let node = Node::with(&database, env(&database, &nats.url(), 1)).await;
    eventually("it says so", async || {
        relay_state(&node).stopped_because.is_some_and(|why| why.contains("position 99") && why.contains("epoch"))
    })
    .await;
    assert_eq!(messages(&nats.jetstream().await, &stream).await.len(), 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_was_altered_in_the_log_is_not_published() {
    let nats = NatsCluster::one(NatsVersion::Installed).await;
    let database = std::sync::Arc::new(fulexo_tests::Database::create().await);
    append(&database, 10).await;
    let pool = superuser(&database).await;
    for statement in [
        "alter table log.event_0 disable trigger append_only",
        "update log.event_0 set version = 77 where position = 6",
    ] {
        sqlx::query(statement).execute(&pool).await.unwrap();
    }
    let node = Node::with(&database, env(&database, &nats.url(), 1)).await;
    eventually("it stops there", async || {
        relay_state(&node).stopped_because.is_some_and(|why| why.contains("position 6"))
    })
    .await;
    let jetstream = nats.jetstream().await;
    let stream = jetstream.stream_by_subject("log.>").await.unwrap();
    assert_eq!(messages(&jetstream, &stream).await.len(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_another_history_is_published_behind_what_was_though_it_is_longer() {
    let nats = NatsCluster::one(NatsVersion::Installed).await;
    let node = relaying(&nats).await;
    append(&node.database, 10).await;
    let stream = copied(&[&node]).await;
    let pool = superuser(&node.database).await;
    let mut other = begin(&pool).await.unwrap();
    for statement in [
        "alter table log.event_0 disable trigger append_only",
        // The event before the last takes the last one's place, and comes twice more.
        "create temporary table again on commit drop as select * from log.event where position = 8",
        "delete from log.event_0 where position = 9",
        "insert into log.event_0
             select 9 + n, stream_id, category, version, leaf, leaf_hash from again, generate_series(0, 2) n",
        "update log.head set position = 12",
    ] {
        sqlx::query(statement).execute(&mut *other).await.unwrap();
    }
    other.commit().await.unwrap();
    eventually("it says so", async || {
        relay_state(&node).stopped_because.is_some_and(|why| why.contains("position 9") && why.contains("epoch"))
    })
    .await;
    assert_eq!(messages(&nats.jetstream().await, &stream).await.len(), 10);
}
