//! A caller's own changes are visible to the caller, however late the views are.

use std::time::Duration;

use fulexo_database::begin_on;
use fulexo_tests::Node;
use sqlx::{Connection, PgConnection};
use tokio::time::sleep;

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_logged_in_finds_themselves_even_where_the_views_have_yet_to_see_it() {
    let node = Node::start().await;
    let mut superuser = PgConnection::connect(&node.database.superuser_url()).await.unwrap();
    let mut transaction = begin_on(&mut superuser).await.unwrap();
    sqlx::query("lock table read.account, read.session, read.audit in exclusive mode")
        .execute(&mut *transaction)
        .await
        .unwrap();
    let ann = node.user(&["customer"]).await;
    let (me, sessions, events, ()) =
        tokio::join!(ann.get("/v1/me"), ann.get("/v1/me/sessions"), ann.get("/v1/me/events"), async {
            // This is time enough for an answer, if they did not wait.
            sleep(Duration::from_millis(500)).await;
            transaction.rollback().await.unwrap();
        });
    assert_eq!(me.status, 200, "{me:?}");
    assert_eq!(me.json["account_id"], ann.account.to_string());
    assert_eq!(sessions.json["items"][0]["session_id"], ann.session.to_string(), "{sessions:?}");
    let started = |event: &serde_json::Value| event["type"] == "session.started";
    assert!(events.json["items"].as_array().unwrap().iter().any(started), "{events:?}");
}
