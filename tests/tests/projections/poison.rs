//! An event that a view cannot apply stops it, shows, and is not skipped.

use fulexo_projections::read_models::Projection;
use fulexo_tests::{Node, poison};
use serde_json::{Value, json};

use crate::{caught_up, eventually, health, log_size, superuser};

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
    // Either of them does the work.
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
    // A reader waits for two seconds: each view has tried again in that time.
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
    // Other nodes and `fulexo projections` read it there.
    let because = "select coalesce(stopped_because, '') from projection.checkpoint where name = 'sessions'";
    eventually("the reason is recorded", async || {
        let because: String = sqlx::query_scalar(because).fetch_one(&mut superuser).await.unwrap();
        because.contains("obstacle")
    })
    .await;

    sqlx::query("alter table read.session drop constraint obstacle").execute(&mut superuser).await.unwrap();
    eventually("the view has caught up", async || crate::health(&node).await["status"] == "ok").await;
    assert!(admin.get("/v1/sessions?limit=200").await.text.contains(&ann.session.to_string()), "nothing was left out");
}
