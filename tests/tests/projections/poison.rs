//! An event that a view cannot apply stops it, shows, and is not skipped.

use fulexo_domain::account::AccountEvent;
use fulexo_domain::leaf;
use fulexo_projections::projection::Projection;
use fulexo_tests::{Database, Node, operator};
use serde_json::{Value, json};
use sqlx::Connection;
use uuid::Uuid;

use crate::{caught_up, draft, eventually, health, log_size, superuser};

/// Appends a sound event and, right behind it, one of a type that nobody knows. Answers with the latter's position.
pub async fn poison(database: &Database) -> u64 {
    let (now, good) = (operator().now, Uuid::from_u128(1));
    let sound = draft(AccountEvent::Registered {}, good).leaf(now, 1);
    let text = String::from_utf8(sound.clone()).unwrap();
    let poison =
        text.replace("account.registered", "account.reinvented").replace(&good.to_string(), &Uuid::nil().to_string());

    let mut connection = superuser(database).await;
    let mut transaction = connection.begin().await.unwrap();
    let head: i64 =
        sqlx::query_scalar("select position from log.head for update").fetch_one(&mut *transaction).await.unwrap();
    sqlx::query("alter table log.event_0 disable trigger append_only").execute(&mut *transaction).await.unwrap();
    for (position, stream, leaf) in [(head, good, sound), (head + 1, Uuid::nil(), poison.into_bytes())] {
        let statement = "insert into log.event_0 (position, stream_id, category, version, leaf, leaf_hash)
                         values ($1, $2, 'account', 1, $3, $4)";
        let hash = leaf::hash(&leaf).to_vec();
        let insert = sqlx::query(statement).bind(position).bind(stream).bind(leaf).bind(hash);
        insert.execute(&mut *transaction).await.unwrap();
    }
    sqlx::query("alter table log.event_0 enable always trigger append_only").execute(&mut *transaction).await.unwrap();
    sqlx::query("update log.head set position = position + 2").execute(&mut *transaction).await.unwrap();
    transaction.commit().await.unwrap();
    head.unsigned_abs() + 1
}

fn view<'a>(health: &'a Value, name: &str) -> &'a Value {
    health["projections"].as_array().unwrap().iter().find(|view| view["name"] == name).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_of_an_unknown_type_stops_every_view_before_it_and_shows_in_health() {
    let node = Node::start().await;
    let other = Node::join(&node.database).await;
    let admin = node.admin().await;
    caught_up(&node, &admin).await;
    assert_eq!(health(&node).await["status"], "ok");
    let position = poison(&node.database).await;
    // Whichever of them does the work.
    for node in [&node, &other] {
        eventually("every view has stopped", async || {
            Projection::ALL.iter().all(|view| node.app().progress.of(*view).stopped_because.is_some())
        })
        .await;
        let health = health(node).await;
        assert_eq!(health["status"], "degraded", "{health}");
        for projection in Projection::ALL {
            let view = view(&health, projection.as_str());
            assert_eq!((&view["stopped"], &view["status"]), (&json!(true), &json!("failed")), "{health}");
            assert_eq!(view["position"], position, "everything before it is applied: {health}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_of_an_unknown_type_is_not_skipped() {
    let node = Node::start().await;
    let admin = node.admin().await;
    let position = poison(&node.database).await;
    for _ in 0..5 {
        node.register(&["customer"]).await;
    }
    // Patience of a reader is two seconds: each view has tried again in that time.
    for path in ["/v1/accounts", "/v1/sessions", "/v1/audit/events"] {
        let answer = admin.seeing(log_size(&node).await - 1).get(path).await;
        assert_eq!((answer.status, answer.code()), (503, "behind"), "{path}: {answer:?}");
    }
    let last: i64 = sqlx::query_scalar("select max(position) from read.audit")
        .fetch_one(&mut superuser(&node.database).await)
        .await
        .unwrap();
    assert_eq!(last.unsigned_abs(), position - 1, "up to the event, and not past it");
    let health = health(&node).await;
    assert!(view(&health, "audit")["lag"].as_u64().unwrap() >= 5, "{health}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_that_cannot_apply_an_event_stops_alone_and_goes_on_once_it_can() {
    let node = Node::start().await;
    let admin = node.admin().await;
    caught_up(&node, &admin).await;
    let mut superuser = superuser(&node.database).await;
    let obstacle = "alter table read.session add constraint obstacle check (false) not valid";
    sqlx::query(obstacle).execute(&mut superuser).await.unwrap();
    let ann = node.customer().await;
    let admin = admin.seeing(log_size(&node).await - 1);
    let stopped = admin.get("/v1/sessions").await;
    assert_eq!((stopped.status, stopped.code()), (503, "behind"), "{stopped:?}");
    assert_eq!(admin.get("/v1/accounts").await.status, 200);
    assert_eq!(admin.get("/v1/audit/events").await.status, 200);
    assert_eq!(ann.get("/v1/auth/session").await.status, 200, "what gates a request is no view");
    let health = health(&node).await;
    assert_eq!(health["status"], "degraded", "{health}");
    let stopped = ["accounts", "sessions", "audit"].map(|name| view(&health, name)["stopped"].clone());
    assert_eq!(stopped, [json!(false), json!(true), json!(false)], "{health}");

    sqlx::query("alter table read.session drop constraint obstacle").execute(&mut superuser).await.unwrap();
    eventually("the view has caught up", async || crate::health(&node).await["status"] == "ok").await;
    assert!(admin.get("/v1/sessions?limit=200").await.text.contains(&ann.session.to_string()), "nothing was left out");
}
