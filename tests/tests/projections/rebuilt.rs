//! A view made again from the log is the view that followed it.

use std::sync::atomic::{AtomicBool, Ordering};

use chrono::TimeDelta;
use fulexo_projections::projection::Projection;
use fulexo_projections::rebuild::{Rebuilt, rebuild};
use fulexo_tests::{Database, Node, PASSWORD, operator};
use serde_json::json;

use crate::{caught_up, log_size, revoke, superuser};

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuilt_view_is_the_live_view() {
    let node = Node::start().await;
    mixed_load(&node).await;
    let kinds = kinds(&node.database).await;
    assert_eq!(kinds.len(), 12, "the load is to make every kind of event there is: {kinds:?}");
    for projection in Projection::ALL {
        let rebuilt = rebuilt(&node, projection).await;
        assert!(rebuilt.is_same(), "{projection:?}: {rebuilt:?}");
        assert!(rebuilt.before.rows >= 20, "{projection:?}: {rebuilt:?}");
        assert_eq!(rebuilt.events, log_size(&node).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_rebuilt_twice_is_the_same() {
    let node = Node::start().await;
    mixed_load(&node).await;
    for projection in Projection::ALL {
        let (first, second) = (rebuilt(&node, projection).await, rebuilt(&node, projection).await);
        assert_eq!(first.at_same_position, second.at_same_position, "{projection:?}");
        assert!(second.is_same(), "{projection:?}: {second:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_that_was_altered_is_found_out_and_made_right() {
    let node = Node::start().await;
    mixed_load(&node).await;
    for (projection, alteration) in [
        (Projection::Accounts, "update read.account set roles = '{auditor}' where profile_position = 0"),
        (Projection::Sessions, "delete from read.session where started_position < 5"),
        (Projection::Audit, "update read.audit set subject_id = null where position = 0"),
    ] {
        let altered = sqlx::query(alteration).execute(&mut superuser(&node.database).await).await.unwrap();
        assert_eq!(altered.rows_affected(), 1, "{projection:?}");
        let found = rebuilt(&node, projection).await;
        assert!(!found.is_same(), "{projection:?}: {found:?}");
        assert!(rebuilt(&node, projection).await.is_same(), "{projection:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_go_on_while_views_are_rebuilt() {
    let node = Node::start().await;
    mixed_load(&node).await;
    let is_over = AtomicBool::new(false);
    let commands = async {
        let mut made = 0;
        while !is_over.load(Ordering::Relaxed) {
            let client = node.customer().await;
            assert_eq!(client.post_nothing("/v1/auth/logout").await.status, 204);
            made += 1;
        }
        made
    };
    let rebuilds = async {
        for _ in 0..5 {
            for projection in Projection::ALL {
                let rebuilt = rebuilt(&node, projection).await;
                assert!(rebuilt.is_same(), "{projection:?}: {rebuilt:?}");
            }
        }
        is_over.store(true, Ordering::Relaxed);
    };
    let (made, ()) = tokio::join!(commands, rebuilds);
    assert!(made > 0);
    caught_up(&node, &node.admin().await).await;
    for projection in Projection::ALL {
        assert!(rebuilt(&node, projection).await.is_same(), "{projection:?}, followed after it was rebuilt");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_that_is_broken_off_leaves_the_view_as_it_was() {
    let node = Node::start().await;
    mixed_load(&node).await;
    for projection in Projection::ALL {
        let pool = node.database.pool().await;
        let broken_off = tokio::spawn(async move { rebuild(&pool, projection, |_, _| panic!("broken off")).await });
        assert!(broken_off.await.unwrap_err().is_panic());
        let after = rebuilt(&node, projection).await;
        assert!(after.is_same() && after.before.rows > 0, "{projection:?}: {after:?}");
    }
}

/// Something of every kind.
async fn mixed_load(node: &Node) {
    let admin = node.admin().await;
    for _ in 0..4 {
        let mut ann = node.customer().await;
        let other = node.log_in(&ann.email, ann.account).await;
        let wrong = json!({"email": ann.email, "password": "wrong"});
        for _ in 0..2 {
            assert_eq!(node.anonymous().post("/v1/auth/login", wrong.clone()).await.status, 401);
        }
        let spent = ann.refresh_token.clone();
        for _ in 0..2 {
            let refreshed = ann.post("/v1/auth/refresh", json!({"refresh_token": ann.refresh_token})).await;
            assert_eq!(refreshed.status, 200, "{refreshed:?}");
            ann.log_in_with(&refreshed);
        }
        let path = format!("/v1/accounts/{}/roles", ann.account);
        let grant = admin.post(&path, json!({"role": "auditor", "reason": "r"})).await;
        assert_eq!(grant.status, 204, "{grant:?}");
        assert_eq!(revoke(&admin, &format!("{path}/customer")).await, 204);
        let change = json!({"current_password": PASSWORD, "new_password": "kestrel-Over9thefen"});
        assert_eq!(other.post("/v1/me/password", change).await.status, 204);
        assert_eq!(node.anonymous().post("/v1/auth/refresh", json!({"refresh_token": spent})).await.status, 401);

        let (bob, carol) = (node.customer().await, node.customer().await);
        assert_eq!(bob.post("/v1/auth/refresh", json!({"refresh_token": bob.refresh_token})).await.status, 200);
        let second = node.log_in(&bob.email, bob.account).await;
        let third = second.post("/v1/auth/refresh", json!({"refresh_token": second.refresh_token})).await;
        let third = json!({"refresh_token": third.json["refresh_token"]});
        assert_eq!(node.anonymous().post("/v1/auth/refresh", third).await.status, 200);
        let reused = json!({"refresh_token": second.refresh_token});
        assert_eq!(node.anonymous().post("/v1/auth/refresh", reused).await.status, 401);
        assert_eq!(carol.post_nothing("/v1/auth/logout").await.status, 204);

        let idle = node.customer().await;
        let mut later = operator();
        later.now += TimeDelta::days(8);
        assert!(node.app().commands.refresh(&later, &idle.refresh_token, None).await.is_err());
        let (locked, _) = node.register(&[]).await;
        for _ in 0..6 {
            for email in [locked.as_str(), "nobody@example.com"] {
                let body = json!({"email": email, "password": "wrong"});
                assert_eq!(node.anonymous().post("/v1/auth/login", body).await.status, 401);
            }
        }
    }
    caught_up(node, &admin).await;
}

async fn rebuilt(node: &Node, projection: Projection) -> Rebuilt {
    rebuild(&node.database.pool().await, projection, |_, _| {}).await.unwrap()
}

/// The types of events in the log.
async fn kinds(database: &Database) -> Vec<String> {
    let statement = "select distinct convert_from(leaf, 'UTF8')::jsonb ->> 'type' as kind from log.event order by kind";
    sqlx::query_scalar(statement).fetch_all(&mut superuser(database).await).await.unwrap()
}
