//! Every mail is sent once, regardless of failures of nodes and of the mail server.

use fulexo_tests::{Behaviour, Sink};

use super::*;

pub async fn by_smtp(database: &Arc<Database>, url: &str) -> Node {
    let mut env = database.env();
    env.insert("SMTP_URL".into(), url.into());
    env.insert("MAIL_FROM".into(), "Fulexo <no-reply@example.com>".into());
    env.insert("FULEXO_PUBLIC_URL".into(), "https://id.example.com".into());
    Node::with(database, env).await
}

#[tokio::test(flavor = "multi_thread")]
async fn several_nodes_send_each_mail_once() {
    let database = Arc::new(Database::create().await);
    let sink = Sink::start().await;
    let mut nodes = Vec::new();
    for _ in 0..3 {
        nodes.push(by_smtp(&database, &sink.url()).await);
    }
    let mut addresses = Vec::new();
    for number in 0..15 {
        addresses.push(nodes[number % 3].register(&["customer"]).await.0);
    }
    all_is_sent(&database).await;
    let mails = sink.mails();
    for address in &addresses {
        let to = mails.iter().filter(|mail| mail.to.iter().any(|to| to.contains(address.as_str())));
        assert_eq!(to.count(), 1, "{address}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_waits_for_the_server_and_survives_its_node() {
    let database = Arc::new(Database::create().await);
    // Nobody listens there.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let node = by_smtp(&database, &format!("smtp://{closed}")).await;
    let (email, _) = node.register(&["customer"]).await;
    eventually("it was tried", async || {
        let pool = superuser(&database).await;
        let tried: i32 = sqlx::query_scalar("select max(attempts) from vault.mail").fetch_one(&pool).await.unwrap();
        tried >= 1
    })
    .await;
    node.stop().await;
    assert_eq!(waiting(&database).await, 1);
    let sink = Sink::start().await;
    let node = by_smtp(&database, &sink.url()).await;
    eventually("it is sent", async || sink.mails().iter().any(|mail| mail.to.iter().any(|to| to.contains(&email))))
        .await;
    all_is_sent(&database).await;
    assert_eq!(sink.mails().len(), 1);
    drop(node);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_for_good_is_given_up_and_holds_nobody_up() {
    let database = Arc::new(Database::create().await);
    let sink = Sink::start().await;
    sink.behave(Behaviour::Refuse(550));
    let node = by_smtp(&database, &sink.url()).await;
    node.register(&["customer"]).await;
    all_is_sent(&database).await;
    assert!(sink.mails().is_empty());
    sink.behave(Behaviour::Accept);
    let (email, _) = node.register(&["customer"]).await;
    eventually("the next one is sent", async || {
        sink.mails().iter().any(|mail| mail.to.iter().any(|to| to.contains(&email)))
    })
    .await;
}
