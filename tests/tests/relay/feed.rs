//! Projections that read JetStream: what they take from it, and what they do not believe.

use std::sync::Arc;

use async_nats::HeaderMap;
use fulexo_database::begin;
use fulexo_projections::feed::FeedCounts;
use fulexo_tests::{Database, NatsCluster, NatsVersion, Node, caught_up, eventually, log_size, superuser};
use sqlx::AssertSqlSafe;

use crate::{append, copied, env, messages, relay_state};

/// Starts a node whose projections read JetStream.
async fn feeding(database: &Arc<Database>, nats: &NatsCluster) -> Node {
    let mut env = env(database, &nats.url(), 1);
    env.insert("FULEXO_FEED".to_owned(), "jetstream".to_owned());
    Node::with(database, env).await
}

fn counts(node: &Node) -> FeedCounts {
    node.app().feed.as_ref().unwrap().counts()
}

/// Returns once JetStream has answered this many reads.
async fn takes(node: &Node, reads: u64) {
    eventually("the window is read", async || {
        node.customer().await;
        counts(node).window_reads >= reads
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn projections_take_events_from_jetstream_and_come_to_the_same() {
    let nats = NatsCluster::one(NatsVersion::Current).await;
    let database = Arc::new(Database::create().await);
    let node = feeding(&database, &nats).await;
    let admin = node.admin().await;
    copied(&[&node]).await;
    takes(&node, 3).await;
    append(&database, 300).await;
    caught_up(&node, &admin).await;
    assert_eq!(counts(&node).rejected, 0);
    let pool = fulexo_tests::superuser(&database).await;
    let audited: i64 = sqlx::query_scalar("select count(*) from read.audit").fetch_one(&pool).await.unwrap();
    assert_eq!(audited.unsigned_abs(), log_size(&node).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_message_is_not_believed() {
    let nats = NatsCluster::one(NatsVersion::Installed).await;
    let database = Arc::new(Database::create().await);
    let node = feeding(&database, &nats).await;
    let admin = node.admin().await;
    let stream = copied(&[&node]).await;
    takes(&node, 1).await;
    copied(&[&node]).await;
    let jetstream = nats.jetstream().await;
    let genuine = messages(&jetstream, &stream).await.pop().unwrap();
    let next = log_size(&node).await;
    let forge = async |position: u64, leaf: &[u8]| {
        let mut headers = HeaderMap::new();
        for name in ["Fulexo-Stream", "Fulexo-Version", "Fulexo-Epoch", "Fulexo-Leaf-Hash", "Fulexo-Mac"] {
            headers.insert(name, genuine.header(name));
        }
        headers.insert("Fulexo-Position", position.to_string());
        let subject = genuine.subject.clone();
        let sent = jetstream.publish_with_headers(subject, headers, leaf.to_vec().into()).await.unwrap();
        sent.await.unwrap();
    };
    // Another leaf under a MAC that was given to this one; this leaf under its MAC at another position.
    let text = String::from_utf8(genuine.leaf.clone()).unwrap();
    let altered = text.replace(r#""policy_version":1"#, r#""policy_version":9"#);
    assert_ne!(text, altered);
    forge(next, altered.as_bytes()).await;
    forge(next, &genuine.leaf).await;
    eventually("both are dropped", async || counts(&node).rejected >= 2).await;
    let told = node.anonymous().get("/metrics").await.text;
    let told = told.lines().find_map(|line| line.strip_prefix("fulexo_feed_rejected_messages_total "));
    assert!(told.unwrap().parse::<u64>().unwrap() >= 2);

    let bob = node.customer().await;
    caught_up(&node, &admin).await;
    let audited = admin.get("/v1/audit/events?limit=200").await;
    let forged = audited.json["items"].as_array().unwrap().iter();
    assert!(forged.clone().count() > 0 && forged.filter(|event| event["policy_version"] == 9).count() == 0);
    let path = format!("/v1/accounts/{}", bob.account);
    assert_eq!(admin.get(&path).await.status, 200);
    let repaired = copied(&[&node]).await;
    assert_ne!(repaired, stream);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_come_by_jetstream_is_read_from_postgres() {
    let nats = NatsCluster::one(NatsVersion::Current).await;
    let database = Arc::new(Database::create().await);
    let node = feeding(&database, &nats).await;
    let admin = node.admin().await;
    copied(&[&node]).await;
    takes(&node, 1).await;
    // A gap: the node never hears of what happens while NATS is away.
    nats.kill(0);
    let ann = node.customer().await;
    caught_up(&node, &admin).await;
    nats.start_again(0);
    append(&database, 50).await;
    copied(&[&node]).await;
    let before = counts(&node);
    takes(&node, before.window_reads + 1).await;
    caught_up(&node, &admin).await;
    assert_eq!(admin.get(&format!("/v1/accounts/{}", ann.account)).await.status, 200);
    assert_eq!(counts(&node).rejected, 0);
    assert_eq!(relay_state(&node).stopped_because, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_from_a_nats_that_is_not_there_loses_nothing() {
    let nats = NatsCluster::one(NatsVersion::Installed).await;
    nats.stop(0);
    let database = Arc::new(Database::create().await);
    let node = feeding(&database, &nats).await;
    let admin = node.admin().await;
    caught_up(&node, &admin).await;
    assert_eq!(counts(&node).window_reads, 0);
}

/// A backup was restored under a node that had heard of what was lost, and not yet applied it.
#[tokio::test(flavor = "multi_thread")]
async fn events_of_a_history_that_was_undone_are_not_applied_to_the_one_that_took_its_place() {
    // The events are another history's, and so is the epoch; then the events alone.
    for epoch in ["gen_random_uuid()", "epoch"] {
        let nats = NatsCluster::one(NatsVersion::Current).await;
        let database = Arc::new(Database::create().await);
        let node = feeding(&database, &nats).await;
        let admin = node.admin().await;
        copied(&[&node]).await;
        takes(&node, 1).await;
        caught_up(&node, &admin).await;
        let kept = log_size(&node).await;
        let pool = superuser(&database).await;
        let mut restoring = begin(&pool).await.unwrap();
        sqlx::query("select from projection.checkpoint for update").execute(&mut *restoring).await.unwrap();
        append(&database, 20).await;
        let undone = log_size(&node).await;
        eventually("they are heard of", async || node.app().feed.as_ref().unwrap().end() == undone).await;
        for statement in [
            "alter table log.event_0 disable trigger append_only".to_owned(),
            format!("delete from log.event_0 where position >= {kept}"),
            format!("delete from log.stream where last_position >= {kept}"),
            format!("update log.head set position = {kept}, epoch = {epoch}"),
        ] {
            sqlx::query(AssertSqlSafe(statement)).execute(&mut *restoring).await.unwrap();
        }
        restoring.commit().await.unwrap();
        // These are as many as were undone and more: others at their positions.
        append(&database, 30).await;
        eventually("every view has caught up", async || {
            let behind: i64 = sqlx::query_scalar(
                "select count(*) from projection.checkpoint c, log.head h where c.position <> h.position",
            )
            .fetch_one(&pool)
            .await
            .unwrap();
            behind == 0
        })
        .await;
        let foreign: i64 = sqlx::query_scalar(
            "select count(*) from read.audit a left join log.event e
                 on e.position = a.position and convert_from(e.leaf, 'UTF8')::json ->> 'correlation' = a.correlation_id::text
             where e.position is null",
        )
        .fetch_one(&pool)
        .await
        .unwrap();
        assert_eq!(foreign, 0, "{epoch}");
    }
}
