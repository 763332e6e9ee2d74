//! PostgreSQL and NATS, taken away and given back.

use std::sync::Arc;

use async_nats::HeaderMap;
use fulexo_tests::{Cut, Database, NatsCluster, NatsVersion, Node, eventually, log_size, stored_messages};

use super::Desk;
use super::page::{Page, Section};

#[tokio::test(flavor = "multi_thread")]
async fn postgresql_that_is_down_is_over_when_its_page_says_so() {
    let database = Arc::new(Database::create().await);
    let (wire, url) = Cut::of(&database.url()).await;
    let mut env = database.env();
    env.insert("DATABASE_URL".to_owned(), url);
    let node = Node::with(&database, env).await;
    let desk = Desk::bare();
    let port = wire.port.to_string();
    let values = [("URL", node.url.as_str()), ("PGHOST", "127.0.0.1"), ("PGPORT", &port)];
    wire.cut();
    desk.alert(&Page::read("postgresql-down"), &node, &values, async || wire.heal()).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_that_is_down_a_copy_that_stopped_and_foreign_messages_are_over_when_their_pages_say_so() {
    let (database, nats) = (Arc::new(Database::create().await), NatsCluster::one(NatsVersion::Installed).await);
    let with = |replicas: &str| {
        let mut env = database.env();
        for (name, value) in
            [("NATS_URL", nats.url().as_str()), ("FULEXO_NATS_REPLICAS", replicas), ("FULEXO_FEED", "jetstream")]
        {
            env.insert(name.to_owned(), value.to_owned());
        }
        env
    };
    let node = Node::with(&database, with("1")).await;
    node.customer().await;
    let values = [("URL", node.url.as_str()), ("SECONDS_TO_WATCH", "2")];
    let copied = async |node: &Node| {
        eventually("the log is copied", async || {
            let relay = node.anonymous().get("/health/ready").await.json["relay"].clone();
            relay["lag"] == 0 && relay["position"].as_u64() > Some(0)
        })
        .await;
    };
    copied(&node).await;
    let desk = Desk::new(&database, &with("1"));
    nats.stop(0);
    desk.alert(&Page::read("nats-down"), &node, &values, async || nats.start_again(0)).await;
    let reads = || node.app().feed.as_ref().unwrap().counts().window_reads;
    let before = reads();
    eventually("the copy is read again", async || {
        node.customer().await;
        reads() > before
    })
    .await;
    copied(&node).await;

    // Somebody else with the credentials of a publisher.
    let jetstream = nats.jetstream().await;
    let stream = jetstream.get_stream(jetstream.stream_by_subject("log.>").await.unwrap()).await.unwrap();
    let genuine = stored_messages(&stream).await.pop().unwrap();
    let mut headers = HeaderMap::new();
    for name in ["Fulexo-Stream", "Fulexo-Version", "Fulexo-Epoch", "Fulexo-Leaf-Hash", "Fulexo-Mac"] {
        headers.insert(name, genuine.headers.as_ref().unwrap().get(name).unwrap().clone());
    }
    headers.insert("Fulexo-Position", log_size(&node).await.to_string());
    let forged = jetstream.publish_with_headers(genuine.subject.clone(), headers, genuine.payload.clone());
    forged.await.unwrap().await.unwrap();
    let page = Page::read("foreign-messages");
    node.customer().await;
    desk.fires(&page, &node).await;
    desk.follow_sections(&page, &[Section::First, Section::Cause], &values);
    eventually("no more of them come", async || desk.is_over(&page, &values)).await;
    node.stop().await;

    let node = Node::with(&database, with("3")).await;
    let desk = Desk::new(&database, &with("3"));
    let page = Page::read("relay-stopped");
    let stopped = [("URL", node.url.clone())];
    let values = stopped.each_ref().map(|(name, value)| (*name, value.as_str()));
    eventually("it is not over", async || !desk.is_over(&page, &values)).await;
    desk.follow_sections(&page, &[Section::First, Section::Cause], &values);
    node.stop().await;
    let node = Node::with(&database, with("1")).await;
    eventually("it is over", async || desk.is_over(&page, &[("URL", node.url.as_str())])).await;
    node.stop().await;
}
